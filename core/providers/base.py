"""The seam between the pipeline and whoever answers.

A provider takes and gives OpenAI's own JSON; one of another dialect translates inside. The pipeline calls
`Provider.send`, awaits `Reply.head`, then `Reply.read` until it returns nothing. Timers and disconnects call
`Reply.fail` or `Reply.close` from outside, at any moment, without awaiting.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from core.errors import UpstreamFailed


class ConnectFailed(UpstreamFailed):
    """No connection could be made, or it broke before the upstream answered a byte: safe to try elsewhere."""


class Head(msgspec.Struct, frozen=True, gc=False):
    """How an answer begins. `retry_after_s` is the upstream's Retry-After in seconds, if it sent one."""

    status: int
    content_type: str
    retry_after_s: float | None


class Reply(Protocol):
    """One call to the upstream, from the moment it is sent."""

    @property
    def sent(self) -> bool:
        """Whether the upstream may have taken the request: it was written to a connection."""
        ...

    async def head(self) -> Head:
        """Wait for status and headers; the same again when asked again.

        A waiter here or in `read` may be cancelled and another take its place: nothing of the answer is lost.
        Raises ConnectFailed, UpstreamFailed, or the error of `fail`.
        """
        ...

    async def read(self) -> bytes:
        """The next piece of the body, all that one read of the socket delivered; b"" at its proper end.

        Raises UpstreamFailed when the body is cut short, or the error of `fail`.
        """
        ...

    def fail(self, error: Exception) -> None:
        """Make the pending or next `head` or `read` raise this, and close the connection."""
        ...

    def close(self) -> None:
        """Release the call: the connection closes unless the body was read to its end. Idempotent."""
        ...


class Provider(Protocol):
    """Somebody who answers chats; shared by all models that it serves."""

    def send(self, body: bytes, *, stream: bool) -> Reply:
        """Begin a chat completion with this JSON body, whose `model` is the upstream's name for it."""
        ...

    async def close(self) -> None:
        """Close idle connections."""
        ...
