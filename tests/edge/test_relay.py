"""Chats over one stream to each core: several cores, drains, kills, cores that do not know it."""

from __future__ import annotations

import asyncio
import functools
import json
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest
from worldrouter.v1 import raw_chat_pb2, raw_chat_pb2_grpc, relay_pb2, relay_pb2_grpc

from core.relay.servicer import RelayServicer
from edge.channel import channel_options
from edge.relay.channel import RelayChannel
from edge.settings import EdgeSettings
from tests.edge.conftest import FakeCore, Relay, until_relayed

LARGE_BYTES = 300_000


@pytest.fixture
def transport() -> str:
    return "relay"


class Cores:
    """Cores on ports of loopback, and a channel over all of them."""

    def __init__(self) -> None:
        self.cores: list[FakeCore] = []
        self.ports: list[int] = []
        self.channel: Any = None

    async def start(self, core_id: str, port: int = 0, *, relay: bool = True, host: str = "127.0.0.1") -> FakeCore:
        core = FakeCore("")
        core.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self.ports.append(core.server.add_insecure_port(f"{host}:{port}"))
        core.relay = Relay(core, core_id)
        if relay:
            relay_pb2_grpc.add_RelayServiceServicer_to_server(core.relay.servicer, core.server)
        await core.start(core.server)
        self.cores.append(core)
        return core

    def connect(self) -> Any:
        """A stub over the channel."""
        self.channel = RelayChannel(self.open("ipv4:" + ",".join(f"127.0.0.1:{port}" for port in self.ports)))
        return raw_chat_pb2_grpc.RawChatServiceStub(self.channel)

    def open(self, target: str) -> grpc.aio.Channel:
        """A channel that does not relay."""
        return grpc.aio.insecure_channel(target, channel_options(EdgeSettings()))

    async def stop(self, core: FakeCore) -> None:
        await core.server.stop(0)
        assert core.relay is not None
        await core.relay.carried.stop(0)


@pytest.fixture
async def cores() -> AsyncIterator[Cores]:
    made = Cores()
    yield made
    if made.channel is not None:
        await made.channel.close()
    for core in made.cores:
        await made.stop(core)
    await asyncio.sleep(0.01)


def ask(stub: Any, body: bytes = b"{}", **options: Any) -> Any:
    """A unary chat."""
    return stub.CreateRawCompletion(raw_chat_pb2.CreateRawCompletionRequest(body=body), **options)


def ask_for_stream(stub: Any) -> Any:
    """A streamed one."""
    return stub.StreamRawCompletion(raw_chat_pb2.StreamRawCompletionRequest(body=b"{}"))


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(8):
        while not condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.005)


def waiting(core: FakeCore, *, admitted: bool) -> Callable[[Any, Any], Awaitable[Any]]:
    """A handler that never answers, before or after its initial metadata."""

    async def wait(request: Any, context: Any) -> Any:
        if admitted:
            await core.admit(context)
        await asyncio.sleep(60)

    return wait


async def test_calls_are_spread_over_cores(cores: Cores) -> None:
    """Each core has one stream, and each stream as many calls as the other."""
    first, second = await cores.start("core_1"), await cores.start("core_2")
    stub = cores.connect()
    await until_relayed(cores.channel, ["core_1", "core_2"])
    for _ in range(20):
        await ask(stub)
    assert (len(first.calls), len(second.calls)) == (10, 10)
    first.create = second.create = waiting(first, admitted=True)
    calls = [ask(stub) for _ in range(20)]
    await until(lambda: len(first.calls) + len(second.calls) == 40)
    assert (len(first.calls), len(second.calls)) == (20, 20)
    for call in calls:
        call.cancel()


@pytest.mark.slow
async def test_a_core_that_comes_later_is_found(cores: Cores) -> None:
    """It takes its share within seconds."""
    await cores.start("core_1")
    await cores.start("core_2")
    await cores.stop(cores.cores[1])
    stub = cores.connect()
    await until_relayed(cores.channel)
    await asyncio.sleep(1)
    later = await cores.start("core_3", cores.ports[1])
    await until(lambda: "core_3" in cores.channel.streams.core_ids)
    await ask(stub)
    await ask(stub)
    assert later.calls


class Names(asyncio.DatagramProtocol):
    """A name server: whatever is asked for has `addresses`."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = list(addresses)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, query: bytes, sender: Any) -> None:
        question = query[12 : query.index(b"\0", 12) + 5]
        found = self.addresses if question[-4:-2] == b"\0\1" else []  # the question is for IPv4
        head = query[:2] + struct.pack("!5H", 0x8180, 1, len(found), 0, 0)
        answers = [struct.pack("!3HIH", 0xC00C, 1, 1, 1, 4) + socket.inet_aton(address) for address in found]
        self.transport.sendto(head + question + b"".join(answers), sender)


@pytest.mark.slow
async def test_a_core_that_joins_a_name_is_found(cores: Cores) -> None:
    """Although no connection breaks, which alone makes gRPC look a name up again."""
    names = Names("127.0.0.1")
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: names, ("127.0.0.1", 0))
    try:
        first = await cores.start("core_1")
        port = cores.ports[0]
        second = await cores.start("core_2", port, host="127.0.0.2")
        target = f"dns://127.0.0.1:{transport.get_extra_info('sockname')[1]}/core.test:{port}"
        open_another = functools.partial(cores.open, target)
        cores.channel = RelayChannel(open_another(), another=open_another, look_up_s=0.2)
        stub = raw_chat_pb2_grpc.RawChatServiceStub(cores.channel)
        await until_relayed(cores.channel, ["core_1"])
        names.addresses.append("127.0.0.2")
        await until_relayed(cores.channel, ["core_1", "core_2"])
        for _ in range(4):
            await ask(stub)
        assert len(first.calls) == len(second.calls) == 2
        names.addresses.remove("127.0.0.1")
        await cores.stop(first)
        await until_relayed(cores.channel, ["core_2"])
        await ask(stub)
        assert len(second.calls) == 3
    finally:
        transport.close()


async def test_looks_reach_every_core(cores: Cores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although other RPCs between them take every other turn."""
    looks: Counter[str] = Counter()
    relay = RelayServicer.Relay

    async def counted(self: Any, requests: Any, context: Any) -> None:
        looks[self._core_id] += 1
        await relay(self, requests, context)

    monkeypatch.setattr(RelayServicer, "Relay", counted)
    core_ids = ["core_1", "core_2"]
    for core_id in core_ids:
        await cores.start(core_id)
    stub = cores.connect()
    await until_relayed(cores.channel, core_ids)
    await asyncio.sleep(0.02)
    for _ in range(3):
        before = looks.copy()
        await until(lambda before=before: looks != before)
        await asyncio.sleep(0.02)
        assert sorted(looks - before) == core_ids
        await ask(stub, b" " * LARGE_BYTES)  # which goes without a stream


async def test_a_core_that_drains(cores: Cores) -> None:
    """What runs there ends there; what comes goes elsewhere; then its stream is closed."""
    first, second = await cores.start("core_1"), await cores.start("core_2")
    stub = cores.connect()
    await until_relayed(cores.channel, ["core_1", "core_2"])
    goes_on = asyncio.Event()

    async def wait(request: Any, context: Any) -> Any:
        await goes_on.wait()
        return await first.answer(request, context)

    first.create = second.create = wait
    calls = [ask(stub), ask(stub)]
    await until(lambda: first.calls and second.calls)
    assert first.relay is not None
    await first.set_health(serving=False)
    first.relay.servicer.drain()
    await until_relayed(cores.channel, ["core_2"])
    second.create = second.answer
    for _ in range(10):
        await ask(stub)
    assert (len(first.calls), len(second.calls)) == (1, 11)
    closed = asyncio.create_task(first.relay.servicer.closed(5))
    await asyncio.sleep(0.05)
    assert not closed.done()
    goes_on.set()
    await asyncio.gather(*calls)
    await asyncio.wait_for(closed, 2)
    assert not first.relay.servicer._streams


async def test_a_core_that_dies(cores: Cores) -> None:
    """Calls it had not begun are answered by another; those begun end with UNAVAILABLE, streams in their middle."""
    first, second = await cores.start("core_1"), await cores.start("core_2")
    stub = cores.connect()
    await until_relayed(cores.channel, ["core_1", "core_2"])
    await second.set_health(serving=False)  # what is repeated goes by health

    async def half(request: Any, context: Any) -> AsyncIterator[Any]:
        await first.admit(context)
        yield first.started()
        yield first.chunks(b"{}")
        await asyncio.sleep(60)

    first.create = second.create = waiting(first, admitted=False)
    idle = [ask(stub), ask(stub)]
    await until(lambda: len(first.calls) == len(second.calls) == 1)
    first.create = second.create = waiting(first, admitted=True)
    begun = [ask(stub), ask(stub)]
    first.stream = second.stream = half
    streams = [ask_for_stream(stub), ask_for_stream(stub)]
    for stream in streams:
        await stream.read()
        await stream.read()
    await asyncio.gather(*(call.initial_metadata() for call in begun))
    first.create = first.answer
    await cores.stop(second)
    outcomes = [asyncio.ensure_future(_outcome(call)) for call in (*idle, *begun)]
    broken = [asyncio.ensure_future(_outcome_of_read(stream)) for stream in streams]
    await until(lambda: _results(outcomes) == ["UNAVAILABLE", "answer"] and _results(broken) == ["UNAVAILABLE"])
    await asyncio.sleep(0.3)
    assert len(_results(outcomes)) == 2  # the others go on
    assert len(_results(broken)) == 1
    await until_relayed(cores.channel)
    assert (await ask(stub)).started.overhead_us == 1234
    for call in (*idle, *begun, *streams):
        call.cancel()
    await asyncio.gather(*outcomes, *broken, return_exceptions=True)


def _results(some: Sequence[asyncio.Future[str]]) -> list[str]:
    """What those came to that have ended."""
    return sorted(each.result() for each in some if each.done())


async def _outcome(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "answer"


async def _outcome_of_read(call: Any) -> str:
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "message"


async def test_a_core_without_the_service(cores: Cores, caplog: pytest.LogCaptureFixture) -> None:
    """An older core is called as ever; one line of the log says so."""
    caplog.set_level("INFO", "edge.relay")
    old = await cores.start("core_1", relay=False)
    stub = cores.connect()
    for _ in range(3):
        assert (await ask(stub)).started.overhead_us == 1234
        assert len([message async for message in ask_for_stream(stub)]) == 5
        await asyncio.sleep(0.1)
    assert len(old.calls) == 6
    assert cores.channel.streams.core_ids == []
    assert ["RelayService" in line for line in caplog.messages] == [True]
    assert not cores.channel.calls


async def test_large_requests_hold_nobody_up(core: Any, edge: Any, http: Any) -> None:
    """They go by an RPC of their own."""
    peers = []

    async def create(request: Any, context: Any) -> Any:
        peers.append(type(context).__module__)
        return await core.answer(request, context)

    async def whole(request: Any, context: Any) -> AsyncIterator[Any]:
        peers.append(type(context).__module__)
        async for message in core.unasked(request, context):
            yield message

    core.create, core.whole = create, whole
    for size in (10, LARGE_BYTES):
        body = json.dumps({"x": "x" * size}).encode()
        async with http.post(f"{edge.url}/v1/chat/completions", data=body) as answer:
            assert answer.status == 200
    assert peers == ["core.relay.carried", "grpc._cython.cygrpc"]


async def test_what_was_not_begun_is_repeated(core: Any, edge: Any, http: Any) -> None:
    """UNAVAILABLE without initial metadata is tried again, by an RPC of its own, which gRPC repeats too."""

    async def create(request: Any, context: Any) -> Any:
        if len(core.calls) < 4:
            await core.fail(context, grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE", "not yet")
        return await core.answer(request, context)

    core.create = create
    async with http.post(f"{edge.url}/v1/chat/completions", data=b"{}") as answer:
        assert answer.status == 200
    assert len(core.calls) == 4
    core.calls.clear()
    core.stream = lambda request, context: _fail_twice(core, request, context)
    async with http.post(f"{edge.url}/v1/chat/completions", data=b'{"stream":true}') as answer:
        assert answer.status == 200
        assert (await answer.read()).endswith(b"data: [DONE]\n\n")
    assert len(core.calls) == 3


async def _fail_twice(core: Any, request: Any, context: Any) -> AsyncIterator[Any]:
    if len(core.calls) < 3:
        await core.fail(context, grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE", "not yet")
    async for message in core.hello(request, context):
        yield message


async def test_what_was_begun_is_not_repeated(core: Any, edge: Any, http: Any) -> None:
    """UNAVAILABLE after the initial metadata is the answer."""

    async def create(request: Any, context: Any) -> Any:
        await core.admit(context)
        await core.fail(context, grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE", "not any more")

    core.create = create
    async with http.post(f"{edge.url}/v1/chat/completions", data=b"{}") as answer:
        assert answer.status == 503
    assert len(core.calls) == 1


async def test_a_repeated_call_is_cancelled_where_it_runs(core: Any, edge: Any, connect: Any) -> None:
    """A client that goes away ends the repetition, too."""

    async def create(request: Any, context: Any) -> Any:
        if len(core.calls) == 1:
            await core.fail(context, grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE", "not yet")
        await asyncio.sleep(60)

    core.create = create
    client = await connect(edge)
    await client.post(b"{}")
    await until(lambda: len(core.calls) == 2)
    client.abort()
    await asyncio.wait_for(core.calls[1].ended.wait(), 2)


async def test_a_stalled_client_beside_others(core: Any, edge: Any, connect: Any, http: Any) -> None:
    """One client that reads nothing stops its own stream; the others on it are served."""
    sent = 0

    async def endless(request: Any, context: Any) -> AsyncIterator[Any]:
        nonlocal sent
        if request.body != b'{"stream":true,"slow":1}':
            async for message in core.hello(request, context):
                yield message
            return
        yield core.started()
        while True:
            yield core.chunks(b'"' + b"x" * 10_000 + b'"')
            sent += 1

    core.stream = endless
    slow = await connect(edge, limit=1_000)
    await slow.post(b'{"stream":true,"slow":1}')
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.3)
        for _ in range(20):
            async with http.post(f"{edge.url}/v1/chat/completions", data=b'{"stream":true}') as answer:
                assert (await answer.read()).endswith(b"data: [DONE]\n\n")
    assert sent < 1_000  # what sockets take on their way, and a window
    slow.abort()
    await asyncio.wait_for(core.calls[0].ended.wait(), 2)


class Strange(relay_pb2_grpc.RelayServiceServicer):
    """Greets, or not, and answers the first call with what a test wants."""

    def __init__(self, hello: relay_pb2.RelayResponse, *answers: relay_pb2.RelayResponse) -> None:
        self._hello, self._answers = hello, answers

    async def Relay(self, requests: Any, context: Any) -> AsyncIterator[Any]:
        yield self._hello
        async for _ in requests:
            for answer in self._answers:
                yield answer


HELLO = relay_pb2.RelayResponse(
    hello=relay_pb2.RelayHello(core_id="core_1", max_call_count=10, max_request_byte_count=1_000)
)


@pytest.fixture
async def strange(cores: Cores) -> Callable[..., Awaitable[Any]]:
    """Starts a core whose relay is strange; a stub over a channel to it."""

    async def start(hello: relay_pb2.RelayResponse, *answers: relay_pb2.RelayResponse) -> Any:
        core = FakeCore("")
        core.server = grpc.aio.server()
        core.relay = Relay(core)
        cores.ports.append(core.server.add_insecure_port("127.0.0.1:0"))
        relay_pb2_grpc.add_RelayServiceServicer_to_server(Strange(hello, *answers), core.server)
        await core.start(core.server)
        cores.cores.append(core)
        return cores.connect()

    return start


async def test_an_answer_that_is_none(strange: Any, cores: Cores) -> None:
    """A message that cannot be read is an INTERNAL error of its call, whatever comes behind it."""
    frames = relay_pb2.RelayResponse(
        messages=[relay_pb2.RelayMessage(call_id=1, message=b"\xff\xff")], ends=[relay_pb2.RelayEnd(call_id=1)]
    )
    stub = await strange(HELLO, frames)
    await until_relayed(cores.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(stub)
    assert caught.value.code() is grpc.StatusCode.INTERNAL


async def test_frames_of_nobody(strange: Any, cores: Cores) -> None:
    """Frames of calls that there are not are ignored; a code that there is not is UNKNOWN."""
    message, end = relay_pb2.RelayMessage(call_id=99), relay_pb2.RelayEnd(call_id=99)
    initial = relay_pb2.RelayInitialMetadata(call_id=99)
    nobody = relay_pb2.RelayResponse(messages=[message], ends=[end], initial_metadata=[initial])
    stub = await strange(HELLO, nobody, relay_pb2.RelayResponse(ends=[relay_pb2.RelayEnd(call_id=1, code=77)]))
    await until_relayed(cores.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(stub)
    assert caught.value.code() is grpc.StatusCode.UNKNOWN


async def test_a_core_that_does_not_greet(strange: Any, cores: Cores) -> None:
    """Its stream is not used."""
    stub = await strange(relay_pb2.RelayResponse())
    await asyncio.sleep(0.2)
    assert (await ask(stub)).started.overhead_us == 1234
    assert cores.channel.streams.core_ids == []


async def test_a_full_stream(strange: Any, cores: Cores) -> None:
    """What a core does not take goes by an RPC of its own."""
    stub = await strange(HELLO)
    await until_relayed(cores.channel)
    carried = [ask(stub) for _ in range(10)]
    assert (await ask(stub)).started.overhead_us == 1234
    for call in carried:
        call.cancel()


class Gibberish(grpc.GenericRpcHandler):
    """Answers a relay's caller with `messages`, which no schema knows."""

    def __init__(self, *messages: bytes) -> None:
        self._messages = messages

    def service(self, details: Any) -> Any:
        if details.method == "/worldrouter.v1.RelayService/Relay":
            return grpc.stream_stream_rpc_method_handler(self._relay)
        return None

    async def _relay(self, requests: Any, context: Any) -> AsyncIterator[bytes]:
        yield self._messages[0]
        async for _ in requests:
            for message in self._messages[1:]:
                yield message


@pytest.mark.parametrize("hello", [b"\xff\xff", HELLO.SerializeToString()])
async def test_a_core_that_talks_gibberish(cores: Cores, hello: bytes) -> None:
    """Its stream is given up, and its calls go by an RPC each; it is looked for again."""
    core = FakeCore("")
    core.server = grpc.aio.server()
    core.relay = Relay(core)
    cores.ports.append(core.server.add_insecure_port("127.0.0.1:0"))
    core.server.add_generic_rpc_handlers((Gibberish(hello, b"\xff\xff"),))
    await core.start(core.server)
    cores.cores.append(core)
    stub = cores.connect()
    if hello == HELLO.SerializeToString():
        await until_relayed(cores.channel)
    assert (await ask(stub)).started.overhead_us == 1234
    if hello == HELLO.SerializeToString():
        await until_relayed(cores.channel, [])
        await until_relayed(cores.channel)
