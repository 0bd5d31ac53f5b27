"""Deadlines that expire at each stage of a call."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import grpc.aio
import pytest
from worldrouter.v1 import raw_chat_pb2

pytestmark = pytest.mark.slow

EXPIRED = grpc.StatusCode.DEADLINE_EXCEEDED
Answer = raw_chat_pb2.CreateRawCompletionResponse
SOON_S = 0.1


def chunk(text: bytes) -> Any:
    return raw_chat_pb2.StreamRawCompletionResponse(chunks=raw_chat_pb2.CompletionChunks(chunk_json=[text]))


async def forever() -> None:
    await asyncio.sleep(60)


async def test_a_deadline_in_the_past_starts_no_handler(link: Any) -> None:
    """With a negative timeout the call is over before a handler sees it."""
    for outcome in (await link.unary(timeout=-1), await link.streamed(timeout=-1)):
        assert (outcome.raised, outcome.code, outcome.details) == ("AioRpcError", EXPIRED, "Deadline Exceeded")
    assert link.servicer.begun == 0


@pytest.mark.parametrize("sent_initial", [False, True])
async def test_before_the_response(link: Any, sent_initial: bool) -> None:
    """A deadline in a unary handler gives DEADLINE_EXCEEDED on time and cancels it, before or after metadata."""

    async def handle(request: Any, context: Any) -> Any:
        if sent_initial:
            await context.send_initial_metadata((("i", "1"),))
        assert 0 < context.time_remaining() < SOON_S * 2
        await forever()

    link.servicer.unary = handle
    began_s = time.monotonic()
    outcome = await link.unary(timeout=SOON_S)
    assert SOON_S * 0.9 < time.monotonic() - began_s < SOON_S + 0.5
    assert (outcome.raised, outcome.code, outcome.details) == ("AioRpcError", EXPIRED, "Deadline Exceeded")
    assert outcome.trailing == {}
    if link.in_process or not sent_initial:  # over a socket it depends on what the client hears first
        assert outcome.initial == ({"i": ["1"]} if sent_initial else {})
    assert isinstance(await link.servicer.next_end(), asyncio.CancelledError)


async def test_while_nobody_awaits(link: Any) -> None:
    """A deadline passes whether or not anybody waits, and is then found when the call is awaited."""

    async def handle(request: Any, context: Any) -> Any:
        await forever()

    link.servicer.unary = handle
    call = link.create(timeout=SOON_S)
    assert isinstance(await link.servicer.next_end(), asyncio.CancelledError)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is EXPIRED
    assert 0 <= call.time_remaining() < 0.002


@pytest.mark.parametrize("sent", [0, 2])
@pytest.mark.parametrize("sent_initial", [False, True])
async def test_between_messages(link: Any, sent: int, sent_initial: bool) -> None:
    """A deadline during a pending read raises there, after all messages sent before, and stops the handler."""

    async def handle(request: Any, context: Any) -> Any:
        if sent_initial:
            await context.send_initial_metadata((("i", "1"),))
        for number in range(sent):
            yield chunk(b"%d" % number)
        await forever()

    link.servicer.stream = handle
    outcome = await link.streamed(timeout=SOON_S)
    assert (outcome.raised, outcome.code, outcome.details) == ("AioRpcError", EXPIRED, "Deadline Exceeded")
    assert outcome.messages == tuple(b"%d" % number for number in range(sent))
    assert outcome.initial == ({"i": ["1"]} if sent_initial else {})
    assert isinstance(await link.servicer.next_end(), asyncio.CancelledError)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("style", ["read", "iterate"])
async def test_with_messages_unread(link: Any, finished: bool, style: str) -> None:
    """A deadline drops what was not read, even when the handler has finished; its trailers arrive then."""

    async def handle(request: Any, context: Any) -> Any:
        for number in range(3):
            yield chunk(b"%d" % number)
        context.set_trailing_metadata((("t", "1"),))
        if not finished:
            await forever()

    link.servicer.stream = handle
    call = link.open(timeout=SOON_S)
    read = call.read if style == "read" else aiter(call).__anext__
    assert (await read()).chunks.chunk_json == [b"0"]
    assert (await link.servicer.next_end() is None) is finished
    await asyncio.sleep(SOON_S * 1.5)
    assert call.done()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read()
    assert caught.value.code() is EXPIRED
    assert tuple(await call.trailing_metadata()) == ((("t", "1"),) if finished else ())


@pytest.mark.parametrize("timeout_s", [0, -1])
async def test_no_time_at_all(inner: Any, timeout_s: float) -> None:
    """In-process, a timeout of zero has passed when the call is made."""
    call = inner.create(timeout=timeout_s)
    assert call.done()
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    await asyncio.sleep(0.01)
    assert inner.servicer.begun == 0


async def test_after_the_last_message(link: Any) -> None:
    """A deadline that passes when all is read changes nothing."""

    async def handle(request: Any, context: Any) -> Any:
        yield chunk(b"1")

    async def unary(request: Any, context: Any) -> Any:
        return Answer(body=b"1")

    link.servicer.stream, link.servicer.unary = handle, unary
    call, whole = link.open(timeout=SOON_S), link.create(timeout=SOON_S)
    await whole
    assert (await link.rest(call)).code is grpc.StatusCode.OK
    await asyncio.sleep(SOON_S * 1.5)
    assert await call.code() is await whole.code() is grpc.StatusCode.OK


async def test_a_full_window_does_not_hold_it_up(link: Any) -> None:
    """A handler that waits for its reader is stopped by the deadline as well."""

    async def handle(request: Any, context: Any) -> Any:
        while True:
            yield chunk(b"x" * 50_000)

    link.servicer.stream = handle
    call = link.open(timeout=SOON_S)
    assert await call.read() is not grpc.aio.EOF
    assert isinstance(await link.servicer.next_end(), BaseException)
    await asyncio.sleep(SOON_S)
    assert await call.code() is EXPIRED


async def test_a_handler_that_goes_on_does_not_hold_up_its_client(link: Any) -> None:
    """A client gets DEADLINE_EXCEEDED on time though the handler cleans up or ignores its cancellation."""
    let_go = asyncio.Event()

    async def unary(request: Any, context: Any) -> Any:
        try:
            await forever()
        except asyncio.CancelledError:
            await let_go.wait()
        return Answer(body=b"late")

    async def stream(request: Any, context: Any) -> Any:
        try:
            yield chunk(b"1")
            await forever()
        finally:
            await let_go.wait()

    link.servicer.unary, link.servicer.stream = unary, stream
    for outcome in await asyncio.gather(link.unary(timeout=SOON_S), link.streamed(timeout=SOON_S)):
        assert outcome.code is EXPIRED
    assert link.servicer.ended.empty()
    let_go.set()
    await link.servicer.next_end()
    await link.servicer.next_end()
