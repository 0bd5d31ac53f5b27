"""What both sides of a `RelayService` stream do with frames: metadata, status codes, and gathering what waits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

import grpc

from worldrouter.calls.metadata import Entries
from worldrouter.v1 import relay_pb2

WINDOW_BYTES: Final = 64 * 1024
"""How much of a call may be unread at the caller."""
MESSAGE_WEIGHT_BYTES: Final = 128
"""What a message counts for beside its bytes: small ones take memory too."""
BATCH_BYTES: Final = 256 * 1024
"""When so much waits it is one message; what follows goes into the next. A frame counts as its bytes and
MESSAGE_WEIGHT_BYTES more: 2,048 frames at most."""
CROWDED_BATCHES: Final = 16
"""When so many wait the other side takes them too slowly: whoever causes them had better wait."""
CODES: Final[Mapping[int, grpc.StatusCode]] = MappingProxyType({code.value[0]: code for code in grpc.StatusCode})

Batch = TypeVar("Batch")


class Outbox(Generic[Batch]):
    """Frames on their way to one writer, gathered while it writes.

    Put them into `open` and say so by `added`; `make` makes an empty batch.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Callable[[], Batch]) -> None:
        self.open = make()
        self._make = make
        self._loop = loop
        self._full: deque[Batch] = deque()
        self._open_bytes = 0
        self._pending = self._closed = False
        self._writer: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None

    @property
    def crowded(self) -> bool:
        """Whether more waits than a reader that keeps up would ever leave."""
        return len(self._full) >= CROWDED_BATCHES

    async def room(self) -> None:
        """Wait until it is not crowded any more; for one at a time."""
        while self.crowded:
            self._room = self._loop.create_future()
            await self._room

    def added(self, size_bytes: int = 0) -> None:
        """A frame was put into `open`; its size, unless it is always small."""
        self._pending = True
        self._open_bytes += size_bytes + MESSAGE_WEIGHT_BYTES
        if self._open_bytes >= BATCH_BYTES:
            self._full.append(self._swap())
        if self._writer is not None:
            self._wake()

    def close(self) -> None:
        """Nothing will be added any more."""
        self._closed = True
        self._wake()

    async def next(self) -> Batch | None:
        """The next batch, when there is anything to say; None at the end."""
        while not self._full:
            if self._pending:
                return self._swap()
            if self._closed:
                return None
            self._writer = self._loop.create_future()
            await self._writer
        batch = self._full.popleft()
        room = self._room
        if room is not None and not self.crowded:
            self._room = None
            if not room.done():
                room.set_result(None)
        return batch

    def _swap(self) -> Batch:
        batch, self.open = self.open, self._make()
        self._open_bytes, self._pending = 0, False
        return batch

    def _wake(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None and not writer.done():
            writer.set_result(None)


def add_entries(frames: Any, entries: Entries) -> None:
    """Put metadata into a field of frames."""
    for key, value in entries:
        frame = frames.add()
        frame.key = key
        frame.value = value if isinstance(value, bytes) else value.encode()


def entries_of(frames: Iterable[relay_pb2.RelayMetadataEntry]) -> Entries:
    """The metadata of such a field, as they came."""
    return tuple([(frame.key, _value(frame.key, frame.value)) for frame in frames])


def _value(key: str, value: bytes) -> str | bytes:
    return value if key.endswith("-bin") else value.decode("latin-1")
