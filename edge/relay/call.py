"""A call on a stream, as far as the stream goes; `worldrouter.calls.client` shows it to whoever made it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from worldrouter.calls.frames import MESSAGE_WEIGHT_BYTES, WINDOW_BYTES
from worldrouter.calls.metadata import Entries
from worldrouter.calls.wire import Status, Wire

if TYPE_CHECKING:
    from edge.relay.stream import RelayStream

_CREDIT_BYTES = WINDOW_BYTES // 2
_UNREADABLE = Status(grpc.StatusCode.INTERNAL, "Exception deserializing response!")


@dataclass(frozen=True, slots=True)
class RelayedMethod:
    """A method as a stub knows it. `plain` calls it without a stream."""

    path: str
    serialize: Callable[[Any], bytes]
    deserialize: Callable[[bytes], Any]
    plain: Any
    unary: bool


class RelayedCall(Wire):
    """One call. If it comes to nothing on its stream, it is made once more without one.

    That is: UNAVAILABLE without initial metadata, as gRPC itself would repeat it.
    """

    _read_bytes = 0
    _again: Any = None
    """The call without a stream, if it was repeated."""
    _repetition: asyncio.Task[None] | None = None

    def __init__(
        self, loop: asyncio.AbstractEventLoop, calls: set[Wire], method: RelayedMethod, request: Any, metadata: Entries
    ) -> None:
        super().__init__(loop, None, calls)
        self._method = method
        self._request = request
        self._metadata = metadata
        self._stream: RelayStream | None = None
        self._id = 0
        calls.add(self)

    def start(self, stream: RelayStream, request: bytes, timeout_s: float | None) -> None:
        """Begin it on a stream."""
        if timeout_s is not None:
            self.set_timeout(timeout_s)
        self._stream = stream
        self._id = stream.begin(self, self._method.path, self._metadata, request, timeout_s)

    # From the stream

    def open(self, initial: Entries) -> None:
        """Initial metadata came: the call is not repeated from now on."""
        self._request = None
        super().open(initial)

    def receive(self, data: bytes) -> None:
        """A message came."""
        try:
            message = self._method.deserialize(data)
        except Exception:
            self.halt(_UNREADABLE)
            return
        if self._method.unary:
            self.response = message
            return
        self._read_bytes += len(data) + MESSAGE_WEIGHT_BYTES
        self.send(message)
        if self._read_bytes >= _CREDIT_BYTES:
            self._give_credit()

    def finish(self, status: Status) -> None:
        """The call ended, or its stream broke."""
        self._stream = None
        if status.code is grpc.StatusCode.UNAVAILABLE and self.initial is None:
            self._again = self._method.plain(self._request, timeout=self.time_remaining_s(), metadata=self._metadata)
            self._repetition = self.loop.create_task(self._pass_on(self._again))
        else:
            self.end(status)

    async def _pass_on(self, call: Any) -> None:
        """What comes of the repetition."""
        try:
            initial = await call.initial_metadata()
            if not call.done() or await call.code() is grpc.StatusCode.OK:
                self.open(tuple(initial))
            if self._method.unary:
                self.response = await call
            else:
                while (message := await call.read()) is not grpc.aio.EOF:
                    if self.send(message):
                        await self.room()
        except grpc.aio.AioRpcError:
            pass
        except asyncio.CancelledError:
            call.cancel()
            raise
        self.end(Status(await call.code(), await call.details() or "", tuple(await call.trailing_metadata() or ())))

    # From the caller

    def take(self) -> Any:
        """The next of `messages`, which must not be empty."""
        message = super().take()
        if self._read_bytes >= _CREDIT_BYTES:
            self._give_credit()
        return message

    def halt(self, status: Status) -> bool:
        """Give the client this status now, and let whoever runs the call know. False if it has one."""
        if self.status is not None:
            return False
        if self._stream is not None:
            self._stream.cancel(self._id)
            self._stream = None
        elif self._again is not None:
            self._again.cancel()
        return super().halt(status)

    def _give_credit(self) -> None:
        if not self.messages and self._stream is not None:
            self._stream.credit(self._id, self._read_bytes)
            self._read_bytes = 0
