"""Rows that nobody will ask for again are removed: closed leases, purses of periods long past and of limits
deleted long ago, cores long gone.

What must stay does: the ledger names leases and cores, but asks for none of their rows; accounts and purses have had
back what a closed lease did not spend, and count for themselves what it spent. A charge whose lease is gone is a late
one, as it is when the lease is closed.
"""

from __future__ import annotations

from sqlalchemy import Column, ColumnElement, Table, delete, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.database import OverDatabase
from storage.tables import BIGINT, cores, leases, purses

PURGE_LIMIT = 256
"""Leases or purses removed by one transaction at most."""
CORE_LIMIT = 8
"""Likewise cores, of which each is looked for in all leases."""


class SqlPurging(OverDatabase):
    """`PurgeStore` over a database."""

    async def purge(self, *, older_than_s: int) -> int:
        """Remove some rows that have been of no use for that long, in one small transaction; how many.

        0 when there are no more. Safe to repeat, and for several cores at once.
        """
        before_us = self._db.now_us() - literal(older_than_s * 1_000_000, BIGINT)
        active = select(leases.c.account_id).where(leases.c.state == "active")
        # A closed lease keeps the end of the life that it was renewed for the last time.
        old_leases = (leases.c.state == "closed") & (leases.c.expires_us < before_us)
        # What does not add up is for the audit to find.
        even = purses.c.available + purses.c.spent == purses.c.amount
        old_purses = (purses.c.ends_us < before_us) & even & purses.c.id.not_in(active)
        # A core that ends sets its heartbeat to 0, as SQLite's next core does for those before it.
        gone = (cores.c.heartbeat_us < before_us) & (cores.c.started_us < before_us)
        old_cores = gone & cores.c.id.not_in(select(leases.c.core_id))
        return (
            await self._remove(leases, leases.c.id, old_leases, PURGE_LIMIT)
            or await self._remove(purses, purses.c.id, old_purses, PURGE_LIMIT)
            or await self._remove(cores, cores.c.id, old_cores, CORE_LIMIT)
        )

    async def _remove(self, table: Table, key: Column[str], old: ColumnElement[bool], limit: int) -> int:
        """Look for rows where nobody waits for it; then remove those that are still as they were, and nobody's."""
        found = await self._db.listed(select(key).where(old).order_by(key).limit(limit))
        ids = [row[0] for row in found]
        if not ids:
            return 0
        locked = select(key).where(key.in_(ids), old).order_by(key).with_for_update(skip_locked=True)

        async def work(connection: AsyncConnection) -> int:
            free = list((await connection.execute(locked)).scalars())
            if free:
                await connection.execute(delete(table).where(key.in_(free)))
            return len(free)

        return await self._db.write(work)
