"""A carried call as its handler sees it; its client's end puts frames into the stream's outbox."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from worldrouter.calls.frames import MESSAGE_WEIGHT_BYTES, WINDOW_BYTES
from worldrouter.calls.metadata import Entries
from worldrouter.calls.wire import Status

from core.inprocess.context import Context

if TYPE_CHECKING:
    from core.relay.stream import Stream


class CarriedCall(Context):
    """One call. Messages leave at once; nobody here reads them, so `end` is the client's status already."""

    def __init__(self, stream: Stream, call_id: int) -> None:
        super().__init__(stream.loop, stream, stream.server.calls)
        self._stream = stream
        self._call_id = call_id
        self._unread_bytes = 0

    def peer(self) -> str:
        """The stream's peer."""
        return self._stream.peer.peer()

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """The stream's."""
        return self._stream.peer.auth_context()

    def open(self, initial: Entries) -> None:
        """Send the initial metadata."""
        self.initial = initial
        self._stream.send_initial(self._call_id, initial)

    def send(self, message: Any) -> bool:
        """Send a message, serialized by the route. True if the sender is to wait for `room`."""
        if self.initial is None:
            self.open(())
        self._stream.send_message(self._call_id, message)
        self._unread_bytes += len(message) + MESSAGE_WEIGHT_BYTES
        return self._unread_bytes >= WINDOW_BYTES

    async def room(self) -> None:
        """Wait until the caller has read enough."""
        while self._unread_bytes >= WINDOW_BYTES:
            self._room = self.loop.create_future()
            await self._room

    def credit(self, read_bytes: int) -> None:
        """The caller has read so much; more than was sent counts for nothing."""
        self._unread_bytes = max(0, self._unread_bytes - read_bytes)
        room = self._room
        if room is not None and self._unread_bytes < WINDOW_BYTES:
            self._room = None
            if not room.done():
                room.set_result(None)

    def end(self, status: Status) -> None:
        """Send what a unary handler returned, and the status. Nothing if the call is over."""
        if self.over:
            return
        if self.response is not None:
            self.send(self.response)
        self.final = status
        self.conclude(status)

    def conclude(self, status: Status) -> None:
        """Send the status: behind all messages, or of a call that was cancelled or ran into its deadline."""
        if self.initial is None:
            self.initial = ()  # none are sent: the caller may see that the call came to nothing
        super().conclude(status)
        self._stream.send_end(self._call_id, status)
