"""The scripted provider: every knob of a script, by what comes out."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import pytest

from core.errors import UpstreamFailed, UpstreamTimeout
from core.providers.base import ConnectFailed, Head
from core.providers.script import Script
from core.providers.scripted import ScriptedProvider, ScriptedReply

Json = dict[str, Any]


def body(script: Json | None = None, **fields: Any) -> bytes:
    """A request that asks "one two three", with this script."""
    request = {"model": "scripted-1", "messages": [{"role": "user", "content": "one two three"}], **fields}
    return json.dumps(request if script is None else {**request, "script": script}).encode()


async def reads(reply: ScriptedReply) -> list[bytes]:
    """Every read up to the end."""
    found = []
    while piece := await reply.read():
        found.append(piece)
    return found


async def unary(script: Json | None = None, **fields: Any) -> Json:
    """The JSON of a unary answer."""
    reply = ScriptedProvider().send(body(script, **fields), stream=False)
    assert await reply.head() == Head(200, "application/json", None)
    (piece,) = await reads(reply)
    return json.loads(piece)


async def streamed(script: Json | None = None, **fields: Any) -> list[Json]:
    """The chunks of a stream, whose last event must be [DONE]."""
    reply = ScriptedProvider().send(body(script, **fields), stream=True)
    assert await reply.head() == Head(200, "text/event-stream; charset=utf-8", None)
    events = b"".join(await reads(reply)).split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    return [json.loads(event.removeprefix(b"data: ")) for event in events[:-2]]


def deltas(chunks: list[Json], field: str) -> list[Any]:
    """This field of every delta that has it."""
    found = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return [delta[field] for delta in found if field in delta]


# content


async def test_it_echoes_the_last_user_message() -> None:
    """Without a script the answer is the last user message, with its usage, the same every time."""
    answer = await unary()
    assert answer == await unary()
    assert answer == {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "scripted-1",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": "one two three"}, "finish_reason": "stop"}
        ],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 3,
            "total_tokens": 6,
            "prompt_tokens_details": {"cached_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }


async def test_a_stream_says_the_same_word_by_word() -> None:
    """A stream has the role, a chunk per word, the finish reason, and [DONE]; no usage unless asked for."""
    chunks = await streamed()
    assert deltas(chunks, "role") == ["assistant"]
    assert deltas(chunks, "content") == ["", "one", " two", " three"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["stop"]
    assert {(chunk["id"], chunk["object"], chunk["created"], chunk["model"]) for chunk in chunks} == {
        ("chatcmpl-scripted", "chat.completion.chunk", 1_700_000_000, "scripted-1")
    }
    assert not any("usage" in chunk for chunk in chunks)


async def test_parts_of_a_message_are_read_and_pictures_passed_over() -> None:
    """Content may be a list of parts; only text counts."""
    parts = [{"type": "text", "text": "what is"}, {"type": "image_url", "image_url": {}}, {"text": "this"}]
    answer = await unary(messages=[{"role": "user", "content": parts}, {"role": "assistant", "content": None}])
    assert answer["choices"][0]["message"]["content"] == "what is this"


async def test_text_is_said_as_it_is_given() -> None:
    """A string is cut into words that add up to it; a list gives the chunks."""
    assert deltas(await streamed({"text": "a  b\n"}), "content") == ["", "a", "  b", "\n"]
    assert deltas(await streamed({"text": ["a", "bc", "", "d"]}), "content") == ["", "a", "bc", "", "d"]
    assert (await unary({"text": ["a", "bc"]}))["choices"][0]["message"]["content"] == "abc"


async def test_a_count_of_tokens_is_met_exactly() -> None:
    """The words of the question are repeated until there are enough."""
    answer = await unary({"token_count": 5})
    assert answer["choices"][0]["message"]["content"] == "one two three one two"
    assert answer["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_an_output_limit_is_kept(limit: str) -> None:
    """A limit below the answer cuts it and says "length"; reasoning counts first."""
    assert (await unary(**{limit: 2}))["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": "one two"},
        "finish_reason": "length",
    }
    eaten = await unary({"reasoning": "let me think"}, **{limit: 2})
    assert eaten["choices"][0]["message"] == {"role": "assistant", "content": "", "reasoning_content": "let me"}
    assert eaten["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    assert (await unary(**{limit: 3}))["choices"][0]["finish_reason"] == "stop"


async def test_reasoning_comes_first_and_apart() -> None:
    """Reasoning goes into a field of its own, before the text, and is counted."""
    chunks = await streamed({"reasoning": ["hm", " so"]}, stream_options={"include_usage": True})
    assert deltas(chunks, "reasoning_content") == ["hm", " so"]
    assert chunks[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}
    assert chunks[-1]["usage"]["completion_tokens"] == 5


async def test_tool_calls_are_streamed_in_pieces() -> None:
    """Each call has its index, its id and name once, and argument fragments that add up."""
    calls = [{"name": "weather", "arguments": '{"city": "Reykjavik"}', "id": "call_7"}, {"name": "clock"}]
    found = [call for delta in deltas(await streamed({"tool_calls": calls}), "tool_calls") for call in delta]
    assert [(call["index"], call.get("id")) for call in found] == [
        (0, "call_7"),
        (0, None),
        (0, None),
        (1, "call_scripted_1"),
        (1, None),
    ]
    assert "".join(c["function"]["arguments"] for c in found if c["index"] == 0) == '{"city": "Reykjavik"}'
    message = (await unary({"tool_calls": calls}))["choices"][0]
    assert (message["finish_reason"], message["message"]["content"]) == ("tool_calls", None)
    assert message["message"]["tool_calls"][1]["function"] == {"name": "clock", "arguments": "{}"}


async def test_choices_take_turns() -> None:
    """With n choices every delta comes once per choice, and usage counts them all."""
    chunks = await streamed({"text": "a b", "n": 2}, stream_options={"include_usage": True})
    order = [choice["index"] for chunk in chunks for choice in chunk["choices"]]
    assert order == [0, 1] * 4
    assert chunks[-1]["usage"]["completion_tokens"] == 4
    assert [choice["index"] for choice in (await unary(n=3))["choices"]] == [0, 1, 2]


async def test_a_finish_reason_may_be_dictated() -> None:
    """Whatever the answer, the script may name its finish reason."""
    assert (await streamed({"finish_reason": "content_filter"}))[-1]["choices"][0]["finish_reason"] == (
        "content_filter"
    )


async def test_further_fields_keep_every_digit() -> None:
    """Fields of the object, the choice and the message are passed on as they were written."""
    raw = body({"extra": {"seed": 0}, "choice_extra": {"logprobs": {"x": 1.0}}, "delta_extra": {"refusal": None}})
    raw = raw.replace(b'"seed": 0', b'"seed": 123456789012345678901234567890.0e-7')
    for stream in (False, True):
        answer = b"".join(await reads(ScriptedProvider().send(raw, stream=stream)))
        assert b'"seed":123456789012345678901234567890.0e-7' in answer
        assert b'"logprobs":{"x": 1.0}' in answer
        assert answer.count(b'"refusal":null') == 1


# usage


async def test_usage_comes_when_asked_for() -> None:
    """As OpenAI does: a last chunk without choices, and null on every other."""
    chunks = await streamed(stream_options={"include_usage": True})
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["total_tokens"] == 6
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 5


@pytest.mark.parametrize(
    ("script", "asked", "expected"),
    [
        ({"usage_mode": "always"}, False, [None] * 5 + [6]),
        ({"usage_mode": "missing"}, True, [None] * 5),
        ({"usage_mode": "zero"}, True, [None] * 5 + [0]),
        ({"usage_mode": "every_chunk"}, False, [6] * 5),
        ({"usage": {"total_tokens": -1}}, True, [None] * 5 + [-1]),
    ],
)
async def test_usage_may_go_wrong_in_many_ways(script: Json, asked: bool, expected: list[int | None]) -> None:
    """Always, missing, zero, on every chunk, or a given object, however absurd."""
    options = {"stream_options": {"include_usage": True}} if asked else {}
    chunks = await streamed(script, **options)
    assert [(chunk.get("usage") or {}).get("total_tokens") for chunk in chunks] == expected


async def test_usage_may_be_split() -> None:
    """The prompt's count comes on the first chunk, the completion's on the last."""
    chunks = await streamed({"usage_mode": "split"})
    assert [chunk.get("usage") for chunk in chunks] == [
        {"prompt_tokens": 3},
        None,
        None,
        None,
        {"completion_tokens": 3},
    ]


async def test_a_unary_answer_may_lack_usage() -> None:
    """Missing is absent, zero is zero, and a given object is used as it is."""
    assert "usage" not in await unary({"usage_mode": "missing"})
    assert (await unary({"usage_mode": "zero"}))["usage"]["total_tokens"] == 0
    assert (await unary({"usage": {}}))["usage"] == {}


# pieces and time


async def test_reads_have_the_wanted_size() -> None:
    """Several events per read, or reads of so many bytes at most, are the same stream."""
    send = ScriptedProvider().send
    one_by_one = await reads(send(body(), stream=True))
    by_four = await reads(send(body({"chunks_per_read": 4}), stream=True))
    by_bytes = await reads(send(body({"bytes_per_read": 7, "chunks_per_read": 100}), stream=True))
    assert (len(one_by_one), len(by_four)) == (6, 2)
    assert {len(piece) for piece in by_bytes[:-1]} == {7}
    assert b"".join(one_by_one) == b"".join(by_four) == b"".join(by_bytes)


async def test_line_ends_and_comments_are_a_matter_of_taste() -> None:
    """CRLF and a comment before each event are both within the format."""
    first = (await reads(ScriptedProvider().send(body({"crlf": True, "comments": True}), stream=True)))[0]
    assert first.startswith(b": scripted\r\n\r\ndata: {")
    assert first.endswith(b"}\r\n\r\n")


async def test_delays_are_kept() -> None:
    """The head, the first read and every further read come no earlier than the script says."""
    script = {"text": ["a"], "head_delay_ms": 30, "first_delay_ms": 20, "chunk_delay_ms": 10}
    reply = ScriptedProvider().send(body(script), stream=True)
    started = time.monotonic()
    await reply.head()
    headed = time.monotonic()
    await reply.read()
    first = time.monotonic()
    await reads(reply)
    assert headed - started >= 0.028
    assert first - headed >= 0.018
    assert time.monotonic() - first >= 0.035


async def test_without_delays_there_are_no_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No delay is no timer, but others get their turn between two reads."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    def refuse(*_: object) -> None:
        raise AssertionError("a timer was made")

    task = asyncio.ensure_future(other())
    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", refuse)
    reply = ScriptedProvider().send(body(), stream=True)
    await reply.head()
    count = len(await reads(reply))
    assert turns >= count
    task.cancel()


# trouble


async def test_a_status_comes_with_an_error_and_retry_after() -> None:
    """Another status has an error object for a body, its own or a default, and Retry-After if wanted."""
    script = {"status": 429, "error": {"message": "slow", "code": 1}, "retry_after_s": 2.5}
    reply = ScriptedProvider().send(body(script), stream=True)
    assert await reply.head() == Head(429, "application/json", 2.5)
    assert json.loads(b"".join(await reads(reply))) == {"error": {"message": "slow", "code": 1}}
    reply = ScriptedProvider().send(body({"status": 302}), stream=False)
    assert (await reply.head()).status == 302
    assert json.loads(b"".join(await reads(reply)))["error"]["message"] == "scripted status 302"


@pytest.mark.parametrize(
    "bad",
    [
        body({"txt": "typo"}),
        body({"text": 7}),
        body({"status": 99}),
        body({"tool_calls": [{"name": "f", "argument": "{}"}]}),
        body({"n": 0}),
        body({"fault": "unheard of"}),
        body(n="two"),
        b'{"model": "m"}',
        b'{"model": "\xff", "messages": []}',
        b"not json",
        b"[" * 100_000,
    ],
)
async def test_a_bad_request_is_refused_as_an_upstream_would(bad: bytes) -> None:
    """Unknown keys, wrong types and broken JSON get status 400 and an error object."""
    reply = ScriptedProvider().send(bad, stream=True)
    assert await reply.head() == Head(400, "application/json", None)
    assert json.loads(b"".join(await reads(reply)))["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(("fault", "error"), [("connect_failed", ConnectFailed), ("head_cut", UpstreamFailed)])
async def test_a_call_may_fail_before_its_head(fault: str, error: type[Exception]) -> None:
    """No connection, or one that breaks at once; nothing stays open."""
    provider = ScriptedProvider()
    with pytest.raises(error) as caught:
        await provider.send(body({"fault": fault}), stream=True).head()
    assert type(caught.value) is error
    assert provider.open_calls == 0


@pytest.mark.parametrize("chunks_per_read", [1, 10])
async def test_a_stream_may_be_cut(chunks_per_read: int) -> None:
    """So many events arrive, then the connection breaks; reading on says so again."""
    script = {"fault": "cut", "fault_after": 3, "chunks_per_read": chunks_per_read}
    reply = ScriptedProvider().send(body(script), stream=True)
    got = b"".join([await reply.read() for _ in range(3 if chunks_per_read == 1 else 1)])
    assert got.count(b"data: ") == 3
    for _ in range(2):
        with pytest.raises(UpstreamFailed):
            await reply.read()


@pytest.mark.parametrize(
    ("fault", "tail"),
    [
        ("no_finish", b'"delta":{"content":"one"},"finish_reason":null}]}\n\n'),
        ("error", b'{"error":{"message":"scripted error","type":"scripted_error","param":null,"code":null}}\n\n'),
        ("no_done", b'"finish_reason":"stop"}]}\n\n'),
        ("double_done", b'"finish_reason":"stop"}]}\n\ndata: [DONE]\n\ndata: [DONE]\n\n'),
    ],
)
async def test_a_stream_may_end_badly(fault: str, tail: bytes) -> None:
    """Without a finish reason, with an error object, without [DONE] or with two: an end all the same."""
    script = {"fault": fault, "fault_after": 2}
    assert b"".join(await reads(ScriptedProvider().send(body(script), stream=True))).endswith(tail)


async def test_a_chunk_may_be_no_json() -> None:
    """The bad chunk comes where it was asked for, and the stream goes on."""
    script = {"fault": "bad_json", "fault_after": 2}
    events = b"".join(await reads(ScriptedProvider().send(body(script), stream=True))).split(b"\n\n")
    assert events[2] == b'data: {"id": "chatcmpl-scripted", "choices": ['
    assert events[-2] == b"data: [DONE]"


@pytest.mark.parametrize("how", ["close", "fail"])
@pytest.mark.parametrize(
    "script",
    [
        {"fault": "silence", "fault_after": 2},
        {"fault": "no_head"},
        {"head_delay_ms": 60_000},
        {"first_delay_ms": 60_000},
        {"raw": ["data: x"], "fault": "silence"},
    ],
)
async def test_silence_ends_when_the_caller_gives_up(script: Json, how: str) -> None:
    """A call that says nothing wakes by `close` or `fail` alone, and is counted as cancelled."""
    provider = ScriptedProvider()
    reply = provider.send(body(script), stream=True)

    async def consume() -> None:
        await reply.head()
        await reads(reply)

    waiting = asyncio.ensure_future(consume())
    await asyncio.sleep(0.02)
    assert provider.open_calls == 1
    reply.close() if how == "close" else reply.fail(UpstreamTimeout("too late"))
    with pytest.raises(UpstreamFailed if how == "close" else UpstreamTimeout):
        await waiting
    reply.close()
    assert (provider.open_calls, provider.cancelled_calls) == (0, 1)


@pytest.mark.parametrize("fault", ["cut", "silence", "error", "bad_json"])
async def test_a_unary_answer_may_fail_half_way(fault: str) -> None:
    """Half the body and then a cut or silence, half the body alone, or an error object with status 200."""
    reply = ScriptedProvider().send(body({"fault": fault}), stream=False)
    assert (await reply.head()).status == 200
    piece = await reply.read()
    if fault == "error":
        assert json.loads(piece)["error"]["type"] == "scripted_error"
    else:
        with pytest.raises(json.JSONDecodeError):
            json.loads(piece)
    if fault == "cut":
        with pytest.raises(UpstreamFailed):
            await reply.read()
    elif fault == "silence":
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reply.read(), 0.02)
        reply.close()
    else:
        assert await reply.read() == b""


async def test_a_body_may_be_given_verbatim() -> None:
    """Reads as text, reads as bytes, or one body, with any status and content type."""
    send = ScriptedProvider().send
    assert await reads(send(body({"raw": ["da", "", "ta: é\n"]}), stream=True)) == [b"da", "ta: é\n".encode()]
    hostile = base64.b64encode(b"\xff\x00").decode()
    assert await reads(send(body({"raw_base64": [hostile]}), stream=True)) == [b"\xff\x00"]
    reply = send(body({"raw_body": "<html>", "status": 502, "content_type": "text/html"}), stream=False)
    assert await reply.head() == Head(502, "text/html", None)
    assert await reads(reply) == [b"<html>"]


# the provider


async def test_a_request_overrides_the_defaults_field_by_field() -> None:
    """What the request does not script follows the provider's defaults, exact bytes included."""
    provider = ScriptedProvider(Script(text="default", finish_reason="length", raw_base64=None))
    answer = json.loads((await reads(provider.send(body({"text": "own"}), stream=False)))[0])
    assert (answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]) == ("own", "length")
    answer = json.loads((await reads(provider.send(body(), stream=False)))[0])
    assert answer["choices"][0]["message"]["content"] == "default"


async def test_bodies_are_recorded_only_on_request() -> None:
    """By default nothing of a request is kept; recording keeps the bodies as they came."""
    quiet, recording = ScriptedProvider(), ScriptedProvider(record=True)
    for provider in (quiet, recording):
        await reads(provider.send(body(), stream=False))
        await provider.close()
    assert (list(quiet.received), list(recording.received)) == ([], [body()])


async def test_calls_are_counted() -> None:
    """A call is open until it is read to its end or closed; only the latter before the end is a cancel."""
    provider = ScriptedProvider()
    first, second = provider.send(body(), stream=True), provider.send(body(), stream=True)
    assert provider.open_calls == 2
    await reads(first)
    first.close()
    await second.read()
    second.close()
    second.close()
    assert (provider.open_calls, provider.cancelled_calls) == (0, 1)
