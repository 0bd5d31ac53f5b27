"""Server-sent events, decoded from raw reads.

Accepts LF, CRLF and CR, comments, several data lines in an event, and lines of megabytes; other fields are
ignored (https://html.spec.whatwg.org/multipage/server-sent-events.html).
"""

from __future__ import annotations

MAX_EVENT_BYTES = 16 << 20
_BOM = b"\xef\xbb\xbf"


class EventTooLong(ValueError):
    """An event of more than MAX_EVENT_BYTES."""


class SseDecoder:
    """Turns the reads of one stream into the data of its events.

    `largest_bytes` is the most that reads were put together to so far.
    """

    __slots__ = ("_parts", "_size", "_started", "largest_bytes")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._started = False
        self.largest_bytes = 0

    @property
    def is_between_events(self) -> bool:
        """Whether the next read begins with an event, or a blank line before one."""
        return self._started and not self._parts

    def feed(self, data: bytes) -> list[bytes]:
        """The data of every event that this read completes; EventTooLong past the limit."""
        if self._started and not self._parts and data.endswith(b"\n\n") and b"\r" not in data:
            return self._events(data[:-2])
        return self._feed_slowly(data)

    def finish(self) -> list[bytes]:
        """The event that the end of the stream completes: some servers leave the last blank line out."""
        rest, self._parts = b"".join(self._parts), []
        return self._events(_with_lf(rest).strip(b"\n")) if rest else []

    def _feed_slowly(self, data: bytes) -> list[bytes]:
        if not self._started:
            data = self._without_bom(data)
        self._parts.append(data)
        self._size += len(data)
        self.largest_bytes = max(self.largest_bytes, self._size)
        if b"\n" not in data and b"\r" not in data:
            self._refuse_too_long()
            return []
        whole = b"".join(self._parts)
        held = whole.endswith(b"\r")  # perhaps the first half of CRLF
        whole = _with_lf(whole[:-1] if held else whole)
        if held and whole.endswith(b"\n"):
            whole += b"\n"  # a blank line whatever follows; what is kept of it adds no event
        events, blank, rest = whole.rpartition(b"\n\n")
        if held:
            rest += b"\r"
        self._parts, self._size = ([rest] if rest else []), len(rest)
        self._refuse_too_long()
        return self._events(events) if blank else []

    def _without_bom(self, data: bytes) -> bytes:
        """The beginning of the stream without its byte order mark, which may come in pieces."""
        data = b"".join(self._parts) + data
        self._parts, self._size = [], 0
        self._started = len(data) >= len(_BOM) or not _BOM.startswith(data)
        return data.removeprefix(_BOM)

    def _refuse_too_long(self) -> None:
        if self._size > MAX_EVENT_BYTES:
            raise EventTooLong(f"an event of more than {MAX_EVENT_BYTES} bytes")

    @staticmethod
    def _events(block: bytes) -> list[bytes]:
        found = []
        for event in block.split(b"\n\n"):
            if event.startswith(b"data: ") and b"\n" not in event:
                found.append(event[6:])
            elif (data := _data_of(event)) is not None:
                found.append(data)
        return found


def _with_lf(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in text else text


def _data_of(event: bytes) -> bytes | None:
    lines = []
    for line in event.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
    return b"\n".join(lines) if lines else None
