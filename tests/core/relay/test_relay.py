"""One stream that carries many calls: what each comes to, in what order, and how they let one another live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from worldrouter.v1 import raw_chat_pb2, relay_pb2

from core.chat.exchange import MAX_ANSWER_BYTES
from tests.core.relay.conftest import STREAM, begin, chunk, credit

WINDOW_BYTES = 65_536
UNAVAILABLE, CANCELLED, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED = 14, 1, 4, 8, 12


async def test_the_core_greets(core: Any) -> None:
    """The first response says which core it is and what it takes."""
    caller = await core.open()
    assert caller.hello == relay_pb2.RelayHello(core_id="core_1", max_call_count=4096, max_request_byte_count=262_144)
    caller.rpc.cancel()


async def test_a_call_of_each_kind(core: Any) -> None:
    """A call has initial metadata, its messages and an end."""
    caller = await core.open()
    await caller.send(begin(1, body=b"one"), begin(2, STREAM, body=b"two"))
    whole, stream = await caller.end_of(1), await caller.end_of(2)
    assert whole.initial == {"x-request-id": b"r"}
    assert raw_chat_pb2.CreateRawCompletionResponse.FromString(whole.messages[0]).body == b"one"
    assert stream.initial == {}
    assert stream.messages == [chunk(b"two").SerializeToString()] * 2
    assert whole.end.code == stream.end.code == 0
    await caller.rpc.done_writing()
    with pytest.raises(EOFError):
        await caller.read()
    assert await caller.rpc.code() is grpc.StatusCode.OK


async def test_a_thousand_calls_at_once(core: Any) -> None:
    """They run side by side, all end, and need far fewer messages than there are calls."""
    together = asyncio.Barrier(1_000)

    async def create(request: Any, context: Any) -> Any:
        await together.wait()
        return await core.chats.echo(request, context)

    core.chats.create = create
    caller = await core.open()
    await caller.send(*(begin(number, body=b"%d" % number) for number in range(1, 1_001)))
    for number in range(1, 1_001):
        call = await caller.end_of(number)
        assert raw_chat_pb2.CreateRawCompletionResponse.FromString(call.messages[0]).body == b"%d" % number
        assert call.end.code == 0
    assert caller.response_count < 200
    caller.rpc.cancel()


async def test_the_largest_answer_that_is_charged_arrives(core: Any) -> None:
    """With room for what is said of it."""
    body = bytes(MAX_ANSWER_BYTES + 64 * 1024)

    async def create(request: Any, context: Any) -> Any:
        return raw_chat_pb2.CreateRawCompletionResponse(body=body)

    core.chats.create = create
    caller = await core.open()
    await caller.send(begin(1))
    call = await caller.end_of(1)
    assert call.end.code == 0
    assert len(call.messages[0]) > len(body)
    caller.rpc.cancel()


async def test_an_error_carries_all_there_is(core: Any) -> None:
    """Code, details and trailing metadata, binary ones among them, arrive; initial metadata were never sent."""

    async def create(request: Any, context: Any) -> Any:
        await context.abort(
            grpc.StatusCode.UNAVAILABLE, "not now", (("grpc-status-details-bin", b"\x00\xff"), ("x-request-id", "r"))
        )

    core.chats.create = create
    caller = await core.open()
    await caller.send(begin(1))
    call = await caller.end_of(1)
    assert (call.initial, call.messages, call.end.code, call.end.details) == (None, [], UNAVAILABLE, "not now")
    assert {entry.key: entry.value for entry in call.end.trailing_metadata} == {
        "grpc-status-details-bin": b"\x00\xff",
        "x-request-id": b"r",
    }
    caller.rpc.cancel()


async def test_a_slow_reader_beside_fast_ones(core: Any) -> None:
    """A call that nobody reads stops at the window, while another on the stream runs on; credit lets it go on."""
    sent = 0

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        nonlocal sent
        if request.body != b"slow":
            for _ in range(2):
                yield chunk(b"fast")
            return
        for _ in range(500):
            yield chunk(b"x" * 1_000)
            sent += 1

    core.chats.stream = stream
    caller = await core.open()
    await caller.send(begin(1, STREAM, body=b"slow"))
    for number in range(2, 200):
        await caller.send(begin(number, STREAM))
        assert (await caller.end_of(number)).end.code == 0
    assert sent <= WINDOW_BYTES // 1_000
    weight = len(chunk(b"x" * 1_000).SerializeToString()) + 128
    assert len(caller.calls[1].messages) == -(-WINDOW_BYTES // weight)
    read = 0
    while caller.calls[1].end is None:
        if len(caller.calls[1].messages) > read:
            await caller.send(credits=[credit(1, weight * (len(caller.calls[1].messages) - read))])
            read = len(caller.calls[1].messages)
        await caller.read()
    assert len(caller.calls[1].messages) == 500
    caller.rpc.cancel()


async def test_a_message_larger_than_the_window(core: Any) -> None:
    """It arrives whole, and so does what follows once it is read."""

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        yield chunk(b"x" * 3 * WINDOW_BYTES)
        yield chunk(b"y")

    core.chats.stream = stream
    caller = await core.open()
    await caller.send(begin(1, STREAM))
    while not caller.calls or not caller.calls[1].messages:
        await caller.read()
    await caller.send(credits=[credit(1, len(caller.calls[1].messages[0]) + 128)])
    assert len((await caller.end_of(1)).messages) == 2
    caller.rpc.cancel()


@pytest.mark.parametrize("method", ["create", "stream"])
async def test_the_caller_cancels(core: Any, method: str) -> None:
    """The handler ends at once, the others on the stream do not notice."""
    begun = asyncio.Event()

    async def create(request: Any, context: Any) -> Any:
        begun.set()
        await asyncio.sleep(60)

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        while True:
            begun.set()
            yield chunk(b"x" * 1_000)

    core.chats.create, core.chats.stream = create, stream
    caller = await core.open()
    await caller.send(begin(1) if method == "create" else begin(1, STREAM))
    await begun.wait()
    await caller.send(cancelled=[1])
    await core.idle()
    core.chats.create = core.chats.echo
    await caller.send(begin(2))
    assert (await caller.end_of(2)).end.code == 0
    caller.rpc.cancel()


@pytest.mark.parametrize("how", ["cancel", "half-close", "channel"])
async def test_a_stream_that_ends_takes_its_calls_with_it(core: Any, how: str) -> None:
    """Handlers are cancelled when the caller goes away, whichever way it does."""

    async def create(request: Any, context: Any) -> Any:
        await asyncio.sleep(60)

    core.chats.create = create
    caller = await core.open()
    await caller.send(*(begin(number) for number in range(1, 11)))
    while core.chats.running < 10:  # noqa: ASYNC110 - what it waits for has no event
        await asyncio.sleep(0.005)
    if how == "cancel":
        caller.rpc.cancel()
    elif how == "half-close":
        await caller.rpc.done_writing()
    else:
        await core.channel.close()
    await core.idle()
    if how == "half-close":
        assert (await caller.end_of(10)).end.code == CANCELLED


async def test_a_deadline(core: Any) -> None:
    """A call that takes longer than it may ends with DEADLINE_EXCEEDED, as does one with no time at all."""

    async def create(request: Any, context: Any) -> Any:
        assert context.time_remaining() < 0.06
        await asyncio.sleep(60)

    core.chats.create = create
    caller = await core.open()
    await caller.send(begin(1, timeout=Duration(nanos=50_000_000)), begin(2, timeout=Duration(seconds=-5)))
    assert (await caller.end_of(2)).end.code == DEADLINE_EXCEEDED
    assert (await caller.end_of(1)).end.code == DEADLINE_EXCEEDED
    await core.idle()
    caller.rpc.cancel()


async def test_a_drain(core: Any) -> None:
    """Streams are told of a drain, new ones too; what runs ends; `closed` waits for callers that leave."""
    goes_on = asyncio.Event()

    async def create(request: Any, context: Any) -> Any:
        await goes_on.wait()
        return await core.chats.echo(request, context)

    core.chats.create = create
    caller = await core.open()
    await caller.send(begin(1))
    core.servicer.drain()
    while not caller.draining:
        await caller.read()
    assert (await core.open()).draining
    closed = asyncio.create_task(core.servicer.closed(5))
    goes_on.set()
    assert (await caller.end_of(1)).end.code == 0
    assert not closed.done()
    await caller.rpc.done_writing()
    await core.channel.close()
    await asyncio.wait_for(closed, 2)


async def test_a_caller_that_stays_does_not_hold_up_the_end(core: Any) -> None:
    """`closed` gives up after its timeout."""
    caller = await core.open()
    await asyncio.wait_for(core.servicer.closed(0.05), 2)
    caller.rpc.cancel()


async def test_handlers_see_the_streams_peer(core: Any) -> None:
    """What a handler asks about the transport is answered by the stream it came over."""
    seen = []

    async def create(request: Any, context: Any) -> Any:
        seen.append((context.peer(), context.auth_context()["security_level"], context.invocation_metadata()))
        return await core.chats.echo(request, context)

    core.chats.create = create
    caller = await core.open()
    entry = relay_pb2.RelayMetadataEntry(key="authorization", value=b"Bearer x")
    await caller.send(begin(1, metadata=[entry]))
    await caller.end_of(1)
    assert seen == [("unix:", [b"TSI_SECURITY_NONE"], (("authorization", "Bearer x"),))]
    caller.rpc.cancel()
