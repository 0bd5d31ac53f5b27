"""An upstream that is a bare socket: it reads a request, then a test says what it does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

CONFIG = """
[providers.far]
kind = "openai"
base_url = "http://127.0.0.1:%d/v1"
api_key = "env:FAR_END_KEY"

[[models]]
id = "m"
max_output_tokens = 4000
price = { input = 1_000_000, output = 2_000_000 }
endpoints = [{ provider = "far", model = "up" }]
"""
SECRET = "sk-far-end-secret"
WORDS = b"said by the far end"


def json_answer(body: bytes) -> bytes:
    """A whole answer of HTTP."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


def chunk(text: bytes = WORDS, finish: bytes = b"null", more: bytes = b"") -> bytes:
    """One chunk of a completion, as JSON."""
    choice = b'{"index":0,"delta":{"role":"assistant","content":"%b"},"finish_reason":%b}' % (text, finish)
    return b'{"id":"1","object":"chat.completion.chunk","created":1,"model":"up","choices":[%b]%b}' % (choice, more)


def event(data: bytes) -> bytes:
    return b"data: %b\n\n" % data


STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
STOP = chunk(b"", b'"stop"', b',"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}')
MESSAGE = b'{"role":"assistant","content":"%b"}'
WHOLE = (
    b'{"id":"1","object":"chat.completion","created":1,"model":"up","choices":[{"index":0,"message":'
    + MESSAGE % WORDS
    + b',"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}'
)
GOOD_EVENTS = event(chunk()) + event(STOP) + event(b"[DONE]")


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def stream_answer(events: bytes) -> bytes:
    """A whole streamed answer of HTTP, in one chunk."""
    return STREAM_HEAD + http_chunk(events) + b"0\r\n\r\n"


class FarEnd:
    """Serves connections until closed; `play` answers every request, properly unless a test replaces it."""

    def __init__(self) -> None:
        self.play: Play = self.behave
        self.port = 0
        self.requests = 0
        self.wants_stream = False
        self.writers: set[asyncio.StreamWriter] = set()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[FarEnd]:
        """Listen on a free port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        yield self
        server.close()
        for writer in tuple(self.writers):
            writer.transport.abort()
        while self.writers:  # noqa: ASYNC110 - asyncio complains of handlers that outlive their loop
            await asyncio.sleep(0.01)

    async def behave(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A good answer."""
        writer.write(stream_answer(GOOD_EVENTS) if self.wants_stream else json_answer(WHOLE))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).lower():
                self.requests += 1
                self.wants_stream = b"event-stream" in head
                size = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                if size < 1 << 20:  # larger ones are for the play to read
                    await reader.readexactly(size)
                await self.play(reader, writer)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()
