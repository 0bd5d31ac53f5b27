"""What one run of the load generator is to do, and what it found out. Both cross a process boundary as JSON."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import msgspec


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One run against one address on loopback.

    `closed`: each of `connections` sends its next request when it has its answer. `open`: `rate` requests a second
    are due, whatever has been answered. `waves`: `connections` new connections at once, each for one request, again
    and again. `body_bytes` is about the length of a request's body.
    """

    port: int
    key: str
    loop: Literal["closed", "open", "waves"] = "closed"
    connections: int = 64
    rate: float = 0.0
    chunks: int = 0
    """Of a stream; 0: not streamed."""
    pause_ms: int = 0
    """Between the chunks of a stream; 0: a burst."""
    wait_ms: int = 0
    """Before the upstream says anything."""
    body_bytes: int = 1000
    warm_s: float = 1.0
    window_s: float = 3.0
    requests_most: int = 0
    """Ends the window when so many requests have been begun in it; 0: only time ends it."""
    leave_every: int = 0
    """The client of every so many-eth request goes away in the middle of it; 0: none does."""


class Spread(msgspec.Struct, frozen=True):
    """Of a set of times, in milliseconds."""

    p50: float
    p99: float
    most: float


class Result(msgspec.Struct, kw_only=True):
    """What one run found; counts are of the window alone, errors of the whole run."""

    window_s: float
    begun: int
    requests: int
    """Answered, rightly."""
    chunks: int
    left: int
    """Requests whose client went away, as planned."""
    errors: int
    samples: list[str]
    """A few errors in words."""
    latency_ms: Spread | None
    """Of whole requests, from the time each was due."""
    first_token_ms: Spread | None
    """From the time a stream was due to its first text."""


def spread(times_s: list[float]) -> Spread | None:
    """Percentiles of times in seconds; None without any."""
    if not times_s:
        return None
    ordered = sorted(times_s)
    last = len(ordered) - 1
    return Spread(*(round(1000 * ordered[round(last * part)], 4) for part in (0.5, 0.99, 1.0)))


class Tally:
    """Counts while a run lasts. `counting` is true inside its window."""

    __slots__ = ("begun", "chunks", "counting", "errors", "first_token_s", "latency_s", "left", "requests", "samples")

    def __init__(self) -> None:
        self.counting = False
        self.begun = self.requests = self.chunks = self.left = 0
        self.latency_s: list[float] = []
        self.first_token_s: list[float] = []
        self.errors = 0
        self.samples: Counter[str] = Counter()

    def fail(self, why: str) -> None:
        """Count an error."""
        self.errors += 1
        if len(self.samples) < 5:
            self.samples[why[:300]] += 1

    def result(self, window_s: float) -> Result:
        """What has been counted."""
        return Result(
            window_s=window_s,
            begun=self.begun,
            requests=self.requests,
            chunks=self.chunks,
            left=self.left,
            errors=self.errors,
            samples=[f"{count} x {why}" for why, count in self.samples.items()],
            latency_ms=spread(self.latency_s),
            first_token_ms=spread(self.first_token_s),
        )
