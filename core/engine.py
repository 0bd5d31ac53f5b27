"""The pipeline, the money behind it, and the tasks that keep both going."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine

from worldrouter.calls.memory import give_memory_back

from core.access_log import AccessRecord
from core.agreement import Agreement
from core.catalog import Catalog
from core.chat.admission import Admission
from core.chat.dispatch import TimeLimits
from core.chat.offer import Offer
from core.chat.pipeline import Pipeline
from core.ids import IdSource
from core.metrics import Metrics
from core.money.auditor import Auditor
from core.money.escrow import Escrow, EscrowSettings
from core.money.funds import Funds
from core.money.ledger import LedgerWriter
from core.money.purging import purge_forever
from core.money.ratios import TextRatios
from core.money.rollups import roll_up_forever
from core.rates.rates import Rates
from core.settings import Settings
from storage.errors import StoreError
from storage.interfaces import Store
from storage.records import Settlement

_log = logging.getLogger(__name__)

MAINTENANCE_S = 1.0
RENEWALS_PER_TTL = 6
LAST_WORDS_S = 2.0
FLUSH_TIMEOUT_S = 10.0


class Engine:
    """One core's pipeline with its ledger writer and its leases."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        offer: Offer,
        ids: IdSource,
        metrics: Metrics,
        *,
        observe: Callable[[AccessRecord], None],
        client_gone: tuple[type[BaseException], ...],
        on_fatal: Callable[[], None],
    ) -> None:
        """`on_fatal` is called when a task ends that must not: the process cannot go on."""
        self._settings = settings
        self._on_fatal = on_fatal
        self._store = store
        self.core_id = "core_" + ids.new()
        """Of this core since it started."""
        self.agreement = Agreement(store, self.core_id, ttl_s=settings.money.lease_ttl_s)
        self._tasks: set[asyncio.Task[None]] = set()
        self.ledger = LedgerWriter(
            store,
            clock=time.monotonic,
            in_flight=lambda: self.pipeline.in_flight,
            observe_commit=metrics.commit,
            settle_timeout_s=settings.timeouts.settle_s,
        )
        self.escrow = Escrow(
            store,
            core_id=self.core_id,
            settings=EscrowSettings(settings.money.chunk_nano_usd, settings.money.lease_ttl_s),
            clock=time.monotonic,
            new_lease_id=lambda: "lease_" + ids.new(),
        )
        self.rates = Rates(store, clock=time.monotonic, timeout_s=settings.timeouts.admission_s)
        self.funds = Funds(self.escrow, store, clock=time.monotonic)
        self.auditor = Auditor(store, self.escrow, every_s=settings.money.audit_every_s, clock=time.monotonic)
        self.pipeline = self._make_pipeline(offer, observe, metrics.changed, client_gone)
        metrics.watch(
            in_flight=lambda: self.pipeline.in_flight,
            drains=lambda: self.pipeline.drain_count,
            queue=lambda: self.ledger.depth,
            held_nano_usd=lambda: self.escrow.held_nano_usd,
            deviations=lambda: self.auditor.deviation_count,
            outdated=lambda: self.agreement.outdated,
        )

    def _make_pipeline(
        self,
        offer: Offer,
        observe: Callable[[AccessRecord], None],
        observe_changed: Callable[[Settlement, Settlement], None],
        client_gone: tuple[type[BaseException], ...],
    ) -> Pipeline:
        settings, limits, ratios = self._settings, self._settings.timeouts, TextRatios()
        admission = Admission(
            self.escrow,
            self.funds,
            self.ledger,
            ratios,
            self.rates,
            timeout_s=limits.admission_s,
            credits_url=settings.core.credits_url or None,
            max_body_bytes=settings.core.max_body_bytes,
        )
        return Pipeline(
            offer=offer,
            limits=TimeLimits(limits.first_token_s, limits.between_chunks_s, limits.total_s),
            escrow=self.escrow,
            ledger=self.ledger,
            ratios=ratios,
            admission=admission,
            core_id=self.core_id,
            clock=time.monotonic,
            wall_clock=time.time,
            observe=observe,
            observe_changed=observe_changed,
            client_gone=client_gone,
            tidy=give_memory_back,
        )

    async def start(self) -> None:
        """Enter this core in the database and set the tasks going. StoreError: it counts as live no more."""
        try:
            await self.exchange(self.pipeline.offer, self._settings.version)
            await self._store.register_core(self.core_id, ttl_s=self._settings.money.lease_ttl_s)
        except BaseException:
            with contextlib.suppress(StoreError):  # whose outcome is unknown may have been entered
                await self._store.retire_core(self.core_id)
            raise
        self.keep(self.ledger.run())
        self.keep(self.pipeline.sweep_forever())
        self.keep(self._maintain_leases())
        self.keep(self.agreement.watch(self._settings.money.lease_ttl_s / RENEWALS_PER_TTL))
        self.keep(self.rates.run())
        self.keep(self.auditor.run())
        self.keep(roll_up_forever(self._store))
        self.keep(purge_forever(self._store))

    def catalog(self) -> Catalog:
        """The models that are served now."""
        return self.pipeline.offer.catalog

    async def exchange(self, offer: Offer, version: int) -> None:
        """Serve this from now on, in the configuration of this version (0: none). StoreError: nothing has changed."""
        await self.agreement.enter(offer.catalog, version)
        self.pipeline.offer = offer

    def keep(self, work: Coroutine[None, None, None]) -> None:
        """Run something until `stop`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("A background task ended; so must this process", exc_info=error)
            self._on_fatal()

    async def _maintain_leases(self) -> None:
        renewed_s = time.monotonic()
        every_s = self._settings.money.lease_ttl_s / RENEWALS_PER_TTL
        while True:
            await asyncio.sleep(min(MAINTENANCE_S, every_s))
            self.escrow.give_back_idle()
            self.rates.tick()
            self.funds.give_back_idle()
            if time.monotonic() - renewed_s < every_s:
                continue
            try:
                await self.escrow.renew()
                await self._store.reap()
                renewed_s = time.monotonic()
            except StoreError as error:
                _log.error("The leases could not be renewed: %s", error)
            except Exception:  # whatever it was: without renewals nobody is admitted for good
                _log.exception("The leases could not be renewed")

    async def drain(self, drain_s: Callable[[], float]) -> None:
        """Admit nothing more, let requests end while `drain_s` says there is time, then end them."""
        await self.pipeline.drain(drain_s, last_words_s=LAST_WORDS_S)

    async def stop(self, drain_s: Callable[[], float]) -> None:
        """Admit nothing more, let requests end, flush the ledger, give the leases back. Never raises StoreError.

        `drain_s` says how long requests may still take; asked again and again, as a second signal may shorten it.
        """
        await self.drain(drain_s)
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await self.ledger.drained()
                await self.escrow.close()
                await self.rates.close()
                await self._store.retire_core(self.core_id)
        except (TimeoutError, StoreError) as error:
            _log.error("The ledger could not be flushed: %s", error)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
