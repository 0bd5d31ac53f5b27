"""A fake core over real gRPC on a Unix socket, or in process; a real edge before it, real HTTP clients."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc
import pytest
import uvloop
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry
from worldrouter.v1 import raw_chat_pb2, raw_chat_pb2_grpc, relay_pb2_grpc, routing_pb2_grpc, types_pb2

from core.inprocess import InProcessServer
from core.relay.servicer import RelayServicer
from edge.app import make_app
from edge.channel import open_channel
from edge.server import EdgeServer
from edge.settings import EdgeSettings

REQUEST_ID = "01k9zz2w8x5qv3d7m4t6c1b0ra"
ANSWER = b'{"id":"chatcmpl-1" , "object":"chat.completion","n":18446744073709551617,"x":1e2}'


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the edge runs on in production."""
    return {"uvloop": uvloop.new_event_loop}


@dataclass
class Seen:
    """One call as the fake core saw it."""

    method: str
    request: Any
    metadata: dict[str, str]
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Relay:
    """What carries a fake core's chats over streams."""

    def __init__(self, core: raw_chat_pb2_grpc.RawChatServiceServicer, core_id: str = "core_1") -> None:
        self.carried = InProcessServer()
        raw_chat_pb2_grpc.add_RawChatServiceServicer_to_server(core, self.carried)
        self.servicer = RelayServicer(self.carried, core_id)


class FakeCore(raw_chat_pb2_grpc.RawChatServiceServicer, routing_pb2_grpc.RoutingServiceServicer):
    """A core whose answers a test replaces: `create`, `stream`, `whole`, `list_models`, `get_model`."""

    server: grpc.aio.Server
    relay: Relay | None = None

    def __init__(self, target: str) -> None:
        self.target = target
        self.calls: list[Seen] = []
        self.health = health.aio.HealthServicer()
        self.create: Callable[[Any, Any], Awaitable[Any]] = self.answer
        self.stream: Callable[[Any, Any], AsyncIterator[Any]] = self.hello
        self.whole: Callable[[Any, Any], AsyncIterator[Any]] = self.unasked
        self.list_models: Callable[[Any, Any], Awaitable[Any]] = self.answer
        self.get_model: Callable[[Any, Any], Awaitable[Any]] = self.answer

    async def answer(self, request: Any, context: Any) -> Any:
        """A whole completion."""
        await self.admit(context)
        return self.completion()

    async def unasked(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """A whole completion to a body that asks for no stream."""
        await self.admit(context, whole_answer="true")
        yield raw_chat_pb2.StreamRawCompletionResponse(whole=self.completion())

    @staticmethod
    def completion() -> Any:
        """The whole of one."""
        return raw_chat_pb2.CreateRawCompletionResponse(
            body=ANSWER,
            started=types_pb2.CompletionStarted(id=f"chatcmpl-{REQUEST_ID}", overhead_us=1234),
            finished=types_pb2.CompletionFinished(finish_reasons=["stop"]),
        )

    async def hello(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """A stream of three messages with four chunks."""
        await self.admit(context)
        yield self.started()
        yield self.chunks(b'{"n":1}')
        yield self.chunks(b'{"n":2}', b'{"n":3}')
        yield self.chunks(b'{"n":4}')
        yield self.finished()

    @staticmethod
    async def admit(context: Any, **more: str) -> None:
        """Initial metadata, as the core sends it just before it calls the upstream."""
        named = {key.replace("_", "-"): value for key, value in more.items()}
        await context.send_initial_metadata(tuple({"x-request-id": REQUEST_ID, **named}.items()))

    @staticmethod
    def started(overhead_us: int = 1234) -> Any:
        """The first event."""
        started = types_pb2.CompletionStarted(id=f"chatcmpl-{REQUEST_ID}", overhead_us=overhead_us)
        return raw_chat_pb2.StreamRawCompletionResponse(started=started)

    @staticmethod
    def chunks(*chunk_json: bytes) -> Any:
        """Chunks of one upstream read."""
        chunks = raw_chat_pb2.CompletionChunks(chunk_json=chunk_json)
        return raw_chat_pb2.StreamRawCompletionResponse(chunks=chunks)

    @staticmethod
    def finished() -> Any:
        """The last event."""
        return raw_chat_pb2.StreamRawCompletionResponse(finished=types_pb2.CompletionFinished())

    @staticmethod
    async def fail(
        context: Any,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        metadata: Mapping[str, str] | None = None,
        retry_after_ms: int | None = None,
        **more: str,
    ) -> None:
        """End the call as the real core does: ErrorInfo, RetryInfo when there is a delay, further trailers."""
        named = {"request_id": REQUEST_ID, **(metadata or {})}
        details: list[Any] = [any_pb2.Any(), any_pb2.Any()]
        details[0].Pack(error_details_pb2.ErrorInfo(reason=reason, domain="worldrouter", metadata=named))
        if retry_after_ms is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(retry_after_ms)
            details[1].Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(code=code.value[0], message=message, details=details)
        named = {key.replace("_", "-"): value for key, value in more.items()}
        trailers = (
            ("grpc-status-details-bin", status.SerializeToString()),
            ("x-request-id", REQUEST_ID),
            *named.items(),
        )
        await context.abort(code, message, trailing_metadata=trailers)

    def _saw(self, method: str, request: Any, context: Any) -> None:
        seen = Seen(method, request, {key: str(value) for key, value in context.invocation_metadata()})
        self.calls.append(seen)
        context.add_done_callback(lambda done: seen.ended.set())

    async def CreateRawCompletion(self, request: Any, context: Any) -> Any:
        self._saw("create", request, context)
        return await self.create(request, context)

    async def StreamRawCompletion(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self._saw("stream", request, context)
        asked = not request.as_body_asks or b'"stream":true' in request.body
        async for message in (self.stream if asked else self.whole)(request, context):
            yield message

    async def ListModels(self, request: Any, context: Any) -> Any:
        self._saw("list", request, context)
        return await self.list_models(request, context)

    async def GetModel(self, request: Any, context: Any) -> Any:
        self._saw("get", request, context)
        return await self.get_model(request, context)

    async def ListEndpoints(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def start(self, server: grpc.aio.Server) -> None:
        """Serve on a server that has its ports, and be healthy."""
        raw_chat_pb2_grpc.add_RawChatServiceServicer_to_server(self, server)
        routing_pb2_grpc.add_RoutingServiceServicer_to_server(self, server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        await self.set_health(serving=True)
        await server.start()

    def channel(self, settings: EdgeSettings) -> grpc.aio.Channel:
        """What the edge knows of this core."""
        return self.server.channel() if isinstance(self.server, InProcessServer) else open_channel(settings)

    async def set_health(self, *, serving: bool) -> None:
        """What grpc.health.v1 says."""
        states = health_pb2.HealthCheckResponse
        await self.health.set("", states.SERVING if serving else states.NOT_SERVING)


@pytest.fixture
def transport() -> str:
    """What is between edge and core; a test file that holds for the other TRANSPORTS too says so."""
    return "grpc"


@pytest.fixture
def add_services() -> Callable[[FakeCore], None]:
    """Adds services of a test file's own to the fake core before it starts."""
    return lambda fake: None


@pytest.fixture
async def core(transport: str, add_services: Callable[[FakeCore], None]) -> AsyncIterator[FakeCore]:
    limits = [("grpc.max_receive_message_length", 11 << 20)]
    with tempfile.TemporaryDirectory() as folder:
        fake = FakeCore(f"unix:{folder}/core.sock")
        if transport == "inprocess":
            fake.server = InProcessServer()
        else:
            fake.server = grpc.aio.server(options=limits)
            fake.server.add_insecure_port(fake.target)
        add_services(fake)
        if transport == "relay":
            fake.relay = Relay(fake)
            relay_pb2_grpc.add_RelayServiceServicer_to_server(fake.relay.servicer, fake.server)
        await fake.start(fake.server)
        yield fake
        await fake.server.stop(0)
        if fake.relay is not None:
            await fake.relay.carried.stop(0)
        await asyncio.sleep(0.01)  # stop() returns before the handlers saw their cancellation


async def until_relayed(channel: Any, core_ids: Sequence[str] = ("core_1",)) -> None:
    """Wait until chats go over streams to these cores."""
    async with asyncio.timeout(5):
        while sorted(channel.streams.core_ids) != sorted(core_ids):  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.005)


@dataclass
class Edge:
    """A running edge."""

    server: EdgeServer
    settings: EdgeSettings
    registry: CollectorRegistry
    channel: grpc.aio.Channel

    @property
    def url(self) -> str:
        return self.server.url

    def metric(self, name: str, **labels: str) -> float:
        """One sample's value; 0 when there is none."""
        return self.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
async def start_edge(core: FakeCore) -> AsyncIterator[Callable[..., Awaitable[Edge]]]:
    """Starts edges with settings of the test's own; stops them at its end."""
    edges: list[Edge] = []

    async def start(**changes: Any) -> Edge:
        settings = EdgeSettings(**{"port": 0, "core": core.target, "relay": core.relay is not None, **changes})
        registry = CollectorRegistry()
        channel = core.channel(settings)
        if core.relay is not None and settings.core == core.target:
            await until_relayed(channel)
        server = await EdgeServer.start(make_app(channel, settings, registry), settings)
        edges.append(Edge(server, settings, registry, channel))
        return edges[-1]

    yield start
    for edge in edges:
        await edge.server.stop(0)
        await edge.channel.close()


@pytest.fixture
async def edge(start_edge: Callable[..., Awaitable[Edge]]) -> Edge:
    return await start_edge()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


@dataclass
class RawClient:
    """A socket that says exactly what a test tells it to, and shows HTTP's own framing."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def post(self, body: bytes, *, version: str = "1.1") -> None:
        """A chat request."""
        head = f"POST /v1/chat/completions HTTP/{version}\r\nHost: edge\r\nContent-Length: {len(body)}\r\n\r\n"
        await self.send(head.encode() + body)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers (names in lower case) of the next answer."""
        async with asyncio.timeout(5):
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = text.rstrip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        return int(status.split()[1]), {name.lower(): value for name, value in headers.items()}

    async def chunk(self) -> bytes:
        """The next HTTP chunk; empty at the end."""
        async with asyncio.timeout(5):
            size = int(await self.reader.readuntil(b"\r\n"), 16)
            return (await self.reader.readexactly(size + 2))[:-2]

    async def rest(self) -> bytes:
        """Everything until the connection closes."""
        async with asyncio.timeout(5):
            return await self.reader.read(-1)

    def abort(self) -> None:
        """Go away without a word."""
        self.writer.transport.abort()


@pytest.fixture
async def connect() -> AsyncIterator[Callable[..., Awaitable[RawClient]]]:
    """Opens raw connections to an edge; `limit` bounds what the client takes without being asked."""
    clients: list[RawClient] = []

    async def open_one(edge: Edge, limit: int = 1 << 20) -> RawClient:
        streams = await asyncio.open_connection("127.0.0.1", edge.server.port, limit=limit)
        clients.append(RawClient(*streams))
        return clients[-1]

    yield open_one
    for client in clients:
        client.writer.close()
        with contextlib.suppress(ConnectionError):
            await client.writer.wait_closed()
