"""The task that removes rows which nobody will ask for again. No request waits for it."""

from __future__ import annotations

import asyncio
import logging

from storage.errors import StoreError
from storage.interfaces import PurgeStore

_log = logging.getLogger(__name__)

KEPT_S = 7 * 24 * 3600
"""How long what is of no use stays: for whoever looks into what happened."""
FIRST_PURGE_S, PURGE_EVERY_S = 60.0, 3600.0
PAUSE_S = 0.05
"""Between two transactions: settling takes turns with them on SQLite."""


async def purge_forever(
    store: PurgeStore, *, first_s: float = FIRST_PURGE_S, every_s: float = PURGE_EVERY_S, pause_s: float = PAUSE_S
) -> None:
    """Purge until cancelled, first after `first_s`. Failures are logged: tables grow then."""
    await asyncio.sleep(first_s)
    while True:
        count = 0
        try:
            while removed := await store.purge(older_than_s=KEPT_S):
                count += removed
                await asyncio.sleep(pause_s)
        except StoreError as error:
            _log.error("Old leases and cores could not be removed: %s", error)
        except Exception:  # whatever it was: it must not end the process
            _log.exception("Old leases and cores could not be removed")
        if count:
            _log.info("Removed %d rows of leases, purses and cores that were of no use for a week", count)
        await asyncio.sleep(every_s)
