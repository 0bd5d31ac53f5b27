"""The call as its client sees it."""

from __future__ import annotations

import asyncio
import enum
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import grpc
import grpc.aio

from worldrouter.calls.metadata import Entries, ReceivedMetadata
from worldrouter.calls.wire import Status, Wire

_logger = logging.getLogger(__name__)

CANCELLED_DETAILS = "Locally cancelled by application!"
_DROPPED_DETAILS = "Cancelled upon garbage collection!"


class _Style(enum.Enum):
    """How a stream is read; the two may not be mixed."""

    ITERATION = 1
    READ = 2


class _Call(grpc.aio.Call):
    """What unary and streamed calls have in common. Dropping one that is not done cancels it."""

    _callbacks: list[Callable[[Any], None]] | None = None

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def __del__(self) -> None:
        if self._wire.status is None and not self._wire.loop.is_closed():
            self._wire.cancel(_DROPPED_DETAILS)

    def cancel(self) -> bool:
        """Cancel the call: whoever awaits it gets CancelledError, and so does the handler. False if it is done."""
        return self._wire.cancel(CANCELLED_DETAILS)

    def cancelled(self) -> bool:
        """Whether the call ended with CANCELLED, from either side."""
        status = self._wire.status
        return status is not None and status.code is grpc.StatusCode.CANCELLED

    def done(self) -> bool:
        """Whether the call has its status: for a stream, when all messages are read."""
        return self._wire.status is not None

    def time_remaining(self) -> float | None:
        """Seconds until the deadline, or None without one."""
        return self._wire.time_remaining_s()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Have it called with this call when it is done; at once if it is."""
        if self.done():
            callback(self)
            return
        if self._callbacks is None:
            self._callbacks = []
            myself = weakref.ref(self)  # the wire outlives a call that is dropped, and must not keep it
            self._wire.listener = lambda: _run_callbacks(myself())
        self._callbacks.append(callback)

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """The initial metadata, when the handler has sent them or a message, or the call is done."""
        if self._wire.initial is not None:
            return ReceivedMetadata(self._wire.initial)
        return ReceivedMetadata(await self._wire.wait_for_initial())

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """The trailing metadata, when the call is done."""
        return ReceivedMetadata((await self._wire.wait_for_status()).trailing)

    async def code(self) -> grpc.StatusCode:
        """The status code, when the call is done."""
        return (await self._wire.wait_for_status()).code

    async def details(self) -> str:
        """The status' details, when the call is done."""
        return (await self._wire.wait_for_status()).details

    async def debug_error_string(self) -> str:
        """The status in one line, empty for OK, when the call is done."""
        return _debug_string(await self._wire.wait_for_status())

    def _raise_for_status(self, status: Status) -> None:
        """Raise what a status is to the client: nothing for OK, CancelledError for its own cancel."""
        if status.code is grpc.StatusCode.OK:
            return
        if self._wire.cancelled_locally:
            raise asyncio.CancelledError
        initial: Entries = self._wire.initial or ()
        raise grpc.aio.AioRpcError(
            status.code,
            ReceivedMetadata(initial),
            ReceivedMetadata(status.trailing),
            details=status.details,
            debug_error_string=_debug_string(status),
        )


class UnaryCall(_Call, grpc.aio.UnaryUnaryCall[Any, Any]):
    """A call with one response."""

    def __await__(self) -> Generator[Any, None, Any]:
        """The response. Raises AioRpcError, or CancelledError if the call or the waiting task was cancelled."""
        wire = self._wire
        if wire.status is None:
            try:
                yield from wire.status_waiter().__await__()
            except asyncio.CancelledError:
                self.cancel()
                raise
        status = wire.status
        assert status is not None
        self._raise_for_status(status)
        return wire.response

    async def wait_for_connection(self) -> None:
        """Wait until the call is done, as grpc.aio's does. Raises as awaiting it would, and cancels as it would."""
        await self


class StreamCall(_Call, grpc.aio.UnaryStreamCall[Any, Any]):
    """A call with any number of responses."""

    _style: _Style | None = None
    _exhausted = False

    def __aiter__(self) -> AsyncIterator[Any]:
        """The call itself. Raises UsageError after `read`."""
        self._use(_Style.ITERATION)
        return self

    async def __anext__(self) -> Any:
        """The next message. Raises what the call ended with once, then StopAsyncIteration."""
        wire = self._wire
        if wire.messages:
            return wire.take()
        if wire.status is None:
            try:  # as in `_wait`, which would cost every message a coroutine
                message = await wire.next_message()
            except asyncio.CancelledError:
                self.cancel()
                self._exhausted = True
                raise
            if message is not grpc.aio.EOF:
                return message
        if not self._exhausted:
            self._exhausted = True
            self._raise_for_status(await wire.wait_for_status())
        raise StopAsyncIteration

    async def read(self) -> Any:
        """The next message, or EOF after the last. Raises what the call ended with, or UsageError in iteration."""
        wire = self._wire
        if wire.status is None:
            self._use(_Style.READ)
            message = wire.take() if wire.messages else await self._wait()
            if message is not grpc.aio.EOF:
                return message
        self._raise_for_status(await wire.wait_for_status())
        return grpc.aio.EOF

    async def wait_for_connection(self) -> None:
        """Wait for the initial metadata. Raises what the call ended with, if it has. A cancelled waiter cancels it."""
        try:
            await self._wire.wait_for_initial()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if self._wire.status is not None:
            self._raise_for_status(self._wire.status)

    async def _wait(self) -> Any:
        """The next message or EOF, when it comes. A reader that is cancelled cancels the call."""
        try:
            return await self._wire.next_message()
        except asyncio.CancelledError:
            self.cancel()
            raise

    def _use(self, style: _Style) -> None:
        if self._style is None:
            self._style = style
        elif self._style is not style:
            raise grpc.aio.UsageError("The iterator and read/write APIs may not be mixed on a single RPC.")


def _run_callbacks(call: _Call | None) -> None:
    if call is None or call._callbacks is None:
        return
    callbacks, call._callbacks = call._callbacks, None
    for callback in callbacks:
        try:
            callback(call)
        except Exception:
            _logger.exception("Error in a call's done callback")


def _debug_string(status: Status) -> str:
    """As gRPC's core words it."""
    if status.code is grpc.StatusCode.OK:
        return ""
    return f"{status.code.name}:{status.details}" if status.details else status.code.name
