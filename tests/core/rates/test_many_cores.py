"""Limits per minute over several cores on one PostgreSQL, in real time; a minute lasts 6 seconds here."""

from __future__ import annotations

import asyncio
import random
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from core.errors import RateLimited
from core.rates.rates import Rates
from storage.limit_records import RATE_SLICES, Limit, LimitMeasure
from storage.migrate import migrate
from storage.store import open_store

pytestmark = pytest.mark.slow

SLICE_US = 1_000
MINUTE_S = RATE_SLICES * SLICE_US / 1e6
SECOND_S = MINUTE_S / 60


class Load:
    """Cores, and the units that passed with their times."""

    def __init__(self, url: str, stack: AsyncExitStack) -> None:
        self._url = url
        self._stack = stack
        self.passed: list[tuple[float, int]] = []
        self.offered = 0
        self.waited = 0

    async def start(self) -> tuple[Rates, asyncio.Task[None]]:
        """A core with a store of its own, and what it does in the background."""
        store = await open_store(self._url)
        self._stack.push_async_callback(store.close)
        rates = Rates(store, clock=time.monotonic, timeout_s=5.0, slice_us=SLICE_US)
        task = asyncio.ensure_future(self._run(rates))
        self._stack.callback(task.cancel)
        return rates, task

    @staticmethod
    async def _run(rates: Rates) -> None:
        asking = asyncio.ensure_future(rates.run())
        try:
            while True:
                await asyncio.sleep(SECOND_S)
                rates.tick()
        finally:
            asking.cancel()

    async def press(self, rates: Rates, of: Limit, until_s: float, *, pause_s: float, guess: int, used: int) -> None:
        """One request after the other, expected to take `guess` tokens, which uses `used` of them a while later."""
        loop = asyncio.get_running_loop()
        while time.monotonic() < until_s:
            self.offered += used
            went_on = asyncio.Event()
            loop.call_soon(went_on.set)
            try:
                passed = await rates.admit([of], token_count=guess, least_token_count=guess)
            except RateLimited:
                pass
            else:
                assert passed is not None
                self.waited += went_on.is_set()
                self.passed.append((time.monotonic(), used))
                loop.call_later(SECOND_S, passed.ended, used)
            await asyncio.sleep(random.uniform(0.5, 1.5) * pause_s)

    def check(self, amount: int, minutes: int) -> None:
        """So many minutes' worth passed, and never more than one in any minute, to within a tenth."""
        self.passed.sort()
        times = [at for at, _ in self.passed]
        sums = [0]
        for _, units in self.passed:
            sums.append(sums[-1] + units)
        most = max(sums[bisect_left(times, at + MINUTE_S)] - sums[i] for i, at in enumerate(times))
        assert self.offered >= 1.2 * amount * minutes, "the machine is too slow for this test"
        came = f"{sums[-1]} of {self.offered} offered, {most} in the fullest minute"
        assert 0.9 * amount * minutes <= sums[-1] <= 1.1 * amount * minutes, came
        assert most <= 1.1 * amount, came


@pytest.fixture
async def load(postgres_url: Callable[[], str]) -> AsyncIterator[Load]:
    url = postgres_url()
    await migrate(url)
    async with AsyncExitStack() as stack:
        yield Load(url, stack)


@pytest.mark.parametrize(
    ("cores", "measure", "amount", "guess", "used"),
    [
        pytest.param(1, "requests", 20, 1, 1, id="few"),
        pytest.param(3, "requests", 20, 1, 1, id="few over cores"),
        pytest.param(1, "requests", 300, 1, 1, id="many"),
        pytest.param(3, "requests", 300, 1, 1, id="many over cores"),
        pytest.param(3, "tokens", 12_000, 70, 50, id="overestimated"),
        pytest.param(3, "tokens", 12_000, 40, 60, id="underestimated"),
    ],
)
async def test_a_sustained_load(
    load: Load, cores: int, measure: LimitMeasure, amount: int, guess: int, used: int
) -> None:
    """Thrice as much as is allowed comes over two minutes, unevenly over the cores: the limit passes in each."""
    of = Limit("limit_1", "acc_1", measure, "minute", amount)
    started = [await load.start() for _ in range(cores)]
    shares = [0.6, 0.3, 0.1] if cores == 3 else [1.0]
    offered = 3 * amount / used / MINUTE_S
    until_s = time.monotonic() + 2 * MINUTE_S - 2 * SECOND_S
    await asyncio.gather(
        *(
            load.press(rates, of, until_s, pause_s=4 / (offered * share), guess=guess, used=used)
            for (rates, _), share in zip(started, shares, strict=True)
            for _ in range(4)
        )
    )
    load.check(amount, 2)


async def test_a_core_dies_under_load(load: Load) -> None:
    """What it had set aside is missing for a minute at most, and is a small part."""
    of = Limit("limit_1", "acc_1", "requests", "minute", 300)
    started = [await load.start() for _ in range(3)]
    until_s = time.monotonic() + 2 * MINUTE_S - 2 * SECOND_S
    pressing = [
        asyncio.ensure_future(load.press(rates, of, until_s, pause_s=0.015, guess=0, used=1)) for rates, _ in started
    ]
    await asyncio.sleep(MINUTE_S / 2)
    pressing[0].cancel()
    started[0][1].cancel()
    await asyncio.gather(*pressing, return_exceptions=True)
    load.check(300, 2)


async def test_a_pace_below_the_limit_does_not_wait_for_the_database(load: Load) -> None:
    """But for the first requests, whichever core they come to."""
    of = Limit("limit_1", "acc_1", "requests", "minute", 3_000)
    started = [await load.start() for _ in range(3)]
    until_s = time.monotonic() + MINUTE_S
    await asyncio.gather(
        *(load.press(rates, of, until_s, pause_s=0.02, guess=0, used=1) for rates, _ in started for _ in range(2))
    )
    assert load.offered == len(load.passed)
    assert load.waited <= load.offered / 20
