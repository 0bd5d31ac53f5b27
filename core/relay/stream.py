"""What one caller's stream carries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
from worldrouter.calls.client import CANCELLED_DETAILS
from worldrouter.calls.frames import Outbox, add_entries, entries_of
from worldrouter.calls.metadata import KEPT_FROM_REQUESTS, Entries, IllegalMetadata, MetadataTooLarge, admit
from worldrouter.calls.wire import DEADLINE_DETAILS, INVALID_METADATA, Status
from worldrouter.v1 import relay_pb2

from core.errors import InvalidRequest
from core.inprocess import InProcessServer
from core.inprocess.route import MalformedRequest, Route
from core.relay.carried import CarriedCall
from core.services import Context

MAX_CALLS = 4_096
MAX_REQUEST_BYTES = 256 * 1024
"""Of one request; a larger one holds the others up for longer than an RPC of its own costs."""
MAX_MESSAGE_BYTES = 60 << 20
"""Of one message of an answer: callers take responses of 64 MiB."""
MAX_FRAMES = 4 * MAX_CALLS
"""Of one request message of the stream."""
_SLICE_CALLS = 64
"""So many begin before others get their turn."""
_MAX_TIMEOUT_S = 86_400.0
"""Longer than any RPC of ours takes, and not too long for a timer."""
_NOT_FOUND = Status(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
_EXPIRED = Status(grpc.StatusCode.DEADLINE_EXCEEDED, DEADLINE_DETAILS)
_TOO_MANY = Status(grpc.StatusCode.RESOURCE_EXHAUSTED, f"More than {MAX_CALLS} calls on one stream")
_TOO_LARGE = Status(
    grpc.StatusCode.RESOURCE_EXHAUSTED, f"SERVER: Received message larger than max ({MAX_REQUEST_BYTES} in a relay)"
)


class Stream:
    """One stream's calls. `peer` is the context of the stream's own RPC."""

    def __init__(self, server: InProcessServer, routes: dict[str, Route], peer: Context) -> None:
        self.loop = asyncio.get_running_loop()
        self.server = server
        self.outbox = Outbox(self.loop, relay_pb2.RelayResponse)
        self.peer = peer
        self.failure: Exception | None = None
        """What ended `carry`: most often a mistake of the caller's."""
        self._routes = routes
        self._calls: dict[int, CarriedCall] = {}
        self._last_id = 0

    # From the caller

    async def carry(self, requests: AsyncIterator[relay_pb2.RelayRequest]) -> None:
        """Do what the caller says until it half-closes, or something fails; then nothing runs any more."""
        try:
            async for request in requests:
                await self._take(request)
                del request  # many requests perhaps
        except Exception as failure:
            self.failure = failure
        self.break_off()
        self.outbox.close()

    async def _take(self, request: relay_pb2.RelayRequest) -> None:
        if len(request.begins) + len(request.credits) + len(request.cancelled_call_ids) > MAX_FRAMES:
            raise InvalidRequest(f"More than {MAX_FRAMES} frames in one message.")
        for number, begin in enumerate(request.begins, 1):
            self._begin(begin)
            if number % _SLICE_CALLS == 0:
                await asyncio.sleep(0)
        for credit in request.credits:
            call = self._calls.get(credit.call_id)
            if call is not None:
                call.credit(credit.read_byte_count)
        for call_id in request.cancelled_call_ids:
            call = self._calls.get(call_id)
            if call is not None:
                call.cancel(CANCELLED_DETAILS)
        if self.outbox.crowded:  # a caller that reads nothing shall not fill our memory with ends of calls
            await self.outbox.room()

    def break_off(self) -> None:
        """The stream is over, and so are its calls."""
        for call in tuple(self._calls.values()):
            call.cancel(CANCELLED_DETAILS)

    def _begin(self, begin: relay_pb2.RelayBegin) -> None:
        call_id = begin.call_id
        if call_id <= self._last_id:
            raise InvalidRequest(f"call_id {call_id} is not greater than all before it.", param="begins.call_id")
        self._last_id = call_id
        route = self._route(begin.method)
        timeout_s = begin.timeout.seconds + begin.timeout.nanos / 1e9 if begin.HasField("timeout") else None
        if route is None:
            self.send_end(call_id, _NOT_FOUND)
        elif len(self._calls) >= MAX_CALLS:
            self.send_end(call_id, _TOO_MANY)
        elif len(data := begin.request) > MAX_REQUEST_BYTES:
            self.send_end(call_id, _TOO_LARGE)
        elif timeout_s is not None and timeout_s <= 0:
            self.send_end(call_id, _EXPIRED)
        else:
            self._run(route, begin, data, timeout_s)

    def _run(self, route: Route, begin: relay_pb2.RelayBegin, data: bytes, timeout_s: float | None) -> None:
        call_id = begin.call_id
        try:
            metadata = admit(entries_of(begin.metadata), KEPT_FROM_REQUESTS)
            request = route.pass_request(data)
        except IllegalMetadata:
            self.send_end(call_id, INVALID_METADATA)
            return
        except MetadataTooLarge as error:
            self.send_end(call_id, Status(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)))
            return
        except MalformedRequest as error:
            self.send_end(call_id, Status(grpc.StatusCode.UNKNOWN, str(error)))
            return
        call = self._calls[call_id] = CarriedCall(self, call_id)
        call.route = route
        call.invocation = metadata
        if timeout_s is not None:
            call.set_timeout(min(timeout_s, _MAX_TIMEOUT_S))
        self.server.run(call, route.method, request)

    def _route(self, path: str) -> Route | None:
        """The way to a method; its responses come out of it serialized."""
        route = self._routes.get(path)
        if route is None:
            method = self.server.method(path)
            if method is not None:
                route = Route(method, None, None, copy_messages=True, max_message_bytes=MAX_MESSAGE_BYTES)
                self._routes[path] = route
        return route

    # To the caller

    def send_hello(self, core_id: str) -> None:
        """The first of all."""
        hello = self.outbox.open.hello
        hello.core_id, hello.max_call_count, hello.max_request_byte_count = core_id, MAX_CALLS, MAX_REQUEST_BYTES
        self.outbox.added()

    def send_drain(self) -> None:
        """Ask the caller to begin no more calls."""
        self.outbox.open.draining = True
        self.outbox.added()

    def send_initial(self, call_id: int, metadata: Entries) -> None:
        """Initial metadata of a call."""
        frame = self.outbox.open.initial_metadata.add()
        frame.call_id = call_id
        add_entries(frame.metadata, metadata)
        self.outbox.added()

    def send_message(self, call_id: int, message: bytes) -> None:
        """A message of a call."""
        frame = self.outbox.open.messages.add()
        frame.call_id = call_id
        frame.message = message
        self.outbox.added(len(message))

    def send_end(self, call_id: int, status: Status) -> None:
        """The end of a call, under way until now or never."""
        self._calls.pop(call_id, None)
        frame = self.outbox.open.ends.add()
        frame.call_id = call_id
        code: int = status.code.value[0]
        if code:
            frame.code, frame.details = code, status.details
        if status.trailing:
            add_entries(frame.trailing_metadata, status.trailing)
        self.outbox.added()
