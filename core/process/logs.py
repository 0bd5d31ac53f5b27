"""Logging of a core: JSON lines for machines, readable text on a terminal, secrets blacked out.

Whatever a message, an argument or a traceback holds, an API key or a provider's key in it never gets out.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from typing import TextIO

from core.process.line_writer import LineWriter

_KEY = re.compile(r"wlrouter_[0-9A-Za-z]{8,}|(?i:bearer)\s+[^\s\"',]{8,}")
_HIDDEN = "[secret]"


class _Redacting(logging.Formatter):
    """Formats, then blacks out: before anything is escaped, so that a secret looks like itself, or like its repr."""

    def __init__(self, secrets: Iterable[str], *, as_json: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        forms = {
            form for secret in secrets if secret for form in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1])
        }
        self._secrets = sorted(forms, key=len, reverse=True)
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a secret."""
        try:
            text = record.getMessage()
        except Exception:  # logging would print the arguments as they are
            text = f"{record.msg} (its arguments do not fit)"
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        return self._line(record, self._redacted(text), self._redacted(trace))

    def _line(self, record: logging.LogRecord, text: str, trace: str) -> str:
        if not self._as_json:
            line = f"{self.formatTime(record)} {record.levelname} {record.name}: {text}"
            return f"{line}\n{trace}" if trace else line
        found = {"time": record.created, "level": record.levelname.lower(), "logger": record.name, "message": text}
        return json.dumps(found | {"trace": trace} if trace else found)

    def _redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return _KEY.sub(_HIDDEN, text)


def log_to(out: TextIO | LineWriter, *, secrets: Iterable[str] = (), level: int = logging.INFO) -> None:
    """Send the root logger's lines there; `secrets` are the values that must never appear."""
    handler = logging.StreamHandler(out)
    handler.setFormatter(_Redacting(secrets, as_json=not out.isatty()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells every step of nothing at all
