"""A pooled HTTP/1.1 client for upstream calls, at a fifth of the CPU per request of aiohttp's.

It knows what a model router needs: POST a body, read an answer piece by piece, give up at any moment.
Redirects are not followed, cookies not kept, compressed answers refused. Only opening a connection takes a
task.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from aiohappyeyeballs import AddrInfoType, start_connection

from core.errors import RateLimited
from core.providers.base import ConnectFailed
from core.providers.http_connection import Connection
from core.providers.http_reply import HttpReply

SWEEP_MIN_DELAY_S = 0.05
NEXT_ADDRESS_S = 0.25
"""After which the next address is tried beside one that has not answered (RFC 8305, 5)."""

Resolver = Callable[[str, int], Awaitable[Sequence[AddrInfoType]]]
"""From host and port to addresses, the best first. OSError."""


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of the client.

    `connect_timeout_s` covers name lookup, TCP and TLS. An idle connection is closed after `idle_timeout_s`.
    """

    connect_timeout_s: float = 5.0
    idle_timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where connections go: scheme (http or https), host and port."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, base_url: str) -> Origin:
        """The origin of a base URL. ValueError (without the URL, which may hold a secret) if it has none."""
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not parts.hostname.isascii():
            raise ValueError("a base URL must begin with http:// or https:// and name a host")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError("a base URL must not carry credentials, a query or a fragment")
        port = parts.port if parts.port is not None else 443 if parts.scheme == "https" else 80
        return cls(parts.scheme, parts.hostname, port)

    @property
    def authority(self) -> str:
        """The value of the Host header: the port is left out when it is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == {"http": 80, "https": 443}[self.scheme] else f"{host}:{self.port}"


class HttpPool:
    """The connections to one origin. Made by `HttpClient.pool`.

    At most `max_connections`, idle ones included; None: as many as there are requests. A request above that fails at
    once with RateLimited, so that another endpoint is tried instead of waiting here.
    """

    def __init__(
        self,
        origin: Origin,
        max_connections: int | None,
        limits: HttpLimits,
        tls: ssl.SSLContext | None,
        wall_clock: Callable[[], float],
        resolve: Resolver,
    ) -> None:
        self._origin = origin
        self._max_connections = max_connections
        self._limits = limits
        self._tls = tls
        self._wall_clock = wall_clock
        self._resolve = resolve
        self._open: set[Connection] = set()
        self._idle: dict[Connection, float] = {}  # since when; the longest idle first, the last used first
        self._dialling: set[asyncio.Task[Connection]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._closing: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def send(self, head: bytes, body: bytes) -> HttpReply:
        """Send a request: the whole head, blank line included, and the body. Never blocks, never raises.

        Synchronous over an idle connection; else the request goes out when one is open.
        """
        loop = self._loop
        if loop is None:  # asked for once: it takes a system call
            loop = self._loop = asyncio.get_running_loop()
        reply = HttpReply(self._dial, loop, head, body)
        if self._idle:
            reply.begin(self._idle.popitem()[0])
        elif self._is_full():
            reply.fail(RateLimited("The upstream has as many requests as it may have at once.", retry_after_s=1.0))
        else:
            self._dial(reply)
        return reply

    def _is_full(self) -> bool:
        """Whether there are as many connections as may be; those that are being closed do not count."""
        limit = self._max_connections
        if limit is None or len(self._open) + len(self._dialling) < limit:
            return False
        dialled = sum(not task.cancelling() for task in self._dialling)
        return sum(connection.is_open for connection in self._open) + dialled >= limit

    def _dial(self, reply: HttpReply) -> None:
        """Open a connection for this request, and send it there."""
        if self._closing is not None:
            reply.broke(ConnectFailed("The upstream's connections are closed."))
            return
        task = asyncio.get_running_loop().create_task(self._connect())
        self._dialling.add(task)
        reply.dialled_by(task)
        task.add_done_callback(functools.partial(self._dialled, reply))

    async def _connect(self) -> Connection:
        """Open a connection to the first address that answers. OSError, TimeoutError."""
        loop, host, port = asyncio.get_running_loop(), self._origin.host, self._origin.port
        connection = Connection(self, self._wall_clock)
        connect = functools.partial(
            loop.create_connection, lambda: connection, ssl=self._tls, server_hostname=host if self._tls else None
        )
        async with asyncio.timeout(self._limits.connect_timeout_s):
            addresses = await self._resolve(host, port)
            try:
                if addresses[0][4][0] == host:  # it is one: at half the CPU
                    await connect(host, port)
                else:
                    await connect(sock=await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS_S))
            except BaseException:
                connection.abort()  # one that was made just then would wait for the upstream to say farewell
                raise
        return connection

    def _dialled(self, reply: HttpReply, task: asyncio.Task[Connection]) -> None:
        self._dialling.discard(task)
        error = None if task.cancelled() else task.exception()
        connection = None if task.cancelled() or error is not None else task.result()
        if connection is not None and connection.is_open:
            self._open.add(connection)
            if reply.is_waiting:
                reply.begin(connection)
            else:
                connection.abort()
        else:
            failure = ConnectFailed("The upstream could not be reached.")
            failure.__cause__ = error
            reply.broke(failure)
        self._check_closed()

    # the connections' side

    def release(self, connection: Connection) -> None:
        """See `Owner.release`."""
        if self._closing is not None:
            connection.abort()
            return
        loop = self._loop or asyncio.get_running_loop()
        self._idle[connection] = loop.time()
        if self._sweeper is None:
            self._sweeper = loop.call_later(self._limits.idle_timeout_s, self._sweep)

    def lost(self, connection: Connection) -> None:
        """See `Owner.lost`."""
        self._idle.pop(connection, None)
        self._open.discard(connection)
        self._check_closed()

    def _sweep(self) -> None:
        """Close what was idle for too long; one timer serves all connections of the pool."""
        self._sweeper = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection, since in list(self._idle.items()):
            left_s = since + self._limits.idle_timeout_s - now
            if left_s > 0:
                self._sweeper = loop.call_later(max(left_s, SWEEP_MIN_DELAY_S), self._sweep)
                return
            del self._idle[connection]
            connection.abort()

    def close_idle(self) -> None:
        """Close the idle connections; those in use are not touched."""
        for connection in list(self._idle):
            connection.abort()
        self._idle.clear()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    async def close(self) -> None:
        """Close every connection; calls under way fail. Returns when no socket is left."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_future()
        self.close_idle()
        for task in self._dialling:
            task.cancel()
        for connection in list(self._open):
            connection.abort()
        self._check_closed()
        await asyncio.shield(self._closing)

    def _check_closed(self) -> None:
        if self._closing is not None and not (self._open or self._dialling or self._closing.done()):
            self._closing.set_result(None)


class HttpClient:
    """All pools; shared by all providers."""

    def __init__(
        self,
        limits: HttpLimits | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        wall_clock: Callable[[], float] = time.time,
        resolve: Resolver | None = None,
    ) -> None:
        """`tls` replaces the default context (system trust store, host names verified), `resolve` the system's."""
        self._limits = limits or HttpLimits()
        self._tls = tls
        self._wall_clock = wall_clock
        self._resolve = resolve or _system_addresses
        self._pools: dict[tuple[Origin, int | None], HttpPool] = {}

    def pool(self, origin: Origin, max_connections: int | None = None) -> HttpPool:
        """The pool of this origin with this limit, made when first asked for."""
        found = self._pools.get((origin, max_connections))
        if found is None:
            tls = self._tls_context() if origin.scheme == "https" else None
            found = HttpPool(origin, max_connections, self._limits, tls, self._wall_clock, self._resolve)
            self._pools[origin, max_connections] = found
        return found

    async def close(self) -> None:
        """Close every connection of every pool; calls under way fail."""
        for pool in self._pools.values():
            await pool.close()

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls


async def _system_addresses(host: str, port: int) -> Sequence[AddrInfoType]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
