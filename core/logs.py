"""Logging of a core: JSON lines for machines, readable text on a terminal, secrets blacked out.

Whatever a message, an argument or a traceback holds, an API key or a provider's key in it never gets out.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from typing import TextIO

_KEY = re.compile(r"wlrouter_[0-9A-Za-z]{8,}|(?i:bearer)\s+[^\s\"',]{8,}")


class _Redacting(logging.Formatter):
    """Formats, then blacks out."""

    def __init__(self, secrets: Iterable[str], *, as_json: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._secrets = tuple(secret for secret in secrets if secret)
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a secret."""
        text = super().format(record) if not self._as_json else self._json(record)
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        return _KEY.sub("[secret]", text)

    def _json(self, record: logging.LogRecord) -> str:
        found = {
            "time": record.created,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            found["trace"] = self.formatException(record.exc_info)
        return json.dumps(found)


def log_to(out: TextIO, *, secrets: Iterable[str] = (), level: int = logging.INFO) -> None:
    """Send the root logger's lines there; `secrets` are the values that must never appear."""
    handler = logging.StreamHandler(out)
    handler.setFormatter(_Redacting(secrets, as_json=not out.isatty()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells every step of nothing at all
