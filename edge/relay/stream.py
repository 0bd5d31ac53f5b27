"""One stream to one core."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import grpc
import grpc.aio
from worldrouter.calls.frames import CODES, Outbox, add_entries, entries_of
from worldrouter.calls.metadata import Entries
from worldrouter.calls.wire import Status
from worldrouter.v1 import relay_pb2

from edge.relay.call import RelayedCall

_LOGGER = logging.getLogger(__name__)

RpcOfStream = Any
"""A grpc.aio.StreamStreamCall of the service, whose `read` is typed as if it gave objects."""
_LOST = Status(grpc.StatusCode.UNAVAILABLE, "The stream to the core broke")


class RelayStream:
    """A stream that the core has greeted with `hello`. `run` it for it to carry anything."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rpc: RpcOfStream, hello: relay_pb2.RelayHello) -> None:
        self.core_id = hello.core_id
        self.max_request_bytes = hello.max_request_byte_count
        self.draining = False
        """Whether the core is about to stop."""
        self._max_calls = hello.max_call_count
        self._rpc = rpc
        self._outbox = Outbox(loop, relay_pb2.RelayRequest)
        self._calls: dict[int, RelayedCall] = {}
        self._last_id = 0

    @property
    def call_count(self) -> int:
        """Calls under way."""
        return len(self._calls)

    @property
    def full(self) -> bool:
        """Whether no call has room: the core takes no more at once, or takes them too slowly."""
        return len(self._calls) >= self._max_calls or self._outbox.crowded

    async def run(self) -> None:
        """Carry calls until the stream breaks, or is closed and empty."""
        writer = asyncio.get_running_loop().create_task(self._write())
        try:
            with contextlib.suppress(grpc.aio.AioRpcError):
                # Until EOF, or None for what is no such message, of which the library has told the log.
                while isinstance(response := await self._rpc.read(), relay_pb2.RelayResponse):
                    self._take(response)
                    del response  # megabytes perhaps, which nobody needs while the next one is awaited
        finally:
            self.draining = True
            writer.cancel()
            self._rpc.cancel()
            calls, self._calls = self._calls, {}
            for call in calls.values():
                call.finish(_LOST)

    def close(self) -> None:
        """End it as soon as it carries nothing; no calls are begun from now on."""
        self.draining = True
        if not self._calls:
            self._outbox.close()

    async def _write(self) -> None:
        try:
            while (request := await self._outbox.next()) is not None:
                await self._rpc.write(request)
                del request
            await self._rpc.done_writing()
        except Exception as error:
            if not isinstance(error, grpc.aio.AioRpcError | asyncio.InvalidStateError):  # which say that it is over
                _LOGGER.exception("The stream to %s broke", self.core_id)
            self._rpc.cancel()

    # From the core

    def _take(self, response: relay_pb2.RelayResponse) -> None:
        calls = self._calls
        for initial in response.initial_metadata:
            call = calls.get(initial.call_id)
            if call is not None:
                call.open(entries_of(initial.metadata))
        for message in response.messages:
            call = calls.get(message.call_id)
            if call is not None:
                call.receive(message.message)
        for end in response.ends:
            call = calls.pop(end.call_id, None)
            if call is not None:
                code = CODES.get(end.code, grpc.StatusCode.UNKNOWN)
                call.finish(Status(code, end.details, entries_of(end.trailing_metadata)))
        if response.draining or (self.draining and not calls):
            self.close()

    # From callers

    def begin(self, call: RelayedCall, path: str, metadata: Entries, request: bytes, timeout_s: float | None) -> int:
        """Begin a call; its id on this stream."""
        self._last_id = call_id = self._last_id + 1
        self._calls[call_id] = call
        frame = self._outbox.open.begins.add()
        frame.call_id, frame.method, frame.request = call_id, path, request
        add_entries(frame.metadata, metadata)
        if timeout_s is not None:
            frame.timeout.FromNanoseconds(int(timeout_s * 1e9))
        self._outbox.added(len(request))
        return call_id

    def cancel(self, call_id: int) -> None:
        """End a call, for which nothing more is to come."""
        self._calls.pop(call_id, None)
        self._outbox.open.cancelled_call_ids.append(call_id)
        self._outbox.added()
        if self.draining:
            self.close()

    def credit(self, call_id: int, read_bytes: int) -> None:
        """So much of a call was read."""
        frame = self._outbox.open.credits.add()
        frame.call_id, frame.read_byte_count = call_id, read_bytes
        self._outbox.added()
