"""The task that keeps the roll-ups of usage close behind the ledger. No request waits for it."""

from __future__ import annotations

import asyncio
import logging

from storage.errors import StoreError
from storage.interfaces import UsageStore

_log = logging.getLogger(__name__)

ROLL_UP_EVERY_S = 5.0
"""Between looks for new ledger entries: what is newer is added to every answer one by one."""


async def roll_up_forever(store: UsageStore, *, every_s: float = ROLL_UP_EVERY_S) -> None:
    """Roll up until cancelled. Failures are logged: summaries stay exact without it, and become slower."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await store.roll_up_usage()
        except StoreError as error:
            _log.error("Usage could not be rolled up: %s", error)
        except Exception:  # whatever it was: it must not end the process
            _log.exception("Usage could not be rolled up")
