"""Cancels from the client's side, at each await."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from worldrouter.v1 import raw_chat_pb2

CANCELLED = grpc.StatusCode.CANCELLED
LOCALLY = "Locally cancelled by application!"
Answer = raw_chat_pb2.CreateRawCompletionResponse


def chunk(text: bytes) -> Any:
    return raw_chat_pb2.StreamRawCompletionResponse(chunks=raw_chat_pb2.CompletionChunks(chunk_json=[text]))


class Stage:
    """Handlers that send something and then hang, until they are cancelled."""

    def __init__(self, sent: int, *, initial: bool = True) -> None:
        self.reached = asyncio.Event()
        self.sent = sent
        self.initial = initial

    async def unary(self, request: Any, context: Any) -> Any:
        if self.initial:
            await context.send_initial_metadata((("i", "1"),))
        await self.hang()

    async def stream(self, request: Any, context: Any) -> Any:
        if self.initial:
            await context.send_initial_metadata((("i", "1"),))
        for number in range(self.sent):
            yield chunk(b"%d" % number)
        await self.hang()

    async def hang(self) -> None:
        self.reached.set()
        await asyncio.sleep(60)


async def wait(call: Any) -> Any:
    return await call


async def expect_cancelled(link: Any, call: Any, initial: dict[str, Any]) -> None:
    """The call is cancelled by its client, and its handler has seen it."""
    outcome = await link.outcome(call, (), "")
    assert (outcome.code, outcome.details, outcome.trailing) == (CANCELLED, LOCALLY, {})
    assert outcome.initial == initial
    assert (call.done(), call.cancelled(), call.cancel()) == (True, True, False)
    assert isinstance(await link.servicer.next_end(), asyncio.CancelledError | GeneratorExit)


@pytest.mark.parametrize("how", ["call", "task"])
async def test_while_the_response_is_awaited(link: Any, how: str) -> None:
    """`call.cancel()` and cancelling the waiting task both cancel the call; the waiter gets CancelledError."""
    stage = Stage(0, initial=False)
    link.servicer.unary = stage.unary
    call = link.create()
    waiting = asyncio.ensure_future(wait(call))
    await stage.reached.wait()
    assert call.cancel() if how == "call" else waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await expect_cancelled(link, call, {})
    with pytest.raises(asyncio.CancelledError):
        await call


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_while_a_connection_is_awaited(link: Any, kind: str) -> None:
    """Cancelling the task that waits for the connection cancels the call."""
    stage = Stage(0, initial=False)
    link.servicer.unary, link.servicer.stream = stage.unary, stage.stream
    call = link.create() if kind == "unary" else link.open()
    waiting = asyncio.ensure_future(call.wait_for_connection())
    await stage.reached.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await expect_cancelled(link, call, {})


async def test_a_cancelled_iteration_has_ended(link: Any) -> None:
    """Who iterates once more after its task was cancelled finds the end, not the same error again."""
    stage = Stage(0)
    link.servicer.stream = stage.stream
    messages = aiter(link.open())
    waiting = asyncio.ensure_future(anext(messages, None))
    await stage.reached.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await anext(messages, None) is None


async def test_while_other_things_are_awaited(link: Any) -> None:
    """Whoever waits for status or metadata gets them when the call is cancelled; waiting for connection raises."""
    stage = Stage(0, initial=False)
    link.servicer.unary = stage.unary
    call = link.create()
    waiting = [
        asyncio.ensure_future(awaited)
        for awaited in (call.code(), call.details(), call.initial_metadata(), call.trailing_metadata())
    ]
    connecting = asyncio.ensure_future(call.wait_for_connection())
    await stage.reached.wait()
    call.cancel()
    got = await asyncio.gather(*waiting)
    assert got == [CANCELLED, LOCALLY, grpc.aio.Metadata(), grpc.aio.Metadata()]
    with pytest.raises(asyncio.CancelledError):
        await connecting


async def test_waiting_for_the_status_may_be_given_up(link: Any) -> None:
    """Cancelling a task that waits for the status leaves the call alone."""
    stage = Stage(1)
    link.servicer.stream = stage.stream
    call = link.open()
    waiting = [asyncio.ensure_future(call.code()), asyncio.ensure_future(call.initial_metadata())]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert not call.done()
    assert (await call.read()).chunks.chunk_json == [b"0"]
    call.cancel()


async def test_at_once(link: Any) -> None:
    """A call that is cancelled as soon as it is made is cancelled; in-process its handler never begins."""
    stage = Stage(0)
    link.servicer.unary, link.servicer.stream = stage.unary, stage.stream
    unary, read, iterated = link.create(), link.open(), link.open()
    assert unary.cancel()
    assert read.cancel()
    assert iterated.cancel()
    for awaitable in (wait(unary), read.read(), anext(aiter(iterated))):
        with pytest.raises(asyncio.CancelledError):
            await awaitable
    assert await unary.details() == await read.details() == LOCALLY
    await asyncio.sleep(0.02)
    assert link.servicer.begun == 0 or not link.in_process


@pytest.mark.parametrize("sent", [0, 2])
@pytest.mark.parametrize("how", ["call", "task"])
@pytest.mark.parametrize("style", ["read", "iterate"])
async def test_while_a_read_is_pending(link: Any, sent: int, how: str, style: str) -> None:
    """A pending read raises CancelledError, whether the call or the reading task is cancelled."""
    stage = Stage(sent)
    link.servicer.stream = stage.stream
    call = link.open()
    await call.initial_metadata()
    read = call.read if style == "read" else aiter(call).__anext__
    for number in range(sent):
        assert (await read()).chunks.chunk_json == [b"%d" % number]
    pending = asyncio.ensure_future(read())
    await stage.reached.wait()
    await asyncio.sleep(0)
    assert call.cancel() if how == "call" else pending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pending
    await expect_cancelled(link, call, {"i": ["1"]})
    with pytest.raises((asyncio.CancelledError, StopAsyncIteration)):
        await read()


@pytest.mark.parametrize("unread", [0, 2])
@pytest.mark.parametrize("style", ["read", "iterate"])
async def test_between_reads(link: Any, unread: int, style: str) -> None:
    """A cancel while nobody reads stops the handler at once and drops what was not read."""
    stage = Stage(1 + unread)
    link.servicer.stream = stage.stream
    call = link.open()
    read = call.read if style == "read" else aiter(call).__anext__
    await read()
    await stage.reached.wait()
    assert call.cancel()
    assert isinstance(await link.servicer.next_end(), asyncio.CancelledError)
    with pytest.raises(asyncio.CancelledError):
        await read()
    assert await call.details() == LOCALLY


async def test_while_the_handler_waits_for_its_reader(link: Any) -> None:
    """A handler that is stuck at its `yield` is closed."""

    async def handle(request: Any, context: Any) -> Any:
        while True:
            yield chunk(b"x" * 50_000)

    link.servicer.stream = handle
    call = link.open()
    await call.read()
    await asyncio.sleep(0.03)
    call.cancel()
    assert isinstance(await link.servicer.next_end(), asyncio.CancelledError | GeneratorExit | grpc.aio.BaseError)


async def test_after_the_handler_has_finished(link: Any) -> None:
    """As long as messages are unread a call can be cancelled; after the last it cannot."""

    async def handle(request: Any, context: Any) -> Any:
        yield chunk(b"1")
        yield chunk(b"2")

    link.servicer.stream = handle
    unread, read = link.open(), link.open()
    await unread.read()
    assert await link.servicer.next_end() is None
    await asyncio.sleep(0.01)
    assert unread.cancel()
    with pytest.raises(asyncio.CancelledError):
        await unread.read()
    assert [await read.read() is grpc.aio.EOF for _ in range(3)] == [False, False, True]
    assert (read.cancel(), read.cancelled(), await read.code()) == (False, False, grpc.StatusCode.OK)


async def test_callbacks_learn_of_a_cancel(link: Any) -> None:
    """Done callbacks on both sides run when the call is cancelled."""
    stage = Stage(0)
    handler_done = asyncio.Event()

    async def handle(request: Any, context: Any) -> Any:
        context.add_done_callback(lambda it: handler_done.set())
        await stage.hang()

    link.servicer.unary = handle
    call = link.create()
    seen: list[bool] = []
    call.add_done_callback(lambda it: seen.append(it.cancelled()))
    await stage.reached.wait()
    call.cancel()
    assert seen == [True]
    await asyncio.wait_for(handler_done.wait(), 5)


async def test_by_a_timer(link: Any) -> None:
    """`loop.call_later(seconds, call.cancel)` ends a pending read."""
    stage = Stage(1)
    link.servicer.stream = stage.stream
    call = link.open()
    await call.read()
    asyncio.get_running_loop().call_later(0.02, call.cancel)
    with pytest.raises(asyncio.CancelledError):
        await call.read()
    await expect_cancelled(link, call, {"i": ["1"]})


async def test_by_a_timeout_around_it(link: Any) -> None:
    """A timeout around an awaited call cancels the call and is a TimeoutError, not a CancelledError."""
    stage = Stage(0, initial=False)
    link.servicer.unary = stage.unary
    call = link.create()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await call
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await expect_cancelled(link, call, {})


async def test_what_a_handler_does_about_it(link: Any) -> None:
    """A handler that swallows its cancellation, or cleans up slowly, does not hold up its client."""
    let_go = asyncio.Event()
    stage = Stage(0)

    async def swallow(request: Any, context: Any) -> Any:
        try:
            await stage.hang()
        except asyncio.CancelledError:
            await let_go.wait()
        return Answer(body=b"late")

    link.servicer.unary = swallow
    call = link.create()
    waiting = asyncio.ensure_future(wait(call))
    await stage.reached.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(waiting, 1)
    let_go.set()
    assert await link.servicer.next_end() is None
    assert await call.code() is CANCELLED
