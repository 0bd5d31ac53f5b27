"""A far end of raw sockets for the HTTP client, under both event loops."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
import uvloop

from core.providers.http import HttpClient, HttpLimits, Origin

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test under the loop of production and under asyncio's own."""
    return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}


class FarEnd:
    """Servers that say exactly what a test tells them to."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.connection_count = 0
        self.open_count = 0
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, handle: Handle, tls: ssl.SSLContext | None = None) -> Origin:
        """Start a server on a free port; every connection is given to `handle`, then closed."""

        async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            self.connection_count += 1
            self.open_count += 1
            try:
                await handle(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                self.open_count -= 1
                self._tasks.discard(task)
                writer.transport.abort()

        server = await asyncio.start_server(run, "127.0.0.1", 0, ssl=tls, backlog=1024)
        self._servers.append(server)
        port = server.sockets[0].getsockname()[1]
        return Origin("http" if tls is None else "https", "127.0.0.1" if tls is None else "localhost", port)

    async def answer(self, *answers: bytes, tls: ssl.SSLContext | None = None) -> Origin:
        """Start a server that answers with these in turn, the last again and again, on kept connections."""
        left = list(answers)

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                await self.request(reader)
                writer.write(left.pop(0) if len(left) > 1 else left[0])
                await writer.drain()

        return await self.serve(handle, tls)

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        """Read one request, head and body, and remember it."""
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        request = head + await reader.readexactly(size)
        self.requests.append(request)
        return request

    async def close(self) -> None:
        """Stop everything."""
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def far_end() -> AsyncIterator[FarEnd]:
    """A far end whose servers stop with the test."""
    made = FarEnd()
    yield made
    await made.close()


@pytest.fixture
async def client(complaints: list[dict[str, Any]]) -> AsyncIterator[HttpClient]:
    """A client that is closed with the test."""
    made = HttpClient(HttpLimits(connect_timeout_s=2.0), wall_clock=lambda: 1_700_000_000.0)
    yield made
    await made.close()
