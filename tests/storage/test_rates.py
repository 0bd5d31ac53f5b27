"""Limits per minute in the database: cores take of them in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from storage.interfaces import Store
from storage.limit_records import RATE_SLICES, RateAsk

SLICE_US = 200
MINUTE_S = RATE_SLICES * SLICE_US / 1e6


async def take(store: Store, *asks: RateAsk) -> list[int]:
    """How much was got of each."""
    return [share.taken for share in await store.exchange_rates(asks, slice_us=SLICE_US)]


async def test_cores_never_take_more_than_there_is(store: Store, another_store: Callable[[], Awaitable[Store]]) -> None:
    """Of two limits, asked for in any order by four at once."""
    others = [store, *[await another_store() for _ in range(3)]]
    pair = (RateAsk("a", 100, (1,) * 3), RateAsk("b", 50, (1,)))
    got = await asyncio.gather(
        *(
            each.exchange_rates(pair if turn % 2 else pair[::-1], slice_us=10_000)
            for turn in range(15)
            for each in others
        )
    )
    taken = {limit: sum(s.taken for answer in got for s in answer if s.limit_id == limit) for limit in "ab"}
    assert taken == {"a": 100, "b": 50}
    assert await store.rates_in_use(["a", "b", "c"]) == {"a": 100, "b": 50}


@pytest.mark.slow
async def test_what_was_taken_is_free_again_after_a_minute(store: Store) -> None:
    """By the database's clock, whose slices say when."""
    [share] = await store.exchange_rates([RateAsk("a", 10, (10,))], slice_us=SLICE_US)
    assert (share.taken, dict(share.used)) == (10, {share.slice: 10})
    assert 0 <= share.into_us < SLICE_US
    assert await take(store, RateAsk("a", 10, (1,))) == [0]
    await asyncio.sleep(MINUTE_S + 0.05)
    assert await store.rates_in_use(["a"], slice_us=SLICE_US) == {}
    assert await take(store, RateAsk("a", 10, (10,))) == [10]


async def test_what_is_brought_back_is_free_at_once(store: Store) -> None:
    """And what is owed is not."""
    [share] = await store.exchange_rates([RateAsk("a", 10, (10,))])
    [share] = await store.exchange_rates([RateAsk("a", 10, (9,), returned={share.slice: 8})])
    assert share.taken == 0
    assert (await store.exchange_rates([RateAsk("a", 10, (8,), owed=1)]))[0].taken == 0
    assert (await store.exchange_rates([RateAsk("a", 10, (7,))]))[0].taken == 7


async def test_windows_of_the_past_are_removed(store: Store, query: Callable[[str], Awaitable[Sequence[Any]]]) -> None:
    """Those in which nothing can be in use."""
    await store.exchange_rates([RateAsk("a", 10, (1,)), RateAsk("b", 10, (1,))])
    await query("UPDATE rate_windows SET changed_us = changed_us - 130000000 WHERE limit_id = 'a'")
    await store.forget_rates()
    assert [row[0] for row in await query("SELECT limit_id FROM rate_windows")] == ["b"]
