"""One servicer behind five channels: in-process, in-process with copied messages, Unix socket, TCP with TLS, relay."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme
import uvloop
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from worldrouter.v1 import raw_chat_pb2, raw_chat_pb2_grpc, relay_pb2_grpc

from core.inprocess import InProcessServer
from core.relay.servicer import RelayServicer
from edge.relay.channel import RelayChannel

KINDS = ("in-process", "in-process, copied", "unix socket", "tls", "relay")

UnaryHandler = Callable[[Any, Any], Awaitable[Any]]
StreamHandler = Callable[[Any, Any], AsyncGenerator[Any, None]]


def pytest_asyncio_loop_factories(item: pytest.Function) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop of production; tests that stay in the process also run under asyncio's own."""
    if "inner" in item.fixturenames:
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quick part keeps the plain in-process channel and one real one, under the loop of production."""
    for item in items:
        if Path(__file__).parent in item.path.parents and re.search(r"tls|copied|asyncio-", item.name):
            item.add_marker(pytest.mark.slow)


class Servicer(raw_chat_pb2_grpc.RawChatServiceServicer):
    """Does what a test tells it to, and remembers how its handlers ended."""

    def __init__(self) -> None:
        self.unary: UnaryHandler = self._no_unary
        self.stream: StreamHandler = self._no_stream
        self.begun = 0
        self.ended: asyncio.Queue[BaseException | None] = asyncio.Queue()

    async def CreateRawCompletion(self, request: Any, context: Any) -> Any:  # type: ignore[override]
        self.begun += 1
        try:
            response = await self.unary(request, context)
        except BaseException as error:
            self.ended.put_nowait(error)
            raise
        self.ended.put_nowait(None)
        return response

    async def StreamRawCompletion(self, request: Any, context: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        self.begun += 1
        try:
            async with aclosing(self.stream(request, context)) as messages:
                async for message in messages:
                    yield message
        except BaseException as error:
            self.ended.put_nowait(error)
            raise
        self.ended.put_nowait(None)

    async def next_end(self) -> BaseException | None:
        """What the next handler to end raised, or None."""
        return await asyncio.wait_for(self.ended.get(), 5)

    async def _no_unary(self, request: Any, context: Any) -> Any:
        raise AssertionError("not expected")

    async def _no_stream(self, request: Any, context: Any) -> AsyncGenerator[Any, None]:
        raise AssertionError("not expected")
        yield


Entries = Mapping[str, Sequence[str | bytes]]


def by_key(metadata: Any) -> Entries:
    """Metadata as it compares: gRPC keeps the order of one key's values, not of the keys."""
    found: dict[str, list[str | bytes]] = {}
    for key, value in metadata or ():
        found.setdefault(key, []).append(value)
    return found


@dataclass(frozen=True)
class Outcome:
    """Everything a client learns of a call."""

    messages: tuple[bytes, ...]
    raised: str
    code: grpc.StatusCode
    details: str
    initial: Entries = field(default_factory=dict)
    trailing: Entries = field(default_factory=dict)


def plain_details(details: str | None) -> str:
    """Details without what chttp2 puts around some, depending on what it heard first."""
    return re.sub(r"^Stream removed \((.*)\)$", r"\1", details or "", flags=re.DOTALL)


@dataclass
class Link:
    """A channel of one kind and the servicer behind it."""

    kind: str
    server: Any
    channel: grpc.aio.Channel
    servicer: Servicer
    health: HealthServicer
    stub: Any = None

    def __post_init__(self) -> None:
        self.stub = raw_chat_pb2_grpc.RawChatServiceStub(self.channel)

    @property
    def in_process(self) -> bool:
        return self.kind.startswith("in-process")

    def create(self, body: bytes = b"", **options: Any) -> Any:
        """Start a unary call."""
        return self.stub.CreateRawCompletion(raw_chat_pb2.CreateRawCompletionRequest(body=body), **options)

    def open(self, body: bytes = b"", **options: Any) -> Any:
        """Start a streamed call."""
        return self.stub.StreamRawCompletion(raw_chat_pb2.StreamRawCompletionRequest(body=body), **options)

    async def unary(self, body: bytes = b"", **options: Any) -> Outcome:
        """A whole unary call."""
        call = self.create(body, **options)
        try:
            messages, raised = ((await asyncio.wait_for(call, 5)).body,), ""
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            messages, raised = (), type(error).__name__
        except grpc.aio.InternalError:  # a socket's unary call with illegal metadata: it never gets a status
            call.cancel()
            return Outcome((), "AioRpcError", grpc.StatusCode.INTERNAL, "Invalid metadata")
        return await self.outcome(call, messages, raised)

    async def streamed(self, body: bytes = b"", **options: Any) -> Outcome:
        """A whole streamed call."""
        call = self.open(body, **options)
        return await self.rest(call)

    async def rest(self, call: Any, messages: tuple[bytes, ...] = ()) -> Outcome:
        """What is left of a streamed call that is iterated."""
        raised = ""
        try:
            async with asyncio.timeout(5):
                async for message in call:
                    messages += tuple(message.chunks.chunk_json)
        except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
            raised = type(error).__name__
        return await self.outcome(call, messages, raised)

    async def outcome(self, call: Any, messages: tuple[bytes, ...], raised: str) -> Outcome:
        """What a call that is done came to."""
        assert call.done()
        initial, trailing = by_key(await call.initial_metadata()), by_key(await call.trailing_metadata())
        return Outcome(messages, raised, await call.code(), plain_details(await call.details()), initial, trailing)


@dataclass(frozen=True)
class Certificate:
    """What TLS needs on both sides."""

    authority: bytes
    key: bytes
    chain: bytes


@pytest.fixture(scope="session")
def certificate() -> Certificate:
    """A certificate for localhost of an authority made for it."""
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    chain = b"".join(blob.bytes() for blob in leaf.cert_chain_pems)
    return Certificate(authority.cert_pem.bytes(), leaf.private_key_pem.bytes(), chain)


Opener = Callable[..., Any]


@pytest.fixture
def open_link(tmp_path: Path, certificate: Certificate) -> Opener:
    """Opens a link of a kind: `async with open_link(kind, max_message_bytes=None) as link`."""

    def listen(server: Any, kind: str) -> str:
        if kind in ("unix socket", "relay"):
            target = f"unix:{tmp_path}/{kind[:5]}"
            server.add_insecure_port(target)
            return target
        credentials = grpc.ssl_server_credentials([(certificate.key, certificate.chain)])
        return f"localhost:{server.add_secure_port('localhost:0', credentials)}"

    def connect(target: str, kind: str, options: Any) -> grpc.aio.Channel:
        if kind in ("unix socket", "relay"):
            return grpc.aio.insecure_channel(target, options)
        credentials = grpc.ssl_channel_credentials(certificate.authority)
        return grpc.aio.secure_channel(target, credentials, options)

    @asynccontextmanager
    async def open_(kind: str, max_message_bytes: int | None = None) -> AsyncIterator[Link]:
        limit = [] if max_message_bytes is None else [("grpc.max_receive_message_length", max_message_bytes)]
        servicer, health = Servicer(), HealthServicer()
        server: Any = InProcessServer() if kind.startswith("in-process") else grpc.aio.server(options=limit)
        raw_chat_pb2_grpc.add_RawChatServiceServicer_to_server(servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        carried = InProcessServer()
        if kind == "relay":
            raw_chat_pb2_grpc.add_RawChatServiceServicer_to_server(servicer, carried)
            relay_pb2_grpc.add_RelayServiceServicer_to_server(RelayServicer(carried, "core_1"), server)
        if isinstance(server, InProcessServer):
            copied = kind == "in-process, copied"
            channel: Any = server.channel(copy_messages=copied, max_message_bytes=max_message_bytes)
        else:
            target = listen(server, kind)
            await server.start()
            channel = connect(target, kind, limit)
            channel = RelayChannel(channel) if kind == "relay" else channel
        async with channel:
            await channel.channel_ready()  # no test's deadline pays for the handshake
            while kind == "relay" and not channel.streams.core_ids:  # noqa: ASYNC110 - what it waits for has no event
                await asyncio.sleep(0.005)
            yield Link(kind, server, channel, servicer, health)
            if kind == "relay":
                assert not channel.calls
        await server.stop(None)
        await carried.stop(None)
        if isinstance(server, InProcessServer):
            assert not server.calls

    return open_


@pytest.fixture(params=KINDS)
async def link(request: pytest.FixtureRequest, open_link: Opener) -> AsyncIterator[Link]:
    """Each kind of link in turn."""
    async with open_link(request.param) as opened:
        yield opened


@pytest.fixture(params=KINDS[:2])
async def inner(request: pytest.FixtureRequest, open_link: Opener) -> AsyncIterator[Link]:
    """The two that stay in the process."""
    async with open_link(request.param) as opened:
        yield opened


@pytest.fixture
async def links(open_link: Opener) -> AsyncIterator[list[Link]]:
    """All kinds of links at once."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_link(kind)) for kind in KINDS]
