"""The short way of a chat request: past aiohttp's request, route and response objects, which cost a quarter of it.

aiohttp's protocol parses, queues and keeps connections alive as for every other route; only what it would make of
a parsed request, and of its answer, is replaced. Requests that spell the path in another way reach the same code
through the route of the application.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self, cast

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import set_exception
from aiohttp.http_parser import RawRequestMessage

from edge.answer import Sent, head
from edge.connection import ClientGone, Connection
from edge.errors import REQUEST_ID

CHAT_PATH = "/v1/chat/completions"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_JOINED_BYTES = 65_536


class ChatRequest:
    """A request as aiohttp's parser gave it: `message` is its head, `payload` its body."""

    __slots__ = ("_task", "connection", "keep_alive", "message", "payload", "writer")

    def __init__(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        connection: Connection,
        writer: AbstractStreamWriter,
    ) -> None:
        self.message = message
        self.payload = payload
        self.connection = connection
        self.writer = writer
        self.keep_alive = not message.should_close

    @classmethod
    def of(cls, request: web.Request) -> Self:
        """The same of a request that came the long way."""
        return cls(request._message, request.content, cast(Connection, request.protocol), request.writer)

    async def confirm_expectation(self) -> None:
        """Tell a client that waits for it to send the body. Raises HTTPExpectationFailed for anything else."""
        if self.message.headers["Expect"].lower() != "100-continue":
            raise web.HTTPExpectationFailed
        if self.message.version >= HttpVersion11 and not self.payload.is_eof():
            self._connected().send(CONTINUE)

    def open(self, status: int, headers: Mapping[str, str], *, length: int | None, body: bytes = b"") -> str:
        """Send the head, and with it what there is of the body; returns the request id that it names.

        A body of unknown length on HTTP/1.0 ends with the connection. Raises ClientGone.
        """
        connection = self._connected()
        watch = connection.watch
        request_id = headers.get(REQUEST_ID)
        if request_id is None:
            request_id = watch.problems.mint_id()
            headers = {**headers, REQUEST_ID: request_id}
        if watch.cors is not None:
            headers = {**headers, **watch.cors.headers(self.message.headers)}
        old = self.message.version < HttpVersion11
        if watch.draining or (old and length is None):
            self.keep_alive = False
        persistence = None
        if self.keep_alive is old:
            persistence = "keep-alive" if old else "close"
        data = head(status, headers, date=watch.date, length=length, connection=persistence)
        if len(body) <= _JOINED_BYTES:
            connection.send(data + body)
        else:
            connection.send(data)
            connection.send(body)
        return request_id

    async def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole answer, and wait while the client does not take it. Raises ClientGone, ConnectionError."""
        self.open(status, headers, length=len(body), body=body)
        if self.connection.writing_paused:
            await self.writer.drain()

    def _connected(self) -> Connection:
        if self.connection.transport is None:
            raise ClientGone
        return self.connection

    def _cancel(self, error: BaseException) -> None:
        """Called by aiohttp's protocol when the client is gone: whoever reads the body hears of it."""
        set_exception(self.payload, error)

    def _finish(self) -> None:
        """Called by aiohttp's protocol at the end; nothing is left to release."""


def take_short_way(server: web.Server, serve: Callable[[ChatRequest], Awaitable[Sent]]) -> None:
    """Have `serve` answer the chat requests of a server."""
    make_request: Any = server.request_factory
    handle: Any = server.request_handler

    def request_factory(
        message: RawRequestMessage, payload: StreamReader, protocol: object, writer: AbstractStreamWriter, task: object
    ) -> object:
        if message.path == CHAT_PATH and message.method == "POST":
            return ChatRequest(message, payload, cast(Connection, protocol), writer)
        return make_request(message, payload, protocol, writer, task)

    def request_handler(request: object) -> object:
        return serve(request) if type(request) is ChatRequest else handle(request)

    server.request_factory = cast(Any, request_factory)
    server.request_handler = cast(Any, request_handler)
