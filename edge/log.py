"""Log lines of an edge process: JSON, one object a line, or readable text on a terminal.

No API key gets out, in whatever part of a record it stands; nor does what an exception says, which may quote a prompt.
"""

from __future__ import annotations

import logging
import re
import traceback
from datetime import UTC, datetime
from typing import TextIO

import msgspec

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_KEY = re.compile(r"wlrouter_[0-9A-Za-z]{8,}|(?i:bearer)(?:\s|\\[nrt])+[^\s\"',\\]{8,}")
"""To be found in JSON too, whose backslashes it must leave alone."""


class Lines(logging.Formatter):
    """A record as a JSON object, with what the caller passed as `extra` beside the message; or as readable text."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a secret."""
        try:
            text = record.getMessage()
        except Exception:  # logging would print the arguments as they are
            text = f"{record.msg} (its arguments do not fit)"
        trace = _trace(record.exc_info[1]) if record.exc_info else ""
        return _KEY.sub(
            "[secret]", self._json(record, text, trace) if self._as_json else self._text(record, text, trace)
        )

    def _json(self, record: logging.LogRecord, text: str, trace: str) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": text,
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if trace:
            line["trace"] = trace
        return msgspec.json.encode(line, enc_hook=str).decode()

    def _text(self, record: logging.LogRecord, text: str, trace: str) -> str:
        line = f"{self.formatTime(record, self.datefmt)} {record.levelname} {text}"
        return f"{line}\n{trace}" if trace else line


def _trace(error: BaseException | None) -> str:
    """The traceback of an exception and of its causes, the cause first: places and kinds, but no message."""
    parts: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        where = "".join(traceback.format_tb(error.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{where}{type(error).__qualname__}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\nled to:\n\n".join(reversed(parts))


def log_to(stream: TextIO, *, level: int = logging.INFO) -> None:
    """Send all logging of this process to `stream`. Once, at start."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Lines(as_json=not stream.isatty()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
