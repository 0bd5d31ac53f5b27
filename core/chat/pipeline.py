"""What all exchanges share, and the register of those in flight."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from core.access_log import AccessRecord
from core.call import Call
from core.chat.admission import Admission
from core.chat.dispatch import TimeLimits
from core.chat.exchange import Exchange
from core.chat.offer import Offer
from core.errors import InvalidApiKey, ServiceUnavailable
from core.money.escrow import Escrow
from core.money.ledger import LedgerWriter
from core.money.ratios import TextRatios
from storage.records import Settlement

MAX_DRAINS = 64
"""Answers that are read on at once after their callers went away; one more is estimated."""
SWEEP_S = 0.25
"""How often time limits are looked at: they are late by this much at most."""


class Pipeline:
    """Opens exchanges, watches over their time limits, and ends them at shutdown or when a key is revoked.

    `offer` may be exchanged at any moment: it is for requests from then on. `observe` is told of every finished
    request, `observe_changed` of those whose charge turned out to be another after that: the settlement before and
    after. `client_gone` are the exceptions that reach a handler whose caller went away. `is_untidy`: much memory came
    free just now, which `tidy` gives back to the system soon.
    """

    def __init__(
        self,
        *,
        offer: Offer,
        limits: TimeLimits,
        escrow: Escrow,
        ledger: LedgerWriter,
        ratios: TextRatios,
        admission: Admission,
        core_id: str,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        observe: Callable[[AccessRecord], None],
        observe_changed: Callable[[Settlement, Settlement], None],
        client_gone: tuple[type[BaseException], ...],
        tidy: Callable[[], None],
    ) -> None:
        self.offer = offer
        self.limits = limits
        self.escrow = escrow
        self.ledger = ledger
        self.ratios = ratios
        self.admission = admission
        self.core_id = core_id
        self.clock = clock
        self.wall_clock = wall_clock
        self.client_gone = client_gone
        self.observe_changed = observe_changed
        self._observe = observe
        self._tidy = tidy
        self._running: set[Exchange] = set()
        self._drains: set[asyncio.Task[None]] = set()
        self._emptied: asyncio.Event | None = None
        self._loop = asyncio.get_running_loop()
        self._turn = asyncio.Lock()
        self.is_untidy = False

    @property
    def in_flight(self) -> int:
        """Requests that are running, those among them whose callers are gone but whose answers are read on."""
        return len(self._running)

    @property
    def drain_count(self) -> int:
        """Of those the ones whose answers are read on."""
        return len(self._drains)

    def open(self, call: Call, body: bytes, *, stream: bool | None) -> Exchange:
        """Begin a request; what follows is its `with` block. `stream` None: as the body asks."""
        exchange = Exchange(self, call, body, stream=stream)
        self._running.add(exchange)
        return exchange

    def current_task(self) -> asyncio.Task[object] | None:
        """The task that runs; without the system call that asking for the loop takes."""
        return asyncio.current_task(self._loop)

    async def turn(self) -> None:
        """Wait for one's turn to work on something large. Each round of the loop has one: many such pieces of work in
        one round would hold up all that takes several, the keys' poll for one."""
        async with self._turn:
            await asyncio.sleep(0)

    def drain_answer(self, exchange: Exchange) -> bool:
        """Have an exchange, whose handler has ended, read its answer on; False when too many do."""
        if len(self._drains) >= MAX_DRAINS:
            return False
        task = self._loop.create_task(exchange.drain())
        self._drains.add(task)
        task.add_done_callback(self._drains.discard)
        return True

    def closed(self, exchange: Exchange, record: AccessRecord) -> None:
        """An exchange has ended."""
        self._running.discard(exchange)
        if self._emptied is not None and not self._running:
            self._emptied.set()
        self._observe(record)

    async def sweep_forever(self) -> None:
        """Watch over time limits until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self.sweep()

    def sweep(self) -> None:
        """End what has taken too long by now, and tidy up."""
        now_s = self.clock()
        for exchange in tuple(self._running):
            exchange.check(now_s)
        self.ledger.sweep()
        if self.is_untidy:
            self.is_untidy = False
            self._tidy()

    def cut_key(self, key_id: str) -> None:
        """End the running requests of a key that is not valid any more."""
        for exchange in tuple(self._running):
            if exchange.call.caller.key_id == key_id:
                exchange.cut("revoked", InvalidApiKey("The API key is not valid any more."))

    async def drain(self, left_s: Callable[[], float], *, last_words_s: float) -> None:
        """Admit nothing more and wait for what runs while time is left; then cut the rest, and wait for that.

        What hangs even then, in the hands of a caller that does not read, is charged for what was produced.
        """
        self.admission.close()
        while self._running and left_s() > 0:
            await self._until_empty(min(left_s(), SWEEP_S))
        for exchange in tuple(self._running):
            exchange.cut("shutdown", ServiceUnavailable("WorldRouter is shutting down.", retry_after_s=1))
        await self._until_empty(last_words_s)
        for exchange in tuple(self._running):
            exchange.abandon()

    async def _until_empty(self, timeout_s: float) -> None:
        if not self._running:
            return
        emptied = self._emptied = self._emptied or asyncio.Event()
        emptied.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await emptied.wait()
