"""Which cores are there: each says so again and again, by the database's clock."""

from __future__ import annotations

from sqlalchemy import ColumnElement, literal

from storage.database import Database, Insert
from storage.tables import BIGINT, cores

RETIRED = 0
"""The last heartbeat of a core that ended: none comes after it, not even one that was under way."""


def heartbeat(database: Database, core_id: str) -> Insert:
    """The core is there, unless it was retired; entered again if it slept for so long that its row was removed."""
    now_us = database.now_us()
    row = database.insert(cores).values(id=core_id, started_us=now_us, heartbeat_us=now_us)
    is_retired = cores.c.heartbeat_us == RETIRED
    return row.on_conflict_do_update(index_elements=["id"], set_={"heartbeat_us": now_us}, where=~is_retired)


def is_live(database: Database, ttl_us: int) -> ColumnElement[bool]:
    """Whether a core of `cores` said so within that time."""
    return cores.c.heartbeat_us > database.now_us() - literal(ttl_us, BIGINT)
