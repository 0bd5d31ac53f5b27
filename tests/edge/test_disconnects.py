"""Clients that go away, stall, or are merely slow."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psutil
import pytest
from worldrouter.v1 import raw_chat_pb2, raw_chat_pb2_grpc

from edge.connection import Exchange

pytestmark = pytest.mark.slow

TIMES = 50
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\nContent-Length: %d\r\n\r\n"
STREAM = b'{"stream":true}'


@pytest.fixture(params=["grpc", "inprocess", "relay"])
def transport(request: pytest.FixtureRequest) -> str:
    """All of this holds whatever the channel is."""
    return str(request.param)


async def silent(core: Any, context: Any) -> None:
    """Wait for an upstream that never answers."""
    await core.admit(context)
    await asyncio.sleep(30)


async def gone_unary(core: Any, client: Any) -> None:
    """A whole answer is awaited."""

    async def create(request: Any, context: Any) -> None:
        await silent(core, context)

    core.create = create
    await client.post(b"{}")


async def gone_before_headers(core: Any, client: Any) -> None:
    """A stream is awaited that has not begun."""

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        await silent(core, context)
        yield

    core.stream = stream
    await client.post(STREAM)


async def gone_in_silence(core: Any, client: Any) -> None:
    """A stream has begun and pauses."""

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        yield core.chunks(b"{}")
        await asyncio.sleep(30)

    core.stream = stream
    await client.post(STREAM)
    await client.head()
    assert await client.chunk() == b"data: {}\n\n"


async def gone_in_mid_stream(core: Any, client: Any) -> None:
    """A stream is in full flow."""

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        while True:
            yield core.chunks(b'{"text":"' + b"x" * 200 + b'"}')
            await asyncio.sleep(0.001)

    core.stream = stream
    await client.post(STREAM)
    await client.head()
    await client.chunk()


def leave(client: Any, *, politely: bool) -> None:
    """Close the connection (FIN), or break it (RST)."""
    if politely:
        client.writer.close()
    else:
        client.abort()


async def calls_seen(core: Any, count: int) -> None:
    """Wait until the core has seen so many calls."""
    async with asyncio.timeout(10):
        while len(core.calls) < count:  # noqa: ASYNC110 - a poll keeps the fake simple
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("phase", [gone_unary, gone_before_headers, gone_in_silence, gone_in_mid_stream])
async def test_a_client_that_goes_away_ends_its_call(
    core: Any, edge: Any, connect: Any, phase: Callable[[Any, Any], Awaitable[None]]
) -> None:
    """In every phase the call, which would go on for 30 s, ends within one, and nothing is left behind."""
    process = psutil.Process()
    before: tuple[int, int] | None = None
    for count in range(1, TIMES + 1):
        client = await connect(edge)
        await phase(core, client)
        await calls_seen(core, count)
        gone_s = time.monotonic()
        leave(client, politely=count % 2 == 0)
        async with asyncio.timeout(1):
            await core.calls[-1].ended.wait()
        assert time.monotonic() - gone_s < 1
        if before is None:
            await asyncio.sleep(0.05)
            before = len(asyncio.all_tasks()), process.num_fds()
    await asyncio.sleep(0.05)
    assert (len(asyncio.all_tasks()), process.num_fds()) <= before
    assert edge.metric("worldrouter_edge_in_flight") == 0
    assert edge.metric("worldrouter_edge_client_disconnects_total") == TIMES


async def test_http_10_cannot_end_its_side_and_wait(core: Any, start_edge: Any, connect: Any) -> None:
    """It looks like a client that is gone, and is treated so, unless its answer is there at once."""
    edge = await start_edge(client_stall_s=0.5)
    client = await connect(edge)
    await client.post(b"{}", version="1.0")
    client.writer.write_eof()
    assert (await client.head())[0] == 200
    client = await connect(edge)
    await gone_unary(core, client)
    client = await connect(edge)
    await client.post(b"{}", version="1.0")
    await calls_seen(core, 3)
    client.writer.write_eof()
    with contextlib.suppress(ConnectionResetError):
        assert await client.rest() == b""
    await asyncio.wait_for(core.calls[2].ended.wait(), 1)
    assert not core.calls[1].ended.is_set()


async def test_a_client_gone_at_once(core: Any, edge: Any, connect: Any) -> None:
    """A client that sends its request and goes in one breath leaves no call running."""

    async def create(request: Any, context: Any) -> None:
        await silent(core, context)

    core.create = create
    for count in range(TIMES):
        client = await connect(edge)
        client.writer.write(HEAD % 2 + b"{}")
        for _ in range(count % 8):  # so that it is gone before, while and after its handler starts
            await asyncio.sleep(0)
        leave(client, politely=count % 16 < 8)
    await asyncio.sleep(0.3)
    assert all(call.ended.is_set() for call in core.calls)
    assert edge.metric("worldrouter_edge_in_flight") == 0


async def test_a_client_gone_before_its_call(edge: Any, connect: Any) -> None:
    """A call that is made for a connection already lost is cancelled on the spot."""
    client = await connect(edge)
    await asyncio.sleep(0.05)
    (connection,) = edge.server._watch.connections
    client.abort()
    await asyncio.sleep(0.05)
    stub = raw_chat_pb2_grpc.RawChatServiceStub(edge.channel)
    call: Any = stub.CreateRawCompletion(raw_chat_pb2.CreateRawCompletionRequest())
    connection.begin(Exchange(call))
    with pytest.raises(asyncio.CancelledError):
        await call
    assert call.cancelled()


async def test_a_client_gone_within_its_body(core: Any, edge: Any, connect: Any) -> None:
    """A client that goes away while it sends its body never reaches the core, and is no error of ours."""
    for _ in range(TIMES):
        client = await connect(edge)
        await client.send(HEAD % 100 + b"{")
        await asyncio.sleep(0)
        client.abort()
    await asyncio.sleep(0.1)
    assert core.calls == []
    assert edge.metric("worldrouter_edge_in_flight") == 0
    assert edge.metric("worldrouter_edge_requests_total", route="none", status="500", stream="false") == 0


def small_window(edge: Any) -> socket.socket:
    """A connection whose kernel takes little that is not read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", edge.server.port))
    client.setblocking(False)
    return client


def flood(core: Any) -> list[int]:
    """Let the core stream large chunks as fast as it can; what is returned grows with each."""
    sent: list[int] = []

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        message = core.chunks(b'"' + b"x" * 20_000 + b'"')
        while True:
            yield message
            sent.append(1)

    core.stream = stream
    return sent


async def test_a_stalled_reader_of_a_stream_is_cut(core: Any, start_edge: Any) -> None:
    """A client that reads nothing of a stream in flow is disconnected and its call cancelled."""
    edge = await start_edge(client_stall_s=0.5)
    flood(core)
    with small_window(edge) as client:
        client.sendall(HEAD % len(STREAM) + STREAM)
        await calls_seen(core, 1)
        async with asyncio.timeout(20):  # on a busy machine; the limit that was set is half a second
            await core.calls[0].ended.wait()
            while edge.metric("worldrouter_edge_in_flight"):  # noqa: ASYNC110 - the core may hear of it before
                await asyncio.sleep(0.01)


async def test_a_stalled_reader_stops_the_core(core: Any, edge: Any) -> None:
    """What a client does not read is not fetched from the core either: at most a few buffers of it."""
    sent = flood(core)
    with small_window(edge) as client:
        client.sendall(HEAD % len(STREAM) + STREAM)
        await asyncio.sleep(0.3)
        at_first = len(sent)
        await asyncio.sleep(0.3)
        assert len(sent) == at_first
        assert at_first * 20_000 < 1_000_000


async def test_a_stalled_reader_of_a_whole_answer_is_cut(core: Any, start_edge: Any) -> None:
    """A client that does not take a large answer is disconnected."""
    edge = await start_edge(client_stall_s=0.5)

    async def create(request: Any, context: Any) -> Any:
        answer = await core.answer(request, context)
        answer.body = b"x" * 5_000_000
        return answer

    core.create = create
    with small_window(edge) as client:
        client.sendall(HEAD % 2 + b"{}")
        await calls_seen(core, 1)
        await asyncio.sleep(0.2)
        watch = edge.server._watch
        assert len(watch.connections) == 1
        async with asyncio.timeout(5):
            while watch.connections:  # noqa: ASYNC110 - nothing announces it
                await asyncio.sleep(0.02)


async def test_a_stalled_reader_that_says_goodbye(core: Any, start_edge: Any) -> None:
    """A client that closes its side while its buffers are full may still read, so it is cut as any that stalls."""
    edge = await start_edge(client_stall_s=0.5)
    flood(core)
    with small_window(edge) as client:
        client.sendall(HEAD % len(STREAM) + STREAM)
        await asyncio.sleep(0.3)
        client.shutdown(socket.SHUT_WR)
        await asyncio.wait_for(core.calls[0].ended.wait(), 5)


async def test_a_slow_reader_is_served(core: Any, start_edge: Any) -> None:
    """A client that reads slowly but steadily, far slower than the core sends, is not cut."""
    edge = await start_edge(client_stall_s=0.5)
    flood(core)
    loop = asyncio.get_running_loop()
    with small_window(edge) as client:
        client.sendall(HEAD % len(STREAM) + STREAM)
        until_s = time.monotonic() + 1.5
        while time.monotonic() < until_s:
            assert await loop.sock_recv(client, 3000)
            await asyncio.sleep(0.1)
        assert not core.calls[0].ended.is_set()


async def test_a_client_that_waits_is_not_stalled(core: Any, start_edge: Any, connect: Any) -> None:
    """A silent upstream is no fault of the client: it is not cut, however long the pause."""
    client = await connect(await start_edge(client_stall_s=0.2, comment_interval_s=60))

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        yield core.chunks(b"{}")
        await asyncio.sleep(0.8)
        yield core.finished()

    core.stream = stream
    await client.post(STREAM)
    await client.head()
    assert [await client.chunk() for _ in range(3)] == [b"data: {}\n\n", b"data: [DONE]\n\n", b""]
