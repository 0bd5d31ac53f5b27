"""What calls, whole and streamed, give to the client and to the handler."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from worldrouter.v1 import raw_chat_pb2, raw_chat_pb2_grpc

OK = grpc.StatusCode.OK
Answer = raw_chat_pb2.CreateRawCompletionResponse
Message = raw_chat_pb2.StreamRawCompletionResponse


def chunk(text: bytes) -> Any:
    return Message(chunks=raw_chat_pb2.CompletionChunks(chunk_json=[text]))


async def three(request: Any, context: Any) -> Any:
    await context.send_initial_metadata((("i", "1"),))
    for text in (b"1", b"2", b"3"):
        yield chunk(text)
    context.set_trailing_metadata((("t", "1"),))


async def test_a_unary_call_gives_response_metadata_and_status(link: Any) -> None:
    """A unary call gives its response, both kinds of metadata, OK, and the same again when awaited again."""

    async def handle(request: Any, context: Any) -> Any:
        await context.send_initial_metadata((("i", "1"), ("i-bin", b"\x00\xff")))
        context.set_trailing_metadata((("t", "2"),))
        return Answer(body=request.body + b"!")

    link.servicer.unary = handle
    call = link.create(b"hello")
    assert (await call).body == b"hello!"
    assert await call.initial_metadata() == grpc.aio.Metadata(("i", "1"), ("i-bin", b"\x00\xff"))
    assert await call.trailing_metadata() == grpc.aio.Metadata(("t", "2"))
    assert (await call.code(), await call.details(), await call.debug_error_string()) == (OK, "", "")
    assert (call.done(), call.cancelled(), call.cancel(), call.time_remaining()) == (True, False, False, None)
    assert (await call).body == b"hello!"
    await call.wait_for_connection()


async def test_a_call_runs_although_nobody_awaits_it(link: Any) -> None:
    """A handler begins when the call is made, not when it is awaited."""

    async def handle(request: Any, context: Any) -> Any:
        return Answer(body=b"done")

    link.servicer.unary = handle
    call = link.create()
    assert await link.servicer.next_end() is None
    assert (await call).body == b"done"


async def test_several_may_wait_for_one_call(link: Any) -> None:
    """The response, the status and the metadata can be awaited at the same time."""

    async def handle(request: Any, context: Any) -> Any:
        await asyncio.sleep(0.02)
        return Answer(body=b"done")

    link.servicer.unary = handle
    call = link.create()

    async def response() -> Any:
        return (await call).body

    got = await asyncio.gather(response(), response(), call.code(), call.initial_metadata(), call.trailing_metadata())
    assert got == [b"done", b"done", OK, grpc.aio.Metadata(), grpc.aio.Metadata()]


async def test_a_stream_is_iterated(link: Any) -> None:
    """Iteration gives all messages and stops for good."""
    link.servicer.stream = three
    call = link.open()
    assert [message.chunks.chunk_json[0] async for message in call] == [b"1", b"2", b"3"]
    assert [message async for message in call] == []
    assert await call.initial_metadata() == grpc.aio.Metadata(("i", "1"))
    assert await call.trailing_metadata() == grpc.aio.Metadata(("t", "1"))
    assert (await call.code(), call.done(), call.cancelled(), call.cancel()) == (OK, True, False, False)


async def test_a_stream_is_read(link: Any) -> None:
    """`read` gives all messages, then EOF again and again."""
    link.servicer.stream = three
    call = link.open()
    assert [(await call.read()).chunks.chunk_json[0] for _ in range(3)] == [b"1", b"2", b"3"]
    assert [await call.read() for _ in range(2)] == [grpc.aio.EOF, grpc.aio.EOF]


async def test_the_two_ways_of_reading_are_not_mixed(link: Any) -> None:
    """Iterating after `read`, or the other way round, is a UsageError."""
    link.servicer.stream = three
    read, iterated = link.open(), link.open()
    await read.read()
    with pytest.raises(grpc.aio.UsageError):
        aiter(read)
    await anext(aiter(iterated))
    with pytest.raises(grpc.aio.UsageError):
        await iterated.read()
    read.cancel()
    iterated.cancel()


async def test_initial_metadata_come_before_the_first_message(link: Any) -> None:
    """Initial metadata that a handler sends are there while it still prepares its first message."""
    ready = asyncio.Event()

    async def handle(request: Any, context: Any) -> Any:
        await context.send_initial_metadata((("i", "1"),))
        await ready.wait()
        yield chunk(b"1")

    link.servicer.stream = handle
    call = link.open()
    assert await asyncio.wait_for(call.initial_metadata(), 5) == grpc.aio.Metadata(("i", "1"))
    await call.wait_for_connection()
    assert not call.done()
    ready.set()
    assert (await call.read()).chunks.chunk_json == [b"1"]
    assert await call.read() is grpc.aio.EOF


async def test_the_first_message_implies_initial_metadata(link: Any) -> None:
    """Without `send_initial_metadata` they come, empty, with the first message; sending them then is too late."""

    async def handle(request: Any, context: Any) -> Any:
        yield chunk(b"1")
        with pytest.raises(grpc.aio.UsageError):
            await context.send_initial_metadata((("i", "1"),))
        yield chunk(b"2")

    link.servicer.stream = handle
    call = link.open()
    assert await call.initial_metadata() == grpc.aio.Metadata()
    outcome = await link.rest(call)
    assert (outcome.messages, outcome.code) == ((b"1", b"2"), OK)


async def test_a_stream_is_done_when_its_last_message_is_read(link: Any) -> None:
    """While there are messages to read a stream is not done, even if its handler is."""
    link.servicer.stream = three
    call = link.open()
    assert await link.servicer.next_end() is None
    for _ in range(3):
        await asyncio.sleep(0.01)
        assert not call.done()
        await call.read()
    assert await asyncio.wait_for(call.code(), 5) is OK
    assert call.done()


async def test_an_empty_stream_ends_at_once(link: Any) -> None:
    """A handler that yields nothing gives EOF, its metadata and OK."""

    async def handle(request: Any, context: Any) -> Any:
        context.set_trailing_metadata((("t", "1"),))
        return
        yield

    link.servicer.stream = handle
    outcome = await link.streamed()
    assert (outcome.messages, outcome.code, outcome.initial, outcome.trailing) == ((), OK, {}, {"t": ["1"]})


async def test_a_long_stream_arrives_whole_and_in_order(link: Any) -> None:
    """More messages than any window holds arrive in order, with slow and quick readers."""

    async def handle(request: Any, context: Any) -> Any:
        for number in range(300):
            yield chunk(b"%d" % number)

    link.servicer.stream = handle
    assert (await link.streamed()).messages == tuple(b"%d" % number for number in range(300))
    call = link.open()
    got = []
    async for message in call:
        got.append(message.chunks.chunk_json[0])
        if len(got) % 50 == 0:
            await asyncio.sleep(0.005)
    assert got == [b"%d" % number for number in range(300)]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_done_callbacks_get_the_call(link: Any, when: str) -> None:
    """A done callback is called once with the call, at once if the call is done already."""

    async def handle(request: Any, context: Any) -> Any:
        return Answer()

    link.servicer.unary = handle
    seen: list[Any] = []
    call = link.create()
    if when == "before":
        call.add_done_callback(seen.append)
    await call
    if when == "after":
        call.add_done_callback(seen.append)
    await asyncio.sleep(0)
    assert seen == [call]


async def test_a_handler_may_write_its_messages(link: Any) -> None:
    """`context.write` and `yield` go together, in order."""

    async def handle(request: Any, context: Any) -> Any:
        await context.write(chunk(b"1"))
        yield chunk(b"2")
        for number in range(3, 100):
            await context.write(chunk(b"%d" % number))

    link.servicer.stream = handle
    assert (await link.streamed()).messages == tuple(b"%d" % number for number in range(1, 100))


async def test_a_handler_learns_of_its_call(link: Any) -> None:
    """The context tells metadata, time left, transport, and what was set so far."""
    seen: dict[str, Any] = {}

    async def handle(request: Any, context: Any) -> Any:
        context.add_done_callback(lambda it: seen.update(callback=(it is context, it.done())))
        seen["metadata"] = [pair for pair in context.invocation_metadata() if pair[0] != "user-agent"]
        seen["time"] = context.time_remaining()
        seen["identity"] = (context.peer_identities(), context.peer_identity_key())
        seen["peer"] = context.peer()
        seen["transport"] = context.auth_context()["transport_security_type"]
        seen["before"] = (context.code(), context.details(), context.trailing_metadata())
        context.set_code(grpc.StatusCode.ABORTED)
        context.set_details("d")
        context.set_trailing_metadata([("t", "1")])
        seen["after"] = (context.code(), context.details(), context.trailing_metadata())
        seen["state"] = (context.done(), context.cancelled())
        context.set_compression(grpc.Compression.NoCompression)
        context.disable_next_message_compression()
        return Answer()

    link.servicer.unary = handle
    outcome = await link.unary(metadata=(("a", "1"), ("b-bin", b"2")), timeout=30)
    assert (outcome.code, outcome.details, outcome.trailing) == (grpc.StatusCode.ABORTED, "d", {"t": ["1"]})
    assert seen["metadata"] == [("a", "1"), ("b-bin", b"2")]
    assert 29 < seen["time"] < 31  # a socket rounds it up
    assert seen["before"] == (None, "", ())
    assert seen["after"] == (grpc.StatusCode.ABORTED, "d", (("t", "1"),))
    assert seen["state"] == (False, False)
    await asyncio.sleep(0.02)
    assert seen["callback"] == (True, True)
    if link.in_process:
        assert (seen["peer"], seen["transport"], seen["identity"]) == ("inprocess:", [b"inprocess"], (None, None))


async def test_the_client_knows_the_time_left(link: Any) -> None:
    """`time_remaining` counts down from the timeout."""
    link.servicer.stream = three
    call = link.open(timeout=30)
    assert 29 < call.time_remaining() < 30.1
    call.cancel()


async def test_an_unknown_method_is_unimplemented(link: Any) -> None:
    """A path without a handler gives UNIMPLEMENTED, whole and streamed."""
    for path in ("/worldrouter.v1.RawChatService/Nope", "/nope", "nope"):
        unary = link.channel.unary_unary(path, Answer.SerializeToString, Answer.FromString)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unary(Answer())
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        stream = link.channel.unary_stream(path, Answer.SerializeToString, Answer.FromString)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream(Answer()).read()
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_raw_bytes_pass_where_a_stub_has_no_codec(link: Any) -> None:
    """A stub without serializers sends and gets a message's bytes; bytes that are none give UNKNOWN."""

    async def handle(request: Any, context: Any) -> Any:
        assert isinstance(request, raw_chat_pb2.CreateRawCompletionRequest)
        return Answer(body=request.body)

    link.servicer.unary = handle
    method = link.channel.unary_unary("/worldrouter.v1.RawChatService/CreateRawCompletion")
    request = raw_chat_pb2.CreateRawCompletionRequest(body=b"raw")
    assert await method(request.SerializeToString()) == Answer(body=b"raw").SerializeToString()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await method(b"\xff\xff")
    assert caught.value.code() is grpc.StatusCode.UNKNOWN
    assert (caught.value.details() or "").startswith("Unexpected <class 'google.protobuf.message.DecodeError'>: ")


async def test_health_is_served(link: Any) -> None:
    """grpc's own health servicer works, `Watch` with its writes included."""
    stub = health_pb2_grpc.HealthStub(link.channel)
    state = health_pb2.HealthCheckResponse
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == state.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="nope"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == state.SERVING
    reading = asyncio.ensure_future(watch.read())
    await link.health.set("", state.NOT_SERVING)
    assert (await reading).status == state.NOT_SERVING
    watch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watch.read()


async def test_what_a_servicer_lacks_is_unimplemented(inner: Any) -> None:
    """The plain functions that generated servicers have by default answer as their code and details say."""
    servicer = raw_chat_pb2_grpc.RawChatServiceServicer()
    raw_chat_pb2_grpc.add_RawChatServiceServicer_to_server(servicer, inner.server)
    for outcome in (await inner.unary(), await inner.streamed()):
        assert outcome.code is grpc.StatusCode.UNIMPLEMENTED
        assert "Method not implemented!" in outcome.details
