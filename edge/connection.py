"""Clients' connections: who is gone, who stalls, who waits in silence, and what leaves when a request fails.

aiohttp notices none of these by itself. A client that goes away ends its call to the core at once, by
`call.cancel()`: cancelling the task that reads the call, or a timeout around it, would leak (grpc#43360). For
the rest one sweeper looks at all connections; no request and no chunk has a timer of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import logging
from collections.abc import Callable, Coroutine
from typing import Any, cast

import grpc
from aiohttp import StreamReader, web
from aiohttp.http_parser import RawRequestMessage

from edge.answer import Sent, head
from edge.cors import Cors
from edge.errors import REQUEST_ID, Problem, Problems
from edge.kernel import is_in_close_wait, unacknowledged_bytes
from edge.metrics import EdgeMetrics
from edge.settings import EdgeSettings

_LOGGER = logging.getLogger(__name__)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
GONE = 499
"""Status of an answer that nobody receives (nginx's), for the metrics alone."""
WRITE_BUFFER_BYTES = 32_768
"""Of a stream, behind the kernel's buffer, before the core waits for the client."""
PROBE_S = 0.05
"""For a closed socket to answer a probe. Where it takes longer, the sweeper sees it."""
PARTING_S = 1.0
"""For a client to read the last answer, while what it still sends is thrown away."""


class ClientGone(Exception):
    """The client closed its connection, or was cut off because it stalled."""


class EndlessBody(TimeoutError):
    """The end of a request's body will not come, or cannot be found. After any other exception aiohttp waits for it."""


class Exchange:
    """A request that is at the core."""

    stream = False
    first_byte_s: float | None = None

    def __init__(self, call: grpc.aio.Call) -> None:
        self.call = call
        self.cut: type[Exception] | None = None
        """Why we ended the call, if we did: not yet raised, since what was raised holds the request's frames."""

    def end(self, cut: type[Exception]) -> None:
        """End the call for this reason; the first reason stays."""
        if self.cut is None:
            self.cut = cut
            self.call.cancel()

    def fill_silence(self, now_s: float) -> None:
        """Called by the sweeper while nothing waits to be sent."""

    def probe(self) -> bytes:
        """What a client that has no answer yet may be sent at any time (RFC 9110, 15.2)."""
        return _CONTINUE


class Watch:
    """All connections of one edge, and its sweeper. `clock_s` is monotonic; `date` is the time as HTTP writes it."""

    def __init__(
        self, settings: EdgeSettings, problems: Problems, metrics: EdgeMetrics, clock_s: Callable[[], float]
    ) -> None:
        self.settings = settings
        self.problems = problems
        self.metrics = metrics
        self.clock_s = clock_s
        self.cors = Cors(settings.cors_origins) if settings.cors_origins else None
        self.draining = False
        self.connections: set[Connection] = set()
        self.date = email.utils.formatdate(usegmt=True)
        self._sweep_s = min(0.5, settings.comment_interval_s / 5, settings.client_stall_s / 5)
        self._next: asyncio.TimerHandle | None = None
        self._turn = asyncio.Lock()

    def start(self) -> None:
        """Sweep from now on, in the running loop."""
        self._next = asyncio.get_running_loop().call_later(self._sweep_s, self._sweep)

    def stop(self) -> None:
        """Sweep no more."""
        if self._next is not None:
            self._next.cancel()

    def end_all(self) -> None:
        """End every request at the core: the drain took too long."""
        for connection in tuple(self.connections):
            if connection.exchange is not None:
                connection.exchange.end(web.HTTPServiceUnavailable)

    async def turn(self) -> None:
        """Wait for one's turn, of which each round of the loop has one: a thousand cut at once would hold up others."""
        async with self._turn:
            await asyncio.sleep(0)

    def _sweep(self) -> None:
        self.start()
        self.date = email.utils.formatdate(usegmt=True)
        now_s = self.clock_s()
        for connection in tuple(self.connections):
            connection.check(now_s)


class Connection(web.RequestHandler):
    """One client's connection: aiohttp's protocol, watched, with every error as JSON."""

    __slots__ = (
        "_drained_bytes",
        "_is_half_closed",
        "_moved_s",
        "_parted",
        "content",
        "exchange",
        "is_http_11",
        "sent_s",
        "watch",
        "wire",
        "written_bytes",
    )

    def __init__(self, manager: web.Server, watch: Watch, **limits: Any) -> None:
        super().__init__(manager, **limits)
        # A pipelined request of 2 MB or less is read while it waits: aiohttp lets 32 of them wait.
        self._max_msg_queue_size, self._msg_queue_resume_size = 2, 1
        self.watch = watch
        self.exchange: Exchange | None = None
        self.wire: asyncio.Transport | None = None
        self.content: StreamReader | None = None
        """The body of the latest request that is served."""
        self.is_http_11 = True
        """Whether that request is."""
        self.written_bytes = 0
        self.sent_s = 0.0
        """When the client last got something, or its request began."""
        self._drained_bytes = 0
        self._moved_s = watch.clock_s()
        self._parted: asyncio.Future[None] | None = None
        self._is_half_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self.wire = cast(asyncio.Transport, transport)
        self.wire.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self.watch.connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client is gone: end its call."""
        self.watch.connections.discard(self)
        if self.exchange is not None:
            self.exchange.end(ClientGone)
        super().connection_lost(exc)
        self._part()
        self.wire = self.content = None  # cycles

    def data_received(self, data: bytes) -> None:
        """Something came. What the parser refuses may be in the middle of a body, whose reader must hear of it."""
        super().data_received(data)
        messages = self._messages
        if messages and not isinstance(messages[-1][0], RawRequestMessage):
            content = messages[-2][1] if len(messages) > 1 else self.content
            if content is not None and not content.is_eof():
                content.set_exception(EndlessBody())

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's: whether the connection stays
        """The client sends no more. It may yet wait for its answers; if it is gone, it resets what it is sent."""
        content = self._messages[-1][1] if self._messages else self.content
        if self._is_idle or self._close or content is None or not content.is_eof():
            return False
        self._is_half_closed = True
        self._probe()
        return True

    @property
    def _is_idle(self) -> bool:
        return self._waiter is not None and not self._messages

    def _probe(self) -> None:
        if self.exchange is not None and self.is_http_11:
            self.send(self.exchange.probe())
            asyncio.get_running_loop().call_later(PROBE_S, self._check_half_closed)

    def _check_half_closed(self) -> None:
        """Nothing is read any more, so that a reset shows in the state of the connection alone.

        What waits for the core on HTTP/1.0 is cut: it has no interim answers, and so nothing else that would tell a
        client that ended its side from one that is gone. The usual ones, old proxies, only ever do the latter.
        """
        if self.wire is None or self.wire.is_closing():
            return
        if self._is_idle:
            self.wire.close()
        elif not is_in_close_wait(self.wire) or (self.exchange is not None and not self.is_http_11):
            self.wire.abort()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on after a pause. aiohttp calls this at every read of a body, paused or not, and parses nothing anew."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def begin(self, exchange: Exchange) -> None:
        """The request of this connection is at the core now."""
        self.exchange = exchange
        if self.transport is None:  # gone already, before the handler ran
            exchange.end(ClientGone)
        elif self._is_half_closed:
            self._probe()

    def send(self, data: bytes) -> None:
        """Write to the socket; ClientGone if there is none. The caller waits for `drain` when `writing_paused`."""
        if self.transport is None:
            raise ClientGone
        self.transport.write(data)
        self.written_bytes += len(data)
        self.sent_s = self.watch.clock_s()

    def check(self, now_s: float) -> None:
        """Look for a client that is closing or stalled; keep a silent stream alive."""
        wire, exchange = self.wire, self.exchange
        assert wire is not None
        if wire.is_closing() and exchange is not None:
            exchange.end(ClientGone)
        if self._is_half_closed:
            self._check_half_closed()
        waiting_bytes = wire.get_write_buffer_size()
        if not waiting_bytes:
            self._moved_s = now_s
            if exchange is not None and not wire.is_closing():
                exchange.fill_silence(now_s)
            return
        # A slow reader shows in the kernel's queue long before the socket is writable again.
        drained_bytes = self.written_bytes - waiting_bytes - unacknowledged_bytes(wire)
        if drained_bytes > self._drained_bytes:
            self._moved_s = now_s
        elif now_s - self._moved_s >= self.watch.settings.client_stall_s:
            wire.abort()
        self._drained_bytes = drained_bytes

    def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> Coroutine[Any, Any, tuple[web.StreamResponse, bool]]:
        """The one door by which responses leave: each has a request id, each failure is JSON."""
        if self._is_half_closed and not (self._messages or self._message_tail):
            self._close = True  # after this answer
        if isinstance(resp, Sent):
            return self._after(request, resp)
        if isinstance(resp, web.HTTPException):
            self.watch.metrics.refused(resp.status)
            resp = self.refuse(request, resp)
        if not resp.prepared:
            if REQUEST_ID not in resp.headers:
                resp.headers[REQUEST_ID] = self.watch.problems.mint_id()
            resp.headers["Server"] = "worldrouter"
            if self.watch.cors is not None:
                resp.headers.update(self.watch.cors.headers(request.headers))
            if self.watch.draining:
                resp.force_close()
        return super().finish_response(request, resp, start_time)

    async def _after(self, request: Any, sent: Any) -> tuple[web.StreamResponse, bool]:
        """After an answer that went out as the handler wrote it."""
        if self._upgraded:  # asked for an upgrade that is ignored: aiohttp reads on behind it
            return await super().finish_response(request, sent, None)
        if sent.status in (400, 408) and not sent.keep_alive:
            await self._take_leave()
        return sent, False

    async def _take_leave(self) -> None:
        """Say that this was all; closing while bytes still come would cost the client the answer (RFC 9112, 9.6)."""
        self._close = True  # aiohttp throws away what comes from now on
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write_eof()
            self._parted = asyncio.get_running_loop().create_future()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PARTING_S):
                    await self._parted

    def _part(self) -> None:
        if self._parted is not None and not self._parted.done():
            self._parted.set_result(None)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what the HTTP parser refused (400, echoing nothing) or what a bug of ours broke (500)."""
        if status < 500 or exc is None:
            problem = self.watch.problems.own(status)
            log_refusal(problem, "?", "?")  # echo nothing into the log either
        else:
            problem = self.watch.problems.of(exc)
        self.watch.metrics.refused(problem.status)
        if self.transport is None or not isinstance(request, web.BaseRequest):  # chats tell of their bugs themselves
            raise ConnectionError("There is nobody to tell, or it is too late to.") from exc
        headers, body = problem.headers(), problem.body()
        if self.watch.cors is not None:
            headers.update(self.watch.cors.headers(request.headers))
        self.send(head(problem.status, headers, date=self.watch.date, length=len(body), connection="close") + body)
        return cast(web.StreamResponse, Sent(problem.status, keep_alive=False))

    def refuse(self, request: web.BaseRequest, refusal: web.HTTPException) -> web.Response:
        """The edge's own refusal as an OpenAI error, with one line in the log."""
        problem = self.watch.problems.own(refusal.status)
        log_refusal(problem, request.method, request.rel_url.raw_path)
        response = problem.response()
        if "Allow" in refusal.headers:
            response.headers["Allow"] = refusal.headers["Allow"]
        if problem.status == 408:
            response.force_close()
        return response


def log_refusal(problem: Problem, method: str, path: str) -> None:
    """One line, whole in its message and in fields for whoever collects JSON. `path` without the query."""
    fields = {"request_id": problem.request_id, "status": problem.status, "code": problem.code}
    _LOGGER.info(
        "refused %.20s %.200s: %d %s, request %s",
        *(method, path, problem.status, problem.code, problem.request_id),
        extra={**fields, "method": method[:20], "path": path[:200]},
    )
