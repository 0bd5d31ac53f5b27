"""The edge's listening socket: start, drain, stop."""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import socket
from collections.abc import Callable

from aiohttp import http_parser, web

from edge.app import CHAT, WATCH
from edge.connection import Connection
from edge.request import take_short_way
from edge.settings import EdgeSettings

_LOGGER = logging.getLogger(__name__)

BACKLOG = 4096
"""With the default, 256 clients connecting at once wait a second for their first token."""
ACCEPTS_PER_TURN = 64
"""Connections taken in one round of the event loop, at most."""
TELL_AGAIN_S = 60.0
SEND_BUFFER_BYTES = 65536
"""Of each socket: a stalled client absorbs 255 KiB with it, 3.8 MiB without."""
READ_BUFFER_BYTES = 1 << 20
"""Of a body, before reading pauses: with aiohttp's 64 KiB a large one is paused dozens of times."""
LAST_WORDS_S = 5.0
"""For requests that were cut to say so, and for their last bytes to leave."""
POLL_S = 0.01


class CannotListen(Exception):
    """The address is taken or is not ours; the message is one line."""


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket bound to a TCP address, not listening yet; port 0 picks a free one. Raises CannotListen.

    A `shared` one may be bound beside others of this user that are shared too.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise CannotListen(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    return listener


class Door:
    """Lets a crowd in at once. libuv accepts one connection in each round of its loop (libuv#3696): whoever comes
    together with many would wait there until the streams of those before it are over."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, listener: socket.socket, connect: Callable[[], Connection]
    ) -> None:
        listener.setblocking(False)
        self._loop, self._listener, self._connect = loop, listener, connect
        self._entering: set[asyncio.Task[None]] = set()
        self._silent_until_s = 0.0

    def let_in(self) -> Connection:
        """The protocol of a connection that the loop has accepted. Accepts those behind it as well."""
        for _ in range(ACCEPTS_PER_TURN - 1):
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:  # nobody is there
                break
            except OSError as error:
                self._tell(error)
                break
            task = self._loop.create_task(self._enter(accepted))
            self._entering.add(task)
            task.add_done_callback(self._entering.discard)
        return self._connect()

    def _tell(self, error: OSError) -> None:
        """The log tells, now and then, that clients are turned away: libuv closes their connections in silence."""
        if error.errno in (errno.EMFILE, errno.ENFILE) and self._loop.time() >= self._silent_until_s:
            self._silent_until_s = self._loop.time() + TELL_AGAIN_S
            _LOGGER.error("no more clients can connect: %s", error.strerror)

    async def _enter(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._connect, accepted)
        except OSError as error:
            accepted.close()
            _LOGGER.debug("a client was gone before it was let in: %s", error)

    async def closed(self) -> None:
        """Wait until those who were let in are connections, which whoever stops can close."""
        if self._entering:
            await asyncio.wait(self._entering)


class EdgeServer:
    """An edge that listens. Made by `start`."""

    def __init__(self, runner: web.AppRunner, listener: asyncio.Server, door: Door, url: str, port: int) -> None:
        self.url = url
        self.port = port
        self.stopping = asyncio.Event()
        """Set as soon as anybody wants it to stop."""
        assert runner.app is not None
        self._watch = runner.app[WATCH]
        self._runner = runner
        self._listener = listener
        self._door = door
        self._deadline_s = float("inf")

    @classmethod
    async def start(cls, app: web.Application, settings: EdgeSettings, *, shared: bool = False) -> EdgeServer:
        """Listen for `app`, made by `edge.app.make_app`, where the settings say. Raises CannotListen.

        `shared`: beside other processes of ours on the same port.
        """
        if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
            raise CannotListen("aiohttp runs with its pure-Python HTTP parser; install its compiled wheel")
        bound = bind(settings.host, settings.port, shared=shared)
        host, port = bound.getsockname()[:2]
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        try:
            await runner.setup()
            assert runner.server is not None
            take_short_way(runner.server, app[CHAT].serve)
            loop = asyncio.get_running_loop()
            connect = functools.partial(
                Connection,
                runner.server,
                app[WATCH],
                loop=loop,
                keepalive_timeout=settings.idle_timeout_s,
                access_log=None,
                auto_decompress=False,
                read_bufsize=READ_BUFFER_BYTES,
            )
            door = Door(loop, bound, connect)
            listener = await loop.create_server(door.let_in, sock=bound, backlog=BACKLOG)
        except BaseException:
            bound.close()
            await runner.cleanup()
            raise
        app[WATCH].start()
        shown = f"[{host}]" if ":" in host else host
        return cls(runner, listener, door, f"http://{shown}:{port}", port)

    def hasten(self, drain_s: float) -> None:
        """Be unready and refuse new requests from now on; those in flight have `drain_s` more, not longer."""
        self._watch.draining = True
        self._deadline_s = min(self._deadline_s, self._watch.clock_s() + drain_s)
        self.stopping.set()

    async def stop(self, drain_s: float) -> None:
        """Wait for the requests in flight, up to the limit, end the rest with an error, and close all."""
        self.hasten(drain_s)
        watch = self._watch
        await _while(lambda: watch.metrics.in_flight > 0 and watch.clock_s() < self._deadline_s)
        watch.end_all()
        last_s = watch.clock_s() + LAST_WORDS_S
        await _while(lambda: watch.metrics.in_flight > 0 and watch.clock_s() < last_s)
        self._listener.close()
        await self._door.closed()
        await self._runner.cleanup()
        await _while(lambda: len(watch.connections) > 0 and watch.clock_s() < last_s)
        watch.stop()
        for connection in tuple(watch.connections):
            if connection.wire is not None:
                connection.wire.abort()


async def _while(busy: Callable[[], bool]) -> None:
    """Poll: this happens once, at the end, and the limit may be shortened meanwhile."""
    while busy():  # noqa: ASYNC110 - see above
        await asyncio.sleep(POLL_S)
