"""One request over the pool, and the reading of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from core.errors import UpstreamFailed
from core.providers.base import ConnectFailed, Head
from core.providers.http_connection import MAX_UNREAD_BYTES, Connection


class HttpReply:
    """One request and its answer (a `Reply`). Made by `HttpPool.send`."""

    __slots__ = (
        "_broken",
        "_connection",
        "_dial",
        "_dialling",
        "_ended",
        "_failure",
        "_head",
        "_loop",
        "_request",
        "_unread_bytes",
        "_waiter",
        "pieces",
        "sent",
    )

    def __init__(
        self, dial: Callable[[HttpReply], None], loop: asyncio.AbstractEventLoop, head: bytes, body: bytes
    ) -> None:
        self._dial = dial
        self._loop = loop
        self._request: tuple[bytes, bytes] | None = (head, body)  # kept until the answer begins
        self._connection: Connection | None = None
        self._dialling: asyncio.Task[Connection] | None = None
        self._head: Head | None = None
        self.pieces: list[bytes] = []
        self._unread_bytes = 0
        self._ended = False
        self._broken: UpstreamFailed | None = None  # raised once the pieces are read
        self._failure: Exception | None = None  # raised at once
        self._waiter: asyncio.Future[None] | None = None
        self.sent = False

    async def head(self) -> Head:
        """See `Reply.head`."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self._head is not None:
                return self._head
            if self._broken is not None:
                raise self._broken
            await self._arrival()

    async def read(self) -> bytes:
        """See `Reply.read`. What came before a cut is returned first; then the cut is raised."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self.pieces:
                return self._take()
            if self._ended:
                return b""
            if self._broken is not None:
                raise self._broken
            await self._arrival()

    def fail(self, error: Exception) -> None:
        """See `Reply.fail`."""
        self._failure = error
        self.close()

    def close(self) -> None:
        """See `Reply.close`. Whoever still waits for more gets UpstreamFailed."""
        if self._ended or self._broken is not None:
            return
        connection, dialling = self._connection, self._dialling
        self.broke(UpstreamFailed("The call was closed before the answer was complete."))
        if connection is not None:
            connection.abandon()
        if dialling is not None:
            dialling.cancel()

    # the connection's side

    def begin(self, connection: Connection) -> None:
        """Send the request over this idle connection."""
        assert self._request is not None, "the answer has begun"
        self._dialling = None
        self._connection = connection
        self.sent = True
        connection.start(self, *self._request)

    def begun(self, head: Head) -> None:
        """See `Exchange.begun`."""
        self._request = None
        self._head = head

    def arrived(self, size: int) -> int:
        """See `Exchange.arrived`."""
        self._unread_bytes += size
        self._wake()
        return self._unread_bytes

    def ended(self) -> None:
        """See `Exchange.ended`."""
        self._connection = None
        self._ended = True
        self._wake()

    def broke(self, error: UpstreamFailed) -> None:
        """See `Exchange.broke`."""
        self._connection = self._dialling = self._request = None
        self._broken = error
        self._wake()

    def lost_unanswered(self, *, reused: bool) -> None:
        """A pooled connection may have been stale, so one fresh one is tried."""
        self._connection = None
        if reused:
            self._dial(self)
        else:
            self.broke(ConnectFailed("The upstream closed the connection before it answered."))

    @property
    def is_waiting(self) -> bool:
        """Whether the request has still to be sent."""
        return self._request is not None

    def dialled_by(self, task: asyncio.Task[Connection]) -> None:
        """Remember the task that opens our connection, to cancel it on `close`."""
        self._dialling = task

    def _take(self) -> bytes:
        pieces = self.pieces
        if self._unread_bytes > MAX_UNREAD_BYTES and self._is_stream:
            return self._take_some()
        taken = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._unread_bytes = 0
        if self._connection is not None:
            self._connection.resume()
        return taken

    def _take_some(self) -> bytes:
        """Of much, not all: whatever is on its way to a caller who does not read is held in memory."""
        pieces, size, count = self.pieces, 0, 0
        while size < MAX_UNREAD_BYTES and count < len(pieces):
            size += len(pieces[count])
            count += 1
        taken = b"".join(pieces[:count])
        pieces[:count] = [taken[MAX_UNREAD_BYTES:]] if size > MAX_UNREAD_BYTES else []
        self._unread_bytes = sum(map(len, pieces))
        if self._unread_bytes <= MAX_UNREAD_BYTES and self._connection is not None:
            self._connection.resume()
        return taken[:MAX_UNREAD_BYTES]

    @property
    def _is_stream(self) -> bool:
        return self._head is not None and self._head.content_type.startswith("text/event-stream")

    def _arrival(self) -> asyncio.Future[None]:
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
