"""Upstreams whose policy is to drain: the answer to a caller that went away is read on, for its exact usage."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import Any

import pytest

from core.chat.ending import produced_bytes
from core.chat.exchange import MAX_DRAIN_S
from core.chat.pipeline import MAX_DRAINS

IN, OUT = 1_000, 2_000
SLOW = {"head_delay_ms": 20, "first_delay_ms": 20, "chunk_delay_ms": 20}


def begin(router: Any, script: Any, *, stream: bool, **body: Any) -> asyncio.Task[Any]:
    sent = {"model": "drained", "script": script} | body
    return asyncio.ensure_future(router.chunks(sent) if stream else router.unary(sent))


async def leave(task: asyncio.Task[Any]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def ended(router: Any) -> None:
    """Wait until nothing runs."""
    await router.until(lambda: router.pipeline.in_flight == 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.03, 0.05, 0.07, 0.09])
async def test_an_answer_is_read_on_to_its_usage(router: Any, stream: bool, after_s: float) -> None:
    """Before the head, in silence, in mid-stream: the exact price, and its hold until then."""
    task = begin(router, SLOW, stream=stream)
    await router.running()
    await asyncio.sleep(after_s)
    await leave(task)
    gone_early = router.pipeline.in_flight == 1
    assert gone_early or after_s > 0.02
    if gone_early:
        assert router.open_calls == router.pipeline.drain_count == 1
        assert router.escrow.held_nano_usd > 0
        assert router.records == []
    await ended(router)
    await asyncio.sleep(0)
    assert router.pipeline.drain_count == 0
    row = await router.row()
    assert row["estimated"] is False
    assert row["amount_nano_usd"] == 3 * IN + 3 * OUT
    assert stream or router.providers["p3"].cancelled_calls == 0  # what follows [DONE] nobody waits for
    if gone_early:
        assert (row["status"], row["finish_reason"]) == ("client_gone", "stop")
        (record,) = router.records
        assert (record.status, record.cost_nano_usd, record.completion_tokens) == ("client_gone", 9_000, 3)


async def test_a_stream_dropped_between_two_messages_is_read_on(router: Any) -> None:
    """A handler that is closed at a `yield` leaves as much behind as one that is cancelled."""
    for dropped_after in range(1, 5):
        stream = router.stream({"model": "drained"})
        for _ in range(dropped_after):
            await anext(stream)
        await stream.aclose()
        await ended(router)
        row = await router.row(f"req{dropped_after}")
        assert (row["status"], row["estimated"], row["amount_nano_usd"]) == ("client_gone", False, 9_000)


async def test_what_the_upstream_has_not_taken_is_not_read_on(router: Any) -> None:
    """It would be asked, and paid, for nobody."""
    task = begin(router, {"fault": "connect_failed", "head_delay_ms": 10_000}, stream=False)
    await router.running()
    await leave(task)
    assert (router.pipeline.in_flight, (await router.row())["amount_nano_usd"]) == (0, 0)


async def test_of_a_complete_answer_nothing_is_read_on(router: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Its caller leaves with all of it."""
    stream = router.stream({"model": "drained"})
    while b'"stop"' not in (await anext(stream))[-1]:
        pass
    await stream.aclose()
    assert (router.pipeline.in_flight, caplog.records) == (0, [])
    assert (await router.row())["status"] == "complete"


@pytest.mark.parametrize("stream", [False, True])
async def test_other_upstreams_are_ended(router: Any, stream: bool) -> None:
    """It is the policy of the upstream at work that counts, not of the model's first."""
    router.scripted("p3", status=503)
    task = begin(router, {"fault": "silence", "fault_after": 2}, stream=stream)
    await router.until(lambda: router.providers["p4"].open_calls)
    await leave(task)
    assert (router.pipeline.in_flight, router.open_calls) == (0, 0)
    assert (await router.row())["estimated"] is True


@pytest.mark.parametrize("stream", [False, True])
async def test_a_refusal_after_the_caller_left_is_free(router: Any, stream: bool) -> None:
    """Whatever its body looks like; nobody else is asked."""
    said = '{"choices":[{"index":0,"%s":{"content":"no"},"finish_reason":"stop"}]}'
    body = f"data: {said % 'delta'}\n\n" if stream else said % "message"
    task = begin(router, {"status": 503, "head_delay_ms": 20, "raw_body": body}, stream=stream)
    await router.running()
    await leave(task)
    await ended(router)
    row = await router.row()
    assert (row["status"], row["amount_nano_usd"], row["attempts"]) == ("client_gone", 0, 1)
    assert not router.providers["p4"].received


@pytest.mark.parametrize(
    ("fault", "after", "tokens"),
    [("head_cut", 0, 0), ("cut", 0, 0), ("cut", 3, 2), ("no_finish", 3, 2), ("no_finish", 0, 0)],
)
async def test_a_failure_while_it_is_read_on_is_the_upstreams(router: Any, fault: str, after: int, tokens: int) -> None:
    """Free before the first token; then what it said is charged, by estimate."""
    task = begin(router, {"fault": fault, "fault_after": after} | SLOW, stream=True)
    await router.running()
    await leave(task)
    await ended(router)
    row = await router.row()
    assert row["status"] == "client_gone"
    assert row["amount_nano_usd"] == row["prompt_tokens"] * IN + tokens * OUT
    assert (row["prompt_tokens"] > 0) is (tokens > 0)


async def test_a_bug_of_ours_is_free(router: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """And ends it."""

    def broken(body: bytes) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("core.chat.exchange.read_answer", broken)
    task = begin(router, SLOW, stream=False)
    await router.running()
    await leave(task)
    await ended(router)
    row = await router.row()
    assert (row["status"], row["amount_nano_usd"]) == ("internal_error", 0)


async def test_an_answer_without_usage_is_estimated(router: Any) -> None:
    """All of it, as for a caller that stays."""
    for stream in (False, True):
        for leaves in (False, True):
            task = begin(router, {"usage_mode": "missing"} | SLOW, stream=stream)
            await router.running()
            if leaves:
                await leave(task)
            await asyncio.gather(task, return_exceptions=True)
            await ended(router)
    stays_whole, whole, stays, streamed = [await router.row(f"req{n}") for n in range(1, 5)]
    assert whole["amount_nano_usd"] == stays_whole["amount_nano_usd"] > 0
    assert streamed["amount_nano_usd"] == stays["amount_nano_usd"] > 0
    assert whole["estimated"] is streamed["estimated"] is True


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", [{"fault": "no_head"}, {"fault": "silence", "fault_after": 3}])
async def test_what_does_not_end_in_time_is_estimated(router: Any, stream: bool, script: Any) -> None:
    """The upstream's work is ended then, and charged as if it had been ended when the caller left."""
    task = begin(router, script, stream=stream)
    await router.running()
    await leave(task)
    await asyncio.sleep(0)
    router.clock.now_s += MAX_DRAIN_S - 1
    router.pipeline.sweep()
    await asyncio.sleep(0.01)
    assert router.pipeline.in_flight == 1
    router.clock.now_s += 2
    router.pipeline.sweep()
    await ended(router)
    row = await router.row()
    tokens = 2 if stream and "fault_after" in script else 0
    assert (row["status"], row["estimated"], row["completion_tokens"]) == ("client_gone", True, tokens)
    assert row["amount_nano_usd"] == row["prompt_tokens"] * IN + tokens * OUT > 0


async def test_a_request_may_take_no_longer_because_its_caller_left(router: Any) -> None:
    """The limits for the first token and for the whole request hold as before."""
    router.clock.now_s += 0.0
    silent, slow = begin(router, {"fault": "no_head"}, stream=True), begin(router, {"fault": "silence"}, stream=False)
    await router.running(2)
    router.clock.now_s += 59
    router.pipeline.sweep()
    await leave(silent)
    await leave(slow)
    await asyncio.sleep(0)
    router.clock.now_s += 2
    router.pipeline.sweep()
    await router.until(lambda: router.pipeline.in_flight == 1)
    assert (await router.row("req1"))["amount_nano_usd"] == 0  # its upstream gave no token in time
    router.clock.now_s += MAX_DRAIN_S
    router.pipeline.sweep()
    await ended(router)


async def test_only_so_many_are_read_on_at_once(router: Any) -> None:
    """One more is ended and estimated; when one of them ends there is room again."""
    tasks = [begin(router, {"fault": "silence", "fault_after": 2}, stream=True) for _ in range(MAX_DRAINS + 1)]
    await router.running(MAX_DRAINS + 1)
    for task in tasks:
        await leave(task)
    assert router.pipeline.in_flight == MAX_DRAINS
    assert (await router.row(f"req{MAX_DRAINS + 1}"))["status"] == "client_gone"
    router.pipeline.cut_key("key_1")
    await ended(router)
    await leave(begin(router, SLOW, stream=True))
    late = begin(router, SLOW, stream=True)
    await router.running()
    await leave(late)
    assert router.pipeline.in_flight == 1
    await ended(router)


async def test_nothing_is_read_on_for_a_revoked_key(router: Any) -> None:
    """Though its caller leaves at the same moment."""
    task = begin(router, SLOW, stream=True)
    await router.running()
    router.pipeline.cut_key("key_1")
    await leave(task)
    assert router.pipeline.in_flight == 0
    assert (await router.row())["status"] == "revoked"


async def test_a_revoked_key_ends_what_is_read_on(router: Any) -> None:
    """At once; the caller had left before, and pays the estimate."""
    task = begin(router, {"fault": "silence", "fault_after": 3}, stream=True)
    await router.running()
    await leave(task)
    router.pipeline.cut_key("key_1")
    await ended(router)
    row = await router.row()
    assert (row["status"], row["estimated"], row["completion_tokens"]) == ("client_gone", True, 2)


async def test_a_shutdown_waits_for_what_is_read_on_while_it_has_time(router: Any) -> None:
    """And then ends it."""
    exact, endless = (
        begin(router, SLOW, stream=True),
        begin(router, {"fault": "silence", "fault_after": 3}, stream=True),
    )
    await router.running(2)
    await leave(exact)
    await leave(endless)
    left_s = iter([60.0, 60.0])
    await router.pipeline.drain(lambda: next(left_s, 0.0), last_words_s=5.0)
    assert router.pipeline.in_flight == 0
    assert [(await router.row(each))["estimated"] for each in ("req1", "req2")] == [False, True]


async def test_the_text_that_is_read_on_is_not_kept(router: Any) -> None:
    """Only what it comes to."""
    router.scripted("p3", text=["x" * 100_000] * 100, fault="silence", fault_after=100, first_delay_ms=50)
    task = begin(router, {}, stream=True, max_tokens=10_000)
    await router.running()
    await leave(task)
    gc.collect()
    tracemalloc.start()
    (exchange,) = router.pipeline._running
    await router.until(lambda: produced_bytes(exchange) >= 9_800_000)
    gc.collect()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1_000_000
    router.pipeline.cut_key("key_1")
    await ended(router)
