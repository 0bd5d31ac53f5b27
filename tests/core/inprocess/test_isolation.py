"""What only a channel within the process can get wrong: sharing, leaking, running ahead."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import tracemalloc
import weakref
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

import grpc
import grpc.aio
import pytest
from worldrouter.v1 import raw_chat_pb2, raw_chat_pb2_grpc

from core.inprocess import InProcessServer

pytestmark = pytest.mark.slow

Request = raw_chat_pb2.CreateRawCompletionRequest
Answer = raw_chat_pb2.CreateRawCompletionResponse
Message = raw_chat_pb2.StreamRawCompletionResponse
outer: ContextVar[str] = ContextVar("outer", default="unset")


def chunk(text: bytes) -> Any:
    return Message(chunks=raw_chat_pb2.CompletionChunks(chunk_json=[text]))


async def test_messages_pass_by_reference_unless_copied(inner: Any) -> None:
    """A request and the responses are the very objects, or with copying equal ones."""
    copied = inner.kind == "in-process, copied"
    seen: list[Any] = []
    response, message = Answer(body=b"1"), chunk(b"1")

    async def unary(request: Any, context: Any) -> Any:
        seen.append(request)
        return response

    async def stream(request: Any, context: Any) -> Any:
        yield message
        await context.write(message)

    inner.servicer.unary, inner.servicer.stream = unary, stream
    request = Request(body=b"q")
    got = await inner.stub.CreateRawCompletion(request)
    assert (seen[0] is not request) is (got is not response) is copied
    assert (seen[0], got) == (request, response)
    for received in [received async for received in inner.open()]:
        assert (received is not message) is copied
        assert received == message


async def test_a_message_of_another_class_is_translated(inner: Any) -> None:
    """A request or response of another class travels as its bytes, as over a socket."""

    async def handle(request: Any, context: Any) -> Any:
        assert type(request) is Request
        return Request(dialect=0, body=b"")

    inner.servicer.unary = handle
    assert type(await inner.stub.CreateRawCompletion(Message())) is Answer
    with pytest.raises(TypeError):
        await inner.stub.CreateRawCompletion(None)


async def test_context_variables_stay_where_they_are_set(inner: Any) -> None:
    """What a handler sets is not seen by its client nor by other calls, and it sees nothing of its client's."""
    seen: list[str] = []

    async def unary(request: Any, context: Any) -> Any:
        seen.append(outer.get())
        outer.set("unary handler")
        return Answer()

    async def stream(request: Any, context: Any) -> Any:
        for _ in range(3):
            seen.append(outer.get())
            outer.set("stream handler")
            yield chunk(b"1")

    inner.servicer.unary, inner.servicer.stream = unary, stream
    outer.set("client")
    await inner.create()
    await inner.create()
    async for _ in inner.open():
        assert outer.get() == "client"
    assert outer.get() == "client"
    assert seen == ["unset", "unset", "unset", "stream handler", "stream handler"]


async def test_a_handler_has_a_task_of_its_own(inner: Any) -> None:
    """`asyncio.current_task()` is the handler's: a timeout in it, or cancelling it, never hits the client."""
    tasks: list[Any] = []

    async def unary(request: Any, context: Any) -> Any:
        tasks.append(asyncio.current_task())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        return Answer()

    async def stream(request: Any, context: Any) -> Any:
        async with asyncio.timeout(60):
            tasks.append(asyncio.current_task())
            yield chunk(b"1")
            tasks.append(asyncio.current_task())
            yield chunk(b"2")

    inner.servicer.unary, inner.servicer.stream = unary, stream
    await inner.create()
    async for _ in inner.open():
        pass
    assert asyncio.current_task() not in tasks
    assert tasks[1] is tasks[2]
    assert {task.get_name().rpartition("/")[2] for task in tasks} == {"CreateRawCompletion", "StreamRawCompletion"}


async def test_a_handler_runs_ahead_of_its_reader_by_a_window(inner: Any) -> None:
    """A handler waits when sixteen messages are unread, and goes on when they are read."""
    sent = 0

    async def handle(request: Any, context: Any) -> Any:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield chunk(b"1")

    inner.servicer.stream = handle
    call = inner.open()
    await asyncio.sleep(0.01)
    assert sent == 16
    for _ in range(15):
        await call.read()
    await asyncio.sleep(0.01)
    assert sent == 16
    await call.read()
    await asyncio.sleep(0.01)
    assert sent == 32
    call.cancel()


async def test_reads_are_serialized(inner: Any) -> None:
    """A second read while one is pending is a UsageError and leaves the first alone."""

    async def handle(request: Any, context: Any) -> Any:
        await asyncio.sleep(0.01)
        yield chunk(b"1")

    inner.servicer.stream = handle
    call = inner.open()
    first = asyncio.ensure_future(call.read())
    await asyncio.sleep(0)
    with pytest.raises(grpc.aio.UsageError):
        await call.read()
    assert (await first).chunks.chunk_json == [b"1"]
    call.cancel()


async def test_a_message_that_meets_a_cancelled_reader(inner: Any) -> None:
    """A message sent in the moment in which its reader is cancelled is dropped with the call."""
    go = asyncio.Event()

    async def handle(request: Any, context: Any) -> Any:
        await go.wait()
        yield chunk(b"1")
        yield chunk(b"2")
        await asyncio.sleep(60)

    inner.servicer.stream = handle
    call = inner.open()
    reading = asyncio.ensure_future(call.read())
    await asyncio.sleep(0.01)
    go.set()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await call.code() is grpc.StatusCode.CANCELLED
    assert isinstance(await inner.servicer.next_end(), asyncio.CancelledError)


async def test_the_handlers_generator_is_closed_before_its_task_ends(inner: Any) -> None:
    """A handler that is cancelled at its `yield` is closed then and there, and may await while it cleans up."""
    cleaned: list[str] = []

    async def handle(request: Any, context: Any) -> Any:
        context.add_done_callback(lambda it: cleaned.append("done"))
        try:
            while True:
                yield chunk(b"1")
        finally:
            await asyncio.sleep(0)
            cleaned.append("cleaned")

    inner.servicer.stream = handle
    call = inner.open()
    await call.read()
    call.cancel()
    await inner.servicer.next_end()
    await asyncio.sleep(0.01)
    assert cleaned == ["cleaned", "done"]


async def test_writing_to_a_client_that_is_gone(inner: Any) -> None:
    """A handler that ignores its cancellation and writes gets an InternalError, so that it cannot spin."""
    raised: list[type] = []

    async def handle(request: Any, context: Any) -> Any:
        yield chunk(b"1")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            try:
                while True:
                    await context.write(chunk(b"2"))
            except grpc.aio.InternalError as error:
                raised.append(type(error))
                raise

    inner.servicer.stream = handle
    call = inner.open()
    await call.read()
    call.cancel()
    assert isinstance(await inner.servicer.next_end(), grpc.aio.InternalError)
    assert len(raised) == 1


async def test_a_call_that_is_dropped_is_cancelled(inner: Any) -> None:
    """A call that nobody holds any more is cancelled, a stream that was left in mid-iteration too."""

    async def unary(request: Any, context: Any) -> Any:
        await asyncio.sleep(60)

    async def stream(request: Any, context: Any) -> Any:
        while True:
            yield chunk(b"1")
            await asyncio.sleep(0)

    inner.servicer.unary, inner.servicer.stream = unary, stream
    call = inner.create()
    call.add_done_callback(lambda it: None)
    await asyncio.sleep(0)
    del call
    assert isinstance(await inner.servicer.next_end(), asyncio.CancelledError)
    async for _ in inner.open():
        break
    assert isinstance(await inner.servicer.next_end(), asyncio.CancelledError | GeneratorExit)
    await asyncio.sleep(0)
    assert not inner.server.calls


async def end_in_every_way(link: Any) -> None:
    """A call of each kind and end."""
    await link.create()
    await link.create(timeout=30)
    for call in (link.create(b"abort"), link.create(metadata=(("Illegal", ""),))):
        with contextlib.suppress(grpc.aio.AioRpcError):
            await call
    for call in (link.open(), link.open(timeout=30), link.open(b"abort")):
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for _ in call:
                pass
    for call in (link.create(b"hang"), link.open(b"hang"), link.open(timeout=30)):
        await asyncio.sleep(0)
        call.add_done_callback(lambda it: None)
        call.cancel()
        await asyncio.sleep(0)
    waiting = asyncio.ensure_future(link.open(b"hang").read())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    link.create(b"hang")


def busy(link: Any) -> None:
    """Give a link handlers for `end_in_every_way`."""

    async def unary(request: Any, context: Any) -> Any:
        context.add_done_callback(lambda it: None)
        await context.send_initial_metadata((("i", "1"),))
        if request.body == b"abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "d", (("t", "1"),))
        if request.body == b"hang":
            await asyncio.sleep(60)
        return Answer()

    async def stream(request: Any, context: Any) -> Any:
        for _ in range(20):
            yield chunk(b"1")
        if request.body == b"abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "d", (("t", "1"),))
        if request.body == b"hang":
            await asyncio.sleep(60)

    link.servicer.unary, link.servicer.stream = unary, stream


async def test_calls_leave_nothing_behind(inner: Any) -> None:
    """However a call ends, nothing of it is left, without the garbage collector's help."""
    busy(inner)
    contexts: list[weakref.ref[Any]] = []
    plain_unary, plain_stream = inner.servicer.unary, inner.servicer.stream

    async def unary(request: Any, context: Any) -> Any:
        contexts.append(weakref.ref(context))
        return await plain_unary(request, context)

    async def stream(request: Any, context: Any) -> Any:
        contexts.append(weakref.ref(context))
        async for message in plain_stream(request, context):
            yield message

    inner.servicer.unary, inner.servicer.stream = unary, stream
    tasks = len(asyncio.all_tasks())
    gc.disable()
    try:
        await end_in_every_way(inner)
        for _ in range(5):
            await asyncio.sleep(0)
        while not inner.servicer.ended.empty():
            inner.servicer.ended.get_nowait()
        assert not inner.server.calls
        assert len(asyncio.all_tasks()) == tasks
        assert len(contexts) >= 8
        assert [context for context in contexts if context() is not None] == []
    finally:
        gc.enable()


async def test_memory_stays_flat(inner: Any) -> None:
    """Hundreds of calls, whole, failed and cancelled, do not grow memory."""
    busy(inner)

    async def some(times: int) -> None:
        for _ in range(times):
            await end_in_every_way(inner)
        while not inner.servicer.ended.empty():
            inner.servicer.ended.get_nowait()
        gc.collect()

    tracemalloc.start()
    try:
        await some(10)
        sizes_bytes = []
        for _ in range(4):
            await some(15)
            sizes_bytes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert min(later - earlier for earlier, later in pairwise(sizes_bytes)) < 1_000  # seven bytes a call


async def test_handlers_may_be_registered_after_the_stub_is_made() -> None:
    """A stub method that had no handler finds one that is registered later, plain or generic."""

    class Servicer(raw_chat_pb2_grpc.RawChatServiceServicer):
        async def CreateRawCompletion(self, request: Any, context: Any) -> Any:  # type: ignore[override]
            return Answer(body=b"registered")

    async def generic(request: bytes, context: Any) -> bytes:
        return request + b"!"

    server = InProcessServer()
    async with server.channel() as channel:
        stub, echo = raw_chat_pb2_grpc.RawChatServiceStub(channel), channel.unary_unary("/any.Service/Echo")
        for awaitable in (stub.CreateRawCompletion(Request()), echo(b"1")):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await awaitable
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        raw_chat_pb2_grpc.add_RawChatServiceServicer_to_server(Servicer(), server)  # type: ignore[abstract]
        methods = {"Echo": grpc.unary_unary_rpc_method_handler(generic)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("any.Service", methods),))
        assert (await stub.CreateRawCompletion(Request())).body == b"registered"
        assert await echo(b"1") == b"1!"


async def test_a_method_is_called_as_what_it_is(inner: Any) -> None:
    """Calling a stream as unary, or the other way round, is UNIMPLEMENTED."""
    service = "/worldrouter.v1.RawChatService"
    unary = inner.channel.unary_unary(f"{service}/StreamRawCompletion", Message.SerializeToString, Message.FromString)
    stream = inner.channel.unary_stream(f"{service}/CreateRawCompletion", Answer.SerializeToString, Answer.FromString)
    for awaitable in (unary(Message()), stream(Answer()).read()):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await awaitable
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_illegal_callbacks_hurt_nobody(inner: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A done callback of the client's that raises is logged, and the others are called."""

    async def handle(request: Any, context: Any) -> Any:
        return Answer()

    def fail(call: Any) -> None:
        raise ValueError("boom")

    inner.servicer.unary = handle
    seen: list[Any] = []
    call = inner.create()
    call.add_done_callback(fail)
    call.add_done_callback(seen.append)
    await call
    assert seen == [call]
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError]
