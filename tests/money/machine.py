"""Any sequence of what customers, cores, databases and clocks may do: the money is right after every step."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.money.backends import Backend
from tests.money.line import FAULTS
from tests.money.world import ACCOUNTS, Core, Request, World

STEPS = 50
AT_ONCE = 3
"""Things that happen without a pause between them, at most."""

indexes = st.integers(0, 5)
amounts = st.integers(1, 60)
accounts = st.sampled_from(ACCOUNTS)
budgets = st.sampled_from((0, 40, 90, 400))
pauses = st.sampled_from(("none", "none", "some", "all", "all", "all"))
ends = st.sampled_from(("complete", "complete", "complete", "client_gone", "internal_error", "upstream_failed"))


class Money(RuleBasedStateMachine):
    """Over `backend`, which subclasses have."""

    backend: ClassVar[Backend]

    def __init__(self) -> None:
        super().__init__()
        self.world: World | None = None
        self.pending: list[Callable[[World], None]] = []

    @initialize(
        balance=st.sampled_from((0, 100, 1_000)),
        limit=st.sampled_from((0, 0, 30)),
        chunk=st.sampled_from((1, 25)),
        bound=st.lists(accounts, unique=True),
        budget=budgets,
    )
    def begin(self, balance: int, limit: int, chunk: int, bound: list[str], budget: int) -> None:
        async def work() -> World:
            world = World(self.backend, await self.backend.fresh(), chunk=chunk)
            await world.begin(balance, limit)
            for account in bound:
                await world.give_limits(account, budget, 2)
            return world

        self.world = self.backend.loop.run_until_complete(work())

    def happens(self, pause: str, event: Callable[[World], None]) -> None:
        """Something happens, and at once what comes next, or after a while."""
        self.pending.append(event)
        if pause == "none" and len(self.pending) < AT_ONCE:
            return
        self.backend.loop.run_until_complete(self._run(4 if pause == "some" else 0))

    async def _run(self, rounds: int, pause_s: float = 0.0) -> None:
        world, events, self.pending = self._world, self.pending, []
        for event in events:
            event(world)
        await world.calm(rounds)
        if pause_s:
            await world.pass_time(pause_s)
            await world.calm(0)
        if any(not core.alive for core in world.cores):
            await world.calm(0)
            await world.replace_dead()
        await world.check()

    @property
    def _world(self) -> World:
        assert self.world is not None
        return self.world

    def _core(self, index: int) -> Core:
        return self._world.cores[index % len(self._world.cores)]

    def _request(self, index: int, *, finished: bool) -> Request | None:
        found = [each for each in self._world.requests if each.core.alive and (each.finished_s is not None) == finished]
        return found[index % len(found)] if found else None

    # Customers

    @rule(core=indexes, account=accounts, amount=amounts, pause=pauses)
    def admit(self, core: int, account: str, amount: int, pause: str) -> None:
        self.happens(pause, lambda world: world.admit(self._core(core), account, amount))

    @rule(core=indexes, account=accounts, amount=amounts, pause=pauses)
    def admit_another(self, core: int, account: str, amount: int, pause: str) -> None:
        self.happens(pause, lambda world: world.admit(self._core(core), account, amount))

    @rule(index=indexes, percent=st.sampled_from((0, 30, 100, 150, 900)), how=ends, pause=pauses)
    def finish(self, index: int, percent: int, how: str, pause: str) -> None:
        """Below, at and above the hold, and absurdly far above."""

        def event(world: World) -> None:
            request = self._request(index, finished=False)
            if request is not None:
                world.finish(request, request.hold.amount_nano_usd * percent // 100, how)

        self.happens(pause, event)

    @rule(index=indexes, percent=st.sampled_from((0, 30, 100, 150)), pause=pauses)
    def complete(self, index: int, percent: int, pause: str) -> None:
        self.finish(index, percent, "complete", pause)  # type: ignore[call-arg]

    @rule(index=indexes, how=ends)
    def finish_again(self, index: int, how: str) -> None:
        def event(world: World) -> None:
            request = self._request(index, finished=True)
            if request is not None:
                world.finish_again(request, how)

        self.happens("all", event)

    @rule(index=indexes, pause=pauses)
    def leave(self, index: int, pause: str) -> None:
        def event(world: World) -> None:
            waiting = [each for each in world.requests if each.future is not None and not each.future.done()]
            if waiting:
                world.leave(waiting[index % len(waiting)])

        self.happens(pause, event)

    @rule(core=indexes, pause=pauses)
    def give_up_waiting(self, core: int, pause: str) -> None:
        self.happens(pause, lambda world: world.give_up_waiting(self._core(core)))

    @rule(core=indexes, account=accounts, payment=st.integers(0, 3), amount=st.integers(1, 80), key=st.integers(0, 2))
    def top_up(self, core: int, account: str, payment: int, amount: int, key: int) -> None:
        """Ids repeat, with the same body and with another."""
        self.happens("all", lambda world: world.top_up(self._core(core), account, f"pay_{payment}", amount, f"{key}"))

    @rule(account=accounts, budget=budgets, slots=st.sampled_from((1, 2, 5)))
    def bind(self, account: str, budget: int, slots: int) -> None:
        """An account gets limits, or others."""
        self.happens("all", lambda world: world.bind(account, budget, slots))

    @rule(core=indexes, account=accounts, amount=amounts, budget=budgets)
    def lower_a_budget(self, core: int, account: str, amount: int, budget: int) -> None:
        """A budget is lowered under a running request; that ends for less than it holds, and others come."""
        self.bind(account, 400, 5)  # type: ignore[call-arg]
        self.admit(core, account, 60, "all")  # type: ignore[call-arg]
        self.bind(account, budget, 5)  # type: ignore[call-arg]
        self.admit(core, account, 1, "all")  # type: ignore[call-arg]
        self.complete(-1, 30, "all")  # type: ignore[call-arg]
        self.admit(core, account, amount, "all")  # type: ignore[call-arg]

    # Cores

    @rule(core=indexes, pause=pauses)
    def give_back_idle(self, core: int, pause: str) -> None:
        self.happens(pause, lambda world: world.give_back_idle(self._core(core)))

    @rule(core=indexes, account=accounts, amount=amounts)
    def admit_after_idling(self, core: int, account: str, amount: int) -> None:
        """A customer comes back at the very moment when the idle account's money goes back."""
        self.pass_time(2.5)  # type: ignore[call-arg]
        self.happens("none", lambda world: world.give_back_idle(self._core(core)))
        self.happens("all", lambda world: world.admit(self._core(core), account, amount))

    @rule(core=indexes, pause=pauses)
    def maintain(self, core: int, pause: str) -> None:
        self.happens(pause, lambda world: world.maintain(self._core(core)))

    @rule(pause=pauses)
    def maintain_all(self, pause: str) -> None:
        self.happens(pause, lambda world: [world.maintain(core) for core in world.cores] and None)

    @rule(pause=pauses)
    def reap(self, pause: str) -> None:
        """By whom is all the same."""
        self.happens(pause, lambda world: world.reap())

    @rule(renews=st.booleans())
    def oversleep(self, renews: bool) -> None:
        """No core renews for longer than a lease lives; then somebody reaps, and they go on."""
        self.pass_time(31.0)  # type: ignore[call-arg]
        self.happens("all", lambda world: world.reap())
        if renews:
            self.maintain_all("all")  # type: ignore[call-arg]

    @rule(core=indexes)
    def sweep(self, core: int) -> None:
        self.happens("all", lambda world: world.sweep(self._core(core)))

    # Trouble

    @rule(core=indexes, kinds=st.lists(st.sampled_from(FAULTS), min_size=1, max_size=5))
    def fail(self, core: int, kinds: list[str]) -> None:
        self.happens("none", lambda world: self._core(core).line.faults.extend(kinds))

    @rule(core=indexes, lost=st.booleans())
    def go_down(self, core: int, lost: bool) -> None:
        """The database is gone until somebody resumes it; the first answer may get lost on the way."""

        def event(_world: World) -> None:
            line = self._core(core).line
            line.down = True
            line.faults.extend(["lost"] if lost else [])

        self.happens("none", event)

    @rule(core=indexes, pause=pauses)
    def resume(self, core: int, pause: str) -> None:
        def event(_world: World) -> None:
            if self._core(core).runs:
                self._core(core).line.resume()
                self._core(core).line.down = False

        self.happens(pause, event)

    @rule(core=indexes)
    def freeze(self, core: int) -> None:
        self.happens("none", lambda _world: self._core(core).line.freeze())

    @rule(core=indexes, pause=pauses)
    def thaw(self, core: int, pause: str) -> None:
        self.happens(pause, lambda _world: self._core(core).line.thaw())

    @rule(core=indexes, lands=st.booleans())
    def kill(self, core: int, lands: bool) -> None:
        self.happens("all", lambda world: world.kill(self._core(core), lands=lands))

    @rule(core=indexes, pause=pauses)
    def stop(self, core: int, pause: str) -> None:
        self.happens(pause, lambda world: world.stop(self._core(core)))

    @rule(by_s=st.sampled_from((0.05, 0.5, 2.5, 5.0, 5.0, 16.0, 31.0)))
    def pass_time(self, by_s: float) -> None:
        self.backend.loop.run_until_complete(self._run(0, by_s))

    @rule(by_s=st.sampled_from((-3_600.0, 3_600.0)))
    def clock_jumps(self, by_s: float) -> None:
        """The database's clock is set."""
        self.backend.skew_s += by_s

    def teardown(self) -> None:
        if self.world is None:
            return

        async def end(world: World) -> None:
            try:
                await self._run(0)
                await world.end()
            finally:
                await world.close()

        self.backend.loop.run_until_complete(asyncio.wait_for(end(self.world), None))


PIECE_RUNS = 2_000
"""Hypothesis remembers what it has tried, 130 KB of a run: it is begun anew after so many."""


def play(backend: Backend, *, runs: int, number: int = 0, shrink: bool = True) -> None:
    """So many runs of `STEPS` steps, the same for the same number. Violation or Stuck, with the shortest way there."""
    machine = type("Money", (Money,), {"backend": backend})
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)
    configured = settings(
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        derandomize=False,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    try:
        for first in range(0, runs, PIECE_RUNS):
            piece = settings(configured, max_examples=min(PIECE_RUNS, runs - first))
            run_state_machine_as_test(seed(f"{number} {first}")(machine), settings=piece)
    finally:
        backend.loop.run_until_complete(backend.close())
