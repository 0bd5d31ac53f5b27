"""The short way of a chat request: past aiohttp's request, route and response objects, which cost a quarter of it.

aiohttp's protocol parses, queues and keeps connections alive as for every other route; only what it would make of
a parsed request, and of its answer, is replaced. Requests that spell the path in another way reach the same code
through the route of the application.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self, cast

from aiohttp import HttpVersion10, HttpVersion11, StreamReader, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import set_exception
from aiohttp.http_parser import RawRequestMessage

from edge.answer import Sent, head
from edge.connection import ClientGone, Connection, EndlessBody
from edge.errors import REQUEST_ID

CHAT_PATH = "/v1/chat/completions"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
UPGRADES_READ_BEHIND = frozenset({"tcp", "websocket"})
"""aiohttp reads on behind a declined upgrade to these; behind others its parser loses bytes."""
_HOST = re.compile(r"(?:\[[0-9A-Za-z.:_~-]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]*)?")
"""RFC 9110, 7.2: a host and perhaps a port, or nothing."""


class ChatRequest:
    """A request as aiohttp's parser gave it: `message` is its head, `content` its body.

    `is_expecting`: it asks before it sends the body. `is_answered`: the head of an answer is sent.
    """

    __slots__ = ("_task", "connection", "content", "is_answered", "is_expecting", "keep_alive", "message", "writer")

    def __init__(
        self,
        message: RawRequestMessage,
        content: StreamReader,
        connection: Connection,
        writer: AbstractStreamWriter,
    ) -> None:
        self.message = message
        self.content = content
        self.connection = connection
        self.writer = writer
        self.keep_alive = not message.should_close
        self.is_expecting = hdrs.EXPECT in message.headers
        self.is_answered = False

    @classmethod
    def of(cls, request: web.Request) -> Self:
        """The same of a request that came the long way, on which it was told already to send the body."""
        made = cls(request._message, request.content, cast(Connection, request.protocol), request.writer)
        made.is_expecting = False
        return made

    async def confirm_expectation(self) -> None:
        """Tell a client that waits for it to send the body. Raises HTTPExpectationFailed for anything else."""
        if self.message.headers["Expect"].lower() != "100-continue":
            raise web.HTTPExpectationFailed
        if self.message.version >= HttpVersion11 and not self.content.is_eof():
            self._connected().send(CONTINUE)

    def open(self, status: int, headers: Mapping[str, str], *, length: int | None, body: bytes = b"") -> str:
        """Send the head, and with it what there is of the body; returns the request id that it names.

        A body of unknown length on HTTP/1.0 ends with the connection. Raises ClientGone, also for a second head.
        """
        connection = self._connected()
        if self.is_answered:
            raise ClientGone
        self.is_answered = True
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
        connection.send(data + body)
        return request_id

    async def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole answer, and wait while the client does not take it. Raises ClientGone, ConnectionError."""
        self.open(status, headers, length=len(body), body=body)
        await self.taken()

    async def taken(self) -> None:
        """Wait while the client does not take what it is sent. Raises ConnectionError."""
        if self.connection.writing_paused:
            await self.writer.drain()

    def _connected(self) -> Connection:
        if self.connection.transport is None:
            raise ClientGone
        return self.connection

    def _cancel(self, error: BaseException) -> None:
        """Called by aiohttp's protocol when the client is gone: whoever reads the body hears of it."""
        set_exception(self.content, error)

    def _finish(self) -> None:
        """Called by aiohttp's protocol at the end; nothing is left to release."""


def is_http(message: RawRequestMessage) -> bool:
    """Whether a request that the parser let pass is one: its version, its Host, its coding. CONNECT is for proxies."""
    version, headers = message.version, message.headers
    if version not in (HttpVersion11, HttpVersion10) or message.method == hdrs.METH_CONNECT:
        return False
    if message.chunked and (version == HttpVersion10 or headers[hdrs.TRANSFER_ENCODING].lower() != "chunked"):
        return False
    return _HOST.fullmatch(headers.get(hdrs.HOST, "")) is not None


def take_short_way(server: web.Server, serve: Callable[[ChatRequest], Awaitable[Sent]]) -> None:
    """Have `serve` answer the chat requests of a server."""
    make_request: Any = server.request_factory
    handle: Any = server.request_handler

    def request_factory(
        message: RawRequestMessage,
        content: StreamReader,
        connection: Connection,
        writer: AbstractStreamWriter,
        task: object,
    ) -> object:
        connection.content, connection.is_http_11 = content, message.version >= HttpVersion11
        if message.upgrade and message.headers.get(hdrs.UPGRADE, "").lower() not in UPGRADES_READ_BEHIND:
            message = message._replace(should_close=True)
        if message.path == CHAT_PATH and message.method == "POST" and is_http(message):
            return ChatRequest(message, content, connection, writer)
        return make_request(message, content, connection, writer, task)

    def request_handler(request: Any) -> object:
        if type(request) is ChatRequest:
            return serve(request)
        return handle(request) if is_http(request._message) else refuse(request)

    async def refuse(request: web.Request) -> object:
        request._cancel(EndlessBody())
        return cast(Connection, request.protocol).handle_error(request, 400)

    server.request_factory = cast(Any, request_factory)
    server.request_handler = cast(Any, request_handler)
