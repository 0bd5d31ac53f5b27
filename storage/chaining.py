"""Writing the hash chain, behind whoever writes the ledger: nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Integer, cast, select

from storage.chain import CONTENT_FIELDS, FLAG_FIELDS
from storage.database import AnySelect, OverDatabase
from storage.tables import CHAIN_REVISION, ledger, ledger_chain, revisions

CHAIN_LIMIT = 256
"""Entries chained by one transaction at most: on SQLite settlements wait for it, a few milliseconds."""

CHAIN_PAUSE_S = 0.01
"""Between two of them, on SQLite: one behind the other they would take turns with settlements, and requests would wait
for each. It still chains several times what one core settles."""

CONTENT_COLUMNS: Sequence[ColumnElement[Any]] = tuple(
    cast(ledger.c[name], Integer).label(name) if name in FLAG_FIELDS else ledger.c[name] for name in CONTENT_FIELDS
)
"""Columns of an entry's content."""

CHAINED_BELOW: AnySelect = select(revisions.c.value).where(revisions.c.name == CHAIN_REVISION)
"""The id up to which there is nothing left to chain."""


def unchained(below: int) -> ColumnElement[bool]:
    """Says that an entry is in no chain yet, where everything up to the id `below` is.

    Not as NOT EXISTS: PostgreSQL might join the whole of both tables for that, where few rows are in question.
    """
    listed = select(ledger_chain.c.ledger_id).where(ledger_chain.c.ledger_id == ledger.c.id).scalar_subquery()
    return (ledger.c.id > below) & listed.is_(None)


class SqlChain(OverDatabase):
    """The chain-writing part of `AuditStore` over a database."""

    async def chain(self) -> int:
        """Append all entries that are in no chain yet to those of their accounts; how many.

        In steps of CHAIN_LIMIT, each a transaction of its own: who is cancelled has lost nothing. Less when another
        core is at it. Safe to repeat.
        """
        [[below]] = await self._db.rows(CHAINED_BELOW)
        if not await self._db.rows(select(ledger.c.id).where(unchained(below)).limit(1)):
            return 0
        done, step = 0, CHAIN_LIMIT
        while step == CHAIN_LIMIT:
            step = await self._db.chain_once(CHAIN_LIMIT)
            done += step
            if self._db.single_core:
                await asyncio.sleep(CHAIN_PAUSE_S)
        return done
