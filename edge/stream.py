"""A streamed completion as Server-Sent Events: the framing, the keep-alive comments, the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping

import grpc
from aiohttp import HttpVersion11, web
from worldrouter.v1 import raw_chat_pb2

from edge.connection import ClientGone, Connection, Exchange, Watch
from edge.errors import REQUEST_ID

StreamCall = grpc.aio.UnaryStreamCall[raw_chat_pb2.StreamRawCompletionRequest, raw_chat_pb2.StreamRawCompletionResponse]

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
_BETWEEN = b"\n\ndata: "
_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")
_STREAM_HEADERS: Mapping[str, str] = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
    "Server": "worldrouter",
}


def events(chunks: Iterable[bytes], count: int) -> bytes:
    """SSE events of `count` JSON texts. Line breaks, in JSON only ever white space, become blanks."""
    joined = _BETWEEN.join(chunks)
    if joined.count(b"\n") != 2 * (count - 1) or b"\r" in joined:
        joined = _BETWEEN.join(chunk.translate(_LINE_BREAKS) for chunk in chunks)
    return b"data: %b\n\n" % joined


def answer_headers(base: Mapping[str, str], metadata: grpc.aio.Metadata, overhead_us: int | None) -> dict[str, str]:
    """Headers of a completion: `base`, what the core's initial metadata has for the client, its overhead."""
    headers = dict(base)
    for key, value in metadata:
        if key == REQUEST_ID or key.startswith(("x-worldrouter-", "x-ratelimit-")):
            headers[key] = str(value)
    if overhead_us is not None:
        headers["x-worldrouter-overhead-ms"] = f"{overhead_us // 1000}.{overhead_us % 1000:03d}"
    return headers


class EventStream(Exchange):
    """One stream: what the core sends, framed and passed on. Status and headers wait for the first chunks."""

    stream = True

    def __init__(self, request: web.Request, connection: Connection, call: StreamCall, watch: Watch) -> None:
        super().__init__(call)
        self._request = request
        self._connection = connection
        self._messages = call
        self._watch = watch
        self._chunked = request.version >= HttpVersion11
        self._response: web.StreamResponse | None = None
        self._overhead_us: int | None = None
        self._finished = False
        self._opening: asyncio.Task[None] | None = None

    async def relay(self) -> web.StreamResponse:
        """Pass the stream on to its end. Raises what went wrong before anything was sent."""
        failure: Exception | None = None
        try:
            await self._pass_on()
        except asyncio.CancelledError:
            if self.cut is None:
                raise
            failure = self.cut
        except Exception as error:
            failure = error
        if failure is None and not self._finished:
            failure = web.HTTPInternalServerError()  # the core broke its promise: never a [DONE] for that
        if failure is None:
            response = self._response or await self._open()
            await response.write_eof(DONE)
            return response
        if self._response is None or isinstance(failure, ClientGone | ConnectionError):
            raise failure
        return await self._fail(failure, self._response)

    async def _pass_on(self) -> None:
        connection = self._connection
        async for message in self._messages:
            chunks = message.chunks.chunk_json
            if chunks and self.cut is None:
                if self._response is None:
                    await self._open()
                connection.send(self._frame(events(chunks, len(chunks))))
                if connection.writing_paused:
                    await self._request.writer.drain()
            elif message.HasField("started"):
                self._overhead_us = message.started.overhead_us
            elif message.HasField("finished"):
                self._finished = True

    async def _open(self) -> web.StreamResponse:
        """Commit status and headers, once."""
        metadata = await self.call.initial_metadata()
        if self._response is None:
            headers = answer_headers(_STREAM_HEADERS, metadata, self._overhead_us)
            headers.setdefault(REQUEST_ID, self._watch.problems.mint_id())
            self._response = web.StreamResponse(headers=headers)
            if self._watch.draining:
                self._response.force_close()
            self.first_byte_s = self._watch.clock_s()
            await self._response.prepare(self._request)
        return self._response

    async def _fail(self, failure: Exception, response: web.StreamResponse) -> web.StreamResponse:
        """End with an error event, which SDKs raise; without it they would take the answer for whole."""
        self._watch.metrics.stream_errors += 1
        problem = self._watch.problems.of(failure, response.headers[REQUEST_ID])
        await response.write_eof(events([problem.body()], 1))
        return response

    def fill_silence(self, now_s: float) -> None:
        """Send a comment when the client has heard nothing for the interval."""
        if now_s - self._connection.sent_s < self._watch.settings.comment_interval_s:
            return
        if self._response is not None:
            self._connection.send(self._frame(PING))
        elif self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open_early())

    async def _open_early(self) -> None:
        await self.call.initial_metadata()
        if not self.call.done():  # else the failure that ended it still gets its own status
            with contextlib.suppress(ConnectionError):
                await self._open()
                self._connection.send(self._frame(PING))

    def _frame(self, data: bytes) -> bytes:
        """As one HTTP chunk; HTTP/1.0 has none."""
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data
