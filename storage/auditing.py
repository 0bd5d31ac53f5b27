"""Proof that accounts, leases, ledger and chain agree: in short each minute, in full by command; and the export."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, cast, func, literal, or_, select, tuple_, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.audit_records import AccountState, AuditReport, ChainedEntry, Deviation, LedgerSnapshot
from storage.audit_walk import AccountRow, Place, Walk, account_deviations
from storage.chain import CONTENT_FIELDS, CREDIT, DEBIT, Head, content_of, owner_of
from storage.chaining import CHAINED_BELOW, CONTENT_COLUMNS, SqlChain, unchained
from storage.database import AnySelect
from storage.tables import BIGINT, accounts, leases, ledger, ledger_chain, ledger_heads, prices, purses

PAGE_ROWS = 1_000
"""Entries read at a time: hashing them takes a few milliseconds, in which nothing else runs."""
_RECENT_US = 2 * 86_400 * 1_000_000
"""Purses whose period has been over for longer are left to the full audit."""


class SqlAudits(SqlChain):
    """`AuditStore` over a database."""

    async def unbalanced(self) -> list[Deviation]:
        """What does not add up now, of accounts and active leases: counted from the sums of the chained entries
        and the entries after them, so that it takes as long as there are accounts."""
        # Read apart: it only grows, and an older one is as right.
        [[below]] = await self._db.rows(CHAINED_BELOW)
        found: list[Deviation] = []
        for *account, net in await self._db.listed(_unbalanced(below)):
            found += account_deviations(AccountRow(*account), net)
        found += map(_lease_bounds, await self._db.listed(_out_of_bounds(leases.c.state == "active")))
        recent = or_(purses.c.ends_us.is_(None), purses.c.ends_us > self._db.now_us() - literal(_RECENT_US, BIGINT))
        found += map(_purse, await self._db.listed(_wrong_purses(recent)))
        return found

    async def audit(self) -> AuditReport:
        """Everything counted anew in one snapshot, and every chain followed; takes as long as the ledger is."""
        audit = _Audit()
        try:
            return await self._db.snapshot(audit.run)
        except asyncio.CancelledError:
            audit.abandoned = True
            raise

    async def ledger_snapshot(self, unchained_limit: int) -> LedgerSnapshot:
        """What an export begins with; of unchained entries the first `unchained_limit`, by id."""

        async def work(connection: AsyncConnection) -> LedgerSnapshot:
            known = {account.id: account for account in await _accounts(connection)}
            heads = await _heads(connection)
            below = await _chained_below(connection)
            fresh = select(*CONTENT_COLUMNS).where(unchained(below)).order_by(ledger.c.id).limit(unchained_limit)
            return LedgerSnapshot(
                CONTENT_FIELDS,
                [_state(id_, known.get(id_), heads.get(id_, Head())) for id_ in sorted(known.keys() | heads.keys())],
                [
                    ChainedEntry(owner_of(row[DEBIT], row[CREDIT]), 0, b"", content_of(tuple(row)).decode())
                    for row in await connection.execute(fresh)
                ],
            )

        return await self._db.snapshot(work)

    async def chained_entries(self, *, after: tuple[str, int], limit: int) -> list[ChainedEntry]:
        """Chained entries by account and position, `after` being those of the last one seen; ("", 0) at first."""
        place = (ledger_chain.c.account_id, ledger_chain.c.position)
        page = select(*place, ledger_chain.c.hash, *CONTENT_COLUMNS).join(
            ledger, ledger.c.id == ledger_chain.c.ledger_id
        )
        statement = page.where(tuple_(*place) > after).order_by(*place).limit(limit)
        return [
            ChainedEntry(account_id, position, hashed, content_of(content).decode())
            for account_id, position, hashed, *content in await self._db.listed(statement)
        ]


class _Audit:
    """One full audit. `abandoned` when nobody waits for it any more."""

    def __init__(self) -> None:
        self.abandoned = False

    async def run(self, connection: AsyncConnection) -> AuditReport:
        """All of it, over one snapshot."""
        known = await _accounts(connection)
        price_ids = frozenset((await connection.execute(select(prices.c.id))).scalars())
        walk = Walk({account.id for account in known}, price_ids, await _chained_below(connection))
        await self._entries(connection, walk)
        walk.finish(await _heads(connection))
        for account in known:
            for deviation in account_deviations(account, walk.net(account.id)):
                walk.findings.add(deviation)
        await _leases(connection, walk)
        return walk.report()

    async def _entries(self, connection: AsyncConnection, walk: Walk) -> None:
        """Read ledger and chain side by side, in the order of the entries' ids."""
        last_id = -(2**63)
        while True:
            rows = (await connection.execute(_entries_after(last_id))).all()
            links = (await connection.execute(_links_after(last_id))).all()
            ends = [page[-1][0] for page in (rows, links) if len(page) == PAGE_ROWS]
            last_id = min(ends, default=2**63 - 1)
            places = {entry_id: Place(*place) for entry_id, *place in links if entry_id <= last_id}
            for row in rows:
                if row[0] <= last_id:
                    walk.entry(tuple(row), places.pop(row[0], None))
            for entry_id, place in places.items():
                walk.dropped(entry_id, place)
            if not ends:
                return
            if self.abandoned:
                raise asyncio.CancelledError


def _entries_after(last_id: int) -> AnySelect:
    return select(*CONTENT_COLUMNS).where(ledger.c.id > last_id).order_by(ledger.c.id).limit(PAGE_ROWS)


def _links_after(last_id: int) -> AnySelect:
    links = select(ledger_chain.c.ledger_id, ledger_chain.c.account_id, ledger_chain.c.position, ledger_chain.c.hash)
    return links.where(ledger_chain.c.ledger_id > last_id).order_by(ledger_chain.c.ledger_id).limit(PAGE_ROWS)


async def _chained_below(connection: AsyncConnection) -> int:
    return int((await connection.execute(CHAINED_BELOW)).scalar_one())


async def _accounts(connection: AsyncConnection) -> list[AccountRow]:
    held = _held()
    statement = select(*_account_columns(held)).outerjoin(held, held.c.account_id == accounts.c.id)
    return [AccountRow(*row) for row in await connection.execute(statement.order_by(accounts.c.id))]


async def _heads(connection: AsyncConnection) -> dict[str, Head]:
    return {id_: Head(*rest) for id_, *rest in await connection.execute(select(ledger_heads))}


async def _leases(connection: AsyncConnection, walk: Walk) -> None:
    for row in await connection.execute(_out_of_bounds()):
        walk.findings.add(_lease_bounds(row))
    own = select(ledger.c.lease_id, _total(ledger.c.amount).label("charged")).where(ledger.c.lease_id.is_not(None))
    charges = own.group_by(ledger.c.lease_id).subquery()
    charged = func.coalesce(charges.c.charged, 0)
    spent = select(leases.c.account_id, leases.c.id, charged, leases.c.spent)
    both = spent.select_from(leases.outerjoin(charges, charges.c.lease_id == leases.c.id))
    both = both.where(leases.c.account_id.in_(select(accounts.c.id)))  # the ledger knows nothing of purses
    for account_id, lease_id, most, found in await connection.execute(both.where(leases.c.spent > charged)):
        walk.findings.add(Deviation("lease_spent", account_id, lease_id, f"{most} at most", str(found)))
    for row in await connection.execute(_wrong_purses()):
        walk.findings.add(_purse(row))


def _unbalanced(below: int) -> AnySelect:
    """Accounts that do not add up, as the columns of `AccountRow` and credits less debits."""
    fresh = select(ledger.c.debit_account, ledger.c.credit_account, ledger.c.amount).where(unchained(below)).cte()
    moves = union_all(
        select(ledger_heads.c.account_id, (ledger_heads.c.credits - ledger_heads.c.debits).label("amount")),
        select(fresh.c.debit_account, -fresh.c.amount),
        select(fresh.c.credit_account, fresh.c.amount),
    ).subquery()
    nets = select(moves.c.account_id, _total(moves.c.amount).label("net")).group_by(moves.c.account_id).subquery()
    held = _held()
    columns, net = _account_columns(held), func.coalesce(nets.c.net, 0)
    has = accounts.c.available + columns[-1]
    house = (accounts.c.kind == "house") & or_(accounts.c.available != 0, columns[-1] != 0)
    other = (accounts.c.kind != "house") & or_(has != net, accounts.c.available < -accounts.c.credit_limit)
    both = accounts.outerjoin(held, held.c.account_id == accounts.c.id)
    every = both.outerjoin(nets, nets.c.account_id == accounts.c.id)
    return select(*columns, net).select_from(every).where(or_(house, other)).order_by(accounts.c.id)


def _account_columns(held: Any) -> Sequence[ColumnElement[Any]]:
    free = func.coalesce(held.c.free, 0)
    return (accounts.c.id, accounts.c.kind, accounts.c.available, accounts.c.credit_limit, free)


def _held() -> Any:
    free = _total(leases.c.granted - leases.c.spent).label("free")
    active = select(leases.c.account_id, free).where(leases.c.state == "active")
    return active.group_by(leases.c.account_id).subquery()


def _out_of_bounds(*which: ColumnElement[bool]) -> AnySelect:
    wrong = or_(leases.c.spent < 0, leases.c.spent > leases.c.granted)
    return select(leases.c.account_id, leases.c.id, leases.c.granted, leases.c.spent).where(wrong, *which)


def _wrong_purses(*which: ColumnElement[bool]) -> AnySelect:
    active = (leases.c.account_id == purses.c.id) & (leases.c.state == "active")
    granted = select(_total(leases.c.granted)).where(active).scalar_subquery()
    has = purses.c.available + purses.c.spent + granted
    wrong = select(purses.c.id, purses.c.amount, has).where(has != purses.c.amount, *which)
    return wrong.order_by(purses.c.id)


def _purse(row: Sequence[Any]) -> Deviation:
    purse_id, amount, has = row
    return Deviation("purse", purse_id, "", str(amount), str(has))


def _lease_bounds(row: Sequence[Any]) -> Deviation:
    account_id, lease_id, granted, spent = row
    return Deviation("lease_bounds", account_id, lease_id, f"0 to {granted}", str(spent))


def _state(id_: str, account: AccountRow | None, head: Head) -> AccountState:
    if account is None:
        return AccountState(id_, "", 0, 0, head.position, head.hash)
    return AccountState(id_, account.kind, account.available, account.held, head.position, head.hash)


def _total(column: ColumnElement[int]) -> ColumnElement[int]:
    # PostgreSQL sums BIGINT into NUMERIC.
    return cast(func.coalesce(func.sum(column), 0), BigInteger)
