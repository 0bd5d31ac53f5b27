"""What accounts and keys may use. A change of an owner's limits is a change of the owner, so that cores poll for it."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.access import next_seq
from storage.database import OverDatabase
from storage.errors import Missing
from storage.idempotency import claim
from storage.limit_records import Limit
from storage.records import Once
from storage.tables import ACCOUNT_REVISION, API_KEY_REVISION, accounts, api_keys, limits, purses

_LIMIT = (limits.c.id, limits.c.owner_id, limits.c.measure, limits.c.period, limits.c.amount)


class SqlLimits(OverDatabase):
    """`LimitStore` over a database."""

    async def set_limit(self, limit: Limit, *, once: Once | None = None) -> Limit:
        """Make a limit, or change the amount of the one that its owner has by that measure and period, whose id stays.

        Missing when the owner is neither a customer's account nor a key. A repeat answers the limit as it is now, or
        as asked for when it was deleted since.
        """
        row = {
            "id": limit.id,
            "owner_id": limit.owner_id,
            "measure": limit.measure,
            "period": limit.period,
            "amount": limit.amount,
        }

        async def work(connection: AsyncConnection) -> Limit:
            if await claim(self._db, connection, once, limit.id) is None:
                await _touch(connection, limit.owner_id)
                statement = self._db.insert(limits).values(**row, created_us=self._db.now_us())
                same = statement.on_conflict_do_update(
                    index_elements=["owner_id", "measure", "period"], set_={"amount": statement.excluded.amount}
                )
                await connection.execute(same)
            present = select(*_LIMIT).where(
                limits.c.owner_id == limit.owner_id,
                limits.c.measure == limit.measure,
                limits.c.period == limit.period,
            )
            found = (await connection.execute(present)).first()
            return Limit(*found) if found is not None else limit

        return await self._db.write(work)

    async def delete_limit(self, limit_id: str, *, once: Once | None = None) -> None:
        """Missing when there is none. Its purses end now, so that they go like those of past periods."""
        now_us = self._db.now_us()

        async def work(connection: AsyncConnection) -> None:
            if await claim(self._db, connection, once, limit_id) is not None:
                return
            owned = select(limits.c.owner_id).where(limits.c.id == limit_id)
            owner_id = (await connection.execute(owned)).scalar_one_or_none()
            if owner_id is not None:
                await _touch(connection, owner_id)
            gone = delete(limits).where(limits.c.id == limit_id).returning(limits.c.id)
            if (await connection.execute(gone)).first() is None:
                raise Missing(f"there is no limit {limit_id!r}")
            # None is made any more: whoever makes one locks the limit first.
            present = or_(purses.c.ends_us.is_(None), purses.c.ends_us > now_us)
            await connection.execute(
                update(purses).where(purses.c.limit_id == limit_id, present).values(ends_us=now_us)
            )

        return await self._db.write(work)

    async def limits(self, owner_ids: Sequence[str]) -> list[Limit]:
        """All limits of these owners, by owner, oldest first."""
        order = (limits.c.owner_id, limits.c.created_us, limits.c.id)
        statement = select(*_LIMIT).where(limits.c.owner_id.in_(owner_ids)).order_by(*order)
        return [Limit(*row) for row in await self._db.rows(statement)]


async def _touch(connection: AsyncConnection, owner_id: str) -> None:
    """Give an account or a key the next number of its kind. Missing when it is neither."""
    own = select(accounts.c.id).where(accounts.c.id == owner_id, accounts.c.kind != "house")
    is_account = (await connection.execute(own)).first() is not None
    table, counter = (accounts, ACCOUNT_REVISION) if is_account else (api_keys, API_KEY_REVISION)
    seq = await next_seq(connection, counter)
    changed = update(table).where(table.c.id == owner_id).values(seq=seq).returning(table.c.id)
    if (await connection.execute(changed)).first() is None:
        raise Missing(f"there is no account or key {owner_id!r}")
