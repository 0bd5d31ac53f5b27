"""Streams: the framing, when headers leave, keep-alive comments, and how a stream ends."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import pytest

from edge.stream import events

STREAM = b'{"stream":true}'


@pytest.fixture(params=["grpc", "inprocess", "relay"])
def transport(request: pytest.FixtureRequest) -> str:
    """All of this holds whatever the channel is."""
    return str(request.param)


async def test_headers_of_a_stream(edge: Any, http: aiohttp.ClientSession) -> None:
    """A stream is an uncompressed, uncached, unbuffered event stream with the core's request id."""
    async with http.post(f"{edge.url}/v1/chat/completions", data=STREAM) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert answer.headers["x-request-id"] == "01k9zz2w8x5qv3d7m4t6c1b0ra"
        assert answer.headers["x-worldrouter-overhead-ms"] == "1.234"
        assert "Content-Encoding" not in answer.headers


async def test_the_whole_text_of_a_stream(edge: Any, http: aiohttp.ClientSession) -> None:
    """Every chunk is one data line, then [DONE]; no id, no event field."""
    async with http.post(f"{edge.url}/v1/chat/completions", data=STREAM) as answer:
        text = await answer.read()
    assert text == (b'data: {"n":1}\n\ndata: {"n":2}\n\ndata: {"n":3}\n\ndata: {"n":4}\n\ndata: [DONE]\n\n')


async def test_one_message_is_one_write(edge: Any, connect: Any) -> None:
    """What one gRPC message holds leaves as one HTTP chunk, and nothing else does."""
    client = await connect(edge)
    await client.post(STREAM)
    await client.head()
    assert await client.chunk() == b'data: {"n":1}\n\n'
    assert await client.chunk() == b'data: {"n":2}\n\ndata: {"n":3}\n\n'
    assert await client.chunk() == b'data: {"n":4}\n\n'
    assert await client.chunk() == b"data: [DONE]\n\n"
    assert await client.chunk() == b""


async def test_chunks_are_not_held_back(core: Any, edge: Any, connect: Any) -> None:
    """A chunk arrives while the core is still at work on the next one."""
    more = asyncio.Event()

    async def slow(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        yield core.started()
        yield core.chunks(b"{}")
        await more.wait()
        yield core.finished()

    core.stream = slow
    client = await connect(edge)
    await client.post(STREAM)
    await client.head()
    assert await client.chunk() == b"data: {}\n\n"
    more.set()
    assert await client.chunk() == b"data: [DONE]\n\n"


async def test_http_1_0_has_no_chunks(edge: Any, connect: Any) -> None:
    """A client of HTTP/1.0 gets the bare event stream, ended by the connection's end."""
    client = await connect(edge)
    await client.post(STREAM, version="1.0")
    _, headers = await client.head()
    assert "transfer-encoding" not in headers
    assert (await client.rest()).endswith(b'data: {"n":4}\n\ndata: [DONE]\n\n')


def test_line_breaks_in_json_do_not_break_events() -> None:
    """White space of a chunk's JSON never becomes a line of its own."""
    assert events([b'{"a":\n1}', b'{"b":\r\n2}']) == b'data: {"a": 1}\n\ndata: {"b":  2}\n\n'
    assert events([b"{\r}"]) == b"data: { }\n\n"


async def test_a_failure_before_the_first_chunk_keeps_its_status(
    core: Any, edge: Any, http: aiohttp.ClientSession
) -> None:
    """Nothing is committed by the started event alone."""

    async def fail_late(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        yield core.started()
        await core.fail(context, grpc.StatusCode.UNAVAILABLE, "UPSTREAM_ERROR", "The upstream failed.")

    core.stream = fail_late
    async with http.post(f"{edge.url}/v1/chat/completions", data=STREAM) as answer:
        assert answer.status == 502
        assert (await answer.json())["error"]["code"] == "upstream_error"


async def test_a_failure_after_the_first_chunk_is_an_event(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """The error stands in the stream, with the id that the headers gave, and no [DONE] follows."""

    async def break_off(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        yield core.started()
        yield core.chunks(b"{}")
        await core.fail(context, grpc.StatusCode.UNAVAILABLE, "UPSTREAM_ERROR", "The upstream broke off.")

    core.stream = break_off
    async with http.post(f"{edge.url}/v1/chat/completions", data=STREAM) as answer:
        text = await answer.text()
    first, error, end = text.split("\n\n")
    assert (first, end) == ("data: {}", "")
    assert json.loads(error.removeprefix("data: ")) == {
        "error": {
            "message": "The upstream broke off.",
            "type": "server_error",
            "param": None,
            "code": "upstream_error",
            "request_id": "01k9zz2w8x5qv3d7m4t6c1b0ra",
        }
    }
    assert edge.metric("worldrouter_edge_stream_errors_total") == 1


async def test_a_core_that_dies_in_mid_stream_is_an_event(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """A lost core ends the stream with service_unavailable under the request's own id, without [DONE]."""

    async def endless(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        yield core.chunks(b"{}")
        await asyncio.sleep(60)

    core.stream = endless
    async with http.post(f"{edge.url}/v1/chat/completions", data=STREAM) as answer:
        await answer.content.readany()
        await core.server.stop(0)
        error = json.loads((await answer.content.read()).removeprefix(b"data: "))["error"]
    assert error["code"] == "service_unavailable"
    assert error["request_id"] == "01k9zz2w8x5qv3d7m4t6c1b0ra"


@pytest.mark.parametrize("chunk_count", [0, 1])
async def test_status_ok_without_finished_is_never_done(
    core: Any, edge: Any, http: aiohttp.ClientSession, chunk_count: int
) -> None:
    """A stream that the core ends without its finished event has not succeeded."""

    async def unfinished(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        for _ in range(chunk_count):
            yield core.chunks(b"{}")

    core.stream = unfinished
    async with http.post(f"{edge.url}/v1/chat/completions", data=STREAM) as answer:
        text = await answer.text()
        assert answer.status == (200 if chunk_count else 500)
    assert '"internal_error"' in text
    assert "[DONE]" not in text


async def test_done_waits_for_the_status(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """A finished event followed by an error is a failed stream: complete if and only if OK."""

    async def fail_last(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        yield core.chunks(b"{}")
        yield core.finished()
        await core.fail(context, grpc.StatusCode.INTERNAL, "INTERNAL_ERROR", "x")

    core.stream = fail_last
    async with http.post(f"{edge.url}/v1/chat/completions", data=STREAM) as answer:
        text = await answer.text()
    assert "[DONE]" not in text
    assert '"internal_error"' in text


async def test_a_bug_in_mid_stream_is_an_event(
    core: Any,
    edge: Any,
    http: aiohttp.ClientSession,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not even an exception that nobody expected ends a stream as if it were whole; its trace is logged."""

    def broken_once(*args: object) -> bytes:
        monkeypatch.undo()
        raise KeyError("planted")

    async def break_off(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        yield core.chunks(b"{}")
        await asyncio.sleep(0.05)
        monkeypatch.setattr("edge.stream.events", broken_once)
        yield core.chunks(b"{}")
        yield core.finished()

    core.stream = break_off
    async with http.post(f"{edge.url}/v1/chat/completions", data=STREAM) as answer:
        text = await answer.text()
    assert '"internal_error"' in text
    assert "[DONE]" not in text
    (record,) = (found for found in caplog.records if found.name == "edge.errors")
    assert record.exc_info is not None


async def test_silence_from_the_start_is_filled(core: Any, start_edge: Any, connect: Any) -> None:
    """Comments begin before the first chunk, with the headers, and go on until there is one."""

    async def late(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        await asyncio.sleep(0.75)
        yield core.started()
        yield core.chunks(b"{}")
        yield core.finished()

    core.stream = late
    client = await connect(await start_edge(comment_interval_s=0.3))
    began_s = time.monotonic()
    await client.post(STREAM)
    status, headers = await client.head()
    assert 0.25 < time.monotonic() - began_s < 0.6
    assert (status, headers["x-request-id"]) == (200, "01k9zz2w8x5qv3d7m4t6c1b0ra")
    assert "x-worldrouter-overhead-ms" not in headers
    assert [await client.chunk() for _ in range(5)] == [
        b": ping\n\n",
        b": ping\n\n",
        b"data: {}\n\n",
        b"data: [DONE]\n\n",
        b"",
    ]


async def test_silence_between_chunks_is_filled(core: Any, start_edge: Any, connect: Any) -> None:
    """A comment comes after each interval without a chunk; a stream that speaks gets none."""

    async def pausing(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        for pause_s in (0.2, 0.2, 0.45):
            yield core.chunks(b"{}")
            await asyncio.sleep(pause_s)
        yield core.chunks(b"{}")
        yield core.finished()

    core.stream = pausing
    client = await connect(await start_edge(comment_interval_s=0.3))
    await client.post(STREAM)
    await client.head()
    text = b""
    while chunk := await client.chunk():
        text += chunk
    assert text == b"data: {}\n\n" * 3 + b": ping\n\n" + b"data: {}\n\ndata: [DONE]\n\n"


async def test_comments_do_not_hide_a_failure(core: Any, start_edge: Any, connect: Any) -> None:
    """After a comment has committed the status, a failure is an event."""

    async def fail_late(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        await asyncio.sleep(0.2)
        await core.fail(context, grpc.StatusCode.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT", "No first token.")
        yield

    core.stream = fail_late
    client = await connect(await start_edge(comment_interval_s=0.1))
    await client.post(STREAM)
    assert (await client.head())[0] == 200
    text = b""
    while chunk := await client.chunk():
        text += chunk
    assert text.startswith(b": ping\n\n")
    assert b'"upstream_timeout"' in text
    assert b"[DONE]" not in text


async def test_no_status_is_committed_before_the_core_named_the_request(
    core: Any, start_edge: Any, connect: Any
) -> None:
    """A keep-alive waits for the core's request id, so that a refusal that is slow keeps its status."""

    async def refuse_late(request: Any, context: Any) -> AsyncIterator[Any]:
        await asyncio.sleep(0.3)
        await core.fail(context, grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY", "Wrong key.")
        yield

    core.stream = refuse_late
    client = await connect(await start_edge(comment_interval_s=0.1))
    await client.post(STREAM)
    status, headers = await client.head()
    assert status == 401
    assert headers["x-request-id"] == "01k9zz2w8x5qv3d7m4t6c1b0ra"


async def test_many_streams_at_once(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """Concurrent streams do not mix."""

    async def echo(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        number = json.loads(request.body)["n"]
        for index in range(20):
            yield core.chunks(b"[%d,%d]" % (number, index))
            await asyncio.sleep(0)
        yield core.finished()

    async def ask(number: int) -> None:
        body = b'{"stream":true,"n":%d}' % number
        async with http.post(f"{edge.url}/v1/chat/completions", data=body) as answer:
            text = await answer.text()
        wanted = [f"data: [{number},{index}]" for index in range(20)]
        assert text.split("\n\n") == [*wanted, "data: [DONE]", ""]

    core.stream = echo
    await asyncio.gather(*map(ask, range(50)))
