"""The load generator notices every way in which an answer can be wrong, and the soak test a leak."""

from __future__ import annotations

import re

import pytest

from tests.bench import answers
from tests.bench.plan import Tally, spread
from tests.bench.soak import GROWTH_BYTES_MOST, Reading, verdict

CHUNKS = 20
NUMBERS = answers.expected_numbers(CHUNKS)


def whole_stream() -> bytes:
    """The body of a stream as the upstream sends it, without HTTP's chunking."""
    parts = (answers.stream_head(), *answers.stream_chunks()[:CHUNKS], answers.stream_tail(CHUNKS, 1000, usage=True))
    return b"".join(re.findall(rb"data: .*\n\n", b"".join(parts)))


def test_what_the_upstream_sends_is_right() -> None:
    """A whole stream and a whole unary answer have no fault."""
    assert answers.stream_fault(whole_stream(), NUMBERS) is None
    assert answers.stream_form_fault(whole_stream()) is None
    assert answers.unary_fault(answers.unary(1000)) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (rb"data: [^\n]*w000007 [^\n]*\n\n", b""),
        (rb"w000007 ", b"w000008 "),
        (rb"data: \[DONE\]\n\n", b""),
        (rb'"total_tokens"', b'"other_tokens"'),
        (rb"(data: [^\n]*\n\n)data: \[DONE\]", rb"\1data: {}\n\ndata: [DONE]"),
    ],
    ids=["a chunk is missing", "a chunk came twice", "no [DONE]", "no usage", "an event of somebody else"],
)
def test_a_broken_stream_is_noticed(old: bytes, new: bytes) -> None:
    """Every chunk once, in order, then usage and [DONE], and nothing else."""
    broken = re.sub(old, new, whole_stream(), count=1)
    assert broken != whole_stream()
    assert answers.stream_fault(broken, NUMBERS) is not None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"created":1760000000', b'"created":1760000001'),
        (b'"finish_reason":null', b'"finish_reason":"stop"'),
        (b'"choices":[', b'"choices":[['),
    ],
    ids=["the head changes", "an early finish reason", "not JSON"],
)
def test_a_malformed_stream_is_noticed(old: bytes, new: bytes) -> None:
    """One id, one creation time and one model; a finish reason at the end alone; JSON throughout."""
    assert answers.stream_form_fault(whole_stream().replace(old, new, 1)) is not None


def test_another_text_is_noticed() -> None:
    """A unary answer has the upstream's text and its usage."""
    assert answers.unary_fault(answers.unary(1000).replace(b"provider", b"vendor")) is not None
    assert answers.unary_fault(answers.unary(1000).replace(b"total_tokens", b"tokens")) is not None


def test_a_request_steers_the_upstream() -> None:
    """What a prompt asks for is found in the body, wherever the prompt stands in it."""
    assert answers.steered(b'{"x":"' + answers.steering(100, 10, 5).encode() + b'"}') == (100, 10, 5)
    assert answers.steered(b"{}") is None


def test_percentiles() -> None:
    """The median, the 99th percentile and the longest, in milliseconds."""
    found = spread([0.001 * number for number in range(101)])
    assert found is not None
    assert (found.p50, found.p99, found.most) == (50, 99, 100)
    assert spread([]) is None


def test_errors_are_counted_and_shown() -> None:
    """All are counted; a few are kept in words."""
    tally = Tally()
    for number in range(100):
        tally.fail(f"fault {number}")
    result = tally.result(1.0)
    assert result.errors == 100
    assert result.samples[0] == "1 x fault 0"


def reading(requests: int, pss_bytes: int, errors: int = 0) -> Reading:
    return Reading(requests, 0, 0, errors, pss_bytes, 30)


def test_memory_may_grow_in_the_first_step_only() -> None:
    """Pools and caches fill up at first; later growth is a leak."""
    grown = 100_000_000 + GROWTH_BYTES_MOST + 1
    flat = [reading(0, 50_000_000), reading(20_000, 100_000_000), reading(40_000, 101_000_000)]
    assert verdict(flat) == []
    assert "memory grew" in verdict([*flat, reading(60_000, grown)])[0]
    assert verdict([*flat, reading(60_000, 100_000_000, errors=1)]) == ["1 answers were wrong"]
