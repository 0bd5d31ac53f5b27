"""A relay on a Unix socket over chats that a test scripts, and a caller that says exactly what it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import uvloop
from worldrouter.v1 import raw_chat_pb2, raw_chat_pb2_grpc, relay_pb2, relay_pb2_grpc

from core.inprocess import InProcessServer
from core.relay.servicer import RelayServicer

CREATE = "/worldrouter.v1.RawChatService/CreateRawCompletion"
STREAM = "/worldrouter.v1.RawChatService/StreamRawCompletion"


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop of production."""
    return {"uvloop": uvloop.new_event_loop}


class Chats(raw_chat_pb2_grpc.RawChatServiceServicer):
    """Answers with the body that came, until a test replaces `create` or `stream`."""

    def __init__(self) -> None:
        self.create: Callable[[Any, Any], Awaitable[Any]] = self.echo
        self.stream: Callable[[Any, Any], AsyncIterator[Any]] = self.echo_twice
        self.running = 0

    async def echo(self, request: Any, context: Any) -> Any:
        await context.send_initial_metadata((("x-request-id", "r"),))
        return raw_chat_pb2.CreateRawCompletionResponse(body=request.body)

    async def echo_twice(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield chunk(request.body)
        yield chunk(request.body)

    async def CreateRawCompletion(self, request: Any, context: Any) -> Any:
        self.running += 1
        try:
            return await self.create(request, context)
        finally:
            self.running -= 1

    async def StreamRawCompletion(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.running += 1
        try:
            async for message in self.stream(request, context):
                yield message
        finally:
            self.running -= 1


def chunk(text: bytes) -> Any:
    """An event of one chunk."""
    return raw_chat_pb2.StreamRawCompletionResponse(chunks=raw_chat_pb2.CompletionChunks(chunk_json=[text]))


@dataclass
class Carried:
    """What came of one call so far."""

    initial: dict[str, bytes] | None = None
    messages: list[bytes] = field(default_factory=list)
    end: relay_pb2.RelayEnd | None = None


@dataclass
class Caller:
    """One stream. Reads only when it is told to."""

    rpc: Any
    calls: dict[int, Carried] = field(default_factory=dict)
    hello: relay_pb2.RelayHello | None = None
    draining: bool = False
    response_count: int = 0

    async def send(self, *begins: relay_pb2.RelayBegin, credits: Any = (), cancelled: Any = ()) -> None:
        """One message of these frames."""
        await self.rpc.write(relay_pb2.RelayRequest(begins=begins, credits=credits, cancelled_call_ids=cancelled))

    async def read(self) -> relay_pb2.RelayResponse:
        """The next message of the core; EOFError at the end of the stream."""
        async with asyncio.timeout(5):
            response = await self.rpc.read()
        if response is grpc.aio.EOF:
            raise EOFError
        self.response_count += 1
        self.draining |= response.draining
        if response.HasField("hello"):
            self.hello = response.hello
        for initial in response.initial_metadata:
            call = self.calls.setdefault(initial.call_id, Carried())
            assert (call.initial, call.messages, call.end) == (None, [], None)
            call.initial = {entry.key: entry.value for entry in initial.metadata}
        for message in response.messages:
            call = self.calls[message.call_id]
            assert call.initial is not None
            assert call.end is None
            call.messages.append(message.message)
        for end in response.ends:
            call = self.calls.setdefault(end.call_id, Carried())
            assert call.end is None, "a second end"
            call.end = end
        return response

    async def end_of(self, call_id: int) -> Carried:
        """A call, when it has ended."""
        while (call := self.calls.get(call_id)) is None or call.end is None:
            await self.read()
        return call


def begin(call_id: int, method: str = CREATE, body: bytes = b"{}", **more: Any) -> relay_pb2.RelayBegin:
    """A call of a chat."""
    asked = raw_chat_pb2.CreateRawCompletionRequest(body=body).SerializeToString()
    return relay_pb2.RelayBegin(**{"call_id": call_id, "method": method, "request": asked, **more})


def credit(call_id: int, read_byte_count: int) -> relay_pb2.RelayCredit:
    return relay_pb2.RelayCredit(call_id=call_id, read_byte_count=read_byte_count)


@dataclass
class Core:
    """A core with nothing but chats."""

    chats: Chats
    carried: InProcessServer
    servicer: RelayServicer
    channel: grpc.aio.Channel

    async def open(self) -> Caller:
        """A stream that was greeted."""
        caller = Caller(relay_pb2_grpc.RelayServiceStub(self.channel).Relay())
        await caller.read()
        return caller

    async def idle(self) -> None:
        """Wait until no handler runs."""
        async with asyncio.timeout(5):
            while self.chats.running or self.carried.calls:  # noqa: ASYNC110 - what it waits for has no event
                await asyncio.sleep(0.005)


@pytest.fixture
async def core(tmp_path: Path) -> AsyncIterator[Core]:
    chats, carried, server = Chats(), InProcessServer(), grpc.aio.server()
    raw_chat_pb2_grpc.add_RawChatServiceServicer_to_server(chats, carried)
    servicer = RelayServicer(carried, "core_1")
    relay_pb2_grpc.add_RelayServiceServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{tmp_path}/socket")
    await server.start()
    options = [("grpc.http2.bdp_probe", 0), ("grpc.max_receive_message_length", 64 << 20)]  # as the edge's
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/socket", options) as channel:
        made = Core(chats, carried, servicer, channel)
        yield made
    await made.idle()
    await server.stop(None)
    await asyncio.sleep(0.01)  # stop() returns before the handlers saw their cancellation
