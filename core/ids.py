"""Identifiers: ULIDs in lower-case Crockford base32, which sort by the time they were made.

48 bits of milliseconds and 80 random bits (https://github.com/ulid/spec), 26 characters. Request ids are these
alone; other ids put a prefix before them ("acct_", "key_", "pay_", "lease_", "core_").
"""

from __future__ import annotations

from collections.abc import Callable

ENTROPY_BYTES = 16
"""Random bytes that one id takes: 5 bits of each are used, which is quicker than packing 80 bits."""

_ALPHABET = b"0123456789abcdefghjkmnpqrstvwxyz"
_FROM_BYTE = bytes(_ALPHABET[value & 31] for value in range(256))
_PAIRS = tuple(chr(_ALPHABET[value >> 5]) + chr(_ALPHABET[value & 31]) for value in range(1024))


def time_part(ms: int) -> str:
    """The first 10 characters of an id made at `ms` milliseconds since the Unix epoch."""
    first, second, third = _PAIRS[(ms >> 40) & 1023], _PAIRS[(ms >> 30) & 1023], _PAIRS[(ms >> 20) & 1023]
    return first + second + third + _PAIRS[(ms >> 10) & 1023] + _PAIRS[ms & 1023]


def new_id(now_us: int, entropy: bytes) -> str:
    """An id of this time (microseconds since the Unix epoch) and these `ENTROPY_BYTES` random bytes."""
    return time_part(now_us // 1000) + entropy.translate(_FROM_BYTE).decode("ascii")


class IdSource:
    """Makes ids from a clock (microseconds since the Unix epoch) and a source of random bytes.

    Random bytes are fetched in blocks and the time part is kept for its millisecond: an id costs well under
    a microsecond. Not for use on both sides of a fork.
    """

    _BLOCK_BYTES = 256 * ENTROPY_BYTES

    def __init__(self, clock_us: Callable[[], int], urandom: Callable[[int], bytes]) -> None:
        self._clock_us = clock_us
        self._urandom = urandom
        self._block = b""
        self._used = 0
        self._ms = -1
        self._time_part = ""

    def new(self) -> str:
        """The next id, 26 characters without a prefix."""
        start = self._used
        if start >= len(self._block):
            self._block = self._urandom(self._BLOCK_BYTES).translate(_FROM_BYTE)
            start = 0
        self._used = start + ENTROPY_BYTES
        ms = self._clock_us() // 1000
        if ms != self._ms:
            self._ms = ms
            self._time_part = time_part(ms)
        return self._time_part + self._block[start : start + ENTROPY_BYTES].decode("ascii")
