"""Token counts as upstreams report them."""

import json
from typing import Any

import msgspec
import pytest

from core.money.usage import MAX_PLAUSIBLE_TOKENS, TokenCounts, merged_usage, parse_usage, usage_json


def parsed(**usage: Any) -> TokenCounts | None:
    return parse_usage(json.dumps(usage).encode())


def test_openai_s_usage_is_taken_as_it_is() -> None:
    """Prompt, completion and total, cached tokens as part of the prompt, reasoning as part of the completion."""
    assert parsed(
        prompt_tokens=19,
        completion_tokens=10,
        total_tokens=29,
        prompt_tokens_details={"cached_tokens": 7, "audio_tokens": 0, "cache_write_tokens": 5},
        completion_tokens_details={"reasoning_tokens": 4, "accepted_prediction_tokens": 0},
        queue_time=0.1,
    ) == TokenCounts(prompt=19, completion=10, total=29, cached=7, cache_write=5, reasoning=4)


def test_an_explicit_zero_is_zero() -> None:
    """Usage of 0 is usage, not the lack of it."""
    assert parsed(prompt_tokens=0, completion_tokens=0, total_tokens=0) == TokenCounts()


def test_the_total_is_the_sum_when_it_is_not_reported() -> None:
    """A missing total is prompt plus completion."""
    assert parsed(prompt_tokens=3, completion_tokens=4) == TokenCounts(prompt=3, completion=4, total=7)


@pytest.mark.parametrize("total", [-1, 2**63, 10**40])
def test_an_impossible_total_is_the_sum(total: int) -> None:
    """A total that no one can have counted does not reach a caller."""
    assert parsed(prompt_tokens=3, completion_tokens=4, total_tokens=total) == TokenCounts(3, 4, 7)


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({"cached_tokens": 99}, (10, 0)),
        ({"cached_tokens": -5}, (0, 0)),
        ({"cached_tokens": None}, (0, 0)),
        ({"cached_tokens": 8, "cache_write_tokens": 99}, (8, 2)),
        (None, (0, 0)),
        ({}, (0, 0)),
    ],
)
def test_cached_tokens_are_clamped_to_the_prompt(details: Any, expected: tuple[int, int]) -> None:
    """Cached and written tokens are a subset of the prompt, whatever the upstream says."""
    counted = parsed(prompt_tokens=10, completion_tokens=0, prompt_tokens_details=details)
    assert counted is not None
    assert (counted.cached, counted.cache_write) == expected


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"prompt_cache_hit_tokens": 8, "prompt_cache_miss_tokens": 2}, 8),  # DeepSeek
        ({"cached_tokens": 8}, 8),  # Kimi
        ({"cached_tokens": 99, "prompt_tokens_details": {"cached_tokens": None}}, 10),
        ({"cached_tokens": 8, "prompt_tokens_details": {"cached_tokens": 0}}, 0),
    ],
)
def test_cached_tokens_outside_the_details(told: Any, expected: int) -> None:
    """They count as well, where the details say nothing of them."""
    counted = parsed(prompt_tokens=10, completion_tokens=1, **told)
    assert counted is not None
    assert (counted.prompt, counted.cached, counted.completion) == (10, expected, 1)


def test_reasoning_is_clamped_to_the_completion() -> None:
    """Reasoning tokens are a subset of the completion's."""
    counted = parsed(prompt_tokens=1, completion_tokens=5, completion_tokens_details={"reasoning_tokens": 50})
    assert counted is not None
    assert counted.reasoning == 5


@pytest.mark.parametrize(
    ("total", "details", "expected"),
    [
        (135, {"reasoning_tokens": 94}, (103, 94)),  # xAI
        (135, None, (103, 94)),  # Gemini
        (135, {}, (103, 94)),
        (135, {"reasoning_tokens": 4}, (9, 4)),
        (41, {"reasoning_tokens": 4}, (9, 4)),
        (40, None, (9, 0)),
    ],
)
def test_reasoning_that_only_the_total_counts_is_output(total: int, details: Any, expected: tuple[int, int]) -> None:
    """What the total has beyond prompt and completion is reasoning, unless the details say that it is not."""
    counted = parsed(prompt_tokens=32, completion_tokens=9, total_tokens=total, completion_tokens_details=details)
    assert counted is not None
    assert (counted.completion, counted.reasoning) == expected


@pytest.mark.parametrize("details", [{"cached_tokens": 94}, {"cache_write_tokens": 94}])
def test_what_the_total_counts_of_a_cache_is_no_output(details: Any) -> None:
    """Where more is cached than the prompt has, the cache is counted beside it."""
    counted = parsed(prompt_tokens=32, completion_tokens=9, total_tokens=135, prompt_tokens_details=details)
    assert counted is not None
    assert (counted.completion, counted.reasoning) == (9, 0)


@pytest.mark.parametrize(
    "usage",
    [
        b"null",
        b"{}",
        b"[]",
        b"7",
        b'{"prompt_tokens":1}',
        b'{"completion_tokens":1}',
        b'{"prompt_tokens":null,"completion_tokens":1}',
        b'{"prompt_tokens":"1","completion_tokens":1}',
        b'{"prompt_tokens":1.5,"completion_tokens":1}',
        b'{"prompt_tokens":true,"completion_tokens":1}',
        b'{"prompt_tokens":-1,"completion_tokens":1}',
        b'{"prompt_tokens":1,"completion_tokens":-1}',
        b'{"prompt_tokens":1,"completion_tokens":%d}' % (MAX_PLAUSIBLE_TOKENS + 1),
        b'{"prompt_tokens":%d,"completion_tokens":1}' % 10**30,
        b'{"prompt_tokens":1,',
    ],
)
def test_what_is_no_count_is_not_reported(usage: bytes) -> None:
    """Missing, negative and absurd counts are no usage at all: the caller estimates."""
    assert parse_usage(usage) is None


def test_usage_in_two_parts_is_put_together() -> None:
    """What the later object says wins; what only the earlier one said stays; an outdated total goes."""
    earlier = msgspec.Raw(b'{"prompt_tokens":5,"total_tokens":5,"x":1.0}')
    merged = merged_usage(earlier, msgspec.Raw(b'{"completion_tokens":7,"prompt_tokens":6}'))
    assert json.loads(bytes(merged)) == {"prompt_tokens": 6, "completion_tokens": 7, "x": 1.0}
    assert parse_usage(merged) == TokenCounts(prompt=6, completion=7, total=13)


def test_an_estimate_says_that_it_is_one() -> None:
    """The usage object made for callers whose upstream reported none is marked."""
    shown = json.loads(usage_json(TokenCounts(prompt=3, completion=4, reasoning=1, cached=2, estimated=True)))
    assert shown == {
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 2},
        "completion_tokens_details": {"reasoning_tokens": 1},
        "estimated": True,
    }
