"""What lies between the two ends of a call: messages on their way, metadata, the status, who waits for what."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import grpc.aio
from google.protobuf.message import Message

from worldrouter.calls.metadata import Entries

WINDOW_MESSAGES = 16
"""How far a handler may be ahead of its reader. It goes on when all of them are read, so that waking it is rare."""
WINDOW_BYTES = 32_768
"""The same in bytes; what is over is of one message."""


class Status(NamedTuple):
    """How a call ended."""

    code: grpc.StatusCode
    details: str = ""
    trailing: Entries = ()


OK = Status(grpc.StatusCode.OK)
INVALID_METADATA = Status(grpc.StatusCode.INTERNAL, "Invalid metadata")
DEADLINE_DETAILS = "Deadline Exceeded"


class Wire:
    """One call in flight, from the client's `begin` until the client has its status and the handler has ended.

    The handler's end gives `final`. It becomes the client's `status` once all messages are read; a cancel or the
    deadline gives a status at once. `calls` holds the wire as long as one of the two is to come.
    """

    # Defaults that most calls never change stand in the class.
    response: Any = None
    cancelled_locally = False
    listener: Callable[[], None] | None = None
    """Called when the client gets its status."""
    began = False
    """Whether the handler's task has run at all."""
    _deadline_s: float | None = None
    _timer: asyncio.TimerHandle | None = None
    _room: asyncio.Future[None] | None = None
    _unread_bytes = 0
    _initial_waiters: list[asyncio.Future[None]] | None = None
    _status_waiters: list[asyncio.Future[None]] | None = None

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: object, calls: set[Wire]) -> None:
        self.loop = loop
        self.channel = channel
        self.task: asyncio.Task[None] | None = None
        """The handler's, as long as it runs."""
        self.initial: Entries | None = None
        self.final: Status | None = None
        self.status: Status | None = None
        self.over = False
        """Whether nothing more can be sent to the client."""
        self.messages: deque[Any] = deque()
        self._calls = calls
        self._reader: asyncio.Future[Any] | None = None

    # The client's end

    def begin(self, task: asyncio.Task[None]) -> None:
        """The handler is to run in `task`."""
        self.task = task
        self._calls.add(self)

    def set_timeout(self, timeout_s: float) -> None:
        """Let the call last this long from now."""
        self._deadline_s = self.loop.time() + timeout_s
        self._timer = self.loop.call_later(timeout_s, self._expire)

    def time_remaining_s(self) -> float | None:
        """Seconds until the deadline, 0 when it has passed; None without one."""
        return None if self._deadline_s is None else max(0.0, self._deadline_s - self.loop.time())

    def halt(self, status: Status) -> bool:
        """Give the client this status now, drop what it has not read, cancel the handler. False if it has one."""
        if self.status is not None:
            return False
        task = self.task
        if task is not None and self.final is None:
            task.cancel()
            if not self.began:
                self.task = None  # a task cancelled before its first step never runs any of our code
        self.messages.clear()
        self.conclude(status)
        return True

    def cancel(self, details: str) -> bool:
        """Cancel from the client's side. False if the call has its status."""
        if self.status is None:
            self.cancelled_locally = True
            return self.halt(Status(grpc.StatusCode.CANCELLED, details))
        return False

    def _expire(self) -> None:
        trailing = self.final.trailing if self.final is not None else ()
        self.halt(Status(grpc.StatusCode.DEADLINE_EXCEEDED, DEADLINE_DETAILS, trailing))

    def conclude(self, status: Status) -> None:
        """Give the client its status and wake whoever waits for anything; once."""
        self.status = status
        self.over = True
        if self.initial is None:
            self.open(())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        reader = self._reader
        if reader is not None:
            self._reader = None
            if not reader.done():
                reader.set_result(grpc.aio.EOF)
        if self._status_waiters is not None:
            _wake(self._status_waiters)
            self._status_waiters = None
        if self.task is None:
            self._calls.discard(self)
        if self.listener is not None:
            self.listener()

    async def wait_for_status(self) -> Status:
        """The status, when the client has it."""
        if self.status is None:
            await self.status_waiter()
        assert self.status is not None
        return self.status

    def status_waiter(self) -> asyncio.Future[None]:
        """A future that is done when the client has its status."""
        waiter: asyncio.Future[None] = self.loop.create_future()
        if self._status_waiters is None:
            self._status_waiters = [waiter]
        else:
            self._status_waiters.append(waiter)
        return waiter

    async def wait_for_initial(self) -> Entries:
        """The initial metadata, when they were sent or the call is over without."""
        if self.initial is None:
            waiter: asyncio.Future[None] = self.loop.create_future()
            if self._initial_waiters is None:
                self._initial_waiters = []
            self._initial_waiters.append(waiter)
            await waiter
        assert self.initial is not None
        return self.initial

    def next_message(self) -> asyncio.Future[Any]:
        """A future of the next message, or of EOF at the end, while there are neither messages nor a status."""
        if self._reader is not None:
            raise grpc.aio.UsageError("Another read is pending: reads must be serialized.")
        self._reader = self.loop.create_future()
        return self._reader

    def take(self) -> Any:
        """The next of `messages`, which must not be empty."""
        message = self.messages.popleft()
        if not self.messages:
            self._unread_bytes = 0
            if self.final is not None:
                self.conclude(self.final)
            elif self._room is not None:
                room, self._room = self._room, None
                if not room.done():
                    room.set_result(None)
        return message

    # The handler's end

    def open(self, initial: Entries) -> None:
        """Send the initial metadata."""
        self.initial = initial
        if self._initial_waiters is not None:
            _wake(self._initial_waiters)
            self._initial_waiters = None

    def send(self, message: Any) -> bool:
        """Send a message. True if the window is full: the sender then waits for `room`."""
        if self.initial is None:
            self.open(())
        reader = self._reader
        if reader is not None:
            self._reader = None
            if not reader.done():  # done: cancelled, its task is about to cancel the call
                reader.set_result(message)
            return False
        self.messages.append(message)
        if isinstance(message, Message):
            self._unread_bytes += message.ByteSize()
        return len(self.messages) >= WINDOW_MESSAGES or self._unread_bytes >= WINDOW_BYTES

    async def room(self) -> None:
        """Wait until all messages sent so far are read."""
        if self.messages:
            self._room = self.loop.create_future()
            await self._room

    def end(self, status: Status) -> None:
        """Send the status, which the client sees behind all messages. Nothing if the call is over."""
        if self.over:
            return
        self.over = True
        self.final = status
        if self.initial is None:
            self.open(())
        if not self.messages:
            self.conclude(status)

    def leave(self) -> None:
        """The handler has ended; last of all."""
        self.task = None
        if self.status is not None:
            self._calls.discard(self)


def _wake(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
