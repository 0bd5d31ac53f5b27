"""Purses: what a limit on spend or concurrency allows in one period, to be leased like an account's money.

A limit has a purse per period, made when a core first asks for it, of the period that it is by the database's clock.
Its amount follows the limit's: a change moves what is available by the difference, below 0 if need be. At all times
`available` + what active leases were granted + `spent` is `amount`. A purse ends with its period or with its limit,
whichever is first.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import BigInteger, cast, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.database import OverDatabase
from storage.errors import Missing
from storage.limit_records import PURSE_PREFIX, Purse
from storage.periods import period_around
from storage.tables import leases, limits, purses


async def give_back(connection: AsyncConnection, purse_ids: Sequence[str], amount: int) -> None:
    """Undo a charge of these purses."""
    moved = {"available": purses.c.available + amount, "spent": purses.c.spent - amount}
    for purse_id in sorted(purse_ids):
        await connection.execute(update(purses).where(purses.c.id == purse_id).values(**moved))


class SqlPurses(OverDatabase):
    """`PurseStore` over a database."""

    async def purse(self, limit_id: str) -> Purse:
        """The purse of the limit's present period, made if need be, its amount brought to the limit's.

        Missing when there is no such limit. Safe to repeat.
        """
        # Locked, so that of two cores the one that saw an older amount is not the last to write it.
        limit = select(limits.c.period, limits.c.amount, self._db.now_us().label("now_us"))
        limit = limit.where(limits.c.id == limit_id).with_for_update(read=True)

        async def work(connection: AsyncConnection) -> Purse:
            found = (await connection.execute(limit)).first()
            if found is None:
                raise Missing(f"there is no limit {limit_id!r}")
            starts_us, ends_us = period_around(found.period, found.now_us)
            purse_id = f"{PURSE_PREFIX}{limit_id}_{starts_us // 1_000_000}"
            row = {"id": purse_id, "limit_id": limit_id, "starts_us": starts_us, "ends_us": ends_us}
            new = self._db.insert(purses).values(**row, amount=found.amount, available=found.amount, spent=0)
            await connection.execute(new.on_conflict_do_nothing())
            moved = purses.c.available - (purses.c.amount - found.amount)  # in this order, which fits 64 bits
            changed = update(purses).where(purses.c.id == purse_id).values(available=moved, amount=found.amount)
            available = (await connection.execute(changed.returning(purses.c.available))).scalar_one()
            left_us = None if ends_us is None else ends_us - found.now_us
            return Purse(purse_id, limit_id, found.amount, available, ends_us, left_us)

        return await self._db.write(work)

    async def used(self, limit_ids: Sequence[str]) -> dict[str, int]:
        """By limit, what is used of the present period: nanodollars that were charged, or slots that cores have.

        Limits that nobody has used yet are left out.
        """
        now_us = self._db.now_us()
        active = (leases.c.account_id == purses.c.id) & (leases.c.state == "active")
        charged = select(cast(func.coalesce(func.sum(leases.c.spent), 0), BigInteger)).where(active).scalar_subquery()
        slots = select(cast(func.coalesce(func.sum(leases.c.granted), 0), BigInteger)).where(active).scalar_subquery()
        columns = (purses.c.limit_id, limits.c.measure, purses.c.spent + charged, slots)
        present = purses.c.starts_us <= now_us, or_(purses.c.ends_us.is_(None), purses.c.ends_us > now_us)
        statement = select(*columns).join(limits, limits.c.id == purses.c.limit_id).where(*present)
        rows = await self._db.listed(statement.where(purses.c.limit_id.in_(limit_ids)))
        return {id_: leased if measure == "concurrency" else spent for id_, measure, spent, leased in rows}
