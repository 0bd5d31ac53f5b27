"""Message sizes around the limit."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from worldrouter.v1 import raw_chat_pb2

LIMIT_BYTES = 1000
TOO_MUCH = grpc.StatusCode.RESOURCE_EXHAUSTED


def body_of(size_bytes: int) -> bytes:
    """A body that makes a request or a unary response as large as that."""
    empty = raw_chat_pb2.CreateRawCompletionRequest(body=b"x" * size_bytes)
    return b"x" * (2 * size_bytes - empty.ByteSize())


def message_of(size_bytes: int) -> Any:
    """A streamed message as large as that."""

    def of(length: int) -> Any:
        chunks = raw_chat_pb2.CompletionChunks(chunk_json=[b"x" * length])
        return raw_chat_pb2.StreamRawCompletionResponse(chunks=chunks)

    message = of(2 * size_bytes - of(size_bytes).ByteSize())
    assert message.ByteSize() == size_bytes
    return message


@pytest.fixture(params=("in-process", "in-process, copied", "unix socket", "tls"))
async def limited(request: pytest.FixtureRequest, open_link: Any) -> AsyncIterator[Any]:
    """Each kind of link, with a limit on messages."""
    async with open_link(request.param, max_message_bytes=LIMIT_BYTES) as opened:
        yield opened


SIZES = (LIMIT_BYTES - 1, LIMIT_BYTES, LIMIT_BYTES + 1, 5 * LIMIT_BYTES)


async def test_requests(limited: Any) -> None:
    """A request above the limit is refused before its handler sees it."""
    seen: list[int] = []

    async def unary(request: Any, context: Any) -> Any:
        seen.append(request.ByteSize())
        return raw_chat_pb2.CreateRawCompletionResponse()

    async def stream(request: Any, context: Any) -> Any:
        seen.append(request.ByteSize())
        yield message_of(10)

    limited.servicer.unary, limited.servicer.stream = unary, stream
    for size_bytes in SIZES:
        seen.clear()
        for outcome in (await limited.unary(body_of(size_bytes)), await limited.streamed(body_of(size_bytes))):
            if size_bytes > LIMIT_BYTES:
                text = f"SERVER: Received message larger than max ({size_bytes} vs. {LIMIT_BYTES})"
                assert (outcome.code, outcome.details, outcome.initial) == (TOO_MUCH, text, {})
            else:
                assert outcome.code is grpc.StatusCode.OK
        assert seen == ([] if size_bytes > LIMIT_BYTES else [size_bytes] * 2)


async def test_unary_responses(limited: Any) -> None:
    """A response above the limit ends the call behind its initial metadata, without the trailers."""
    size_bytes = 0

    async def handle(request: Any, context: Any) -> Any:
        await context.send_initial_metadata((("i", "1"),))
        context.set_trailing_metadata((("t", "1"),))
        return raw_chat_pb2.CreateRawCompletionResponse(body=body_of(size_bytes))

    limited.servicer.unary = handle
    for size_bytes in SIZES:
        outcome = await limited.unary()
        if size_bytes > LIMIT_BYTES:
            text = f"CLIENT: Received message larger than max ({size_bytes} vs. {LIMIT_BYTES})"
            expected = (TOO_MUCH, text, {"i": ["1"]}, {})
            assert (outcome.code, outcome.details, outcome.initial, outcome.trailing) == expected
        else:
            assert outcome.code is grpc.StatusCode.OK


async def test_streamed_responses(limited: Any) -> None:
    """A message above the limit ends the call behind those before it, and stops the handler."""
    size_bytes = 0

    async def handle(request: Any, context: Any) -> Any:
        await context.send_initial_metadata((("i", "1"),))
        yield message_of(10)
        yield message_of(size_bytes)
        while True:
            yield message_of(11)

    limited.servicer.stream = handle
    for size_bytes in SIZES:
        call = limited.open()
        assert (await call.read()).ByteSize() == 10
        if size_bytes <= LIMIT_BYTES:
            assert (await call.read()).ByteSize() == size_bytes
            call.cancel()
        else:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is TOO_MUCH
            text = f"CLIENT: Received message larger than max ({size_bytes} vs. {LIMIT_BYTES})"
            assert text in (caught.value.details() or "")
        assert isinstance(await limited.servicer.next_end(), BaseException)


async def test_writing_too_much(limited: Any) -> None:
    """A message above the limit that is written ends the call as one that is yielded."""

    async def handle(request: Any, context: Any) -> Any:
        await context.write(message_of(10))
        await context.write(message_of(LIMIT_BYTES + 1))
        while True:
            await context.write(message_of(10))
        yield

    limited.servicer.stream = handle
    outcome = await limited.streamed()
    assert (outcome.code, len(outcome.messages)) == (TOO_MUCH, 1)
    assert isinstance(await limited.servicer.next_end(), BaseException)


async def test_without_a_limit_messages_may_be_large(inner: Any) -> None:
    """In-process there is no limit unless one is set, not even gRPC's default of 4 MiB."""

    async def handle(request: Any, context: Any) -> Any:
        return raw_chat_pb2.CreateRawCompletionResponse(body=request.body)

    inner.servicer.unary = handle
    body = b"x" * (5 * 1024 * 1024)
    assert (await inner.unary(body)).messages == (body,)
