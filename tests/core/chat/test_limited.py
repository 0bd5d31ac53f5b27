"""Chats under limits per minute: what counts, what is given back, and what the caller is told."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec
import pytest

from core.call import Policy
from core.errors import InsufficientBalance, RateLimited, RequestTooLarge, UpstreamFailed
from storage.limit_records import Limit

REQUESTS = Limit("limit_r", "a", "requests", "minute", 3)
TOKENS = Limit("limit_t", "key_1", "tokens", "minute", 1_000)
BOTH = Policy((REQUESTS, TOKENS), None)


async def in_use(router: Any) -> tuple[int, int]:
    """Requests and tokens that the store has counted, once everything idle is brought back."""
    for _ in range(2):
        router.clock.now_s += 3.0
        router.rates.tick()
        await asyncio.sleep(0)
        await router.store.still()
    found = await router.store.rates_in_use([REQUESTS.id, TOKENS.id])
    return found.get(REQUESTS.id, 0), found.get(TOKENS.id, 0)


async def test_an_answer_counts_with_the_tokens_that_it_took(router: Any) -> None:
    """Whole and streamed, once each; the headers say what is left while it runs."""
    with router.open({}, stream=False, policy=BOTH) as exchange:
        await exchange.admit()
        told = dict(exchange.metadata())
        await exchange.complete()
    used = exchange.tokens.prompt + exchange.tokens.completion
    assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-remaining-requests"]) == ("3", "2")
    expected = 1_000 - int(told["x-ratelimit-remaining-tokens"])
    assert 100 < expected < 150  # the caller's output limit, and the input
    assert await in_use(router) == (1, used)
    async for _ in router.stream({}, policy=BOTH):
        pass
    assert await in_use(router) == (2, 2 * used)


async def test_too_many_are_refused_and_cost_nothing(router: Any) -> None:
    """No money is held for them, and the refusal says what is left."""
    for _ in range(3):
        await router.unary({}, policy=BOTH)
    with pytest.raises(RateLimited) as caught:
        await router.unary({}, policy=BOTH)
    assert 0 < caught.value.retry_after_s < 60.1
    assert dict(caught.value.headers())["x-ratelimit-remaining-requests"] == "0"
    await router.settled()
    assert router.rows("SELECT count(*) FROM ledger WHERE kind = 'usage'") == [(3,)]
    assert [record.error_reason for record in router.records] == [""] * 3 + ["RATE_LIMIT_EXCEEDED"]


async def test_tokens_come_back_when_there_is_no_answer(router: Any) -> None:
    """Refused for want of money, or by the upstream: it was a request all the same."""
    with pytest.raises(InsufficientBalance):
        await router.unary({"model": "dear", "max_tokens": 800}, policy=BOTH)
    assert await in_use(router) == (1, 0)
    router.scripted("p1", status=500)
    with pytest.raises(UpstreamFailed):
        await router.unary({}, policy=BOTH)
    assert await in_use(router) == (2, 0)


async def gone(router: Any, model: str) -> Any:
    """The exchange of a caller that goes away after the first chunk."""
    exchange = router.open({"model": model}, stream=True, policy=BOTH)
    with contextlib.suppress(asyncio.CancelledError), exchange:
        await exchange.admit()
        await exchange.start()
        raise asyncio.CancelledError
    return exchange


async def test_a_caller_that_goes_away_is_counted_for_what_was_produced(router: Any) -> None:
    """Not for what it might have been."""
    router.scripted("p1", token_count=100, chunk_delay_ms=10_000)
    tokens = (await gone(router, "m")).tokens
    assert await in_use(router) == (1, tokens.prompt + tokens.completion)
    assert 0 < tokens.prompt + tokens.completion < 100


async def test_a_caller_that_does_not_read_is_counted_once(router: Any) -> None:
    """Its answer is ended before its handler is."""
    router.scripted("p1", fault="silence", fault_after=3)
    exchange = router.open({}, stream=True, policy=BOTH)
    with exchange:
        await exchange.admit()
        await exchange.start()
        router.pipeline.cut_key("key_1")
        exchange.abandon()
    tokens = exchange.tokens
    assert await in_use(router) == (1, tokens.prompt + tokens.completion)


async def test_an_answer_that_is_read_on_counts_at_its_end(router: Any) -> None:
    """When the upstream is drained for its exact usage."""
    router.scripted("p3", token_count=5, chunk_delay_ms=20)
    exchange = await gone(router, "drained")
    await router.until(lambda: router.pipeline.in_flight == 0)
    assert exchange.tokens.completion == 5
    assert await in_use(router) == (1, exchange.tokens.prompt + 5)


IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}


async def test_what_never_fits_is_too_large(router: Any) -> None:
    """By the output limit that the caller set, in whichever dialect, or its images; without these it is tried."""
    with pytest.raises(RequestTooLarge):
        await router.unary({"messages": [IMAGE]}, policy=BOTH)
    with pytest.raises(RequestTooLarge):
        await router.unary({"max_tokens": 1_000}, policy=BOTH)
    with pytest.raises(RequestTooLarge):
        await router.unary({"max_tokens": 10, "n_predict": 1_000}, policy=BOTH)
    with pytest.raises(RequestTooLarge):
        await router.unary({"max_tokens": 400, "n": 3}, policy=BOTH)
    await router.unary({"max_tokens": None, "n": 3}, policy=BOTH)
    assert (await in_use(router))[0] == 1


async def test_what_the_model_cannot_write_is_not_counted(router: Any) -> None:
    """Many clients set a limit larger than any model's: that is no reason to call a request too large."""
    roomy = Policy((msgspec.structs.replace(TOKENS, amount=20_000),), None)
    await router.unary({"max_tokens": 1_000_000}, policy=roomy)


async def test_what_no_upstream_can_have_counted_does_not_use_a_limit_up(router: Any) -> None:
    """It would shut the caller out for good."""
    router.scripted("p1", usage={"prompt_tokens": msgspec.Raw(b"90000000"), "completion_tokens": msgspec.Raw(b"9")})
    await router.unary({}, policy=BOTH)
    _, tokens = await in_use(router)
    assert 20_000 < tokens < 50_000  # twice what the model can write, the bytes of the input, and some slack


async def test_without_an_output_limit_a_modest_answer_is_expected(router: Any) -> None:
    """512 tokens for each choice: what the model could write would use the limit up in a request or two."""
    roomy = Policy((msgspec.structs.replace(TOKENS, amount=100_000),), None)
    with router.open({"max_tokens": None, "n": 3}, stream=False, policy=roomy) as exchange:
        await exchange.admit()
        expected = 100_000 - int(dict(exchange.metadata())["x-ratelimit-remaining-tokens"])
        await exchange.complete()
    assert 3 * 512 < expected < 3 * 512 + 50


async def test_without_limits_nothing_is_asked_or_told(router: Any) -> None:
    """Neither without a policy nor with one that says nothing of minutes."""
    for policy in (None, Policy((), None), Policy((Limit("limit_s", "a", "spend", "day", 10**12),), None)):
        with router.open({}, stream=False, policy=policy) as exchange:
            await exchange.admit()
            assert not [key for key, _ in exchange.metadata() if key.startswith("x-ratelimit")]
            await exchange.complete()
    assert router.store.calls["exchange_rates"] == 0


async def test_too_many_at_once_are_told_what_is_left_per_minute(router: Any) -> None:
    """They count as requests, and their tokens come back."""
    slot = Limit("limit_c", "a", "concurrency", "now", 1)
    await router.store.set_limit(slot)
    one = Policy((REQUESTS, TOKENS, slot), None)
    router.scripted("p1", head_delay_ms=10_000)
    running = asyncio.ensure_future(router.unary({}, policy=one))
    await router.running()
    with pytest.raises(RateLimited, match="at once") as caught:
        await router.unary({}, policy=one)
    assert dict(caught.value.headers())["x-ratelimit-remaining-requests"] == "1"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (await in_use(router))[0] == 2


async def test_an_upstreams_limit_tells_what_is_left_of_ours(router: Any) -> None:
    """A 429 has it, whoever it comes from."""
    router.scripted("p1", status=429)
    with pytest.raises(RateLimited, match="upstream") as caught:
        await router.unary({}, policy=BOTH)
    assert dict(caught.value.headers())["x-ratelimit-remaining-requests"] == "2"
