"""Signals: SIGTERM drains, SIGINT hurries, a second SIGINT ends at once."""

from __future__ import annotations

import asyncio
import signal
import time

HURRIED_DRAIN_S = 5.0


class StopSignals:
    """Listens for the signals that end a process; `wait` returns at the first."""

    def __init__(self, drain_s: float) -> None:
        """`drain_s` is how long SIGTERM lets requests run on."""
        self._deadline_s: float | None = None
        self._interrupts = 0
        self._asked = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._shorten, drain_s)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)

    async def wait(self) -> None:
        """Until somebody wants the process to end."""
        await self._asked.wait()

    def left_s(self) -> float:
        """Seconds that requests in flight still have; never grows once asked."""
        if self._deadline_s is None:
            return 0.0
        return max(self._deadline_s - time.monotonic(), 0.0)

    def _interrupt(self) -> None:
        self._interrupts += 1
        self._shorten(HURRIED_DRAIN_S if self._interrupts == 1 else 0.0)

    def _shorten(self, drain_s: float) -> None:
        deadline_s = time.monotonic() + drain_s
        self._deadline_s = deadline_s if self._deadline_s is None else min(self._deadline_s, deadline_s)
        self._asked.set()
