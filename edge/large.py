"""The body of a large whole answer: sent in pieces, and what its client leaves lying is not for memory to hold."""

from __future__ import annotations

import asyncio
import tempfile
from typing import IO, TYPE_CHECKING

from worldrouter.calls.memory import give_memory_back

if TYPE_CHECKING:
    from edge.request import ChatRequest

PIECE_BYTES = 65_536
"""What is longer is sent in pieces of this size."""
SMALL_BYTES = 131_072
"""A rest that stays in memory whatever else is there."""
ROOM_BYTES = 8 << 20
TRIM_AFTER_S = 0.25


class Room:
    """Memory for the larger rests of answers, of all clients together that are slower than the upstream was."""

    def __init__(self, free_bytes: int = ROOM_BYTES) -> None:
        self.free_bytes = free_bytes
        self._trim: asyncio.TimerHandle | None = None

    def take(self, size_bytes: int) -> bool:
        """Whether there is so much. Whoever gets it gives it back to `free_bytes`."""
        if size_bytes > self.free_bytes:
            return False
        self.free_bytes -= size_bytes
        return True

    def tidy(self) -> None:
        """Soon give the system back what large bodies left free between what is small and stays: glibc would not."""
        if self._trim is None:
            self._trim = asyncio.get_running_loop().call_later(TRIM_AFTER_S, self._give_back)

    def _give_back(self) -> None:
        self._trim = None
        give_memory_back()


class LargeBody:
    """A body whose head is sent. Nobody else may refer to it, else it stays in memory all the same."""

    def __init__(self, body: bytes, room: Room) -> None:
        self._body = body
        self._room = room

    async def send(self, request: ChatRequest) -> None:
        """Send it all. What the client does not take at once waits in the room, or in a file without a name.

        Raises ClientGone, ConnectionError; OSError when that file cannot be written.
        """
        self._send_first(request)
        size_bytes = len(self._body)
        if size_bytes <= SMALL_BYTES:
            await self._send_rest(request)
        elif self._room.take(size_bytes):
            try:
                await self._send_rest(request)
            finally:
                self._room.free_bytes += size_bytes
        else:
            await self._send_filed(request)
        await request.taken()

    def _send_first(self, request: ChatRequest) -> None:
        """What the kernel takes. In copies: of a view, the transport would hold the whole."""
        sent_bytes = 0
        while sent_bytes < len(self._body) and not request.connection.writing_paused:
            request.connection.send(self._body[sent_bytes : sent_bytes + PIECE_BYTES])
            sent_bytes += PIECE_BYTES
        self._body = self._body[sent_bytes:]

    async def _send_rest(self, request: ChatRequest) -> None:
        for sent_bytes in range(0, len(self._body), PIECE_BYTES):
            await request.taken()
            request.connection.send(self._body[sent_bytes : sent_bytes + PIECE_BYTES])

    async def _send_filed(self, request: ChatRequest) -> None:
        with await asyncio.to_thread(_filed, self._body) as file:
            self._body = b""
            self._room.tidy()
            await request.taken()
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                request.connection.send(piece)
                del piece
                await request.taken()


def _filed(body: bytes) -> IO[bytes]:
    """A file without a name that holds this, to be read. To open one may take as long as to write it."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - whoever asked closes it
    try:
        file.write(body)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file
