"""Changes that their callers may repeat: each happens once, its key committed with its effect."""

from __future__ import annotations

from sqlalchemy import delete, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.database import Database, OverDatabase
from storage.errors import IdempotencyConflict
from storage.records import Once
from storage.tables import BIGINT, idempotency

FORGET_LIMIT = 256
"""Keys freed by one transaction at most."""


async def claim(database: Database, connection: AsyncConnection, once: Once | None, made: str) -> str | None:
    """Take the key for a change that makes `made`; what the earlier change made when the key is taken.

    None means go on, as it does without a key. Whoever comes second waits here until the first is committed, or
    goes on when that failed. IdempotencyConflict for another body.
    """
    if once is None:
        return None
    row = {"scope": once.scope, "key": once.key, "body_hash": once.body_hash, "response": made}
    statement = database.insert(idempotency).values(**row, created_us=database.now_us())
    claimed = await connection.execute(statement.on_conflict_do_nothing().returning(idempotency.c.key))
    if claimed.first() is not None:
        return None
    taken = select(idempotency.c.body_hash, idempotency.c.response).where(
        idempotency.c.scope == once.scope, idempotency.c.key == once.key
    )
    first_hash, first_made = (await connection.execute(taken)).one()
    if first_hash != once.body_hash:
        raise IdempotencyConflict("the idempotency key was used with another body")
    return str(first_made)


class SqlIdempotency(OverDatabase):
    """`IdempotencyStore` over a database."""

    async def forget_keys(self, scope_prefix: str, *, older_than_s: int) -> int:
        """Free the idempotency keys of scopes that begin so and were taken longer ago; how many.

        In small transactions.
        """
        taken_us = idempotency.c.created_us + literal(older_than_s * 1_000_000, BIGINT)
        own = idempotency.c.scope.startswith(scope_prefix, autoescape=True)
        key = (idempotency.c.scope, idempotency.c.key)
        some = select(*key).where(own, taken_us < self._db.now_us()).order_by(*key).limit(FORGET_LIMIT)
        old = delete(idempotency).where(tuple_(*key).in_(some.with_for_update(skip_locked=True)))

        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(old)).rowcount

        freed = count = await self._db.write(work)
        while count == FORGET_LIMIT:
            count = await self._db.write(work)
            freed += count
        return freed
