"""The ledger writer: settlements become ledger rows in batches, one transaction each.

One task, never cancelled. A batch is whatever gathered while the previous one committed, and what the event loop has
at hand: a commit has its price however few its rows are. It lingers beyond that only when much is in flight. A row
leaves the queue after its commit, never before: an outcome that is unknown is tried again, and the store skips what it
knows.

Whoever has waited too long is told that it failed, and from then on nothing is asked for that would charge it: a charge
whose outcome is unknown is tried again as a row of amount 0, and the store says if it has the charge. Only what an
attempt from before then has committed after all is given back, by an entry of its own. A core that dies before that
entry leaves the charge: no trace of the refusal is any more durable than the entry itself, for both need the database
that did not answer. It is then as with a core that dies between a commit and the final frame: charged once, and to be
found by the request id, which the log names as well.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
from collections import deque
from collections.abc import Callable, Mapping

import msgspec

from core.errors import ServiceUnavailable
from core.money.meter import Receipt
from storage.errors import CommitUnknown, StoreError
from storage.interfaces import LedgerStore
from storage.records import Charge, Settlement

_log = logging.getLogger(__name__)

MAX_BATCH = 256
QUIET_ROUNDS = 2
"""A batch is complete when so many rounds of the event loop have brought nothing more."""
LINGER_ABOVE = 32
LINGER_S = 0.002
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.01, 1.0
_REFUND_BACKOFF_S = 0.1


class SettlementFailed(ServiceUnavailable):
    """The charge of an answer could not be committed in time; the caller is not charged for it."""


@dataclasses.dataclass(slots=True)
class _Row:
    """A settlement on its way. `attempted` while a commit of it runs, `doubtful` once one may have happened,
    `void` when its charge was given up, `refused` when its caller was told that it failed, `instead` what was then
    asked for in its place."""

    settlement: Settlement
    receipt: Receipt
    committed: asyncio.Future[None]
    queued_s: float
    attempted: bool = False
    doubtful: bool = False
    void: bool = False
    refused: bool = False
    instead: Settlement | None = None

    def again(self) -> Settlement:
        """What the next attempt asks for: of a caller that was refused, nothing but a row."""
        if self.refused and not self.void:
            self.instead = _free_of_charge(self.settlement)
        return self.instead or self.settlement


class LedgerWriter:
    """The queue of settlements and the task that commits them.

    `observe_commit(rows, seconds)` is told of every commit; `jitter`, a source of 0..1, spreads retries. Belongs to the
    event loop that it is made in.
    """

    def __init__(
        self,
        store: LedgerStore,
        *,
        clock: Callable[[], float],
        in_flight: Callable[[], int],
        observe_commit: Callable[[int, float], None],
        settle_timeout_s: float,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._loop = asyncio.get_running_loop()  # asked once: each time is a system call (getpid) on CPython 3.11
        self._store = store
        self._clock = clock
        self._in_flight = in_flight
        self._observe_commit = observe_commit
        self._settle_timeout_s = settle_timeout_s
        self._jitter = jitter
        self._queue: deque[_Row] = deque()
        self._refunds: list[tuple[Settlement, int]] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def depth(self) -> int:
        """Settlements that are not committed yet."""
        return len(self._queue)

    @property
    def healthy(self) -> bool:
        """False while a settlement has been waiting for longer than an answer waits for its own."""
        return not self._queue or self._clock() - self._queue[0].queued_s < self._settle_timeout_s

    def put(self, settlement: Settlement, receipt: Receipt) -> asyncio.Future[None]:
        """Queue a settlement; the future is done when it is committed, SettlementFailed when given up.

        Whoever does not care cancels the future: then the charge is never given up.
        """
        committed: asyncio.Future[None] = self._loop.create_future()
        self._queue.append(_Row(settlement, receipt, committed, self._clock()))
        self._idle.clear()
        self._wake.set()
        return committed

    async def drained(self) -> None:
        """Wait until everything queued is committed."""
        await self._idle.wait()

    async def run(self) -> None:
        """Commit until the end of the process."""
        while True:
            await self._wake.wait()
            await self._gather()
            await self._commit_batch()
            await self._refund()
            if not (self._queue or self._refunds):
                self._wake.clear()
                self._idle.set()

    async def _gather(self) -> None:
        """Wait for more rows while more come at once, and on when much is in flight; for `LINGER_S` at most."""
        depth, quiet = len(self._queue), 0
        until_s = self._clock() + LINGER_S
        while depth < self._worth_waiting_for() and quiet < QUIET_ROUNDS and self._clock() < until_s:
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self._queue) == depth else 0
            depth = len(self._queue)
        left_s = until_s - self._clock()
        if left_s > 0 and depth < self._worth_waiting_for() and self._in_flight() > LINGER_ABOVE:
            await asyncio.sleep(left_s)

    def _worth_waiting_for(self) -> int:
        return min(MAX_BATCH, self._in_flight())

    async def _commit_batch(self) -> None:
        batch = [self._queue[index] for index in range(min(MAX_BATCH, len(self._queue)))]
        if batch:
            self._committed(batch, await self._commit(batch))

    def _committed(self, batch: list[_Row], changed: Mapping[str, Charge]) -> None:
        for row in batch:
            self._queue.popleft()
            charge = changed.get(row.settlement.request_id) if changed else None
            if row.instead is not None and charge is None:
                self._void(row, row.instead)
            row.receipt.on_commit(charge)
            if row.refused and not row.void:
                amount_nano_usd = (charge or row.settlement).amount_nano_usd
                self._refunds += [(row.settlement, amount_nano_usd)] if amount_nano_usd else []
            _resolve(row.committed, None)

    async def _refund(self) -> None:
        """Give back what was committed after all, too late for the caller, who was told to try again."""
        while self._refunds:
            settlement, amount_nano_usd = self._refunds[0]
            try:
                await self._store.adjust(
                    ref=f"refund-{settlement.request_id}",
                    account_id=settlement.account_id,
                    amount_nano_usd=amount_nano_usd,
                    note="the charge of an answer that could not be delivered",
                    purse_ids=[purse_id for _, purse_id in settlement.budgets],
                )
            except StoreError as error:
                _log.error("A charge could not be given back, trying again: %s", error)
                await asyncio.sleep(_REFUND_BACKOFF_S)
                return
            del self._refunds[0]

    async def _commit(self, batch: list[_Row]) -> Mapping[str, Charge]:
        backoff_s = _FIRST_BACKOFF_S
        asked = [row.settlement for row in batch]
        while True:
            started_s = self._clock()
            for row in batch:
                row.attempted = True
            try:
                changed = await self._store.settle(asked)
            except Exception as error:
                expected = isinstance(error, StoreError)
                for row in batch:
                    row.attempted = False
                    row.doubtful = row.doubtful or isinstance(error, CommitUnknown) or not expected
                _log.error("The ledger could not be written, trying again: %s", error, exc_info=not expected)
                self.sweep()
            else:
                self._told(len(batch), self._clock() - started_s)
                return changed
            await asyncio.sleep(backoff_s * (0.5 + self._jitter() / 2))
            backoff_s = min(backoff_s * 2, _LAST_BACKOFF_S)
            asked = [row.again() for row in batch]

    def _told(self, rows: int, took_s: float) -> None:
        try:
            self._observe_commit(rows, took_s)
        except Exception:
            _log.exception("A commit could not be counted")

    def sweep(self) -> None:
        """Give up on answers that have waited too long for their commit; called a few times a second.

        Their callers get an error at once; the charge goes as soon as it is sure that it was not committed.
        """
        due_s = self._clock() - self._settle_timeout_s
        for row in self._queue:
            if row.queued_s > due_s:
                break
            if row.committed.cancelled() or row.void:
                continue
            if not (row.attempted or row.doubtful):
                self._void(row, _free_of_charge(row.settlement))
            elif not row.committed.done():
                row.refused = True
                told = "A caller was told that its charge failed, which may yet be committed: request id %s"
                _log.error(told, row.settlement.request_id)
            _resolve(row.committed, SettlementFailed("The charge could not be recorded in time.", retry_after_s=1))

    @staticmethod
    def _void(row: _Row, instead: Settlement) -> None:
        row.settlement, row.void = instead, True
        row.receipt.on_void(instead)


def _free_of_charge(settlement: Settlement) -> Settlement:
    """The row of an answer whose charge was given up."""
    return msgspec.structs.replace(
        settlement,
        amount_nano_usd=0,
        shortfall_nano_usd=0,
        status="internal_error",
        error_reason=SettlementFailed.reason,
    )


def _resolve(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()  # whoever waited may be gone: not an error to report
