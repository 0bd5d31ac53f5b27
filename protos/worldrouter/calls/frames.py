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
"""When so much waits it is one message; what follows goes into the next."""
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
        self._waiting = self._closed = False
        self._writer: asyncio.Future[None] | None = None

    def added(self, size_bytes: int = 0) -> None:
        """A frame was put into `open`; its size, unless it is always small."""
        self._open_bytes += size_bytes
        if self._open_bytes >= BATCH_BYTES:
            self._full.append(self.open)
            self.open, self._open_bytes = self._make(), 0
        if not self._waiting:
            self._waiting = True
            if self._writer is not None:
                if not self._writer.done():
                    self._writer.set_result(None)
                self._writer = None

    def close(self) -> None:
        """Nothing will be added any more."""
        self._closed = True
        self.added()

    async def next(self) -> Batch | None:
        """The next batch, when there is anything to say; None at the end."""
        if not self._waiting:
            self._writer = self._loop.create_future()
            await self._writer
        if self._full:
            return self._full.popleft()
        if self._closed:
            return None
        batch, self.open = self.open, self._make()
        self._open_bytes, self._waiting = 0, False
        return batch


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
