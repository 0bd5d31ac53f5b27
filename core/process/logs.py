"""Logging of a core: JSON lines for machines, readable text on a terminal, secrets blacked out.

Whatever a message, an argument or a traceback holds, an API key or a provider's key in it never gets out; nor does a
prompt that an exception quotes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable
from typing import TextIO

from core.access_log import rfc3339
from core.process.line_writer import LineWriter
from core.redaction import Redaction, trace_without_words

_BACKGROUND = ("core.money.", "core.engine")
"""Loggers of work that knows no request's content: the words of their exceptions are kept."""


class _Redacting(logging.Formatter):
    """Formats, then blacks out."""

    def __init__(self, secrets: Iterable[str], *, as_json: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self.redact = Redaction(secrets)
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a secret."""
        try:
            text = record.getMessage()
        except Exception:  # logging would print the arguments as they are
            text = f"{record.msg} (its arguments do not fit)"
        return self._line(record, self.redact(text), self.redact(self._trace(record)))

    def _trace(self, record: logging.LogRecord) -> str:
        if not record.exc_info:
            return ""
        if record.name.startswith(_BACKGROUND):
            return self.formatException(record.exc_info)
        return trace_without_words(record.exc_info[1])

    def _line(self, record: logging.LogRecord, text: str, trace: str) -> str:
        if not self._as_json:
            line = f"{self.formatTime(record)} {record.levelname} {record.name}: {text}"
            return f"{line}\n{trace}" if trace else line
        found = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": text,
        }
        return json.dumps(found | {"trace": trace} if trace else found)


def log_to(out: TextIO | LineWriter, *, secrets: Iterable[str] = (), level: int = logging.INFO) -> None:
    """Send the root logger's lines there; `secrets` are the values that must never appear."""
    handler = logging.StreamHandler(out)
    handler.setFormatter(_Redacting(secrets, as_json=not out.isatty()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it tells every step of nothing at all


def hide(secrets: Collection[str]) -> None:
    """These must not appear in the root logger's lines either, from now on."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, _Redacting):
            handler.formatter.redact.add(secrets)
