"""One connection to an upstream: a request goes out, its answer comes in, one after another, never pipelined.

The parser is httptools (llhttp, strict); this module adds the limits, the backpressure of both directions,
and the judgement whether the connection may serve another request.
"""

from __future__ import annotations

import asyncio
import email.utils
import math
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from core.errors import UpstreamFailed
from core.providers.base import Head

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADER_COUNT = 128
MAX_UNREAD_BYTES = 32 * 1024
"""After which reading pauses; one read more, of 256 kB at most, may be on top."""
WRITE_SLICE_BYTES = 256 * 1024
_PLAIN_ENCODINGS = (b"", b"identity", b"none")
"""Not compressed. The last is in no standard; servers send it to keep proxies from compressing their streams."""


class Exchange(Protocol):
    """Whoever sent the request under way, and reads its answer.

    The connection adds the pieces of the body that a read of the socket brought to `pieces`, and calls one of the
    methods, once per read.
    """

    pieces: list[bytes]

    def begun(self, head: Head) -> None:
        """Status and headers are in."""
        ...

    def arrived(self, size: int) -> int:
        """This many bytes came in. Returns how many now wait for the reader."""
        ...

    def ended(self) -> None:
        """The answer is complete; the connection serves others."""
        ...

    def broke(self, error: UpstreamFailed) -> None:
        """There will be no more of this answer; the connection is gone."""
        ...

    def lost_unanswered(self, *, reused: bool) -> None:
        """The connection closed before a byte of the answer; `reused` if it had served an earlier request."""
        ...


class Owner(Protocol):
    """The pool that a connection belongs to."""

    def release(self, connection: Connection) -> None:
        """The connection is idle and fit for another request."""
        ...

    def lost(self, connection: Connection) -> None:
        """The connection is closed."""
        ...


class Connection(asyncio.Protocol):
    """An HTTP/1.1 connection, from the client's side."""

    __slots__ = (
        "_complete",
        "_exchange",
        "_header_count",
        "_headers",
        "_made",
        "_owner",
        "_parser",
        "_paused",
        "_pieces",
        "_reusable",
        "_reused",
        "_started",
        "_transport",
        "_unproductive_bytes",
        "_unsent",
        "_until_close",
        "_wall_clock",
        "_write_paused",
        "on_body",
    )

    def __init__(self, owner: Owner, wall_clock: Callable[[], float]) -> None:
        self._owner = owner
        self._wall_clock = wall_clock  # seconds since the epoch, for a Retry-After that is a date
        self._transport: asyncio.Transport  # this and the parser exist from connection_made on
        self._parser: httptools.HttpResponseParser
        self._made = False
        self._exchange: Exchange | None = None
        self._pieces: list[bytes] = []  # of the read that is being parsed
        self._headers: dict[bytes, bytes] = {}
        self.on_body = self._pieces.append  # what the parser calls most often
        self._unsent = memoryview(b"")
        self._reused = self._paused = self._write_paused = False
        self._reset()

    def _reset(self) -> None:
        self._started = False  # a byte of the answer is in
        self._complete = False
        self._until_close = False
        self._reusable = False
        self._header_count = 0
        self._unproductive_bytes = 0  # since the last piece of body: heads, chunk extensions, trailers

    @property
    def is_open(self) -> bool:
        """Whether the connection was made and not yet lost."""
        return self._made and not self._transport.is_closing()

    def start(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """Send a request: the whole head with its blank line, then the body. The connection must be idle."""
        self._exchange = exchange
        self._reset()
        if len(body) <= WRITE_SLICE_BYTES:
            self._transport.write(head + body)
            return
        self._transport.write(head)
        self._unsent = memoryview(body)
        self._send_rest()

    def resume(self) -> None:
        """Read on, after the reader has taken what had piled up."""
        if self._paused and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Close the socket at once. An exchange under way hears of it by `broke` or `lost_unanswered`."""
        if self._made:
            self._transport.abort()

    def abandon(self) -> None:
        """Close the socket at once; the exchange hears nothing more."""
        self._exchange = None
        self.abort()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self._made = True

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:  # nothing was asked: whatever this is, the next answer would be out of step
            self.abort()
            return
        self._started = True
        self._unproductive_bytes += len(data)
        failure: Exception | None = None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            failure = error
        if self._pieces:
            self._unproductive_bytes = 0
            exchange.pieces += self._pieces
            self._pieces.clear()
        if failure is not None:
            self._reusable = False
            if not self._complete:
                self._break(exchange, _refusal(failure))
                return
        if self._complete:
            self._finish(exchange)
        elif self._unproductive_bytes > MAX_HEAD_BYTES:
            self._break(exchange, UpstreamFailed("The upstream's answer has too large a head."))
        elif exchange.arrived(len(data)) > MAX_UNREAD_BYTES and exchange.pieces and not self._paused:
            self._paused = True  # with nothing for the reader to take, nobody would read on
            self._transport.pause_reading()

    def eof_received(self) -> None:
        self._hang_up(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._hang_up(exc)
        del self._parser  # it holds our bound methods: a cycle
        self._unsent = memoryview(b"")
        self._owner.lost(self)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._send_rest()

    # the parser's side

    def on_message_begin(self) -> None:
        if self._complete:
            raise UpstreamFailed("The upstream answered more than it was asked.")
        self._headers.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        if self._header_count > MAX_HEADER_COUNT:
            raise UpstreamFailed("The upstream's answer has too large a head.")
        self._headers[name.lower()] = value  # the parser leaves the blanks behind it, and knows no `chunked` with a tab

    def on_headers_complete(self) -> None:
        headers, exchange = self._headers, self._exchange
        if self._is_head_too_large():
            raise UpstreamFailed("The upstream's answer has too large a head.")
        status = self._parser.get_status_code()
        if status < 200:
            return
        if headers.get(b"content-encoding", b"").rstrip().lower() not in _PLAIN_ENCODINGS:
            raise UpstreamFailed("The upstream compressed its answer although it was asked not to.")
        if headers.get(b"transfer-encoding", b"chunked").rstrip(b" ").lower() != b"chunked":
            raise UpstreamFailed("The upstream's answer has an unknown transfer encoding.")
        self._until_close = not (b"content-length" in headers or b"transfer-encoding" in headers)
        assert exchange is not None, "an answer without a request"
        exchange.begun(read_head(status, headers, self._wall_clock))

    def on_message_complete(self) -> None:
        if self._parser.get_status_code() >= 200:  # an informational answer is followed by the real one
            self._complete = True
            self._reusable = self._parser.should_keep_alive()

    # inside

    def _is_head_too_large(self) -> bool:
        if self._unproductive_bytes <= MAX_HEAD_BYTES:  # the head and whatever came with it
            return False
        return sum([len(name) + len(value) for name, value in self._headers.items()]) > MAX_HEAD_BYTES

    def _send_rest(self) -> None:
        while self._unsent and not self._write_paused:
            piece, self._unsent = self._unsent[:WRITE_SLICE_BYTES], self._unsent[WRITE_SLICE_BYTES:]
            self._transport.write(piece)

    def _finish(self, exchange: Exchange) -> None:
        """Hand the connection back, unless something of this exchange is still under way on it."""
        self._exchange = None
        if self._reusable and self._transport.get_write_buffer_size() == 0:
            self.resume()
            self._reused = True
            self._owner.release(self)
        else:
            self.abort()
        exchange.ended()

    def _break(self, exchange: Exchange, error: UpstreamFailed) -> None:
        self.abandon()
        exchange.broke(error)

    def _hang_up(self, exc: Exception | None) -> None:
        """The upstream closed: the end of an answer that lasts until then, or a failure."""
        exchange = self._exchange
        if exchange is None:
            return
        if not self._started:
            self.abandon()
            exchange.lost_unanswered(reused=self._reused)
        elif self._until_close and exc is None:
            self.abandon()
            exchange.ended()
        else:
            self._break(exchange, UpstreamFailed("The upstream closed the connection in the middle of its answer."))


def read_head(status: int, headers: dict[bytes, bytes], wall_clock: Callable[[], float]) -> Head:
    """What the pipeline wants to know of an answer's head; header names are in lower case."""
    content_type = headers.get(b"content-type", b"").decode("latin-1")
    return Head(status, content_type, _wanted_pause_s(headers, wall_clock))


def _wanted_pause_s(headers: dict[bytes, bytes], wall_clock: Callable[[], float]) -> float | None:
    """Retry-After, or OpenAI's finer `retry-after-ms`, which its own SDKs prefer too."""
    finer = headers.get(b"retry-after-ms", b"").rstrip()
    if finer.isdigit():
        return int(finer) / 1000
    found = headers.get(b"retry-after")
    return None if found is None else retry_after_s(found.decode("latin-1"), wall_clock)


def retry_after_s(value: str, wall_clock: Callable[[], float]) -> float | None:
    """A Retry-After header (RFC 9110, 10.2.3: seconds or a date) in seconds from now, never negative.

    None when it is neither. Fractions are accepted: some upstreams send them.
    """
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - wall_clock()
        except (ValueError, OverflowError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def _refusal(error: Exception) -> UpstreamFailed:
    """Our own refusal, raised inside one of the parser's callbacks, or what the parser's complaint means."""
    cause = error.__context__
    if isinstance(cause, UpstreamFailed):
        return cause
    failure = UpstreamFailed("The upstream's answer is not valid HTTP.")
    failure.__cause__ = error
    return failure
