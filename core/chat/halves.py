"""Halves of characters in an upstream's JSON: `"\\ud83d"` alone, which is no text in any encoding.

Some upstreams cut an emoji in two. Neither protobuf nor every JSON parser takes what is left: it becomes U+FFFD, as
Unicode recommends for what cannot be decoded, and the answer around it is passed on.
"""

from __future__ import annotations

import re

MAX_HALVES = 1_000
"""What has more of them is no answer."""
_PAIR = rb"\\u[dD][89abAB]..\\u[dD][c-fC-F].."
_HALF = rb"\\u[dD][89a-fA-F].."
_UP_TO_HALF = re.compile(rb"((?:[^\\]++|\\(?!u[dD][89a-fA-F]).|%b)*+)(%b)?" % (_PAIR, _HALF), re.DOTALL)
"""Found at once however many other escapes there are: their number is the upstream's to choose."""


def without_halves(data: bytes) -> bytes:
    """The JSON with the halves replaced."""
    return _UP_TO_HALF.sub(_replaced, data, count=MAX_HALVES)


def _replaced(found: re.Match[bytes]) -> bytes:
    return found[1] + rb"\ufffd" if found[2] else found[1]
