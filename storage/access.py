"""What changes of accounts, keys and limits have in common: the counters that cores poll by, and lists of models."""

from __future__ import annotations

import json

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.tables import revisions


async def next_seq(connection: AsyncConnection, counter: str) -> int:
    """Take the next number of a counter, whose row stays locked until the commit: take it before any other lock."""
    counted = update(revisions).where(revisions.c.name == counter).values(value=revisions.c.value + 1)
    return int((await connection.execute(counted.returning(revisions.c.value))).scalar_one())


def kept_models(allowed: tuple[str, ...]) -> str | None:
    """A list of models as the tables have it."""
    return json.dumps(allowed) if allowed else None


def known_models(kept: str | None) -> tuple[str, ...]:
    """A list of models from a table."""
    return tuple(json.loads(kept)) if kept is not None else ()
