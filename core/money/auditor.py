"""The minute's audit: the ledger is chained, all balances are counted, and what does not add up gets no more leases.

It repairs nothing. An account comes free again when an audit finds that it adds up.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from core.money.escrow import Escrow
from storage.errors import StoreError
from storage.interfaces import AuditStore

_log = logging.getLogger(__name__)

CHAIN_EVERY_S = 5.0
"""Between looks for ledger entries that are in no chain yet."""


class Auditor:
    """One core's audits. `every_s` is the time between them."""

    def __init__(self, store: AuditStore, escrow: Escrow, *, every_s: float, clock: Callable[[], float]) -> None:
        self._store = store
        self._escrow = escrow
        self._every_s = every_s
        self._clock = clock
        self.deviation_count = 0
        """What did not add up at the last audit."""

    async def run(self) -> None:
        """Chain and audit until the end of the process."""
        audited_s = self._clock()
        while True:
            await asyncio.sleep(min(CHAIN_EVERY_S, self._every_s))
            await _attempt(self._store.chain(), "chained")
            if self._clock() - audited_s >= self._every_s:
                audited_s = self._clock()
                await _attempt(self.audit(), "audited")

    async def audit(self) -> None:
        """Count all balances once, and stop or free accounts by what is found. StoreError: nothing changes."""
        deviations = await self._store.unbalanced()
        for found in deviations:
            _log.error(
                "Account %s gets no leases until it adds up: %s should be %s and is %s",
                found.account_id,
                f"{found.kind} {found.subject}".rstrip(),
                found.expected,
                found.found,
            )
        stopped = frozenset(found.account_id for found in deviations)
        for account_id in sorted(self._escrow.stopped - stopped):
            _log.warning("Account %s adds up again", account_id)
        self._escrow.stopped = stopped
        self.deviation_count = len(deviations)


async def _attempt(work: Awaitable[object], what: str) -> None:
    try:
        await work
    except StoreError as error:
        _log.error("The ledger could not be %s: %s", what, error)
    except Exception:  # whatever it was: it must not end the process, nor the audits
        _log.exception("The ledger could not be %s", what)
