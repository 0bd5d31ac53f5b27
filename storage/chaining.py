"""Writing the hash chain, behind whoever writes the ledger: nobody waits for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, Integer, cast, exists, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.chain import CONTENT_FIELDS, CREDIT, DEBIT, FLAG_FIELDS, Head, Link, link
from storage.database import AnySelect, OverDatabase
from storage.tables import CHAIN_REVISION, ledger, ledger_chain, ledger_heads, revisions

CHAIN_LIMIT = 256
"""Entries chained by one transaction at most: on SQLite settlements wait for it."""

CONTENT_COLUMNS: Sequence[ColumnElement[Any]] = tuple(
    cast(ledger.c[name], Integer).label(name) if name in FLAG_FIELDS else ledger.c[name] for name in CONTENT_FIELDS
)
"""Columns of an entry's content."""

CHAINED_BELOW: AnySelect = select(revisions.c.value).where(revisions.c.name == CHAIN_REVISION)
"""The id up to which there is nothing left to chain."""


def unchained(below: int) -> ColumnElement[bool]:
    """Says that an entry is in no chain yet, where everything up to the id `below` is.

    The bound is a plain number, and stands twice, so that no database looks at the whole of either table.
    """
    listed = exists().where(ledger_chain.c.ledger_id == ledger.c.id, ledger_chain.c.ledger_id > below)
    return (ledger.c.id > below) & ~listed


class SqlChain(OverDatabase):
    """The chain-writing part of `AuditStore` over a database."""

    async def chain(self) -> int:
        """Append entries that are in no chain yet to those of their accounts, CHAIN_LIMIT at most; how many.

        0 when there are none, and when another core is at it. Safe to repeat.
        """
        [[below]] = await self._db.rows(CHAINED_BELOW)
        if not await self._db.rows(select(ledger.c.id).where(unchained(below)).limit(1)):
            return 0
        return await self._db.write(self._chain)

    async def _chain(self, connection: AsyncConnection) -> int:
        if not await self._db.lock_chain(connection):
            return 0
        # The time before the entries: one that shows up in between is not taken for settled.
        times = CHAINED_BELOW.add_columns(self._db.settled_before_us())
        below, settled_before_us = (await connection.execute(times)).one()
        fresh = select(*CONTENT_COLUMNS).where(unchained(below)).order_by(ledger.c.id).limit(CHAIN_LIMIT)
        entries = [tuple(row) for row in await connection.execute(fresh)]
        if entries:
            heads = await _heads(connection, {row[place] for row in entries for place in (DEBIT, CREDIT)})
            await self._append(connection, link(entries, heads), heads)
            await _advance(connection, below, entries[-1][0], settled_before_us)
        return len(entries)

    async def _append(self, connection: AsyncConnection, links: Iterable[Link], heads: dict[str, Head]) -> None:
        names = ("ledger_id", "account_id", "position", "hash")
        rows = [dict(zip(names, row, strict=True)) for row in links]
        await connection.execute(insert(ledger_chain), rows)
        row = self._db.insert(ledger_heads)
        changed = {name: row.excluded[name] for name in ("position", "hash", "debits", "credits")}
        upsert = row.on_conflict_do_update(index_elements=["account_id"], set_=changed)
        await connection.execute(upsert, [{"account_id": id_, **asdict(head)} for id_, head in heads.items()])


async def _heads(connection: AsyncConnection, account_ids: set[str]) -> dict[str, Head]:
    found = select(ledger_heads).where(ledger_heads.c.account_id.in_(account_ids))
    return {id_: Head(*rest) for id_, *rest in await connection.execute(found)}


async def _advance(connection: AsyncConnection, below: int, chained: int, settled_before_us: int) -> None:
    """Note that nothing is left to chain up to the last entry chained that no earlier one can follow any more."""
    settled = (ledger.c.id > below) & (ledger.c.id <= chained) & (ledger.c.created_us < settled_before_us)
    reached = select(func.coalesce(func.max(ledger.c.id), below)).where(settled).scalar_subquery()
    await connection.execute(update(revisions).where(revisions.c.name == CHAIN_REVISION).values(value=reached))
