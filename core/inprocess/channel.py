"""The client's side: a channel and what stubs make of it."""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, Self

import grpc
import grpc.aio
from worldrouter.calls.client import CANCELLED_DETAILS, StreamCall, UnaryCall
from worldrouter.calls.metadata import KEPT_FROM_REQUESTS, Entries, IllegalMetadata, MetadataTooLarge, admit
from worldrouter.calls.wire import DEADLINE_DETAILS, INVALID_METADATA, Status, Wire

from core.inprocess.context import Context
from core.inprocess.route import Deserializer, MalformedRequest, MessageTooLarge, Route, Serializer

if TYPE_CHECKING:
    from core.inprocess.server import InProcessServer

_logger = logging.getLogger(__name__)

_CLOSED = "Channel is closed."
_NOT_FOUND = Status(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
_STOPPED = Status(grpc.StatusCode.UNAVAILABLE, "Server already stopped.")
_EXPIRED = Status(grpc.StatusCode.DEADLINE_EXCEEDED, DEADLINE_DETAILS)


class InProcessChannel(grpc.aio.Channel):
    """A channel to one InProcessServer, connected as long as it is open."""

    def __init__(self, server: InProcessServer, *, copy_messages: bool, max_message_bytes: int | None) -> None:
        self._server = server
        self._copy_messages = copy_messages
        self._max_message_bytes = max_message_bytes
        self._closed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def __aenter__(self) -> Self:
        """The channel."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """Close it and cancel its calls."""
        await self.close()
        return None

    async def close(self, grace: float | None = None) -> None:
        """Refuse new calls, wait up to `grace` seconds for those under way, cancel the rest. Idempotent."""
        self._closed.set()
        calls = [wire for wire in self._server.calls if wire.channel is self]
        if grace:
            waiters = [wire.status_waiter() for wire in calls if wire.status is None]
            if waiters:
                await asyncio.wait(waiters, timeout=grace)
        for wire in calls:
            wire.cancel(CANCELLED_DETAILS)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """READY, or SHUTDOWN once it is closed."""
        return grpc.ChannelConnectivity.SHUTDOWN if self._closed.is_set() else grpc.ChannelConnectivity.READY

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the state is another one; from SHUTDOWN there is none to come."""
        if last_observed_state is grpc.ChannelConnectivity.READY:
            await self._closed.wait()
        elif self.get_state() is last_observed_state:
            await asyncio.get_running_loop().create_future()

    async def channel_ready(self) -> None:
        """Return at once. Raises UsageError for a closed channel."""
        if self._closed.is_set():
            raise grpc.aio.UsageError(_CLOSED)

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> UnaryMethod:
        """A method with one request and one response, by its path "/package.Service/Method"."""
        return UnaryMethod(self, method, request_serializer, response_deserializer)

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer = None,
        response_deserializer: Deserializer = None,
        _registered_method: bool | None = False,
    ) -> StreamMethod:
        """A method with one request and a stream of responses."""
        return StreamMethod(self, method, request_serializer, response_deserializer)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """Not served: no RPC of ours has a stream of requests. Raises NotImplementedError when it is called."""
        return _not_served

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """Not served, likewise."""
        return _not_served

    def route(self, path: str, serializer: Serializer, deserializer: Deserializer, *, unary: bool) -> Route | None:
        """The way to the method of this path and kind, or None if the server has none."""
        method = self._server.method(path)
        if method is None or (method.unary is not None) is not unary:
            return None
        return Route(
            method,
            serializer,
            deserializer,
            copy_messages=self._copy_messages,
            max_message_bytes=self._max_message_bytes,
        )

    def start(self, route: Route | None, request: Any, timeout_s: float | None, metadata: Any) -> Wire:
        """Start a call, or give one that is over if it cannot start. Raises UsageError for a closed channel."""
        if self._closed.is_set():
            raise grpc.aio.UsageError(_CLOSED)
        if self._server.stopped:
            return self._refused(_STOPPED)
        if route is None:
            return self._refused(_NOT_FOUND)
        if timeout_s is not None and timeout_s <= 0:
            return self._refused(_EXPIRED)
        try:
            invocation = admit(metadata, KEPT_FROM_REQUESTS) if metadata else ()
            if type(request) is not route.request_type:
                request = route.pass_request(request)
        except IllegalMetadata:
            return self._refused(INVALID_METADATA)
        except (MetadataTooLarge, MessageTooLarge) as error:
            return self._refused(Status(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)))
        except MalformedRequest as error:
            _logger.error("Unreadable request for servicer method [%s]", route.method.path, exc_info=error)
            return self._refused(Status(grpc.StatusCode.UNKNOWN, str(error)))
        return self._begin(route, request, invocation, timeout_s)

    def _begin(self, route: Route, request: Any, invocation: Entries, timeout_s: float | None) -> Context:
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        server = self._server
        context = Context(loop, self, server.calls)
        context.route = route
        context.invocation = invocation
        if timeout_s is not None:
            context.set_timeout(timeout_s)
        server.run(context, route.method, request)
        return context

    def _refused(self, status: Status) -> Wire:
        """A call that never was."""
        wire = Wire(asyncio.get_running_loop(), self, self._server.calls)
        wire.conclude(status)
        return wire


class _StubMethod:
    """A method of a stub. Its route is looked up until there is one: handlers may be registered later."""

    _unary: ClassVar[bool]

    def __init__(
        self, channel: InProcessChannel, path: str, serializer: Serializer, deserializer: Deserializer
    ) -> None:
        self._channel = channel
        self._path = path
        self._serializer = serializer
        self._deserializer = deserializer
        self._route: Route | None = None

    def _find_route(self, credentials: grpc.CallCredentials | None) -> Route | None:
        """The route, now if it is not known yet. Raises UsageError for credentials, which nothing carries here."""
        if credentials is not None:
            raise grpc.aio.UsageError("Call credentials need a channel over TLS.")
        if self._route is None:
            self._route = self._channel.route(self._path, self._serializer, self._deserializer, unary=self._unary)
        return self._route


class UnaryMethod(_StubMethod, grpc.aio.UnaryUnaryMultiCallable[Any, Any]):
    """Calls a method with one response."""

    _unary = True

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> UnaryCall:
        """Start a call. `timeout` is in seconds; the last two mean nothing without a socket."""
        route = self._route
        if route is None or credentials is not None:
            route = self._find_route(credentials)
        return UnaryCall(self._channel.start(route, request, timeout, metadata))


class StreamMethod(_StubMethod, grpc.aio.UnaryStreamMultiCallable[Any, Any]):
    """Calls a method with a stream of responses."""

    _unary = False

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> StreamCall:
        """Start a call. `timeout` is in seconds; the last two mean nothing without a socket."""
        route = self._route
        if route is None or credentials is not None:
            route = self._find_route(credentials)
        return StreamCall(self._channel.start(route, request, timeout, metadata))


def _not_served(*args: Any, **kwargs: Any) -> NoReturn:
    raise NotImplementedError("the in-process channel serves no client-streaming RPCs")
