"""A streamed completion as Server-Sent Events: the framing, the keep-alive comments, the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence

import grpc
from aiohttp import HttpVersion11, web
from worldrouter.v1 import raw_chat_pb2

from edge.answer import answer_headers
from edge.connection import ClientGone, Exchange
from edge.request import ChatRequest

StreamCall = grpc.aio.UnaryStreamCall[raw_chat_pb2.StreamRawCompletionRequest, raw_chat_pb2.StreamRawCompletionResponse]

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
_BETWEEN = b"\n\ndata: "
_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")
WHOLE_ANSWER = "whole-answer"
"""Of the initial metadata of an answer that is not streamed although it might have been."""
_LAST_CHUNK = b"0\r\n\r\n"
_STREAM_HEADERS: Mapping[str, str] = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


def events(chunks: Sequence[bytes]) -> bytes:
    """SSE events of JSON texts. Line breaks, in JSON only ever white space, become blanks."""
    joined = _BETWEEN.join(chunks) if len(chunks) > 1 else chunks[0]
    if joined.count(b"\n") != 2 * (len(chunks) - 1) or b"\r" in joined:
        joined = _BETWEEN.join([chunk.translate(_LINE_BREAKS) for chunk in chunks])
    return b"data: %b\n\n" % joined


class EventStream(Exchange):
    """One stream: what the core sends, framed and passed on. Status and headers wait for the first chunks.

    Where the body was to decide, the core may send a whole answer instead, which is for others to pass on.
    """

    stream = True

    def __init__(self, request: ChatRequest, call: StreamCall) -> None:
        super().__init__(call)
        self._request = request
        self._connection = request.connection
        self._messages = call
        self._chunked = request.message.version >= HttpVersion11
        self._overhead_us: int | None = None
        self._finished = False
        self._request_id = ""
        self._opened = False
        self._opening: asyncio.Task[None] | None = None
        self.whole: raw_chat_pb2.CreateRawCompletionResponse | None = None

    async def relay(self) -> None:
        """Pass the stream on to its end. Raises what went wrong before anything was sent."""
        self._connection.begin(self)
        failure: Exception | None = None
        try:
            await self._pass_on()
        except asyncio.CancelledError:
            if self.cut is None:
                raise
            failure = self.cut()
        except Exception as error:
            failure = error
        if failure is None and self.whole is not None:
            self._connection.exchange = None  # before the client gets a byte of it
            return
        if failure is None and not self._finished:
            failure = web.HTTPInternalServerError()  # the core broke its promise: never a [DONE] for that
        if failure is None:
            await self._open()
            self._end(DONE)
        elif not self._opened or isinstance(failure, ClientGone | ConnectionError):
            try:
                raise failure
            finally:
                del failure  # its traceback holds this frame: a cycle
        else:
            self._fail(failure)

    async def _pass_on(self) -> None:
        connection = self._connection
        async for message in self._messages:
            chunks = message.chunks.chunk_json
            if chunks and self.cut is None:
                if not self._opened:
                    await self._open()
                connection.send(self._frame(events(chunks)))
                if connection.writing_paused:
                    await self._request.writer.drain()
            elif message.HasField("started"):
                self._overhead_us = message.started.overhead_us
            elif message.HasField("finished"):
                self._finished = True
            elif message.HasField("whole"):
                self.whole = message.whole

    async def _open(self) -> None:
        """Commit status and headers, once."""
        metadata = await self.call.initial_metadata()
        if not self._opened:
            self._opened = True
            headers = answer_headers(_STREAM_HEADERS, metadata, self._overhead_us)
            if self._chunked:
                headers["Transfer-Encoding"] = "chunked"
            self._request_id = self._request.open(200, headers, length=None)
            self.first_byte_s = self._connection.sent_s

    def _fail(self, failure: Exception) -> None:
        """End with an error event, which SDKs raise; without it they would take the answer for whole."""
        watch = self._connection.watch
        watch.metrics.stream_errors += 1
        self._end(events([watch.problems.of(failure, self._request_id).body()]))

    def _end(self, data: bytes) -> None:
        self._connection.send(self._frame(data) + _LAST_CHUNK if self._chunked else data)

    def fill_silence(self, now_s: float) -> None:
        """Send a comment when the client has heard nothing for the interval."""
        if now_s - self._connection.sent_s < self._connection.watch.settings.comment_interval_s:
            return
        if self._opened:
            self._connection.send(self._frame(PING))
        elif self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open_early())

    def probe(self) -> bytes:
        """A comment, once there is an answer."""
        return self._frame(PING) if self._opened else super().probe()

    async def _open_early(self) -> None:
        metadata = await self.call.initial_metadata()
        if not (self.call.done() or metadata.get_all(WHOLE_ANSWER)):  # else what ended it still gets its own status
            with contextlib.suppress(ClientGone):  # or refused meanwhile
                await self._open()
                self._connection.send(self._frame(PING))

    def _frame(self, data: bytes) -> bytes:
        """As one HTTP chunk; HTTP/1.0 has none."""
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data
