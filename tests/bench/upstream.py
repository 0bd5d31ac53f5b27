"""An OpenAI-compatible upstream that costs a few microseconds a request. `python -m tests.bench.upstream`.

It prints the port it listens on, on loopback, and serves until it is ended. `tests.bench.answers` says how a
request asks for what it wants.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import httptools
import uvloop

from tests.bench import answers

BACKLOG = 4096


class Pages:
    """The rendered parts of all answers."""

    def __init__(self) -> None:
        self.head = answers.stream_head()
        self.chunks = answers.stream_chunks()
        step = answers.CHUNKS_PER_WRITE
        self.batches = tuple(b"".join(self.chunks[at : at + step]) for at in range(0, len(self.chunks), step))


class Connection(asyncio.Protocol):
    """One client: a request, its answer, the next request."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pages: Pages) -> None:
        self._loop, self._pages = loop, pages
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.WriteTransport
        self._timer: asyncio.Handle | None = None
        self._url = b""
        self._parts: list[bytes] = []
        self._sent = self._chunks = 0
        self._pause_s = self._due_s = 0.0
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's do not derive from asyncio's

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        url, body = self._url, b"".join(self._parts)
        self._url, self._parts = b"", []
        if url == b"/healthz":
            self._transport.write(answers.simple(200, b"{}"))
            return
        wanted = answers.steered(body)
        if wanted is None or url != b"/v1/chat/completions" or (wanted[0] > 0) != (b'"stream":true' in body[:4096]):
            self._transport.write(answers.simple(400, b'{"error":{"message":"no such benchmark"}}'))
            return
        self._begin(*wanted, body)

    def _begin(self, chunks: int, pause_ms: int, wait_ms: int, body: bytes) -> None:
        self._sent, self._chunks = 0, chunks
        self._pause_s = pause_ms / 1000
        self._due_s = self._loop.time() + wait_ms / 1000
        if not chunks:
            answer = answers.unary(len(body))
            if wait_ms:
                self._timer = self._loop.call_at(self._due_s, self._transport.write, answer)
            else:
                self._transport.write(answer)
            return
        self._tail = answers.stream_tail(chunks, len(body), usage=b'"include_usage":true' in body)
        if wait_ms:
            self._timer = self._loop.call_at(self._due_s, self._first)
        else:
            self._first()

    def _first(self) -> None:
        self._transport.write(self._pages.head)
        if self._pause_s:
            self._one()
        else:
            self._batch()

    def _one(self) -> None:
        """The next chunk, and a timer for the one after it."""
        chunk = self._pages.chunks[self._sent]
        self._sent += 1
        if self._sent == self._chunks:
            self._transport.write(chunk + self._tail)
            return
        self._transport.write(chunk)
        self._due_s += self._pause_s
        self._timer = self._loop.call_at(self._due_s, self._one)

    def _batch(self) -> None:
        """The next chunks; each batch in a turn of its own, since uvloop joins all writes of one turn."""
        step = answers.CHUNKS_PER_WRITE
        if self._chunks - self._sent <= step:
            last = b"".join(self._pages.chunks[self._sent : self._chunks])
            self._transport.write(last + self._tail)
            return
        self._transport.write(self._pages.batches[self._sent // step])
        self._sent += step
        self._timer = self._loop.call_soon(self._batch)


async def serve() -> None:
    """Listen, say where, and serve for ever."""
    loop = asyncio.get_running_loop()
    pages = Pages()
    server = await loop.create_server(lambda: Connection(loop, pages), "127.0.0.1", 0, backlog=BACKLOG)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
