"""Limits per minute in the hands of cores, over a real store whose clock the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from core.errors import RateLimited, RequestTooLarge, ServiceUnavailable
from core.rates.rates import Passed, Rates
from storage.limit_records import Limit, LimitMeasure
from storage.store import open_store

KEY = "key_1"


def limit(amount: int, measure: LimitMeasure = "requests", owner: str = KEY) -> Limit:
    return Limit(f"limit_{measure}_{owner}", owner, measure, "minute", amount)


class Cores:
    """Cores that share a store; `clock` moves the store's time as well."""

    def __init__(self, store: Any, clock: Any, stack: AsyncExitStack) -> None:
        self.store = store
        self.clock = clock
        self._stack = stack

    def start(self) -> Rates:
        """One more core, at work."""
        rates = Rates(self.store, clock=self.clock, timeout_s=1.0)
        task = asyncio.ensure_future(rates.run())

        async def stop() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(stop)
        return rates

    async def wait(self, seconds: float, *cores: Rates) -> None:
        """Let time pass, and cores do what they do in the background."""
        self.clock.now_s += seconds
        for rates in cores:
            rates.tick()
        for _ in range(3):
            await asyncio.sleep(0)
            await self.store.still()

    @property
    def asked(self) -> int:
        """How often the store was asked."""
        return int(self.store.calls["exchange_rates"])

    async def in_use(self, of: Limit) -> int:
        """What the store has counted."""
        return int((await self.store.rates_in_use([of.id])).get(of.id, 0))


@pytest.fixture
async def cores(database: Path, clock: Any, faulty: Callable[[Any], Any]) -> AsyncIterator[Cores]:
    opened = await open_store(f"sqlite+aiosqlite:///{database}", now_us=lambda: int(clock() * 1e6))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(opened.close)
        yield Cores(faulty(opened), clock, stack)


async def admit(rates: Rates, *limits: Limit, tokens: int = 0, least: int | None = None) -> Passed:
    """One request of so many tokens."""
    passed = await rates.admit(limits, token_count=tokens, least_token_count=tokens if least is None else least)
    assert passed is not None
    return passed


async def count(rates: Rates, of: Limit, requests: int) -> int:
    """How many of so many requests pass, one after the other."""
    passed = 0
    for _ in range(requests):
        try:
            await admit(rates, of)
        except RateLimited:
            continue
        passed += 1
    return passed


async def test_other_limits_are_none_of_its_business(cores: Cores) -> None:
    """Nothing is asked of the store for them."""
    spend = Limit("limit_1", KEY, "spend", "day", 5)
    rates = cores.start()
    assert await rates.admit([spend], token_count=1, least_token_count=1) is None
    assert cores.asked == 0


@pytest.mark.parametrize("amount", [1, 5, 60])
async def test_a_burst_is_let_through_up_to_the_limit(cores: Cores, amount: int) -> None:
    """At once and exactly; a minute later the same again."""
    rates = cores.start()
    assert await count(rates, limit(amount), amount + 20) == amount
    await cores.wait(61.0, rates)
    assert await count(rates, limit(amount), amount + 20) == amount


@pytest.mark.parametrize("measure", ["requests", "tokens"])
async def test_a_limit_of_0_has_no_time_to_try_again(cores: Cores, measure: LimitMeasure) -> None:
    """It lets nothing through, however long one waits; nor is the store asked."""
    with pytest.raises(RateLimited, match="has a limit of 0") as caught:
        await admit(cores.start(), limit(0, measure), tokens=5)
    assert caught.value.retry_after_s is None
    assert cores.asked == 0


async def test_a_small_limit_is_exact_over_cores(cores: Cores) -> None:
    """None of them sets anything aside."""
    three = [cores.start() for _ in range(3)]
    assert [await count(rates, limit(5), 3) for rates in three] == [3, 2, 0]


async def test_a_refusal_says_when_to_try_again(cores: Cores) -> None:
    """And whose limit it is; at that time there is room, not before."""
    rates = cores.start()
    await count(rates, limit(2), 1)
    await cores.wait(10.25)
    await count(rates, limit(2), 1)
    with pytest.raises(
        RateLimited, match=r"^Rate limit reached: API key key_1 has a limit of 2 requests per minute"
    ) as caught:
        await admit(rates, limit(2))
    wait_s = caught.value.retry_after_s
    assert wait_s is not None
    assert 49.74 < wait_s <= 49.77
    assert dict(caught.value.headers())["x-ratelimit-remaining-requests"] == "0"
    await cores.wait(wait_s - 0.01)
    assert await count(rates, limit(2), 1) == 0
    await cores.wait(0.02)
    assert await count(rates, limit(2), 2) == 1


async def test_refusals_are_remembered(cores: Cores) -> None:
    """A caller that asks again and again costs the database next to nothing."""
    rates = cores.start()
    await count(rates, limit(2), 3)
    asked = cores.asked
    assert await count(rates, limit(2), 1_000) == 0
    assert cores.asked == asked


async def test_a_steady_pace_asks_the_store_ahead_of_need(cores: Cores) -> None:
    """Of 300 requests at 20 a second few wait for the store, and it is asked about once a second."""
    rates, waited = cores.start(), 0
    for turn in range(300):
        asked = cores.asked
        await admit(rates, limit(6_000))
        waited += cores.asked > asked
        await cores.wait(0.05, *([rates] if turn % 20 == 0 else []))
    assert waited <= 3
    assert cores.asked <= 30


async def test_what_a_core_sets_aside_is_a_small_part(cores: Cores) -> None:
    """However many pass; and what it does not use goes back when it is idle."""
    rates, of = cores.start(), limit(4_000)
    for _ in range(200):
        await admit(rates, of)
    await cores.wait(0.1, rates)
    assert 200 < await cores.in_use(of) <= 200 + 4_000 // 40
    await cores.wait(3.0, rates)
    assert await cores.in_use(of) == 200


async def test_a_core_that_dies_takes_its_part_along_for_a_minute(cores: Cores) -> None:
    """Then others have it all."""
    dead, other, of = cores.start(), cores.start(), limit(800)
    await count(dead, of, 100)
    aside = await cores.in_use(of) - 100
    assert 0 < aside <= 20
    assert await count(other, of, 800) == 700 - aside
    await cores.wait(61.0)
    assert await count(other, of, 810) == 800


async def test_a_core_that_stops_brings_everything_back(cores: Cores) -> None:
    """What was used stays counted."""
    rates, of = cores.start(), limit(4_000)
    await count(rates, of, 100)
    await rates.close()
    assert await cores.in_use(of) == 100


async def test_all_limits_or_none(cores: Cores) -> None:
    """A request that one of them refuses counts in no other."""
    rates = cores.start()
    ours, theirs, tokens = limit(100), limit(1, owner="acc_1"), limit(1_000, "tokens", "acc_1")
    await admit(rates, ours, theirs, tokens, tokens=10)
    for _ in range(5):
        with pytest.raises(RateLimited, match=r"Account acc_1 has a limit of 1 requests per minute"):
            await admit(rates, ours, theirs, tokens, tokens=10)
    await cores.wait(3.0, rates)
    assert [await cores.in_use(each) for each in (ours, theirs, tokens)] == [1, 1, 10]


async def test_the_longest_wait_is_told(cores: Cores) -> None:
    """Of all limits that have no room, asked of the store or known; one that has counts nothing of it."""
    first, rates = cores.start(), cores.start()
    soon, late, free = limit(1), limit(1, owner="acc_1"), limit(2, owner="acc_2")
    await admit(first, soon)
    await cores.wait(10.0)
    await admit(first, late)
    for _ in range(2):
        with pytest.raises(RateLimited, match="Account acc_1") as caught:
            await admit(rates, soon, late, free)
        assert caught.value.retry_after_s is not None
        assert 59.0 < caught.value.retry_after_s < 61.0
    await cores.wait(3.0, rates)
    assert await cores.in_use(free) == 0


async def test_tokens_are_corrected_at_the_end(cores: Cores) -> None:
    """Down, which makes room at once, and up, which may leave less than none."""
    rates, of = cores.start(), limit(1_000, "tokens")
    first, second = await admit(rates, of, tokens=600), await admit(rates, of, tokens=400)
    with pytest.raises(RateLimited):
        await admit(rates, of, tokens=100)
    first.ended(100)
    await admit(rates, of, tokens=500)
    second.ended(1_400)
    await cores.wait(1.0, rates)
    assert await cores.in_use(of) == 100 + 500 + 1_400
    assert dict(second.headers())["x-ratelimit-remaining-tokens"] == "0"
    with pytest.raises(RateLimited):
        await admit(rates, of, tokens=1)
    await cores.wait(58.0, rates)  # the first of all are free again, the correction not yet
    with pytest.raises(RateLimited):
        await admit(rates, of, tokens=1)
    await cores.wait(2.1, rates)
    await admit(rates, of, tokens=1_000)


async def test_tokens_that_come_late_are_not_free_twice(cores: Cores) -> None:
    """What a long answer brings back was free again already."""
    rates, of = cores.start(), limit(1_000, "tokens")
    long = await admit(rates, of, tokens=1_000)
    await cores.wait(70.0, rates)
    other = await admit(rates, of, tokens=1_000)
    long.ended(0)
    with pytest.raises(RateLimited):
        await admit(rates, of, tokens=1)
    await cores.wait(1.0, rates)
    assert await cores.in_use(of) == 1_000
    other.ended(1_000)


async def test_what_never_fits(cores: Cores) -> None:
    """Is said so; what may fit is counted as all there is."""
    rates, of = cores.start(), limit(1_000, "tokens")
    with pytest.raises(RequestTooLarge, match="may take 1001 tokens, and API key key_1 has a limit of 1000"):
        await admit(rates, of, tokens=1_513, least=1_001)
    await admit(rates, of, tokens=1_512, least=1_000)
    assert await cores.in_use(of) == 1_000


async def test_what_the_store_was_not_told_of_yet_makes_a_minute(cores: Cores) -> None:
    """A request that took far more than was expected is waited for, though only this core knows of it."""
    rates, of = cores.start(), limit(1_000, "tokens")
    (await admit(rates, of, tokens=990)).ended(5_000)
    with pytest.raises(RateLimited) as caught:
        await admit(rates, of, tokens=20)
    assert caught.value.retry_after_s == 60.0


async def test_what_was_set_aside_in_parts_goes_back_whole(cores: Cores) -> None:
    """Each part to when it was taken: what counts is what was used, and a refusal says when that is free again."""
    rates, of = cores.start(), limit(1_000, "tokens")
    for _ in range(3):
        (await admit(rates, of, tokens=280)).ended(300)
        for _ in range(4):
            await cores.wait(1.0, rates)
    assert await cores.in_use(of) == 900
    await cores.wait(20.0, rates)
    with pytest.raises(RateLimited) as caught:
        await admit(rates, of, tokens=280)
    told = dict(caught.value.left)
    assert told["x-ratelimit-remaining-tokens"] == "100"
    assert told["x-ratelimit-reset-tokens"] == "36.01s"
    assert caught.value.retry_after_s == pytest.approx(28.01)


async def test_a_changed_limit_counts_from_the_next_request(cores: Cores) -> None:
    """What was used of the old one is used of the new one."""
    rates = cores.start()
    assert await count(rates, limit(5), 10) == 5
    await cores.wait(1.0)
    assert await count(rates, limit(8), 10) == 3
    await cores.wait(61.0)
    assert await count(rates, limit(2), 10) == 2


async def test_headers_are_true(cores: Cores) -> None:
    """Over what other cores used too, once this one has asked; the reset is when all is free again."""
    rates, other = cores.start(), cores.start()
    requests, tokens = limit(30), limit(10_000, "tokens")
    await admit(other, requests, tokens, tokens=4_000)
    await cores.wait(20.5, other)
    told = dict((await admit(rates, requests, tokens, tokens=1_000)).headers())
    assert told["x-ratelimit-limit-requests"] == "30"
    assert told["x-ratelimit-remaining-requests"] == "28"
    assert told["x-ratelimit-limit-tokens"] == "10000"
    assert told["x-ratelimit-remaining-tokens"] == "5000"
    assert told["x-ratelimit-reset-requests"] == told["x-ratelimit-reset-tokens"] == "1m0.01s"


async def test_a_store_that_fails(cores: Cores) -> None:
    """Refuses with 503 whoever needs it, and is asked again."""
    rates = cores.start()
    cores.store.faults["exchange_rates"] = ["refused", "bug"]
    for _ in range(2):
        with pytest.raises(ServiceUnavailable):
            await admit(rates, limit(5))
    assert await count(rates, limit(5), 10) == 5


async def test_what_was_used_is_told_once_the_store_answers(cores: Cores) -> None:
    """Tokens beyond those that were expected count, though the store failed meanwhile."""
    rates, of = cores.start(), limit(1_000, "tokens")
    passed = await admit(rates, of, tokens=10)
    cores.store.faults["exchange_rates"] = ["refused", "bug"]
    passed.ended(1_010)
    for _ in range(4):
        await cores.wait(1.0, rates)
    assert await cores.in_use(of) == 1_010


async def test_a_store_that_does_not_answer(cores: Cores) -> None:
    """The request is given up in time; what it was given later goes back."""
    rates, of = cores.start(), limit(5)
    rates._timeout_s = 0.05
    cores.store.faults["exchange_rates"] = ["hang after"]
    with pytest.raises(ServiceUnavailable):
        await admit(rates, of)
    cores.store.resume.set()
    await cores.wait(0.1)
    await cores.wait(3.0, rates)
    assert await cores.in_use(of) == 0


async def test_a_caller_that_goes_away_while_it_waits(cores: Cores) -> None:
    """Is counted nowhere, whether its units were on their way or not."""
    rates, of, tokens = cores.start(), limit(5), limit(100, "tokens")
    cores.store.faults["exchange_rates"] = ["hang after"]
    waiting = asyncio.ensure_future(admit(rates, of, tokens, tokens=50))
    await cores.store.called("exchange_rates")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    cores.store.resume.set()
    await cores.wait(0.1)
    await cores.wait(3.0, rates)
    assert [await cores.in_use(each) for each in (of, tokens)] == [0, 0]


async def test_nothing_is_kept_of_limits_that_nobody_uses(cores: Cores) -> None:
    """Neither here nor, in the end, in the store."""
    rates = cores.start()
    for owner in range(10):
        await admit(rates, limit(100, owner=f"acc_{owner}"))
    await cores.wait(3.0, rates)
    await cores.wait(61.0, rates)
    assert rates._shares == {}
    assert cores.store.calls["forget_rates"] == 1


async def test_what_a_long_answer_took_counts_though_its_limit_was_forgotten(cores: Cores) -> None:
    """Nobody else used the limit while it ran."""
    rates, of = cores.start(), limit(1_000, "tokens")
    passed = await admit(rates, of, tokens=10)
    await cores.wait(3.0, rates)
    await cores.wait(61.0, rates)
    assert rates._shares == {}
    passed.ended(510)
    await cores.wait(1.0, rates)
    assert await cores.in_use(of) == 500
