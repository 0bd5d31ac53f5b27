"""What every RPC passes through, over a real server."""

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer
from worldrouter.v1 import metering_pb2, metering_pb2_grpc, raw_chat_pb2, raw_chat_pb2_grpc

from core.access.authorization import UnlistedRpc
from core.access.guard import Guard
from core.call import Call, Role, current_call
from core.errors import InsufficientBalance, UpstreamFailed, UpstreamRejected

C = grpc.StatusCode
Request = raw_chat_pb2.StreamRawCompletionRequest
Response = raw_chat_pb2.StreamRawCompletionResponse


@dataclass
class Observer:
    """Remembers how RPCs ended."""

    ends: list[tuple[str, Call | None, C]] = field(default_factory=list)

    def finished(self, method: str, call: Call | None, code: C, duration_s: float) -> None:
        assert duration_s >= 0
        self.ends.append((method.rsplit("/", 1)[1], call, code))


@dataclass
class Chat(raw_chat_pb2_grpc.RawChatServiceServicer):
    """Streams what a test wants, and tells when it was closed."""

    script: Callable[[Any], AsyncIterator[Response]]
    calls: list[Call] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)

    async def CreateRawCompletion(self, request: Any, context: Any) -> Any:
        self.calls.append(current_call.get())
        return raw_chat_pb2.CreateRawCompletionResponse(body=b"{}")

    async def StreamRawCompletion(self, request: Any, context: Any) -> AsyncIterator[Response]:
        self.calls.append(current_call.get())
        try:
            async for response in self.script(context):
                yield response
        except BaseException as error:
            self.closed.append(type(error).__name__)
            raise
        else:
            self.closed.append("end")


class Metering(metering_pb2_grpc.MeteringServiceServicer):
    """Fails as a test wants."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def GetBalance(self, request: Any, context: Any) -> metering_pb2.Balance:
        if self.error is not None:
            raise self.error
        return metering_pb2.Balance(account_id=current_call.get().caller.account_id)


@pytest.fixture
def observer() -> Observer:
    return Observer()


@pytest.fixture
def guard(auth, ids, observer: Observer) -> Guard:
    return Guard(auth.authenticator, ids, monotonic_s=auth.clock.monotonic_s, observer=observer)


@pytest.fixture
def bearer(auth) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {auth.add()[0]}"),)


def messages(count: int) -> Callable[[Any], AsyncIterator[Response]]:
    async def script(context: Any) -> AsyncIterator[Response]:
        for _ in range(count):
            yield Response()

    return script


def info_of(error: grpc.aio.AioRpcError) -> ErrorInfo:
    """The ErrorInfo of a failed call, whose trailers name the same request id."""
    trailers = dict(error.trailing_metadata())
    info = ErrorInfo()
    assert Status.FromString(trailers["grpc-status-details-bin"]).details[0].Unpack(info)
    assert info.metadata["request_id"] == trailers["x-request-id"]
    return info


async def until(condition: Callable[[], Any], timeout_s: float = 2.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.005)


async def test_an_rpc_without_an_entry_in_the_table_is_refused_at_start(guard: Guard) -> None:
    """A service with an RPC that the authorisation table does not list cannot be registered."""
    handler = grpc.unary_unary_rpc_method_handler(Metering().GetBalance)
    with pytest.raises(UnlistedRpc, match="MeteringService/Steal"):
        guard.add_registered_method_handlers("worldrouter.v1.MeteringService", {"Steal": handler})


async def test_a_handler_that_is_not_async_is_refused_at_start(guard: Guard) -> None:
    """A blocking handler cannot be registered: it would run in a thread."""
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: None)
    with pytest.raises(TypeError, match="not async"):
        guard.add_registered_method_handlers("worldrouter.v1.MeteringService", {"GetBalance": handler})


async def test_the_request_id_is_ours_and_leads(guard, serve, bearer, observer) -> None:
    """Every answer's initial metadata has a request id that the core made, whatever the caller sent as its own."""
    metering_pb2_grpc.add_MeteringServiceServicer_to_server(Metering(), guard)
    stub = metering_pb2_grpc.MeteringServiceStub(await serve(guard))
    seen = set()
    for _ in range(3):
        call = stub.GetBalance(metering_pb2.GetBalanceRequest(), metadata=(*bearer, ("x-request-id", "mine" * 200)))
        assert (await call).account_id == "acct_a"
        seen.add(dict(await call.initial_metadata())["x-request-id"])
    assert len(seen) == 3
    method, last, code = observer.ends[-1]
    assert (method, code) == ("GetBalance", C.OK)
    assert last.request_id in seen
    assert last.client_request_id == ("mine" * 200)[:512]
    assert last.caller.role is Role.API_KEY


async def test_an_api_key_is_no_request_id(guard, serve, bearer, observer) -> None:
    """A caller's own request id is stored and logged, so one that holds a key is dropped."""
    metering_pb2_grpc.add_MeteringServiceServicer_to_server(Metering(), guard)
    stub = metering_pb2_grpc.MeteringServiceStub(await serve(guard))
    key = bearer[0][1].removeprefix("Bearer ")
    assert await stub.GetBalance(metering_pb2.GetBalanceRequest(), metadata=(*bearer, ("x-request-id", f"a {key}")))
    assert observer.ends[-1][1].client_request_id == ""


async def test_what_is_said_of_an_error_holds_no_key(guard, serve, bearer) -> None:
    """Nor does its param or code: an upstream may quote what it was sent."""
    key = bearer[0][1].removeprefix("Bearer ")
    error = UpstreamRejected(f"Incorrect key {key}.", param=key, code=key)
    metering_pb2_grpc.add_MeteringServiceServicer_to_server(Metering(error), guard)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await metering_pb2_grpc.MeteringServiceStub(await serve(guard)).GetBalance(
            metering_pb2.GetBalanceRequest(), metadata=bearer
        )
    assert caught.value.details() == "Incorrect key [secret]."
    info = info_of(caught.value)
    assert (info.metadata["param"], info.metadata["code"]) == ("[secret]", "[secret]")


async def test_chats_send_their_own_initial_metadata(guard, serve, bearer) -> None:
    """For a chat the guard sends none, so that the channel may repeat the call until the upstream is called."""
    chat = Chat(messages(0))
    raw_chat_pb2_grpc.add_RawChatServiceServicer_to_server(chat, guard)
    stub = raw_chat_pb2_grpc.RawChatServiceStub(await serve(guard))
    call = stub.CreateRawCompletion(raw_chat_pb2.CreateRawCompletionRequest(), metadata=bearer)
    await call
    assert "x-request-id" not in dict(await call.initial_metadata())
    assert len(chat.calls[0].request_id) == 26


async def test_a_refused_caller_learns_its_request_id_from_the_trailers(guard, serve, bearer, observer) -> None:
    """Without a credential, with two, and with one that may not call this, the error names its request id."""
    chat = Chat(messages(1))
    metering_pb2_grpc.add_MeteringServiceServicer_to_server(Metering(), guard)
    raw_chat_pb2_grpc.add_RawChatServiceServicer_to_server(chat, guard)
    channel = await serve(guard)
    for metadata, code in (((), C.UNAUTHENTICATED), (bearer * 2, C.UNAUTHENTICATED)):
        for call in (
            metering_pb2_grpc.MeteringServiceStub(channel).GetBalance(
                metering_pb2.GetBalanceRequest(), metadata=metadata
            ),
            raw_chat_pb2_grpc.RawChatServiceStub(channel).StreamRawCompletion(Request(), metadata=metadata).read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is code
            assert info_of(caught.value).reason == "INVALID_API_KEY"
            assert observer.ends[-1][1:] == (None, code)
    assert chat.calls == []


async def test_an_unknown_exception_is_bland_outside_and_whole_inside(
    guard, serve, bearer, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug is INTERNAL without a word of its own; the log has the trace under the same request id."""
    metering_pb2_grpc.add_MeteringServiceServicer_to_server(Metering(ZeroDivisionError("inside")), guard)
    stub = metering_pb2_grpc.MeteringServiceStub(await serve(guard))
    with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetBalance(metering_pb2.GetBalanceRequest(), metadata=bearer)
    assert caught.value.code() is C.INTERNAL
    assert "inside" not in (caught.value.details() or "")
    info = info_of(caught.value)
    [record] = [record for record in caplog.records if record.name == "core.access.guard"]
    assert info.metadata["request_id"] in record.getMessage()
    assert "ZeroDivisionError: inside" in caplog.text


async def test_an_rpc_that_nobody_implements_is_unimplemented(guard, serve, bearer) -> None:
    """An RPC whose servicer inherits the generated method answers UNIMPLEMENTED."""
    metering_pb2_grpc.add_MeteringServiceServicer_to_server(Metering(), guard)
    stub = metering_pb2_grpc.MeteringServiceStub(await serve(guard))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreateTopUp(metering_pb2.CreateTopUpRequest(), metadata=bearer)
    assert caught.value.code() is C.UNIMPLEMENTED


async def test_bytes_that_are_no_request_are_the_callers_mistake(guard, serve, bearer) -> None:
    """A body that is not the protobuf message it should be is INVALID_ARGUMENT, with a request id."""
    metering_pb2_grpc.add_MeteringServiceServicer_to_server(Metering(), guard)
    channel = await serve(guard)
    call = channel.unary_unary("/worldrouter.v1.MeteringService/GetBalance")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"\xff\xff\xff", metadata=bearer)
    assert caught.value.code() is C.INVALID_ARGUMENT
    assert info_of(caught.value).reason == "INVALID_REQUEST"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"\xff\xff\xff")
    assert caught.value.code() is C.UNAUTHENTICATED


async def test_a_stream_ends_with_its_error(guard, serve, bearer, observer) -> None:
    """An error after some messages ends the stream with its status; the messages have arrived."""

    async def script(context: Any) -> AsyncIterator[Response]:
        yield Response()
        yield Response()
        raise UpstreamFailed("cut")

    raw_chat_pb2_grpc.add_RawChatServiceServicer_to_server(Chat(script), guard)
    call = raw_chat_pb2_grpc.RawChatServiceStub(await serve(guard)).StreamRawCompletion(Request(), metadata=bearer)
    arrived = [await call.read(), await call.read()]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert arrived == [Response(), Response()]
    assert caught.value.code() is C.UNAVAILABLE
    assert info_of(caught.value).reason == "UPSTREAM_ERROR"
    assert observer.ends[-1][2] is C.UNAVAILABLE


async def test_details_of_an_error_travel(guard, serve, bearer) -> None:
    """What an exception says beside its message arrives in the ErrorInfo."""
    error = InsufficientBalance("m", missing_nano_usd=5, affordable_tokens=6)
    metering_pb2_grpc.add_MeteringServiceServicer_to_server(Metering(error), guard)
    stub = metering_pb2_grpc.MeteringServiceStub(await serve(guard))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetBalance(metering_pb2.GetBalanceRequest(), metadata=bearer)
    assert caught.value.code() is C.FAILED_PRECONDITION
    assert info_of(caught.value).metadata["missing_nano_usd"] == "5"


async def test_a_caller_that_leaves_during_silence_ends_the_handler(guard, serve, bearer, observer) -> None:
    """A handler that waits when its caller goes away is cancelled at once, and leaves no task."""
    entered = asyncio.Event()

    async def script(context: Any) -> AsyncIterator[Response]:
        entered.set()
        await asyncio.sleep(60)
        yield Response()

    chat = Chat(script)
    raw_chat_pb2_grpc.add_RawChatServiceServicer_to_server(chat, guard)
    stub = raw_chat_pb2_grpc.RawChatServiceStub(await serve(guard))
    tasks = len(asyncio.all_tasks())
    for number in range(1, 51):
        entered.clear()
        call = stub.StreamRawCompletion(Request(), metadata=bearer)
        await entered.wait()
        call.cancel()
        await until(lambda count=number: len(chat.closed) == count)
    assert set(chat.closed) == {"CancelledError"}
    await until(lambda: len(observer.ends) == 50)
    assert {code for _, _, code in observer.ends} == {C.CANCELLED}
    await until(lambda: len(asyncio.all_tasks()) <= tasks)


async def test_a_caller_that_leaves_in_mid_stream_ends_the_handler(guard, serve, bearer, observer) -> None:
    """A handler that stands at its yield, its reader stalled, is closed when the caller goes away, without the
    garbage collector's help."""

    async def script(context: Any) -> AsyncIterator[Response]:
        while True:
            yield Response(chunks=raw_chat_pb2.CompletionChunks(chunk_json=[b"x" * 1_000_000]))

    chat = Chat(script)
    raw_chat_pb2_grpc.add_RawChatServiceServicer_to_server(chat, guard)
    stub = raw_chat_pb2_grpc.RawChatServiceStub(await serve(guard))
    gc.disable()
    try:
        for number in range(1, 11):
            call = stub.StreamRawCompletion(Request(), metadata=bearer)
            await call.read()
            await asyncio.sleep(0.05)
            call.cancel()
            await until(lambda count=number: len(chat.closed) == count)
    finally:
        gc.enable()
    assert set(chat.closed) <= {"GeneratorExit", "CancelledError"}
    assert "GeneratorExit" in chat.closed
    assert {code for _, _, code in observer.ends} == {C.CANCELLED}


async def test_closing_the_wrapper_closes_the_handler_within_it(guard, auth, bearer) -> None:
    """A wrapper closed at its yield has closed the handler's generator by the time `aclose` returns, no await
    needed."""
    chat = Chat(messages(3))
    stream = wrapped_stream(guard, chat)(Request(), FakeContext(bearer))
    await anext(stream)
    with pytest.raises(StopIteration):
        stream.aclose().send(None)
    assert chat.closed == ["GeneratorExit"]


async def test_a_handler_that_awaits_while_it_is_closed_is_told(guard, bearer) -> None:
    """A handler whose `finally` awaits breaks a rule: closing it raises rather than leaves it half closed."""

    async def script(context: Any) -> AsyncIterator[Response]:
        yield Response()

    class Slow(Chat):
        async def StreamRawCompletion(self, request: Any, context: Any) -> AsyncIterator[Response]:
            try:
                yield Response()
            finally:
                await asyncio.sleep(0)

    stream = wrapped_stream(guard, Slow(script))(Request(), FakeContext(bearer))
    await anext(stream)
    with pytest.raises(RuntimeError, match="awaits"):
        await stream.aclose()


async def test_health_and_reflection_are_open_to_anybody(guard, serve, over_socket: bool) -> None:
    """Health checks, their streamed form too, and reflection need no credential; a bad one does no harm."""
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), guard)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(ReflectionServicer(["x.Y"]), guard)
    channel = await serve(guard)
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest()
    call = stub.Check(request, metadata=(("authorization", "Bearer nonsense"),))
    assert (await call).status == health_pb2.HealthCheckResponse.SERVING
    assert "x-request-id" in dict(await call.initial_metadata())
    watch = stub.Watch(request)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="none"))
    assert caught.value.code() is C.NOT_FOUND
    if not over_socket:
        return  # the in-process server serves no client streams
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
    await reflection.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    assert [service.name for service in (await reflection.read()).list_services_response.service] == ["x.Y"]
    await reflection.done_writing()
    assert await reflection.read() is grpc.aio.EOF


async def test_a_malformed_request_in_a_stream_is_the_callers_mistake(guard, serve, over_socket: bool) -> None:
    """INVALID_ARGUMENT with a request id, whichever of the requests it is."""
    if not over_socket:
        pytest.skip("the in-process server serves no client streams")
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(ReflectionServicer(["x.Y"]), guard)
    call = (await serve(guard)).stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString())
    assert await call.read()
    await call.write(b"\xff")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert (caught.value.code(), info_of(caught.value).reason) == (C.INVALID_ARGUMENT, "INVALID_REQUEST")


async def test_nothing_of_a_strangers_request_is_read(guard, serve, bearer) -> None:
    """It is parsed once its sender is known: to parse what anybody sends would cost time and memory."""
    parsed = []

    def parse(raw: bytes) -> bytes:
        parsed.append(raw)
        return raw

    async def answer(request: bytes, context: Any) -> bytes:
        await context.send_initial_metadata(())
        return request

    handler = grpc.unary_unary_rpc_method_handler(answer, request_deserializer=parse)
    guard.add_registered_method_handlers("worldrouter.v1.RawChatService", {"CreateRawCompletion": handler})
    call = (await serve(guard)).unary_unary("/worldrouter.v1.RawChatService/CreateRawCompletion")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"of a stranger")
    assert (caught.value.code(), parsed) == (C.UNAUTHENTICATED, [])
    assert (await call(b"of a caller", metadata=bearer), parsed) == (b"of a caller", [b"of a caller"])


class FakeContext:
    """As much of a context as the wrapper of a chat touches."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata


def wrapped_stream(guard: Guard, chat: Chat) -> Callable[..., Any]:
    """The wrapped StreamRawCompletion, as a server gets it."""

    class Registry:
        def add_generic_rpc_handlers(self, handlers: Any) -> None: ...

        def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
            self.stream = handlers["StreamRawCompletion"].unary_stream

    registry = Registry()
    raw_chat_pb2_grpc.add_RawChatServiceServicer_to_server(chat, guard)
    guard.install(registry)
    return registry.stream


async def test_an_error_that_its_handler_keeps_holds_no_request(guard, serve, bearer) -> None:
    """What a failed request had in memory is freed at once, not when the garbage collector comes."""
    left: list[weakref.ref[set[int]]] = []

    class Body(set[int]):
        """Stands for megabytes."""

    async def script(context: Any) -> AsyncIterator[Response]:
        body, error = Body(), UpstreamFailed("no")
        left.append(weakref.ref(body))
        yield Response()
        raise error

    raw_chat_pb2_grpc.add_RawChatServiceServicer_to_server(Chat(script), guard)
    stub = raw_chat_pb2_grpc.RawChatServiceStub(await serve(guard))
    gc.disable()
    try:
        with pytest.raises(grpc.aio.AioRpcError):
            async for _ in stub.StreamRawCompletion(Request(), metadata=bearer):
                pass
        await until(lambda: left[0]() is None)
    finally:
        gc.enable()
