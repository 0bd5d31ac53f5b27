"""Leases: money moved out of accounts for one core to spend, and back; likewise what purses allow.

Rows are always locked in one order, leases by id and then accounts by id and purses by id, so that transactions of
many cores wait for one another rather than in a circle.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Table,
    Update,
    bindparam,
    func,
    literal,
    select,
    true,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.database import AnyRow, AnySelect, Conflict, OverDatabase
from storage.errors import Missing, StoreError
from storage.heartbeats import RETIRED, heartbeat, is_live
from storage.limit_records import is_purse
from storage.records import USUAL_TTL_S, Lease
from storage.tables import BIGINT, accounts, cores, leases, purses

CLOSE_LIMIT = 256
"""Leases closed by one transaction at most."""

_LEASE = (
    leases.c.id,
    leases.c.account_id,
    leases.c.core_id,
    leases.c.granted,
    leases.c.spent,
    leases.c.seq,
)


class SqlLeases(OverDatabase):
    """`LeaseStore` over a database."""

    async def register_core(self, core_id: str, *, ttl_s: float = USUAL_TTL_S) -> None:
        """Enter a core that just started, live for `ttl_s` at first. Where one core at a time can run, every lease of
        an earlier core is closed and its unspent part returned in the same transaction. Safe to repeat."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(heartbeat(self._db, core_id, ttl_s))
            if self._db.single_core:
                await connection.execute(update(cores).where(cores.c.id != core_id).values(heartbeat_us=RETIRED))
                while await _close(connection, leases.c.core_id != core_id):
                    pass

        await self._db.write(work)

    async def retire_core(self, core_id: str) -> None:
        """A core has ended: it counts as live no more. Safe to repeat."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(update(cores).where(cores.c.id == core_id).values(heartbeat_us=RETIRED))

        await self._db.write(work)

    async def acquire(
        self,
        *,
        lease_id: str,
        account_id: str,
        core_id: str,
        want_nano_usd: int,
        chunk_nano_usd: int,
        ttl_s: float,
    ) -> Lease | None:
        """Move money from the account into a new lease: exactly `want` while what the account can pay (available
        and credit limit) is below 4 x live cores x chunk, else max(want, chunk). None when it cannot pay `want`.

        Safe to repeat: an active lease of this id is returned as it is. Missing when there is no such account,
        or when the lease of this id is closed by now. ValueError for a negative amount.
        """
        _refuse_negative(want_nano_usd, chunk_nano_usd)
        ttl_us = int(ttl_s * 1_000_000)

        async def work(connection: AsyncConnection) -> Lease | None:
            found = (await connection.execute(_lease(lease_id))).first()
            if found is not None:
                return _active(found, lease_id)
            granted = await self._take(connection, account_id, want_nano_usd, chunk_nano_usd)
            if granted is None:
                return None
            lease = Lease(lease_id, account_id, core_id, granted, spent_nano_usd=0, seq=1)
            await self._insert(connection, lease, ttl_us)
            return lease

        return await self._db.write(work)

    async def extend(self, *, lease_id: str, seq: int, want_nano_usd: int, chunk_nano_usd: int) -> Lease | None:
        """Move more money into an active lease, by the rule of `acquire`; None when the account cannot pay.

        `seq` is the lease's present one plus 1; a lease that already has it is returned as it is: safe to repeat.
        Missing when the lease is closed, StoreError for any other seq.
        """
        _refuse_negative(want_nano_usd, chunk_nano_usd)

        async def work(connection: AsyncConnection) -> Lease | None:
            found = await _locked(connection, lease_id)
            lease = _active(found, lease_id)
            if _is_done(lease, seq):
                return lease
            granted = await self._take(connection, lease.account_id, want_nano_usd, chunk_nano_usd)
            return None if granted is None else await _grant(connection, lease, granted)

        return await self._db.write(work)

    async def give_back(self, *, lease_id: str, seq: int, amount_nano_usd: int) -> Lease:
        """Return an unspent part of an active lease to its account; `seq` as in `extend`: safe to repeat.

        Missing when the lease is closed; StoreError when more than the unspent part was given, or for another seq.
        """
        _refuse_negative(amount_nano_usd)

        async def work(connection: AsyncConnection) -> Lease:
            lease = _active(await _locked(connection, lease_id), lease_id)
            if _is_done(lease, seq):
                return lease
            free = lease.granted_nano_usd - lease.spent_nano_usd
            if amount_nano_usd > free:
                raise StoreError(f"lease {lease_id!r} has {free} unspent, not {amount_nano_usd}")
            changed = await _grant(connection, lease, -amount_nano_usd)
            await _return(connection, {lease.account_id: (amount_nano_usd, 0)})
            return changed

        return await self._db.write(work)

    async def close_lease(self, lease_id: str) -> None:
        """Close a lease and return its unspent part; nothing when it is closed. Safe to repeat."""

        async def work(connection: AsyncConnection) -> None:
            await _close(connection, leases.c.id == lease_id)

        await self._db.write(work)

    async def renew(self, core_id: str, *, ttl_s: float) -> list[str]:
        """Heartbeat: extend the life of the core and its active leases, in one UPDATE; returns their ids."""
        ttl_us = int(ttl_s * 1_000_000)
        now_us = self._db.now_us()

        async def work(connection: AsyncConnection) -> list[str]:
            await connection.execute(heartbeat(self._db, core_id, ttl_s))
            own = select(leases.c.id).where(leases.c.core_id == core_id, leases.c.state == "active")
            life = {"ttl_us": ttl_us, "expires_us": now_us + literal(ttl_us, BIGINT)}
            renewed = (
                update(leases)
                .where(leases.c.id.in_(own.order_by(leases.c.id).with_for_update()))
                .where(leases.c.state == "active")
                .values(**life)
                .returning(leases.c.id)
            )
            return sorted((await connection.execute(renewed)).scalars())

        return await self._db.write(work)

    async def reap(self) -> int:
        """Close expired leases of any core, returning their unspent part; how many.

        Leases that somebody else is changing are left for the next time.
        """

        async def work(connection: AsyncConnection) -> int:
            return await _close(connection, leases.c.expires_us <= self._db.now_us(), skip_locked=True)

        closed = count = await self._db.write(work)
        while count == CLOSE_LIMIT:
            count = await self._db.write(work)
            closed += count
        return closed

    async def _take(self, connection: AsyncConnection, account_id: str, want: int, chunk: int) -> int | None:
        """Take money from an account or a purse, a chunk where it has plenty; how much, None when it cannot pay
        `want`."""
        owners: Table = accounts
        spendable: ColumnElement[int] = accounts.c.available + accounts.c.credit_limit
        own: ColumnElement[bool] = (accounts.c.id == account_id) & (accounts.c.kind != "house")
        if is_purse(account_id):
            owners, spendable, own = purses, purses.c.available, purses.c.id == account_id
        live = select(func.count()).select_from(cores).where(is_live(self._db))
        floor = literal(4 * chunk, BIGINT)
        plenty = (spendable >= floor) & (spendable >= floor * live.scalar_subquery())
        for amount, condition in ((max(want, chunk), plenty), (want, true())):
            taken = (
                update(owners)
                .where(own)
                .where(spendable >= amount, condition)
                .values(available=owners.c.available - amount)
                .returning(owners.c.id)
            )
            if (await connection.execute(taken)).first() is not None:
                return amount
        if (await connection.execute(select(owners.c.id).where(own))).first() is None:
            raise Missing(f"there is no account {account_id!r}")
        return None

    async def _insert(self, connection: AsyncConnection, lease: Lease, ttl_us: int) -> None:
        statement = self._db.insert(leases).values(
            id=lease.id,
            account_id=lease.account_id,
            core_id=lease.core_id,
            granted=lease.granted_nano_usd,
            spent=0,
            seq=lease.seq,
            state="active",
            ttl_us=ttl_us,
            expires_us=self._db.now_us() + literal(ttl_us, BIGINT),
        )
        made = await connection.execute(statement.on_conflict_do_nothing().returning(leases.c.id))
        if made.first() is None:
            # An earlier call, whose outcome its caller does not know, committed meanwhile: it will be found.
            raise Conflict(f"lease {lease.id!r} was made meanwhile")


def _lease(lease_id: str) -> AnySelect:
    return select(*_LEASE, leases.c.state).where(leases.c.id == lease_id)


async def _locked(connection: AsyncConnection, lease_id: str) -> AnyRow:
    found = (await connection.execute(_lease(lease_id).with_for_update())).first()
    if found is None:
        raise Missing(f"there is no lease {lease_id!r}")
    return found


def _active(found: AnyRow, lease_id: str) -> Lease:
    if found.state != "active":
        raise Missing(f"lease {lease_id!r} is closed")
    return Lease(*found[: len(_LEASE)])


def _is_done(lease: Lease, seq: int) -> bool:
    """Whether change number `seq` is in the lease already; StoreError when it is neither that nor the next."""
    if seq not in (lease.seq, lease.seq + 1):
        raise StoreError(f"lease {lease.id!r} is at change {lease.seq}: {seq} is not the next one")
    return seq == lease.seq


async def _grant(connection: AsyncConnection, lease: Lease, amount: int) -> Lease:
    """Add to what a locked lease may spend, or take from it when `amount` is negative."""
    changed = (
        update(leases)
        .where(leases.c.id == lease.id)
        .values(granted=leases.c.granted + amount, seq=lease.seq + 1)
        .returning(*_LEASE)
    )
    return Lease(*(await connection.execute(changed)).one())


async def _close(connection: AsyncConnection, which: ColumnElement[bool], *, skip_locked: bool = False) -> int:
    """Close up to CLOSE_LIMIT active leases and return what they did not spend; how many."""
    chosen = select(leases.c.id).where(leases.c.state == "active", which).order_by(leases.c.id)
    locked = chosen.limit(CLOSE_LIMIT).with_for_update(skip_locked=skip_locked)
    ids = list((await connection.execute(locked)).scalars())
    closed = (
        update(leases)
        .where(leases.c.id.in_(ids))
        .values(state="closed")
        .returning(leases.c.account_id, leases.c.granted - leases.c.spent, leases.c.spent)
    )
    left: dict[str, tuple[int, int]] = {}
    for owner_id, unspent, spent in await connection.execute(closed) if ids else ():
        before = left.get(owner_id, (0, 0))
        left[owner_id] = (before[0] + unspent, before[1] + spent)
    await _return(connection, left)
    return len(ids)


async def _return(connection: AsyncConnection, amounts: dict[str, tuple[int, int]]) -> None:
    """Add what is unspent to what accounts and purses have available, and to the latter what closed leases spent."""
    accounts_get: list[dict[str, Any]] = []
    purses_get: list[dict[str, Any]] = []
    for owner_id, (amount, spent) in sorted(amounts.items()):
        if is_purse(owner_id):
            purses_get.append({"owner": owner_id, "unspent": amount, "by_leases": spent})
        elif amount:
            accounts_get.append({"owner": owner_id, "unspent": amount})
    if accounts_get:
        await connection.execute(_returned(accounts), accounts_get)
    if purses_get:
        spent_too = {"spent": purses.c.spent + bindparam("by_leases", type_=BIGINT)}
        await connection.execute(_returned(purses).values(**spent_too), purses_get)


def _returned(owners: Table) -> Update:
    unspent: BindParameter[int] = bindparam("unspent", type_=BIGINT)
    return update(owners).where(owners.c.id == bindparam("owner")).values(available=owners.c.available + unspent)


def _refuse_negative(*amounts: int) -> None:
    if min(amounts) < 0:
        raise ValueError("an amount is 0 or more")
