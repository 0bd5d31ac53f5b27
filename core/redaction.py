"""What must not leave the process: secrets in texts, and what a caller sent in the words of an exception."""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Iterable

HIDDEN = "[secret]"
MIN_LENGTH = 8
"""What is shorter is a placeholder, as local servers take it for a key, and may be a common word."""

_KEY = re.compile(r"wlrouter_[0-9A-Za-z]{8,}|(?i:bearer)\s+(?!wlrouter_\.)[^\s\"',]{8,}")
"""`wlrouter_...` is how our own messages speak of keys."""


class Redaction:
    """Blacks out these secrets, and whatever looks like an API key or a bearer credential.

    To be used before anything is escaped, so that a secret looks like itself, or like its repr.
    """

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: list[str] = []
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Black these out as well, from now on."""
        forms = {
            form
            for secret in secrets
            if len(secret) >= MIN_LENGTH
            for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1])
        }
        self._secrets = sorted(forms.union(self._secrets), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """The text without a secret."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return _KEY.sub(HIDDEN, text)


def trace_without_words(error: BaseException | None) -> str:
    """The traceback of an exception and of its causes, the cause first: places and kinds, but no message.

    A message may quote what it stumbled over, a prompt for one.
    """
    parts: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        where = "".join(traceback.format_tb(error.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{where}{type(error).__qualname__}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\nled to:\n\n".join(reversed(parts))
