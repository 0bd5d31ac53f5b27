"""How calls end badly by their handler's doing: statuses, exceptions, aborts out of order."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status
from worldrouter.v1 import raw_chat_pb2

C = grpc.StatusCode
Answer = raw_chat_pb2.CreateRawCompletionResponse
Message = raw_chat_pb2.StreamRawCompletionResponse
DETAILS = "a \u2603 with\nlines, % and \x00"
ERRORS = [code for code in C if code is not C.OK]


def chunk(text: bytes) -> Any:
    return Message(chunks=raw_chat_pb2.CompletionChunks(chunk_json=[text]))


@pytest.mark.parametrize("sent_initial", [False, True])
async def test_abort_with_every_code(link: Any, sent_initial: bool) -> None:
    """Every code arrives with its details and trailers, whole and streamed; CANCELLED too is an AioRpcError."""
    trailing = (("t", "1"), ("grpc-status-details-bin", b"\x08\x05\x00\xff"), ("x-request-id", "r"))
    expected = {"t": ["1"], "grpc-status-details-bin": [b"\x08\x05\x00\xff"], "x-request-id": ["r"]}
    initial = {"i": ["1"]} if sent_initial else {}
    code = C.UNKNOWN

    async def unary(request: Any, context: Any) -> Any:
        if sent_initial:
            await context.send_initial_metadata((("i", "1"),))
        await context.abort(code, DETAILS, trailing)

    async def stream(request: Any, context: Any) -> Any:
        if sent_initial:
            await context.send_initial_metadata((("i", "1"),))
        yield chunk(b"1")
        yield chunk(b"2")
        await context.abort(code, DETAILS, trailing)

    link.servicer.unary, link.servicer.stream = unary, stream
    for code in ERRORS:
        whole, streamed = await asyncio.gather(link.unary(), link.streamed())
        assert whole.raised == streamed.raised == "AioRpcError"
        assert (whole.code, whole.details, whole.trailing, whole.initial) == (code, DETAILS, expected, initial)
        assert (streamed.code, streamed.details, streamed.trailing) == (code, DETAILS, expected)
        assert (streamed.messages, streamed.initial) == ((b"1", b"2"), initial)


async def test_the_error_carries_all_there_is(link: Any) -> None:
    """An AioRpcError has code, details, both kinds of metadata and the line for debugging."""

    async def handle(request: Any, context: Any) -> Any:
        await context.send_initial_metadata((("i", "1"),))
        await context.abort(C.NOT_FOUND, "gone", (("t", "1"),))

    link.servicer.unary = handle
    call = link.create()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    error = caught.value
    assert (error.code(), error.details(), error.debug_error_string()) == (C.NOT_FOUND, "gone", "NOT_FOUND:gone")
    assert error.initial_metadata() == grpc.aio.Metadata(("i", "1"))
    assert error.trailing_metadata() == grpc.aio.Metadata(("t", "1"))
    assert (call.done(), call.cancelled(), call.cancel()) == (True, False, False)
    with pytest.raises(grpc.aio.AioRpcError):
        await call.wait_for_connection()


async def test_a_stream_that_failed_says_so_each_time_it_is_read(link: Any) -> None:
    """`read` raises the error again and again; iteration raises it once and then stops."""

    async def handle(request: Any, context: Any) -> Any:
        yield chunk(b"1")
        await context.abort(C.NOT_FOUND, "gone")

    link.servicer.stream = handle
    read, iterated = link.open(), link.open()
    await read.read()
    for _ in range(2):
        with pytest.raises(grpc.aio.AioRpcError):
            await read.read()
    await anext(iterator := aiter(iterated))
    with pytest.raises(grpc.aio.AioRpcError):
        await anext(iterator)
    with pytest.raises(StopAsyncIteration):
        await anext(iterator)


async def test_a_remote_cancel_is_an_error_not_a_cancellation(link: Any) -> None:
    """A call that the handler ends with CANCELLED raises AioRpcError, and counts as cancelled."""

    async def handle(request: Any, context: Any) -> Any:
        await context.abort(C.CANCELLED, "remote")

    link.servicer.unary = handle
    call = link.create()
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    assert call.cancelled()


async def test_abort_takes_what_was_set_before(link: Any) -> None:
    """What `abort` is not given comes from the setters, and what it is given wins."""
    given: tuple[Any, ...] = ()

    async def handle(request: Any, context: Any) -> Any:
        context.set_code(C.ABORTED)
        context.set_details("set")
        context.set_trailing_metadata((("set", "1"),))
        await context.abort(C.NOT_FOUND, *given)

    link.servicer.unary = handle
    outcome = await link.unary()
    assert (outcome.code, outcome.details, outcome.trailing) == (C.NOT_FOUND, "set", {"set": ["1"]})
    given = ("given", (("given", "1"),))
    outcome = await link.unary()
    assert (outcome.code, outcome.details, outcome.trailing) == (C.NOT_FOUND, "given", {"given": ["1"]})


async def test_codes_that_are_none(link: Any) -> None:
    """A number is taken for its code, anything else for UNKNOWN."""
    code: Any = None

    async def handle(request: Any, context: Any) -> Any:
        await context.abort(code, "d")

    link.servicer.unary = handle
    for code, arrives in ((5, C.NOT_FOUND), (99, C.UNKNOWN), ("nonsense", C.UNKNOWN)):  # noqa: B007
        assert (await link.unary()).code is arrives


async def test_codes_set_at_the_end(link: Any) -> None:
    """A code set without abort ends the call with it: a unary response is discarded, messages are not."""

    async def unary(request: Any, context: Any) -> Any:
        context.set_code(C.ABORTED)
        context.set_details("d")
        return Answer(body=b"discarded")

    async def stream(request: Any, context: Any) -> Any:
        yield chunk(b"1")
        context.set_code(C.ABORTED)
        context.set_details("d")

    link.servicer.unary, link.servicer.stream = unary, stream
    whole, streamed = await link.unary(), await link.streamed()
    assert (whole.code, whole.details, whole.messages) == (C.ABORTED, "d", ())
    assert (streamed.code, streamed.details, streamed.messages) == (C.ABORTED, "d", (b"1",))


async def test_details_go_with_errors_only(link: Any) -> None:
    """Details that were set do not come with OK."""

    async def handle(request: Any, context: Any) -> Any:
        context.set_code(C.OK)
        context.set_details("fine")
        return Answer(body=b"1")

    link.servicer.unary = handle
    outcome = await link.unary()
    assert (outcome.code, outcome.details, outcome.messages) == (C.OK, "", (b"1",))


async def test_abort_with_a_status(link: Any) -> None:
    """`abort_with_status` takes what grpc-status makes of a `google.rpc.Status`."""
    status = Status(code=5, message="gone")

    async def handle(request: Any, context: Any) -> Any:
        await context.abort_with_status(rpc_status.to_status(status))

    link.servicer.unary = handle
    call = link.create()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is C.NOT_FOUND
    assert (await call.trailing_metadata())["grpc-status-details-bin"] == status.SerializeToString()


class Odd(Exception):
    """An error of nobody's."""


@pytest.mark.parametrize("error", [ValueError("boom"), Odd("\u2603"), KeyError("k"), StopAsyncIteration()])
async def test_an_exception_is_unknown_and_logged(
    link: Any, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """What a handler raises is UNKNOWN with type and text, logged with its traceback, behind what was sent."""

    async def unary(request: Any, context: Any) -> Any:
        context.set_trailing_metadata((("t", "1"),))
        raise error

    async def stream(request: Any, context: Any) -> Any:
        await context.send_initial_metadata((("i", "1"),))
        yield chunk(b"1")
        raise ValueError("boom")

    link.servicer.unary, link.servicer.stream = unary, stream
    with caplog.at_level(logging.ERROR):
        whole = await link.unary()
    assert (whole.code, whole.details) == (C.UNKNOWN, f"Unexpected {type(error)}: {error}")
    assert whole.trailing == {"t": ["1"]}
    [record] = caplog.records
    method = "/worldrouter.v1.RawChatService/CreateRawCompletion"
    assert record.getMessage() == f"Unexpected [{type(error).__name__}] raised by servicer method [{method}]"
    assert record.exc_info is not None
    streamed = await link.streamed()
    assert (streamed.code, streamed.messages, streamed.initial) == (C.UNKNOWN, (b"1",), {"i": ["1"]})


async def test_an_exception_keeps_the_code_that_was_set(link: Any) -> None:
    """An exception after `set_code` ends the call with that code, but with its own text."""

    async def handle(request: Any, context: Any) -> Any:
        context.set_code(C.NOT_FOUND)
        context.set_details("lost")
        raise ValueError("boom")

    link.servicer.unary = handle
    outcome = await link.unary()
    assert (outcome.code, outcome.details) == (C.NOT_FOUND, "Unexpected <class 'ValueError'>: boom")


async def test_an_abort_is_final(link: Any) -> None:
    """After `abort` the client has its status, whatever the handler goes on to do."""
    tries: list[Any] = []

    async def swallow(request: Any, context: Any) -> Any:
        try:
            await context.abort(C.NOT_FOUND, "first")
        except grpc.aio.AbortError:
            return Answer(body=b"late")

    async def again(request: Any, context: Any) -> Any:
        try:
            await context.abort(C.NOT_FOUND, "first")
        except grpc.aio.AbortError:
            await context.abort(C.INTERNAL, "second")

    async def replace(request: Any, context: Any) -> Any:
        try:
            await context.abort(C.NOT_FOUND, "first")
        finally:
            raise KeyError("other")

    async def write(request: Any, context: Any) -> Any:
        try:
            await context.abort(C.NOT_FOUND, "first")
        except grpc.aio.AbortError:
            try:
                await context.send_initial_metadata((("i", "1"),))
            except grpc.aio.AbortError:
                tries.append("refused")
                raise

    for handle in (swallow, again, replace, write):
        link.servicer.unary = handle
        outcome = await link.unary()
        assert (outcome.code, outcome.details, outcome.messages) == (C.NOT_FOUND, "first", ())
        await link.servicer.next_end()
    assert tries == ["refused"]


async def test_a_generator_that_goes_on_after_abort_is_stopped(link: Any) -> None:
    """A stream that swallows its abort and yields sends nothing more."""

    async def handle(request: Any, context: Any) -> Any:
        yield chunk(b"1")
        try:
            await context.abort(C.NOT_FOUND, "first")
        except grpc.aio.AbortError:
            yield chunk(b"2")

    link.servicer.stream = handle
    outcome = await link.streamed()
    assert (outcome.code, outcome.messages) == (C.NOT_FOUND, (b"1",))
    if link.in_process:  # over a socket the garbage collector closes it
        assert isinstance(await link.servicer.next_end(), GeneratorExit)


async def test_what_is_no_message_is_unknown(link: Any) -> None:
    """Returning or yielding None is a TypeError of the handler's."""

    async def unary(request: Any, context: Any) -> Any:
        return None

    async def stream(request: Any, context: Any) -> Any:
        yield chunk(b"1")
        yield None

    link.servicer.unary, link.servicer.stream = unary, stream
    whole, streamed = await link.unary(), await link.streamed()
    assert whole.code is streamed.code is C.UNKNOWN
    assert whole.details.startswith("Unexpected <class 'TypeError'>: ")
    assert streamed.messages == (b"1",)


async def test_a_unary_handler_cannot_write(link: Any) -> None:
    """`context.write` in a unary handler is a TypeError of the handler's, and its call ends."""

    async def handle(request: Any, context: Any) -> Any:
        await context.write(Answer(body=b"written"))
        return Answer(body=b"returned")

    link.servicer.unary = handle
    outcome = await link.unary()
    assert (outcome.messages, outcome.code) == ((), C.UNKNOWN)
    assert outcome.details.startswith("Unexpected <class 'TypeError'>: ")


async def test_a_failing_callback_of_the_context_hurts_nobody(link: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A done callback of the handler's that raises is logged."""

    def fail(context: Any) -> None:
        raise ValueError("boom")

    async def handle(request: Any, context: Any) -> Any:
        context.add_done_callback(fail)
        return Answer(body=b"1")

    link.servicer.unary = handle
    with caplog.at_level(logging.ERROR):
        assert (await link.unary()).code is C.OK
        await asyncio.sleep(0.01)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError]


async def test_a_handler_that_is_cancelled_by_others_ends_its_call(inner: Any) -> None:
    """In-process, a handler that ends with CancelledError of its own gives CANCELLED rather than silence."""

    async def cancelled(request: Any, context: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(5)

    async def raising(request: Any, context: Any) -> Any:
        yield chunk(b"1")
        raise asyncio.CancelledError

    inner.servicer.unary, inner.servicer.stream = cancelled, raising
    whole, streamed = await inner.unary(), await inner.streamed()
    assert (whole.code, whole.raised) == (C.CANCELLED, "AioRpcError")
    assert (streamed.code, streamed.raised, streamed.messages) == (C.CANCELLED, "AioRpcError", (b"1",))


async def test_an_abort_with_ok_is_an_error(inner: Any) -> None:
    """In-process, `abort` with OK or with a list of trailers is an error of the handler's at once."""

    async def fine(request: Any, context: Any) -> Any:
        await context.abort(C.OK, "fine")

    async def listed(request: Any, context: Any) -> Any:
        await context.abort(C.NOT_FOUND, "", [("t", "1")])

    for handle, kind in ((fine, AssertionError), (listed, TypeError)):
        inner.servicer.unary = handle
        outcome = await inner.unary()
        assert (outcome.code, outcome.details.split(":")[0]) == (C.UNKNOWN, f"Unexpected {kind}")
