"""One JSON line per request: who, what, how it ended, what it cost. Never a prompt, never a secret."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from typing import TextIO

import msgspec

from core.process.line_writer import LineWriter

DELAY_S = 0.1


def rfc3339(epoch_s: float) -> str:
    """How times stand in all logs, the edge's too: in UTC, rounded down to milliseconds."""
    second, millisecond = divmod(int(epoch_s * 1_000), 1_000)
    return f"{_to_the_second(second)}.{millisecond:03}+00:00"


@functools.lru_cache(maxsize=2)  # most requests end in the second of the one before
def _to_the_second(epoch_s: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch_s))


class AccessRecord(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A finished chat request. Costs in nanodollars, times in milliseconds; empty where it never got so far."""

    time: str
    """When it ended, in RFC 3339."""
    request_id: str
    method: str
    status: str
    model: str = ""
    endpoint: str = ""
    provider: str = ""
    account_id: str = ""
    key_id: str = ""
    client_request_id: str = ""
    error_reason: str = ""
    finish_reason: str = ""
    stream: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    cost_nano_usd: int = 0
    shortfall_nano_usd: int = 0
    attempts: int = 0
    ttft_ms: int | None = None
    duration_ms: int = 0
    overhead_ms: float = 0.0


class AccessLog:
    """Collects lines and writes them together a moment later: a write for each would cost more than making it.

    JSON for machines, a short readable form for a terminal.
    """

    def __init__(self, out: TextIO | LineWriter, *, readable: bool) -> None:
        self._out = out
        self._encoder = msgspec.json.Encoder()
        self._lines = self._text if readable else self._json
        self._records: list[AccessRecord] = []
        self._due: asyncio.TimerHandle | None = None

    def write(self, record: AccessRecord) -> None:
        """Add one line, which is out within DELAY_S."""
        self._records.append(record)
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(DELAY_S, self.flush)

    def flush(self) -> None:
        """Write what there is now; a full disk or a closed pipe must not fail a request."""
        if self._due is not None:
            self._due.cancel()
            self._due = None
        records, self._records = self._records, []
        if records:
            with contextlib.suppress(OSError, ValueError):
                self._out.write(self._lines(records))
                self._out.flush()

    def _json(self, records: list[AccessRecord]) -> str:
        return self._encoder.encode_lines(records).decode()

    @classmethod
    def _text(cls, records: list[AccessRecord]) -> str:
        return "".join([cls._readable(record) for record in records])

    @staticmethod
    def _readable(record: AccessRecord) -> str:
        how = record.error_reason or record.finish_reason
        return (
            f"{record.request_id} {record.method} {record.model or '-'} {record.status} {how} "
            f"tokens={record.prompt_tokens}+{record.completion_tokens} cost_nano_usd={record.cost_nano_usd} "
            f"ttft_ms={record.ttft_ms} duration_ms={record.duration_ms} overhead_ms={record.overhead_ms:.1f}\n"
        )
