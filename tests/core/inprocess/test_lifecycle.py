"""How servers stop and channels close."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import grpc.aio
import pytest
from worldrouter.v1 import raw_chat_pb2

READY, SHUTDOWN = grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.SHUTDOWN
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
Answer = raw_chat_pb2.CreateRawCompletionResponse


def chunk(text: bytes) -> Any:
    return raw_chat_pb2.StreamRawCompletionResponse(chunks=raw_chat_pb2.CompletionChunks(chunk_json=[text]))


class Work:
    """Handlers that take a while."""

    def __init__(self, link: Any, work_s: float) -> None:
        link.servicer.unary, link.servicer.stream = self.unary, self.stream
        self.work_s = work_s
        self.begun = asyncio.Event()

    async def unary(self, request: Any, context: Any) -> Any:
        self.begun.set()
        await asyncio.sleep(self.work_s)
        return Answer(body=b"1")

    async def stream(self, request: Any, context: Any) -> Any:
        yield chunk(b"1")
        await asyncio.sleep(self.work_s)
        yield chunk(b"2")


async def wait(call: Any) -> Any:
    return await call


async def under_way(link: Any, work_s: float) -> tuple[asyncio.Future[Any], asyncio.Future[Any]]:
    """A unary call and a read of a stream, both pending for as long as their handlers work."""
    work = Work(link, work_s)
    stream = link.open()
    await stream.read()
    calls = asyncio.ensure_future(wait(link.create())), asyncio.ensure_future(stream.read())
    await work.begun.wait()
    return calls


async def expect_error(awaitable: Any, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await awaitable
    assert caught.value.code() is code


@pytest.mark.parametrize("grace_s", [None, 0, 0.05])
async def test_stop_cancels_what_outlasts_its_grace(link: Any, grace_s: float | None) -> None:
    """Calls that are under way when the grace is over end with UNAVAILABLE, their handlers with CancelledError."""
    calls = await under_way(link, 60)
    began_s = time.monotonic()
    await link.server.stop(grace_s)
    assert time.monotonic() - began_s < (grace_s or 0) + 0.5
    for call in calls:
        await expect_error(call, UNAVAILABLE)
    for _ in calls:
        assert isinstance(await link.servicer.next_end(), asyncio.CancelledError)
    assert not await link.server.wait_for_termination(1)


async def test_stop_waits_for_what_ends_in_time(link: Any) -> None:
    """Within the grace calls end as they would; new ones are refused with UNAVAILABLE all the while."""
    if link.kind == "relay":
        pytest.skip("a stream does not know of the grace: what it carries is refused by its handlers, after a drain")
    calls = await under_way(link, 0.1)
    stopping = asyncio.ensure_future(link.server.stop(5))
    await asyncio.sleep(0.02)
    await expect_error(link.create(), UNAVAILABLE)
    await expect_error(link.open().read(), UNAVAILABLE)
    assert (await calls[0]).body == b"1"
    assert (await calls[1]).chunks.chunk_json == [b"2"]
    await stopping
    await expect_error(link.create(), UNAVAILABLE)


async def test_a_stopped_server_has_let_go_of_its_handlers(inner: Any) -> None:
    """In-process, `stop` returns when the handlers have ended, and again at once."""
    calls = await under_way(inner, 60)
    assert await inner.server.wait_for_termination(0.01)
    await inner.server.stop(None)
    assert inner.servicer.ended.qsize() == 2
    assert not inner.server.calls
    await inner.server.stop(1)
    await asyncio.wait(calls)
    assert all(call.exception() for call in calls)


async def test_a_stop_that_hurries_another(inner: Any) -> None:
    """A second `stop` with less grace ends the first."""
    calls = await under_way(inner, 60)
    first = asyncio.ensure_future(inner.server.stop(60))
    await asyncio.sleep(0)
    await inner.server.stop(None)
    await asyncio.wait_for(first, 1)
    for call in calls:
        await expect_error(call, UNAVAILABLE)


async def test_stop_cancels_a_handler_that_ignored_its_client(inner: Any) -> None:
    """A handler that outlives its cancelled call is cancelled once more."""
    started = asyncio.Event()

    async def handle(request: Any, context: Any) -> Any:
        started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(60)

    inner.servicer.unary = handle
    call = inner.create()
    await started.wait()
    call.cancel()
    await asyncio.sleep(0)
    await asyncio.wait_for(inner.server.stop(None), 1)
    assert isinstance(await inner.servicer.next_end(), asyncio.CancelledError)


@pytest.mark.parametrize("grace_s", [None, 0.05])
async def test_close_cancels_what_outlasts_its_grace(link: Any, grace_s: float | None) -> None:
    """A channel that is closed cancels its calls as their clients would; it takes no new ones."""
    calls = await under_way(link, 60)
    closing = asyncio.ensure_future(link.channel.close(grace_s))
    await asyncio.sleep(0)
    with pytest.raises(grpc.aio.UsageError):
        link.create()
    await closing
    for call in calls:
        with pytest.raises(asyncio.CancelledError):
            await call
    for _ in calls:
        assert isinstance(await link.servicer.next_end(), asyncio.CancelledError)
    await link.channel.close()


async def test_close_waits_for_what_ends_in_time(link: Any) -> None:
    """Within the grace calls end as they would."""
    Work(link, 0.05)
    call = link.create()
    waiting = asyncio.ensure_future(wait(call))
    await link.channel.close(5)
    assert (await waiting).body == b"1"


async def test_closing_one_channel_leaves_others_alone(inner: Any) -> None:
    """A server's channels are independent."""
    Work(inner, 0.05)
    call = inner.create()
    async with inner.server.channel() as other:
        assert other.get_state() is READY
    assert (await call).body == b"1"


async def test_the_state_of_a_channel(inner: Any) -> None:
    """A channel is READY from the start and SHUTDOWN once it is closed; waiters learn of it."""
    channel = inner.channel
    assert channel.get_state(try_to_connect=True) is READY
    await channel.channel_ready()
    await channel.wait_for_state_change(SHUTDOWN)
    waiting = asyncio.ensure_future(channel.wait_for_state_change(READY))
    await asyncio.sleep(0)
    assert not waiting.done()
    await channel.close()
    await asyncio.wait_for(waiting, 1)
    assert channel.get_state() is SHUTDOWN
    with pytest.raises(grpc.aio.UsageError):
        await channel.channel_ready()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(channel.wait_for_state_change(SHUTDOWN), 0.01)


async def test_what_an_in_process_server_has_not(inner: Any) -> None:
    """Ports, client-streaming and call credentials are refused; `start` does nothing."""
    await inner.server.start()
    for refused in (
        lambda: inner.server.add_insecure_port("localhost:0"),
        lambda: inner.server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(b"", b"")])),
        inner.channel.stream_unary("/a/b"),
        inner.channel.stream_stream("/a/b"),
    ):
        with pytest.raises(NotImplementedError):
            refused()
    with pytest.raises(grpc.aio.UsageError):
        inner.create(credentials=grpc.access_token_call_credentials("token"))
