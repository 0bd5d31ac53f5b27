"""A channel whose chats go over streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from worldrouter.calls.client import CANCELLED_DETAILS, StreamCall, UnaryCall
from worldrouter.calls.metadata import KEPT_FROM_REQUESTS, IllegalMetadata, MetadataTooLarge, admit
from worldrouter.calls.wire import DEADLINE_DETAILS, INVALID_METADATA, Status, Wire

from edge.relay.call import RelayedCall, RelayedMethod
from edge.relay.streams import LOOK_UP_S, RelayStreams

RELAYED = "/worldrouter.v1.RawChatService/"
"""Chats: what there is much of, and what may be sent again."""
_EXPIRED = Status(grpc.StatusCode.DEADLINE_EXCEEDED, DEADLINE_DETAILS)


class RelayChannel(grpc.aio.Channel):
    """A channel around another one, which it closes.

    What is no chat, is too large for a stream, or finds none goes over that other one, as do chats that came to
    nothing on their stream.
    """

    def __init__(
        self,
        plain: grpc.aio.Channel,
        relayed: str = RELAYED,
        *,
        another: Callable[[], grpc.aio.Channel] | None = None,
        look_up_s: float = LOOK_UP_S,
    ) -> None:
        """Begins to look for cores in the running loop. Methods that begin with `relayed` go over streams. `another`
        opens one more channel like `plain`, where its name may come to have other addresses."""
        self.loop = asyncio.get_running_loop()
        self.calls: set[Wire] = set()
        """Those over streams that are under way."""
        self.streams: RelayStreams | None = RelayStreams(plain, self.loop, another, look_up_s)
        self._plain = plain
        self._relayed = relayed

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
        streams, self.streams = self.streams, None
        if streams is None:
            return
        waiters = [call.status_waiter() for call in self.calls]
        if grace and waiters:
            await asyncio.wait(waiters, timeout=grace)
        for call in tuple(self.calls):
            call.cancel(CANCELLED_DETAILS)
        await streams.close()
        await self._plain.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The other channel's."""
        return self._plain.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the state is another one."""
        await self._plain.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until the other channel is connected."""
        await self._plain.channel_ready()

    def unary_unary(self, method: str, *codecs: Any, **more: Any) -> Any:
        """A method with one request and one response, by its path."""
        return self._method(self._plain.unary_unary(method, *codecs, **more), method, *codecs, **more)

    def unary_stream(self, method: str, *codecs: Any, **more: Any) -> Any:
        """A method with one request and a stream of responses."""
        return self._method(self._plain.unary_stream(method, *codecs, **more), method, *codecs, **more, unary=False)

    def stream_unary(self, *args: Any, **more: Any) -> Any:
        """A method with a stream of requests, which none of a chat has."""
        return self._plain.stream_unary(*args, **more)

    def stream_stream(self, *args: Any, **more: Any) -> Any:
        """The same with a stream of responses."""
        return self._plain.stream_stream(*args, **more)

    def _method(
        self,
        plain: Any,
        path: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
        *,
        unary: bool = True,
    ) -> Any:
        if not path.startswith(self._relayed) or request_serializer is None or response_deserializer is None:
            return plain
        return _Method(self, RelayedMethod(path, request_serializer, response_deserializer, plain, unary))


class _Method:
    """A method of a stub."""

    def __init__(self, channel: RelayChannel, method: RelayedMethod) -> None:
        self._channel = channel
        self._method = method
        self._shown_as = UnaryCall if method.unary else StreamCall

    def __call__(self, request: Any, *, timeout: float | None = None, metadata: Any = None, **more: Any) -> Any:
        """Start a call. `timeout` is in seconds; anything more is for the other channel."""
        channel = self._channel
        if channel.streams is None:
            raise grpc.aio.UsageError("Channel is closed.")
        stream = channel.streams.pick() if not more else None
        if stream is None:
            return self._method.plain(request, timeout=timeout, metadata=metadata, **more)
        data = self._method.serialize(request)
        if len(data) > stream.max_request_bytes:
            return self._method.plain(request, timeout=timeout, metadata=metadata, **more)
        status = None
        try:
            entries = admit(metadata, KEPT_FROM_REQUESTS) if metadata else ()
        except IllegalMetadata:
            status, entries = INVALID_METADATA, ()
        except MetadataTooLarge as error:
            status, entries = Status(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)), ()
        if timeout is not None and timeout <= 0:
            status = _EXPIRED
        call = RelayedCall(channel.loop, channel.calls, self._method, request, entries)
        if status is not None:
            call.conclude(status)
        else:
            call.start(stream, data, timeout)
        return self._shown_as(call)
