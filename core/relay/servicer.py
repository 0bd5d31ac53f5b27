"""RelayService."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from worldrouter.v1 import relay_pb2, relay_pb2_grpc

from core.inprocess import InProcessServer
from core.inprocess.route import Route
from core.relay.stream import Stream
from core.services import Context

_log = logging.getLogger(__name__)


class RelayServicer(relay_pb2_grpc.RelayServiceServicer):
    """Carries calls to the handlers of `server`, which has those of this core. `core_id` tells cores apart."""

    def __init__(self, server: InProcessServer, core_id: str) -> None:
        self._server = server
        self._core_id = core_id
        self._routes: dict[str, Route] = {}
        self._streams: set[Stream] = set()
        self._draining = False
        self._idle = asyncio.Event()

    async def Relay(  # type: ignore[override]  # one that writes itself
        self, requests: AsyncIterator[relay_pb2.RelayRequest], context: Context
    ) -> None:
        """Carry calls until the caller has enough, or is gone."""
        stream = Stream(self._server, self._routes, context)
        stream.send_hello(self._core_id)
        if self._draining:
            stream.send_drain()
        self._streams.add(stream)
        writer = stream.loop.create_task(_write(stream, context, asyncio.current_task()))
        try:
            await stream.carry(requests)
            await writer  # a status sent while it writes would be an error of the library's
        finally:
            stream.break_off()
            writer.cancel()
            self._streams.discard(stream)
            if not self._streams:
                self._idle.set()
        if stream.failure is not None:
            raise stream.failure

    def drain(self) -> None:
        """Ask callers to begin no more calls here."""
        self._draining = True
        for stream in self._streams:
            stream.send_drain()

    async def closed(self, timeout_s: float) -> None:
        """Wait until callers have closed their streams, which they do when they drain and carry nothing more."""
        if not self._streams:
            return
        self._idle.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()


async def _write(stream: Stream, context: Context, handler: asyncio.Task[Any] | None) -> None:
    try:
        while (response := await stream.outbox.next()) is not None:
            await context.write(response)
            del response  # megabytes perhaps
    except Exception as error:
        if not isinstance(error, grpc.aio.BaseError):  # which says that the caller is gone
            _log.exception("A relay's stream broke")
        if handler is not None:
            handler.cancel()
