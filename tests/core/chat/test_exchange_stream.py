"""Streamed answers, from a body to a charge, over scripted upstreams."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from core import errors
from core.money.ledger import SettlementFailed

IN, OUT = 1_000, 2_000  # nUSD per token of model "m"


def content(chunks: list[dict[str, Any]]) -> str:
    return "".join(each["choices"][0]["delta"].get("content") or "" for each in chunks if each["choices"])


def event(delta: Any = None, finish: str | None = None, **fields: Any) -> str:
    """A chunk in its frame, for verbatim scripts."""
    head = {"id": "up", "object": "chat.completion.chunk", "created": 1, "model": "up"}
    choices = [{"index": 0, "delta": delta or {}, "finish_reason": finish}]
    return "data: " + json.dumps({**head, "choices": choices, **fields}) + "\n\n"


DONE = "data: [DONE]\n\n"
ROLE = event({"role": "assistant", "content": ""})


async def collect(router: Any, body: Any) -> tuple[list[dict[str, Any]], errors.WorldRouterError | None]:
    """The chunks that came out, and the error at their end."""
    found: list[dict[str, Any]] = []
    try:
        async for some in router.stream(body):
            found += [json.loads(each) for each in some]
    except errors.WorldRouterError as error:
        return found, error
    return found, None


async def test_a_stream_is_passed_on_and_charged(router: Any) -> None:
    """The role first, the text, one finish; one committed row at the model's price."""
    chunks = await router.chunks({})
    assert content(chunks) == "one two three"
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [each["choices"][0]["finish_reason"] for each in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert {(each["id"], each["model"], each["created"]) for each in chunks} == {("chatcmpl-req1", "m", 1_800_000_000)}
    row = await router.row()
    assert row["amount_nano_usd"] == 3 * IN + 3 * OUT
    assert (row["status"], row["finish_reason"], row["streamed"], row["estimated"]) == ("complete", "stop", True, False)


async def test_usage_is_always_asked_for_and_given_to_who_asks(router: Any) -> None:
    """The upstream always hears `include_usage`; the caller sees usage only if it did too."""
    silent = await router.chunks({})
    asked = await router.chunks({"stream": True, "stream_options": {"include_usage": True}})
    for body in router.providers["p1"].received:
        assert json.loads(body)["stream"] is True
        assert json.loads(body)["stream_options"]["include_usage"] is True
    assert all(each["choices"] and "usage" not in each for each in silent)
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"]["completion_tokens"] == 3
    assert all(each["usage"] is None for each in asked[:-1])


async def test_all_that_one_read_delivers_travels_together(router: Any) -> None:
    """Nothing is split, and nothing waits for more."""
    body = {"script": {"text": ["a"] * 9, "chunks_per_read": 5}}
    sizes = [len(some) async for some in router.stream(body)]
    assert sizes == [5, 5, 1]


async def test_the_last_chunks_wait_for_the_commit(router: Any) -> None:
    """The finish, and the usage behind it, leave only when the charge is durable."""
    router.store.faults["settle"] = ["hang"]
    seen: list[dict[str, Any]] = []

    async def read() -> None:
        async for some in router.stream({"stream": True, "stream_options": {"include_usage": True}}):
            seen.extend(json.loads(each) for each in some)

    waiting = asyncio.ensure_future(read())
    await router.settling()
    assert content(seen) == "one two three"
    assert all(each["choices"][0]["finish_reason"] is None for each in seen)
    router.store.resume.set()
    await waiting
    assert [bool(each["choices"]) for each in seen[-2:]] == [True, False]
    assert seen[-2]["choices"][0]["finish_reason"] == "stop"


async def test_a_stream_that_cannot_be_charged_ends_in_an_error(router: Any) -> None:
    """After the settle timeout, without its last chunks, without a charge; the money is free again."""
    router.store.faults["settle"] = ["refused"] * 6
    waiting = asyncio.ensure_future(collect(router, {}))
    await router.until(lambda: router.store.calls["settle"] > 1)
    router.clock.now_s += 5.0
    router.pipeline.sweep()
    chunks, error = await waiting
    assert content(chunks) == "one two three"
    assert all(each["choices"][0]["finish_reason"] is None for each in chunks)
    assert isinstance(error, SettlementFailed)
    router.store.faults.clear()
    row = await router.row()
    assert (row["amount_nano_usd"], row["status"]) == (0, "internal_error")
    assert router.records[0].cost_nano_usd == 0


# Usage


@pytest.mark.parametrize(
    ("script", "prompt", "completion", "estimated"),
    [
        ({"usage_mode": "always"}, 3, 3, False),
        ({"usage_mode": "zero"}, 0, 0, False),
        ({"usage_mode": "every_chunk"}, 3, 3, False),
        ({"usage_mode": "split"}, 3, 3, False),
        ({"usage_mode": "missing"}, None, None, True),
        ({"usage": {"prompt_tokens": 5, "completion_tokens": 7}}, 5, 7, False),
        ({"usage": {"prompt_tokens": -5, "completion_tokens": 7}}, None, None, True),
        ({"usage": {"prompt_tokens": 5}}, None, None, True),
    ],
)
async def test_usage_is_found_wherever_it_stands(
    router: Any, script: Any, prompt: int | None, completion: int | None, estimated: bool
) -> None:
    """On any chunk, in two parts, or nowhere; what is missing is estimated and marked, never free."""
    await router.chunks({"script": script})
    row = await router.row()
    assert row["estimated"] is estimated
    if prompt is not None:
        assert (row["prompt_tokens"], row["completion_tokens"]) == (prompt, completion)
    assert row["amount_nano_usd"] == row["prompt_tokens"] * IN + row["completion_tokens"] * OUT
    assert (row["amount_nano_usd"] > 0) is (script.get("usage_mode") != "zero")
    assert row["shortfall_nano_usd"] == 0


async def test_the_last_of_two_usages_is_charged(router: Any) -> None:
    """An upstream that corrects itself is right."""
    first, last = ({"prompt_tokens": n, "completion_tokens": n} for n in (50, 4))
    raw = [ROLE, event({"content": "x"}, usage=first), event({}, "stop"), event(usage=last), DONE]
    await router.chunks({"script": {"raw": raw}})
    assert (await router.row())["amount_nano_usd"] == 4 * IN + 4 * OUT


async def test_several_choices_are_one_charge(router: Any) -> None:
    """Their deltas interleave; each has its role and its finish; usage comes once."""
    chunks = await router.chunks({"n": 3, "stream": True, "stream_options": {"include_usage": True}})
    for index in range(3):
        own = [each["choices"][0] for each in chunks if each["choices"] and each["choices"][0]["index"] == index]
        assert "".join(each["delta"].get("content") or "" for each in own) == "one two three"
        assert own[0]["delta"]["role"] == "assistant"
        assert own[-1]["finish_reason"] == "stop"
    assert sum(each.get("usage") is not None for each in chunks) == 1
    assert (await router.row())["completion_tokens"] == 9


async def test_tool_calls_come_out_as_openai_s(router: Any) -> None:
    """Index on each fragment, id and name on the first, `tool_calls` at the end."""
    calls = [{"name": "weather", "arguments": '{"city": "Paris"}'}, {"name": "time"}]
    chunks = await router.chunks({"script": {"tool_calls": calls}})
    fragments = [call for each in chunks for call in each["choices"][0]["delta"].get("tool_calls", [])]
    assert "".join(each["function"]["arguments"] for each in fragments if each["index"] == 0) == '{"city": "Paris"}'
    assert [each["index"] for each in fragments if "id" in each] == [0, 1]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_reasoning_stays_out_of_the_content(router: Any) -> None:
    """It goes to `reasoning_content`."""
    chunks = await router.chunks({"script": {"reasoning": "let me think", "text": "done"}})
    assert content(chunks) == "done"
    assert any("reasoning_content" in each["choices"][0]["delta"] for each in chunks)


async def test_unknown_fields_survive(router: Any) -> None:
    """Of chunks, choices and deltas."""
    script = {
        "extra": {"service_tier": "default", "x": [1.0]},
        "choice_extra": {"logprobs": None, "y": 1},
        "delta_extra": {"refusal": None, "z": {}},
    }
    chunks = await router.chunks({"script": script})
    assert all((each["service_tier"], each["x"], each["choices"][0]["y"]) == ("default", [1.0], 1) for each in chunks)
    assert chunks[0]["choices"][0]["delta"]["z"] == {}


@pytest.mark.parametrize(
    "script",
    [
        {"fault": "no_done", "fault_after": 99},
        {"fault": "double_done", "fault_after": 99},
        {"crlf": True, "comments": True},
        {"bytes_per_read": 1},
        {"bytes_per_read": 7, "crlf": True},
        {"raw": [ROLE, event({"content": "one two three"}), event({}, "stop"), event(), DONE]},
        {"raw": [ROLE + event({"content": "one two three"}, "stop") + DONE + "data: {broken\n\n"]},
        {"raw": ["data: " + event({"content": "one two three"}, "stop")[6:].replace(", ", ",\ndata: ")]},
        {"raw": [ROLE, event({"content": "one two three"}, "stop").rstrip()]},
    ],
)
async def test_every_way_to_frame_a_stream_is_understood(router: Any, script: Any) -> None:
    """A missing or double [DONE], CRLF, comments, reads of any size, several data lines, no last blank line."""
    chunks, error = await collect(router, {"script": script})
    assert error is None
    assert content(chunks) == "one two three"
    assert [each["choices"][0]["finish_reason"] for each in chunks if each["choices"][0]["finish_reason"]] == ["stop"]
    assert (await router.row())["status"] == "complete"


async def test_an_answer_that_is_complete_at_once_has_its_role(router: Any) -> None:
    """When everything came with the first read, nothing is lost."""
    chunks, error = await collect(router, {"script": {"raw": [event({}, "stop") + DONE]}})
    assert error is None
    assert [each["choices"][0]["delta"] for each in chunks] == [{"role": "assistant"}, {}]


# Failures


@pytest.mark.parametrize(
    "script",
    [
        {"fault": "cut"},
        {"fault": "no_finish"},
        {"fault": "error"},
        {"fault": "bad_json"},
        {"raw": [ROLE, event({"content": "one"}), "data: [DONE]\n\n"]},
        {"raw": [ROLE, event({"content": "one"}), 'data: {"id":"up","choices":[{"ind']},
    ],
)
async def test_a_stream_cut_before_its_finish_is_an_error(router: Any, script: Any) -> None:
    """Never a made-up finish; what was delivered is charged, and marked as estimated."""
    chunks, error = await collect(router, {"script": {"fault_after": 2, **script}})
    assert isinstance(error, errors.UpstreamFailed)
    assert content(chunks) == "one"
    assert all(each["choices"][0]["finish_reason"] is None for each in chunks)
    row = await router.row()
    assert (row["status"], row["error_reason"], row["estimated"]) == ("upstream_failed", "UPSTREAM_ERROR", True)
    assert row["completion_tokens"] == 1
    assert row["amount_nano_usd"] == row["prompt_tokens"] * IN + OUT


async def test_what_came_before_a_fault_in_one_read_is_passed_on(router: Any) -> None:
    """The caller is charged for it, so the caller gets it."""
    raw = [ROLE, event({"content": "one"}) + event({"content": " two"}) + 'data: {"error":{"message":"x"}}\n\n']
    chunks, error = await collect(router, {"script": {"raw": raw}})
    assert content(chunks) == "one two"
    assert isinstance(error, errors.UpstreamFailed)


@pytest.mark.parametrize(
    ("broken", "untidy"),
    [
        (['data: {"error":{"message":"x"}}\n\n'], False),
        (['data: {"choices":[', *["x" * 200_000] * 6, "\n\n"], True),
        ([event({}, "stop"), event({"content": "y" * 2_000}) * 1_100], True),
    ],
    ids=["small", "long line", "much held back"],
)
async def test_what_was_large_goes_back_to_the_system(router: Any, broken: list[str], untidy: bool) -> None:
    """A stream that is given up tidies memory up if much of it was there, and only then: it takes milliseconds."""
    _, error = await collect(router, {"script": {"raw": [ROLE + event({"content": "one"}), *broken]}})
    assert isinstance(error, errors.UpstreamFailed)
    assert router.pipeline.is_untidy is untidy


async def test_usage_reported_before_a_cut_is_kept(router: Any) -> None:
    """Input as reported; output as reported, and what came after it estimated."""
    usage = {"prompt_tokens": 50, "completion_tokens": 7}
    raw = [ROLE, event({"content": "one"}, usage=usage)]
    await collect(router, {"script": {"raw": raw, "fault": "cut"}})
    row = await router.row("req1")
    assert (row["prompt_tokens"], row["completion_tokens"], row["estimated"]) == (50, 7, False)
    await collect(router, {"script": {"raw": [*raw, event({"content": "x" * 40})], "fault": "cut"}})
    row = await router.row("req2")
    assert (row["prompt_tokens"], row["completion_tokens"], row["estimated"]) == (50, 17, True)


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ({"fault": "connect_failed"}, errors.UpstreamFailed),
        ({"fault": "cut"}, errors.UpstreamFailed),
        ({"fault": "error"}, errors.UpstreamFailed),
        ({"fault": "bad_json"}, errors.UpstreamFailed),
        ({"fault": "no_finish"}, errors.UpstreamFailed),
        ({"fault": "error", "fault_after": 1, "chunks_per_read": 2}, errors.UpstreamFailed),
        ({"content_type": "application/json", "raw": ['{"choices":[]}']}, errors.UpstreamFailed),
        ({"status": 400}, errors.UpstreamRejected),
        ({"status": 402}, errors.UpstreamRefused),
        ({"status": 429}, errors.RateLimited),
        ({"status": 500}, errors.UpstreamFailed),
    ],
)
async def test_a_failure_before_the_first_token_is_free(
    router: Any, script: Any, kind: type[errors.WorldRouterError]
) -> None:
    """It is an error with its own status, not a stream, and its row charges nothing."""
    chunks, error = await collect(router, {"script": script})
    assert chunks == []
    assert isinstance(error, kind)
    row = await router.row()
    assert (row["amount_nano_usd"], row["status"], row["attempts"]) == (0, "upstream_failed", 1)


@pytest.mark.parametrize(
    "script", [{"status": 500}, {"fault": "cut"}, {"fault": "error", "fault_after": 1, "chunks_per_read": 2}]
)
async def test_another_endpoint_is_tried_before_the_first_delta(router: Any, script: Any) -> None:
    """Nothing of the first endpoint's answer is seen."""
    router.scripted("p1", **script)
    chunks = await router.chunks({"model": "two"})
    assert content(chunks) == "one two three"
    row = await router.row()
    assert (row["endpoint"], row["attempts"], row["completion_tokens"]) == ("e2", 2, 3)


@pytest.mark.parametrize(
    ("error", "kind", "message", "attempts"),
    [
        ({"message": "no such voice", "code": 400}, errors.UpstreamRejected, "no such voice", 1),
        ({"message": "engine died"}, errors.UpstreamFailed, "The upstream failed: engine died", 2),
        ({"message": "our plan", "type": "rate_limit_error"}, errors.RateLimited, "The upstream is rate limited.", 2),
    ],
)
async def test_an_error_in_place_of_an_answer_is_not_lost(
    router: Any, error: Any, kind: type[errors.WorldRouterError], message: str, attempts: int
) -> None:
    """Status 200 or not, it is the caller's to read, and another endpoint is tried where that may help."""
    raw = [": ping\n\n", "data: " + json.dumps({"error": error}) + "\n\n"]
    for provider in ("p1", "p2"):
        router.scripted(provider, raw=raw)
    chunks, failure = await collect(router, {"model": "two"})
    assert chunks == []
    assert type(failure) is kind
    assert failure.message == message
    assert (await router.row())["attempts"] == attempts


async def test_an_error_in_the_middle_of_an_answer_says_what_it_is(router: Any) -> None:
    """The stream has begun, so it ends in a failure, whatever the upstream calls it."""
    error = "data: " + json.dumps({"error": {"message": "took too long", "code": 400}}) + "\n\n"
    _, failure = await collect(router, {"script": {"raw": [ROLE, error]}})
    assert type(failure) is errors.UpstreamFailed
    assert failure.message == "The answer broke off: took too long"


async def test_usage_that_a_failed_endpoint_reported_is_not_charged(router: Any) -> None:
    """A caller that goes away while the next one is asked pays for the input, as that one would count it."""
    usage = '{"choices":[],"usage":{"prompt_tokens":5000,"completion_tokens":1}}'
    router.scripted("p1", raw=[f'data: {usage}\n\ndata: {{"error":{{}}}}\n\n'])
    router.scripted("p2", fault="no_head")
    waiting = asyncio.ensure_future(router.chunks({"model": "two"}))
    await router.running()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    row = await router.row()
    assert (row["endpoint"], row["estimated"], row["completion_tokens"]) == ("e2", True, 0)


async def test_no_other_endpoint_is_tried_after_the_first_delta(router: Any) -> None:
    """Half an answer is not continued by another model's."""
    router.scripted("p1", fault="cut", fault_after=2)
    chunks, error = await collect(router, {"model": "two"})
    assert content(chunks) == "one"
    assert isinstance(error, errors.UpstreamFailed)
    assert not router.providers["p2"].received


async def test_a_model_that_cannot_stream_refuses_to(router: Any) -> None:
    """The caller's mistake, in the field that says so."""
    _, error = await collect(router, {"model": "unstreamed", "stream": True})
    assert isinstance(error, errors.InvalidRequest)
    assert error.param == "stream"
    assert await router.unary({"model": "unstreamed"})


async def test_an_endless_event_is_given_up(router: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile upstream cannot fill the memory."""
    monkeypatch.setattr("core.chat.sse.MAX_EVENT_BYTES", 10_000)
    _, error = await collect(router, {"script": {"raw": ["data: "] + ["x" * 4_000] * 5}})
    assert isinstance(error, errors.UpstreamFailed)
    assert "too long" in error.message


# Time limits


async def timed(router: Any, script: Any, *, after_s: float, body: Any = None) -> errors.WorldRouterError | None:
    """The error of a stream whose upstream falls silent, and whether it came when this time was over, not before."""
    waiting = asyncio.ensure_future(collect(router, {"script": script, **(body or {})}))
    await router.running()
    router.clock.now_s += after_s
    router.pipeline.sweep()
    await router.running()
    assert not waiting.done()
    router.clock.now_s += 0.1
    router.pipeline.sweep()
    _, error = await waiting
    return error


@pytest.mark.parametrize("script", [{"fault": "no_head"}, {"fault": "silence"}])
async def test_no_first_token_is_a_timeout(router: Any, script: Any) -> None:
    """After 60 seconds, with or without headers; nothing is charged."""
    assert isinstance(await timed(router, script, after_s=60.0), errors.UpstreamTimeout)
    row = await router.row()
    assert (row["status"], row["amount_nano_usd"], row["error_reason"]) == ("timeout", 0, "UPSTREAM_TIMEOUT")


async def test_a_model_may_have_more_time_to_its_first_token(router: Any) -> None:
    """Reasoning models think first."""
    error = await timed(router, {"fault": "silence"}, after_s=300.0, body={"model": "slow"})
    assert isinstance(error, errors.UpstreamTimeout)


async def test_comments_do_not_stop_the_clock(router: Any) -> None:
    """An upstream that only says it is alive has not said a token."""
    raw = [": processing\n\n"] * 200
    waiting = asyncio.ensure_future(collect(router, {"script": {"raw": raw, "chunk_delay_ms": 5}}))
    await router.running()
    for _ in range(7):
        await asyncio.sleep(0.02)
        router.clock.now_s += 10
        router.pipeline.sweep()
    _, error = await waiting
    assert isinstance(error, errors.UpstreamTimeout)


async def test_silence_between_chunks_is_a_timeout(router: Any) -> None:
    """What was delivered before it is charged."""
    error = await timed(router, {"fault": "silence", "fault_after": 2}, after_s=60.0)
    assert isinstance(error, errors.UpstreamTimeout)
    row = await router.row()
    assert (row["status"], row["completion_tokens"], row["estimated"]) == ("timeout", 1, True)


async def test_a_caller_who_takes_its_time_is_no_timeout(router: Any) -> None:
    """Only waiting for the upstream counts as its silence."""
    stream = router.stream({})
    await anext(stream)
    router.clock.now_s += 61
    router.pipeline.sweep()
    async for _ in stream:
        pass
    assert (await router.row())["status"] == "complete"


async def test_a_complete_stream_lets_go_of_its_upstream_before_its_caller_has_it_all(router: Any) -> None:
    """However long that takes, and though the upstream does not close."""
    raw = 'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    router.scripted("p1", raw=[raw], fault="silence")
    stream = router.stream({})
    while b'"stop"' not in (await anext(stream))[-1]:
        pass
    assert router.open_calls == 0
    await stream.aclose()


async def test_a_stream_that_never_ends_is_ended(router: Any) -> None:
    """After 900 seconds, however lively it is, and charged within its hold."""
    body = {"max_tokens": 4_000, "script": {"token_count": 4_000, "chunk_delay_ms": 1}}
    waiting = asyncio.ensure_future(collect(router, body))
    await router.running()
    for _ in range(31):
        await asyncio.sleep(0.003)
        router.clock.now_s += 30
        router.pipeline.sweep()
    chunks, error = await waiting
    assert isinstance(error, errors.UpstreamTimeout)
    assert "longer than a request may take" in error.message
    assert chunks
    assert (await router.row())["shortfall_nano_usd"] == 0
