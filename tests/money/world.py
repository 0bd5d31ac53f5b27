"""Cores, their requests and their customers, as the state machine moves them: the real escrow, meter and writer.

Everything is sans-I/O but for the store, whose calls go over a `Line`. What each step may do, `machine.py` says.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

from core.call import Call, Caller, Role
from core.errors import ServiceUnavailable
from core.money.escrow import Escrow, EscrowSettings, Hold, OutOfFunds
from core.money.funds import Chain, Funds, OverLimit
from core.money.ledger import LedgerWriter, SettlementFailed
from core.money.meter import Estimate, Meter, Outcome
from core.money.usage import TokenCounts
from storage.errors import Duplicate, IdempotencyConflict, StoreError
from storage.limit_records import Limit, is_purse
from storage.records import Once, Settlement
from tests.money.actors import MODEL, Core, Request
from tests.money.backends import Backend
from tests.money.books import Violation
from tests.money.line import Line
from tests.money.truths import check_books, check_budget, check_settled

TTL_S = 30.0
SETTLE_TIMEOUT_S = 5.0
ADMISSION_TIMEOUT_S = 2.0
FLUSH_TIMEOUT_S = 10.0
ACCOUNTS = ("acc_a", "acc_b")
SLACK_TOKENS = 40
END_SKEW_S = 1_000_000.0
"""Where a clock that was set back and forth ends: later than any lease of a core that died meanwhile."""


class World:
    """All of it. Every method that is not a coroutine is one thing that happens, at once."""

    def __init__(self, backend: Backend, store: Any, *, chunk: int) -> None:
        self.backend, self.store = backend, store
        self.loop = backend.loop
        self.settings = EscrowSettings(chunk, TTL_S, idle_s=2.0)
        self.cores: list[Core] = []
        self.requests: list[Request] = []
        self.payments: dict[str, int] = {}
        self.limits: dict[str, tuple[Limit, ...]] = {}
        self.lowered: set[str] = set()
        self.violations: list[Violation] = []
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[Any]] = set()

    # The beginning

    async def begin(self, balance: int, credit_limit: int) -> None:
        with self.loop.outside():
            for account_id in ACCOUNTS:
                await self.store.create_account(account_id, account_id, "user")
                if balance:
                    await self.store.adjust(
                        ref=f"start_{account_id}", account_id=account_id, amount_nano_usd=balance, note=""
                    )
        for account_id in ACCOUNTS:
            await self.backend.lend(account_id, credit_limit)
        for _ in range(self.backend.core_count):
            await self.start_core()

    async def start_core(self) -> None:
        """A new process, with a new id; where one core at a time can run, in the place of the last one."""
        core_id = f"core_{next(self._numbers)}"
        with self.loop.outside():
            await self.store.register_core(core_id)
        line = Line(self.store, self.loop, self._asking)
        ledger = LedgerWriter(
            line,  # type: ignore[arg-type]
            clock=self.loop.time,
            in_flight=lambda: 0,
            observe_commit=lambda rows, seconds: None,
            settle_timeout_s=SETTLE_TIMEOUT_S,
            jitter=lambda: 0.5,
        )
        escrow = Escrow(
            line,  # type: ignore[arg-type]
            core_id=core_id,
            settings=self.settings,
            clock=self.loop.time,
            new_lease_id=lambda: f"lease_{next(self._numbers):04}",
        )
        funds = Funds(escrow, line, clock=self.loop.time)  # type: ignore[arg-type]
        core = Core(core_id, line, escrow, funds, ledger, self.loop.now_s)
        self._keep(core, ledger.run())
        self.cores.append(core)

    def _keep(self, core: Core, work: Any) -> asyncio.Task[Any]:
        task = self.loop.create_task(work)
        for where in (core.tasks, self._tasks):
            where.add(task)
            task.add_done_callback(where.discard)
        return task

    # Requests

    def admit(self, core: Core, account_id: str, amount: int) -> None:
        """As admission does: from the lease at hand, or by waiting for one."""
        if not core.runs or core.stopping:
            return
        limits = self.limits.get(account_id)
        try:
            if limits is None:
                hold: Hold | Chain | None = core.escrow.try_hold(account_id, amount)
            else:
                hold = core.funds.try_hold(account_id, amount, limits)
        except ServiceUnavailable:
            self._explain(core)
        else:
            if hold is not None:
                self._admitted(core, hold, limits)
            else:
                core.admissions.append(self._keep(core, self._wait_for_hold(core, account_id, amount)))

    async def _wait_for_hold(self, core: Core, account_id: str, amount: int) -> None:
        limits = self.limits.get(account_id)
        hold: Hold | Chain
        try:
            async with asyncio.timeout(ADMISSION_TIMEOUT_S):
                if limits is None:
                    hold = await core.escrow.hold(account_id, amount)
                else:
                    hold = await core.funds.hold(account_id, amount, limits)
        except OutOfFunds as funds:
            slots = isinstance(funds, OverLimit) and funds.limit.measure == "concurrency"
            if funds.payable_nano_usd >= (1 if slots else amount):
                self.violations.append(Violation(f"refused {amount} with {funds.payable_nano_usd} payable"))
        except (ServiceUnavailable, TimeoutError):
            self._explain(core)
        else:
            self._admitted(core, hold, limits)

    def _explain(self, core: Core) -> None:
        """A core refuses as unavailable only with a reason."""
        stale = self.loop.now_s - core.renewed_s > TTL_S / 2 - 2 * ADMISSION_TIMEOUT_S
        if not (stale or self._in_trouble(core, 2 * ADMISSION_TIMEOUT_S)):
            self.violations.append(Violation(f"{core.id} refused as unavailable, without a reason"))

    def _in_trouble(self, core: Core, since_s: float) -> bool:
        line = core.line
        waits = line.sent or line.answered or line.frozen or line.down
        return bool(waits) or self.loop.now_s - line.trouble_s < since_s

    def _admitted(self, core: Core, held: Hold | Chain, limits: tuple[Limit, ...] | None) -> None:
        request_id = f"req_{next(self._numbers)}"
        chain = held if isinstance(held, Chain) else None
        hold = chain.money if chain is not None else held
        assert isinstance(hold, Hold)
        amount = hold.amount_nano_usd
        meter = Meter(
            call=Call(request_id, "", Caller(Role.API_KEY, hold.account_id, "key_1")),
            model=MODEL,
            streamed=True,
            hold=hold,
            estimate=Estimate(0, amount, most_input_tokens=0, most_output_tokens=2 * amount + SLACK_TOKENS),
            escrow=core.escrow,
            queue=core.ledger,
            core_id=core.id,
            chain=chain,
        )
        request = Request(request_id, core, meter, hold, chain)
        self.requests.append(request)
        for each in request.holds:
            if each.lease.id in core.closed:
                self.violations.append(Violation(f"{request_id} was admitted on {each.lease.id}, long closed"))
        if chain is not None and limits is not None and limits is self.limits.get(hold.account_id):
            check_budget(self, request_id, chain, limits[0].amount)

    def _asking(self, name: str, given: tuple[Any, ...]) -> None:
        if name == "close_lease":
            self._closing(given[0])
        elif name == "settle":
            self._settling(given[0])

    def _settling(self, batch: Sequence[Settlement]) -> None:
        """Nobody is charged for what they were told has failed: a core that dies has nothing to give back."""
        failed = {request.id for request in self.requests if request.answer == "failed"}
        for row in batch:
            if row.amount_nano_usd and row.request_id in failed:
                self.violations.append(Violation(f"{row.request_id} failed, and is to be charged"))

    def _closing(self, lease_id: str) -> None:
        """A core closes no lease that its own requests hold money of, unless it has lost it already."""
        for request in self.requests:
            leases = [hold.lease for hold in request.holds if request.core.alive and request.finished_s is None]
            if any(lease.id == lease_id and not lease.lost for lease in leases):
                self.violations.append(Violation(f"{lease_id} is closed, and {request.id} holds something of it"))

    def finish(self, request: Request, tokens: int, how: str) -> None:
        """The request ends; for "complete" the customer waits for the commit."""
        if not request.core.runs or request.finished_s is not None:
            return
        outcome = _outcome(how, tokens)
        request.cost = 0 if how == "internal_error" else tokens
        request.finished_s = self.loop.now_s
        request.future = request.meter.finish(outcome)
        if how == "complete":
            request.future.add_done_callback(lambda future: self._answered(request, future))
        else:
            request.answer = "gone"
            request.future.cancel()

    def finish_again(self, request: Request, how: str) -> None:
        """A second reason to end changes nothing."""
        if request.core.runs and request.finished_s is not None:
            before = request.meter.settlement
            if request.meter.finish(_outcome(how, 99)) is not request.future or request.meter.settlement is not before:
                self.violations.append(Violation(f"{request.id} ended twice"))

    def leave(self, request: Request) -> None:
        """The customer goes away while the charge is being committed."""
        if request.core.runs and request.future is not None and not request.future.done():
            request.answer = "gone"
            request.future.cancel()

    def _answered(self, request: Request, future: asyncio.Future[None]) -> None:
        if future.cancelled() or not request.core.alive:
            return
        error = future.exception()
        if error is not None and not isinstance(error, SettlementFailed):
            self.violations.append(Violation(f"{request.id} ended with {error!r}"))
        if error is not None and not self._in_trouble(request.core, 2 * SETTLE_TIMEOUT_S):
            self.violations.append(Violation(f"{request.id} failed, without a reason"))
        request.answer = "done" if error is None else "failed"

    @staticmethod
    def give_up_waiting(core: Core) -> None:
        """Customers who wait for their admission go away."""
        for admission in core.admissions if core.runs else ():
            admission.cancel()

    # Customers' money

    def top_up(self, core: Core, account_id: str, payment: str, amount: int, key: str) -> None:
        if core.runs:
            self._keep(core, self._top_up(core, account_id, payment, amount, key))

    async def _top_up(self, core: Core, account_id: str, payment: str, amount: int, key: str) -> None:
        try:
            made = await core.line.top_up(
                payment_id=payment,
                account_id=account_id,
                amount_nano_usd=amount,
                fee_nano_usd=1,
                once=Once("top_up", key, f"{account_id} {amount}".encode()),
            )
        except (StoreError, Duplicate, IdempotencyConflict):
            return
        if self.payments.setdefault(made.id, made.amount_nano_usd) != made.amount_nano_usd:
            self.violations.append(Violation(f"payment {made.id} was answered in two ways"))

    # Limits

    def bind(self, account_id: str, amount: int, slots: int) -> None:
        """Give an account limits, or change them."""
        task = self.loop.create_task(self.give_limits(account_id, amount, slots))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def give_limits(self, account_id: str, amount: int, slots: int) -> None:
        # A lifetime for the one and a day for the other.
        period = "lifetime" if account_id == ACCOUNTS[0] else "day"
        wanted = (
            Limit(f"lim_{account_id}", account_id, "spend", period, amount),  # type: ignore[arg-type]
            Limit(f"lim_{account_id}_now", account_id, "concurrency", "now", slots),
        )
        before = {limit.id: limit.amount for limit in self.limits.get(account_id, ())}
        self.lowered |= {limit.id for limit in wanted if limit.amount < before.get(limit.id, 0)}
        with self.loop.outside():
            for limit in wanted:
                await self.store.set_limit(limit)
        self.limits[account_id] = wanted

    # What a core does by itself

    def give_back_idle(self, core: Core) -> None:
        if core.runs:
            core.escrow.give_back_idle()
            core.funds.give_back_idle()

    def maintain(self, core: Core) -> None:
        """Renew, then reap, one after the other."""
        if core.runs and (core.maintenance is None or core.maintenance.done()):
            core.maintenance = self._keep(core, self._maintain(core))

    async def _maintain(self, core: Core) -> None:
        asked_s = self.loop.now_s
        books = await asyncio.shield(self.backend.books())  # a core that is killed does not break off our reading
        closed = {lease_id for lease_id, lease in books.leases.items() if not lease.active}
        try:
            await core.escrow.renew()
            core.renewed_s = asked_s
            core.closed |= closed
            await core.line.reap()
        except StoreError:
            return

    def reap(self) -> None:
        """Expired leases are closed."""
        task = self.loop.create_task(self._land(self.store.reap))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def sweep(self, core: Core) -> None:
        """Whoever waited too long has been told afterwards, and the core does not call itself healthy."""
        if not core.runs:
            return
        core.ledger.sweep()
        for request in self.requests:
            late = request.finished_s is not None and self.loop.now_s - request.finished_s >= SETTLE_TIMEOUT_S
            if request.core is core and late and request.future is not None and not request.future.done():
                self.violations.append(Violation(f"{request.id} waits for its commit for ever"))

    # Trouble

    def kill(self, core: Core, *, lands: bool) -> None:
        """End a process at once. What it has sent may still arrive, where the database is another process."""
        core.alive = False
        for task in tuple(core.tasks):
            task.cancel()
        for task in tuple(core.escrow._tasks):
            task.cancel()
        if lands and self.backend.core_count > 1:
            for effect in core.line.sent.values():
                self._keep(core, self._land(effect))

    async def _land(self, effect: Any) -> None:
        try:
            with self.loop.outside():
                await effect()
        except StoreError:
            return

    def stop(self, core: Core) -> None:
        """A graceful end, as the engine does it."""
        if not core.runs or core.stopping:
            return
        core.stopping = True
        self.give_up_waiting(core)
        for request in self.requests:
            if request.core is core:
                self.finish(request, 1, "shutdown")
        self._keep(core, self._stop(core))

    async def _stop(self, core: Core) -> None:
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await core.ledger.drained()
                await core.escrow.close()
        except (TimeoutError, StoreError):
            pass
        core.alive = False
        for task in core.tasks - {asyncio.current_task()}:
            task.cancel()

    async def replace_dead(self) -> None:
        """Start a new core for each that is gone."""
        dead = [core for core in self.cores if not core.alive]
        for core in dead:
            self.cores.remove(core)
            await self.start_core()

    async def pass_time(self, by_s: float) -> None:
        await asyncio.sleep(by_s)
        await self.backend.age(by_s)

    async def calm(self, rounds: int) -> None:
        """Let everything run until it waits for time or for the test; in memory for so many rounds only."""
        if rounds:
            for _ in range(rounds):
                await asyncio.sleep(0)
            if not self.loop.is_outside:
                return
        quiet = 0
        while quiet < 10:
            await asyncio.sleep(0)
            quiet = 0 if self.loop.is_outside else quiet + 1

    # What must be true

    async def check(self) -> None:
        """Violation unless everything is as it must be, now."""
        if self.violations:
            raise self.violations[0]
        books = await self.backend.books()
        check_books(self, books)

    # The end

    async def end(self) -> None:
        """All trouble is over: everything is settled, given back and adds up, and whoever has money can spend it."""
        for core in self.cores:
            core.line.faults.clear()
            core.line.thaw()
            core.line.resume()
            core.line.down = False
        self.backend.skew_s = END_SKEW_S
        await self.calm(0)
        await self.pass_time(2 * ADMISSION_TIMEOUT_S)
        for request in list(self.requests):
            self.finish(request, request.hold.amount_nano_usd, "complete")
        await self.pass_time(SETTLE_TIMEOUT_S)
        await self._maintain_all()
        await self._spend_all()
        await self.pass_time(SETTLE_TIMEOUT_S)
        await self._maintain_all()
        await self.check()
        books = await self.backend.books()
        check_settled(self, books)
        for core in self.cores:
            self.stop(core)
        await self.calm(0)
        await self.pass_time(FLUSH_TIMEOUT_S + TTL_S + 1)  # leases of the dead expire
        with self.loop.outside():
            await self.store.reap()
        await self.check()
        books = await self.backend.books()
        stuck = [lease_id for lease_id, lease in books.leases.items() if lease.active]
        if stuck:
            raise Violation(f"money is stuck in {stuck}")

    async def _maintain_all(self) -> None:
        for core in self.cores:
            if core.runs and not core.stopping:
                self.give_back_idle(core)
                self.maintain(core)
        await self.calm(0)

    async def _spend_all(self) -> None:
        """Who has money can hold it, all of it, on one core."""
        self.limits.clear()
        await self.pass_time(TTL_S + 1)
        await self._maintain_all()
        with self.loop.outside():
            await self.store.reap()
        await self._maintain_all()
        core = next((core for core in self.cores if core.runs and not core.stopping), None)
        if core is None:
            return
        books = await self.backend.books()
        stuck = [id_ for id_, lease in books.leases.items() if lease.active and is_purse(lease.account_id)]
        if stuck:
            raise Violation(f"nobody uses what {stuck} have of limits")
        for account_id in ACCOUNTS:
            await self.pass_time(0.1)
            with self.loop.outside():
                balance = await self.store.balance(account_id)
            whole = balance.available_nano_usd + balance.credit_limit_nano_usd
            if balance.held_nano_usd:
                raise Violation(f"{balance.held_nano_usd} of {account_id} are in leases that nobody uses")
            if not whole:
                continue
            count = len(self.requests)
            self.admit(core, account_id, whole)
            await self.calm(0)
            if len(self.requests) == count:
                raise Violation(f"{account_id} cannot spend the {whole} that it has")
            self.finish(self.requests[-1], whole // 2, "complete")
            await self.calm(0)

    async def close(self) -> None:
        """End all tasks."""
        for core in self.cores:
            self.kill(core, lands=False)
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.calm(0)


def _outcome(how: str, tokens: int) -> Outcome:
    counts = TokenCounts(completion=tokens, total=tokens)
    return Outcome(
        status=how,  # type: ignore[arg-type]
        tokens=counts,
        endpoint="e",
        attempts=1,
        ttft_ms=1,
        duration_ms=2,
    )
