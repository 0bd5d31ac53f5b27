"""A frame: what stands around the text of a stream's chunks, where they differ in nothing else."""

from __future__ import annotations

import re
from typing import NamedTuple, Self

EVENT, EVENT_END = b"data: ", b"\n\n"
BETWEEN_EVENTS = EVENT_END + EVENT
_PLAIN_BYTES = bytes(byte for byte in range(0x20, 0x100) if byte not in b'"\\')
"""What may stand in a JSON string as it is."""
_is_string_inside = re.compile(rb'[^"\\\x00-\x1f]*+(?:\\["\\/bfnrt][^"\\\x00-\x1f]*+)*+').fullmatch
"""What may stand between the quotes of a JSON string, but for numbered escapes."""


class Frame(NamedTuple):
    """What stands before and behind the text of a chunk, in the upstream's chunks and in ours."""

    start: bytes
    end: bytes
    first: bytes
    """From the beginning of an event to its text."""
    between: bytes
    """From the text of one event to that of the next."""
    last: bytes
    """From the text of an event to its end."""
    our_start: bytes
    our_end: bytes

    @classmethod
    def of(cls, start: bytes, end: bytes, our_start: bytes, our_end: bytes) -> Self:
        """The frame of chunks that are passed on as ours."""
        return cls(start, end, EVENT + start, end + BETWEEN_EVENTS + start, end + EVENT_END, our_start, our_end)

    def pass_on(self, texts: list[bytes], out: list[bytes]) -> int | None:
        """Append our chunks of these texts, one or more, and return how long they are in bytes.

        None, and nothing is done, unless all of it is the inside of a string: a frame is what it was learned as
        whatever text it is around, as long as the text ends where it ends.
        """
        joined = b" ".join(texts)  # a blank completes neither an escape nor a character
        if joined.translate(None, _PLAIN_BYTES) and not _is_string_inside(joined):
            return None
        if not (joined.isascii() or _is_utf8(joined)):
            return None
        our_start, our_end = self.our_start, self.our_end
        out += [our_start + text + our_end for text in texts]
        return len(joined) - len(texts) + 1


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
