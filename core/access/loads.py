"""Loads that many wait for, run one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Loads:
    """Runs a load for all who ask meanwhile, one at a time.

    A caller is served by a load that began after it asked; who asks while one runs waits for the next.
    """

    def __init__(self, load: Callable[[], Awaitable[None]], monotonic_s: Callable[[], float]) -> None:
        self._load = load
        self._monotonic_s = monotonic_s
        self._lock = asyncio.Lock()
        self._begun = 0
        self._begun_s = float("-inf")
        self._ended = 0
        self._error: Exception | None = None

    async def join(self, *, least_interval_s: float = 0.0) -> None:
        """Wait for the end of a load that begins from now on, that long after the last one; its error is raised."""
        ticket = self._begun
        async with self._lock:
            if self._ended <= ticket:
                wait_s = self._begun_s + least_interval_s - self._monotonic_s()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                await self._run()
            if self._error is not None:
                raise self._error.with_traceback(None)

    async def _run(self) -> None:
        """One load. A cancelled one leaves no outcome: the next in line loads again."""
        self._begun += 1
        self._begun_s = self._monotonic_s()
        number = self._begun
        try:
            await self._load()
        except Exception as error:
            self._error = error
        else:
            self._error = None
        self._ended = number
