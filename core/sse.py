"""Server-sent events, decoded from raw reads.

Accepts LF and CRLF, comments, several data lines in an event, and lines of megabytes; other fields are
ignored (https://html.spec.whatwg.org/multipage/server-sent-events.html).
"""

from __future__ import annotations

MAX_EVENT_BYTES = 16 << 20
_BOM = b"\xef\xbb\xbf"


class EventTooLong(ValueError):
    """An event of more than MAX_EVENT_BYTES."""


class SseDecoder:
    """Turns the reads of one stream into the data of its events."""

    __slots__ = ("_parts", "_size", "_started")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._started = False

    def feed(self, data: bytes) -> list[bytes]:
        """The data of every event that this read completes; EventTooLong past the limit."""
        if self._started and not self._parts and data.endswith(b"\n\n") and b"\r" not in data:
            return self._events(data[:-2])
        return self._feed_slowly(data)

    def finish(self) -> list[bytes]:
        """The event that the end of the stream completes: some servers leave the last blank line out."""
        rest, self._parts = b"".join(self._parts), []
        return self._events(rest.rstrip(b"\r\n")) if rest else []

    def _feed_slowly(self, data: bytes) -> list[bytes]:
        if not self._started and data:
            self._started = True
            data = data.removeprefix(_BOM)
        self._parts.append(data)
        self._size += len(data)
        if b"\n" not in data and b"\r" not in data:
            if self._size > MAX_EVENT_BYTES:
                raise EventTooLong(f"an event of more than {MAX_EVENT_BYTES} bytes")
            return []
        whole = b"".join(self._parts)
        held_cr = whole.endswith(b"\r")  # perhaps the first half of CRLF
        if b"\r" in whole:
            whole = (whole[:-1] if held_cr else whole).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        events, blank, rest = whole.rpartition(b"\n\n")
        if held_cr:
            rest += b"\r"
        self._parts, self._size = ([rest] if rest else []), len(rest)
        if self._size > MAX_EVENT_BYTES:
            raise EventTooLong(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return self._events(events) if blank else []

    @staticmethod
    def _events(block: bytes) -> list[bytes]:
        found = []
        for event in block.split(b"\n\n"):
            if event.startswith(b"data: ") and b"\n" not in event:
                found.append(event[6:])
            elif (data := _data_of(event)) is not None:
                found.append(data)
        return found


def _data_of(event: bytes) -> bytes | None:
    lines = []
    for line in event.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
