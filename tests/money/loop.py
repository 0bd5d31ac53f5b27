"""An event loop without waiting: its clock jumps to the next timer as soon as nothing else can happen."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE_S = 0.5
"""Real seconds in which a real database answers; after them it is the store itself that waits for a timer."""
OUTSIDE_TIMEOUT_S = 60.0
"""How long a real database may take when there is no timer either, in real seconds."""


class Stuck(AssertionError):
    """Somebody waits for what will never happen."""


class _Selector(selectors.DefaultSelector):
    loop: SteppedLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self.loop.is_outside:
            ready = super().select(OUTSIDE_TIMEOUT_S if timeout is None else PATIENCE_S)
            if ready:
                return ready
            if timeout is None:
                raise Stuck("the database does not answer")
        if timeout is None:
            raise Stuck("nothing will ever happen")
        self.loop.now_s += timeout
        return []


class SteppedLoop(asyncio.SelectorEventLoop):
    """`now_s` is its clock. It stands still while somebody is `outside`, in a real database."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self._outside = 0
        selector = _Selector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now_s

    @property
    def is_outside(self) -> bool:
        """Whether a real database is at work."""
        return self._outside > 0

    @contextmanager
    def outside(self) -> Iterator[None]:
        """While a real database is at work."""
        self._outside += 1
        try:
            yield
        finally:
            self._outside -= 1
