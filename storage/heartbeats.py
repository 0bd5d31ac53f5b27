"""Which cores are there: each says so again and again, by the database's clock.

Each says too for how long that holds, which is its own affair: one that may be silent for longer than USUAL_TTL_S
enters a heartbeat that is ahead of the clock by the difference, one that may not an older one. So all judge alike.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, literal

from storage.database import Database, Insert
from storage.records import USUAL_TTL_S
from storage.tables import BIGINT, cores

RETIRED = 0
"""The last heartbeat of a core that ended: none comes after it, not even one that was under way."""


def heartbeat(database: Database, core_id: str, ttl_s: float) -> Insert:
    """The core is there, for `ttl_s` if it says nothing more, unless it was retired; entered again if it slept for so
    long that its row was removed."""
    now_us = database.now_us()
    heartbeat_us = now_us + literal(int((ttl_s - USUAL_TTL_S) * 1_000_000), BIGINT)
    row = database.insert(cores).values(id=core_id, started_us=now_us, heartbeat_us=heartbeat_us)
    is_retired = cores.c.heartbeat_us == RETIRED
    return row.on_conflict_do_update(index_elements=["id"], set_={"heartbeat_us": heartbeat_us}, where=~is_retired)


def is_live(database: Database) -> ColumnElement[bool]:
    """Whether a core of `cores` said so within its time."""
    return cores.c.heartbeat_us > database.now_us() - literal(int(USUAL_TTL_S * 1_000_000), BIGINT)
