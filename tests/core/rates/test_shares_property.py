"""Whatever happens to cores and requests: no minute sees more than the limit, and nothing is counted for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import RateLimited, ServiceUnavailable
from core.rates.rates import Counted, Passed, Rates
from storage.errors import CommitUnknown, StoreUnavailable
from storage.limit_records import RATE_SLICE_US, RATE_SLICES, Limit, RateAsk, RateShare
from storage.windows import Window, current, exchange

MINUTE_S = RATE_SLICES * RATE_SLICE_US / 1e6
OF = Limit("limit_1", "key_1", "tokens", "minute", 80)

UNITS = st.sampled_from([0, 30, 80])
CORES = st.integers(0, 1)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), CORES, UNITS),
        st.tuples(st.just("crowd"), CORES, st.integers(1, 9)),
        st.tuples(st.just("end"), st.integers(0, 1), UNITS),
        st.tuples(st.just("pass"), st.sampled_from([0.3, 2.5, 30.0, 59.3]), st.just(0)),
        st.tuples(st.just("kill"), CORES, st.just(0)),
        st.tuples(st.just("fail"), st.sampled_from(["before", "after"]), st.just(0)),
    ),
    min_size=5,
    max_size=40,
)


@dataclass
class MemoryStore:
    """`RateStore`, whose next call may fail before or after it did its work."""

    now_s: float = 1_000_000.0
    windows: dict[str, Window] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    async def exchange_rates(self, asks: Sequence[RateAsk], *, slice_us: int) -> list[RateShare]:
        await asyncio.sleep(0)
        fault = self.faults.pop() if self.faults else ""
        if fault == "before":
            raise StoreUnavailable(fault)
        slice_, into_us = divmod(round(self.now_s * 1e6), slice_us)
        found = []
        for ask in asks:
            window, taken = exchange(self.windows.get(ask.limit_id, {}), slice_, ask)
            self.windows[ask.limit_id] = window
            found.append(RateShare(ask.limit_id, taken, slice_, into_us, window))
        if fault == "after":
            raise CommitUnknown(fault)
        return found

    def in_use(self) -> int:
        """Units counted now."""
        slice_ = round(self.now_s * 1e6) // RATE_SLICE_US
        return sum(current(self.windows.get(OF.id, {}), slice_).values())

    async def forget_rates(self) -> None: ...


class Scene:
    """Two cores and their requests. `used` are units with the time when they passed, less what was put back."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.cores = [self.start() for _ in range(2)]
        self.running: list[tuple[Counted, Passed, list[float]]] = []
        self.used: list[list[float]] = []

    def start(self) -> tuple[Rates, asyncio.Task[None]]:
        store: Any = self.store
        rates = Rates(store, clock=lambda: self.store.now_s, timeout_s=1.0)
        return rates, asyncio.ensure_future(rates.run())

    async def play(self, steps: Sequence[tuple[str, Any, int]]) -> None:
        for kind, which, units in steps:
            await getattr(self, f"do_{kind}")(which, units)
            for _ in range(6):
                await asyncio.sleep(0)
            assert self.passed_lately() <= OF.amount

    def passed_lately(self) -> float:
        return sum(units for at_s, units in self.used if at_s > self.store.now_s - MINUTE_S)

    async def do_ask(self, core: int, units: int) -> None:
        try:
            passed = await self.cores[core][0].admit([OF], token_count=units, least_token_count=units)
        except (RateLimited, ServiceUnavailable):
            return
        assert passed is not None
        entry = [self.store.now_s, float(units)]
        self.used.append(entry)
        self.running.append((passed.counted[0], passed, entry))

    async def do_crowd(self, core: int, units: int) -> None:
        await asyncio.gather(*(self.do_ask(core, units) for _ in range(20)))

    async def do_end(self, which: int, units: int) -> None:
        if which < len(self.running):
            counted, passed, entry = self.running.pop(which)
            less = min(units, counted.units)
            passed.ended(less)
            entry[1] = less

    async def do_pass(self, seconds: float, _: int) -> None:
        self.store.now_s += seconds
        for rates, _task in self.cores:
            rates.tick()

    async def do_kill(self, core: int, _: int) -> None:
        self.cores[core][1].cancel()
        self.cores[core] = self.start()

    async def do_fail(self, how: str, _: int) -> None:
        self.store.faults.append(how)

    async def close(self) -> None:
        """In the end everything is free: within a minute whatever happened, at once if no core failed."""
        self.store.faults.clear()
        for _ in range(3):
            await self.do_pass(3.0, 0)
            for _ in range(6):
                await asyncio.sleep(0)
        await self.do_pass(MINUTE_S + 1, 0)
        for _ in range(6):
            await asyncio.sleep(0)
        assert self.store.in_use() == 0
        assert all(not rates._shares for rates, _ in self.cores)
        for _, task in self.cores:
            task.cancel()
        await asyncio.gather(*(task for _, task in self.cores), return_exceptions=True)


async def _play(steps: Sequence[tuple[str, Any, int]]) -> None:
    scene = Scene()
    await scene.play(steps)
    await scene.close()


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_no_minute_sees_more_than_the_limit(steps: list[tuple[str, Any, int]]) -> None:
    """Requests alone and in crowds, ends, corrections, time, cores that die and a store that fails."""
    asyncio.run(_play(steps))
