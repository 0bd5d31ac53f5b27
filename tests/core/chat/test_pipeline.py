"""Ends from outside: callers that go away, revoked keys, shutdown. Nothing stays behind."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from core import errors
from core.chat import exchange
from core.chat.chunks import ChunkRewriter

IN, OUT = 1_000, 2_000


async def collect(router: Any, body: Any, into: list[Any]) -> None:
    async for some in router.stream(body):
        into.extend(json.loads(each) for each in some)


# Callers that go away


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "script",
    [
        {"fault": "no_head"},
        {"head_delay_ms": 1, "first_delay_ms": 1, "chunk_delay_ms": 1},
        {"fault": "silence", "fault_after": 2},
        {},
    ],
)
async def test_a_caller_that_goes_away_at_any_moment_leaves_nothing(router: Any, stream: bool, script: Any) -> None:
    """At each await: the upstream is closed at once, no hold stays, and there is a row if it was called."""
    await router.unary({})  # a lease is at hand from here on
    rows = calls = 1
    for steps in range(0, 60, 2 if "chunk_delay_ms" in script else 1):
        body = {"script": script}
        task = asyncio.ensure_future(collect(router, body, []) if stream else router.unary(body))
        for step in range(steps):
            await asyncio.sleep(0 if step < 30 else 0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert router.open_calls == 0
        await router.settled()
        assert router.escrow.held_nano_usd == 0
        called = len(router.providers["p1"].received) > calls
        ((count,),) = router.rows("SELECT count(*) FROM ledger WHERE kind = 'usage'")
        assert count - rows == 1 if called else count - rows <= 1
        calls, rows = len(router.providers["p1"].received), count
    statuses = {status for (status,) in router.rows("SELECT DISTINCT status FROM ledger WHERE kind = 'usage'")}
    assert "client_gone" in statuses
    assert statuses <= {"client_gone", "complete"}


async def test_a_stream_that_is_dropped_between_two_messages_is_settled(router: Any) -> None:
    """A handler that is closed at a `yield` ends like one that is cancelled at an await."""
    for dropped_after in range(1, 5):
        stream = router.stream({})
        for _ in range(dropped_after):
            await anext(stream)
        await stream.aclose()
        assert router.open_calls == 0
        row = await router.row(f"req{dropped_after}")
        assert row["status"] == "client_gone"
        assert row["estimated"] is True
        assert row["completion_tokens"] == (0, 1, 2, 4)[dropped_after - 1]  # of 0, 3, 7 and 13 bytes


async def test_a_caller_that_goes_away_pays_for_what_was_produced(router: Any) -> None:
    """The input, and the output until then; before a token the input alone."""
    task = asyncio.ensure_future(collect(router, {"script": {"fault": "silence", "fault_after": 3}}, []))
    await router.running()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    row = await router.row("req1")
    assert row["amount_nano_usd"] == row["prompt_tokens"] * IN + 2 * OUT
    task = asyncio.ensure_future(router.unary({"script": {"fault": "no_head"}}))
    await router.running()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    row = await router.row("req2")
    assert row["amount_nano_usd"] == row["prompt_tokens"] * IN > 0


async def test_a_caller_that_goes_away_while_it_is_charged_changes_nothing(router: Any) -> None:
    """The answer was complete: that reason came first."""
    router.store.faults["settle"] = ["hang"]
    task = asyncio.ensure_future(collect(router, {}, []))
    await router.settling()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert router.open_calls == 0
    router.store.resume.set()
    row = await router.row()
    assert (row["status"], row["amount_nano_usd"]) == ("complete", 3 * IN + 3 * OUT)
    assert router.records[0].status == "complete"


async def test_a_departed_caller_is_charged_however_long_the_database_is_down(router: Any) -> None:
    """Nobody waits for that commit, so there is no reason to give the charge up."""
    router.store.faults["settle"] = ["refused"] * 5
    task = asyncio.ensure_future(collect(router, {"script": {"fault": "silence", "fault_after": 3}}, []))
    await router.running()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    router.clock.now_s += 60
    router.pipeline.sweep()
    row = await router.row()
    assert row["status"] == "client_gone"
    assert row["amount_nano_usd"] > 0


# Revocation


@pytest.mark.parametrize("script", [{"fault": "no_head"}, {"fault": "silence"}, {"fault": "silence", "fault_after": 2}])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_revoked_key_ends_what_runs(router: Any, script: Any, stream: bool) -> None:
    """With its own error, at once; what was produced is charged."""
    body = {"script": script}
    task = asyncio.ensure_future(collect(router, body, []) if stream else router.unary(body))
    await router.running()
    router.pipeline.cut_key("key_of_somebody_else")
    await router.running()
    assert not task.done()
    router.pipeline.cut_key("key_1")
    with pytest.raises(errors.InvalidApiKey, match="not valid any more"):
        await task
    row = await router.row()
    assert (row["status"], row["error_reason"]) == ("revoked", "INVALID_API_KEY")
    assert row["prompt_tokens"] > 0


async def test_a_key_revoked_during_admission_calls_no_upstream(router: Any) -> None:
    """The request has a row, of amount 0."""
    router.store.faults["acquire"] = ["hang"]
    task = asyncio.ensure_future(router.unary({}))
    await router.until(lambda: router.store.calls["acquire"])
    router.pipeline.cut_key("key_1")
    stopping = asyncio.ensure_future(router.pipeline.drain(lambda: 0.0, last_words_s=1.0))  # the first reason counts
    await asyncio.sleep(0)
    router.store.resume.set()
    with pytest.raises(errors.InvalidApiKey):
        await task
    await stopping
    assert not router.providers["p1"].received
    row = await router.row()
    assert (row["status"], row["amount_nano_usd"], row["attempts"]) == ("revoked", 0, 0)


async def test_no_other_endpoint_is_tried_for_a_revoked_key(router: Any) -> None:
    """An end from outside is final."""
    router.scripted("p1", fault="no_head")
    task = asyncio.ensure_future(router.unary({"model": "two"}))
    await router.running()
    router.pipeline.cut_key("key_1")
    with pytest.raises(errors.InvalidApiKey):
        await task
    assert not router.providers["p2"].received


async def test_a_complete_answer_that_is_being_charged_is_not_cut(router: Any) -> None:
    """The first reason wins."""
    router.store.faults["settle"] = ["hang"]
    task = asyncio.ensure_future(router.unary({}))
    await router.settling()
    router.pipeline.cut_key("key_1")
    router.store.resume.set()
    assert (await task)["choices"]
    assert (await router.row())["status"] == "complete"


async def test_a_cut_leaves_an_answer_that_is_being_charged_time_for_it(router: Any) -> None:
    """However slow the commit is: cancelled, it would be charged and not delivered."""
    router.store.faults["settle"] = ["hang"]
    task = asyncio.ensure_future(router.unary({}))
    await router.settling()
    router.pipeline.cut_key("key_1")
    router.clock.now_s += 4.0
    for _ in range(3):
        router.pipeline.sweep()
    await asyncio.sleep(0)
    assert not task.done()
    router.store.resume.set()
    assert (await task)["choices"]


# Shutdown


async def test_a_drain_lets_running_requests_end(router: Any) -> None:
    """Nothing new is admitted meanwhile."""
    task = asyncio.ensure_future(router.chunks({"script": {"chunk_delay_ms": 10}}))
    await router.running()
    draining = asyncio.ensure_future(router.pipeline.drain(lambda: 60.0, last_words_s=1.0))
    await asyncio.sleep(0)
    with pytest.raises(errors.ServiceUnavailable) as caught:
        await router.unary({})
    assert caught.value.retry_after_s == 1
    assert len(await task) > 3
    await draining
    assert (await router.row())["status"] == "complete"


async def test_a_drain_ends_at_once_when_nothing_runs(router: Any) -> None:
    """However much time there is."""
    async with asyncio.timeout(1):
        await router.pipeline.drain(lambda: 600.0, last_words_s=600.0)


async def test_what_outlasts_the_drain_is_cut_and_charged(router: Any) -> None:
    """With an error that says why, for what was delivered; before the first token it is free."""
    some: list[Any] = []
    late = asyncio.ensure_future(collect(router, {"script": {"fault": "silence", "fault_after": 3}}, some))
    early = asyncio.ensure_future(router.unary({"script": {"fault": "no_head"}}))
    await router.running(2)
    await router.pipeline.drain(lambda: 0.0, last_words_s=5.0)
    for task in (late, early):
        with pytest.raises(errors.ServiceUnavailable, match="shutting down"):
            await task
    charged = {
        each["request_id"]: each["amount_nano_usd"] for each in [await router.row("req1"), await router.row("req2")]
    }
    assert (charged["req1"] > 0, charged["req2"]) == (True, 0)
    assert (await router.row("req1"))["status"] == "shutdown"


async def test_a_second_signal_shortens_the_drain(router: Any) -> None:
    """The time that is left is asked for again and again."""
    left = [60.0]
    task = asyncio.ensure_future(router.unary({"script": {"fault": "no_head"}}))
    await router.running()
    draining = asyncio.ensure_future(router.pipeline.drain(lambda: left[0], last_words_s=1.0))
    await asyncio.sleep(0.05)
    left[0] = 0.0
    async with asyncio.timeout(1):
        await draining
    with pytest.raises(errors.ServiceUnavailable):
        await task


async def test_a_caller_that_does_not_read_is_charged_at_shutdown(router: Any) -> None:
    """Its handler hangs in the transport and never learns of the end, so the row is written without it."""
    stream = router.stream({})
    await anext(stream)
    await anext(stream)
    await router.pipeline.drain(lambda: 0.0, last_words_s=0.02)
    assert router.open_calls == 0
    row = await router.row()
    assert (row["status"], row["completion_tokens"]) == ("shutdown", 1)
    with pytest.raises(errors.ServiceUnavailable):
        await anext(stream)
    assert (await router.row())["status"] == "shutdown"


async def test_a_complete_stream_whose_caller_does_not_read_is_not_completed_after_the_cut(router: Any) -> None:
    """Its end is the cut: there is one row, and nothing waits for ever."""
    raw = 'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    stream = router.stream({"script": {"raw": [raw]}})
    await anext(stream)
    await router.pipeline.drain(lambda: 0.0, last_words_s=0.02)
    with pytest.raises(errors.ServiceUnavailable):
        await anext(stream)
    assert (await router.row())["status"] == "shutdown"


# The log


async def test_every_request_has_one_line(router: Any) -> None:
    """Complete, failed, refused, departed: who, what, how it ended, what it cost; never a word of the prompt."""
    await router.unary(
        {"script": {"text": "answer-canary"}, "messages": [{"role": "user", "content": "prompt-canary"}]}
    )
    with pytest.raises(errors.UpstreamFailed):
        await router.unary({"script": {"status": 500}})
    with pytest.raises(errors.ModelNotFound):
        await router.unary({"model": "nobody"})
    task = asyncio.ensure_future(router.unary({"script": {"fault": "no_head"}}))
    await router.running()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [(each.request_id, each.status, each.error_reason) for each in router.records] == [
        ("req1", "complete", ""),
        ("req2", "upstream_failed", "UPSTREAM_ERROR"),
        ("req3", "refused", "MODEL_NOT_FOUND"),
        ("req4", "client_gone", ""),
    ]
    first = router.records[0]
    assert first.client_request_id == (await router.row("req1"))["client_request_id"] == "mine"
    assert (first.model, first.endpoint, first.provider, first.account_id, first.key_id) == (
        "m",
        "e1",
        "p1",
        "a",
        "key_1",
    )
    assert first.cost_nano_usd == (await router.row("req1"))["amount_nano_usd"]
    assert "canary" not in repr(router.records)


@pytest.mark.parametrize("pause", ["head_delay_ms", "first_delay_ms"])
async def test_time_waited_for_an_upstream_is_not_overhead(router: Any, pause: str) -> None:
    """What the router adds is what is left."""
    router.store.faults["acquire"] = ["hang"]
    task = asyncio.ensure_future(router.unary({"script": {pause: 20}}))
    await router.until(lambda: router.store.calls["acquire"])
    router.clock.now_s += 0.5
    router.store.resume.set()
    await router.running()
    router.clock.now_s += 3.0
    await task
    (record,) = router.records
    assert record.duration_ms == 3_500
    assert record.overhead_ms == 500
    assert record.ttft_ms == 3_500


# Callers that do not read


async def test_a_cut_reaches_a_caller_that_does_not_read(router: Any) -> None:
    """What it got is charged and its RPC is cancelled, though its handler hangs in the transport."""

    async def hang() -> None:
        stream = router.stream({"script": {"fault": "silence", "fault_after": 3}})
        await anext(stream)
        await anext(stream)
        await asyncio.Event().wait()

    task = asyncio.ensure_future(hang())
    await router.running()
    await asyncio.sleep(0.05)
    router.pipeline.cut_key("key_1")
    router.clock.now_s += 1
    router.pipeline.sweep()
    assert not task.done()
    router.clock.now_s += 2
    router.pipeline.sweep()
    with pytest.raises(asyncio.CancelledError):
        await task
    row = await router.row()
    assert (row["status"], row["error_reason"]) == ("revoked", "INVALID_API_KEY")
    assert router.escrow.held_nano_usd == 0


async def test_a_cut_reaches_a_caller_that_does_not_take_the_end(router: Any) -> None:
    """Its answer is charged, and its handler hangs in the transport with the last of it."""

    async def hang() -> None:
        async for chunks in router.stream({}):
            if b'"stop"' in chunks[-1]:
                await asyncio.Event().wait()

    task = asyncio.ensure_future(hang())
    await router.until(lambda: router.store.calls["settle"])
    assert (await router.row())["status"] == "complete"
    await router.running(0)
    router.pipeline.cut_key("key_1")
    router.clock.now_s += 3
    router.pipeline.sweep()
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(2):
            await task


async def test_the_total_limit_reaches_a_caller_that_does_not_read(router: Any) -> None:
    """It is a cut like any other."""

    async def hang() -> None:
        stream = router.stream({"script": {"fault": "silence", "fault_after": 3}})
        await anext(stream)
        await asyncio.Event().wait()

    task = asyncio.ensure_future(hang())
    await router.running()
    await asyncio.sleep(0.05)
    router.clock.now_s += 10_000
    router.pipeline.sweep()
    router.clock.now_s += 3
    router.pipeline.sweep()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await router.row())["status"] == "timeout"


@pytest.mark.parametrize("work", ["read_envelope", "read_answer", "take"])
async def test_large_pieces_of_work_are_done_one_by_one(
    router: Any, work: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many large bodies, answers and pieces of streams come at once: others get their turn between two."""
    await router.unary({})  # a lease is at hand from here on
    rounds, seen = 0, list[int]()
    target: Any = ChunkRewriter if work == "take" else exchange
    original = getattr(target, work)

    def watched(*arguments: Any) -> Any:
        if len(next(each for each in arguments if isinstance(each, bytes))) >= exchange.LARGE_PIECE_BYTES:
            seen.append(rounds)
        return original(*arguments)

    monkeypatch.setattr(target, work, watched)
    body: dict[str, Any] = {"filler": "x" * exchange.LARGE_BODY_BYTES, "script": {"text": "y" * 100_000}}
    asked = [router.chunks(body) if work == "take" else router.unary(body) for _ in range(20)]
    together = asyncio.gather(*asked)
    while not together.done():
        rounds += 1
        await asyncio.sleep(0)
    await together
    assert len(seen) >= 20
    assert len(set(seen)) == len(seen)
