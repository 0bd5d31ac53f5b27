"""Signals: SIGTERM drains, SIGINT hurries, a second SIGINT ends at once; SIGHUP reloads.

Or it says that the terminal is gone, to a router that runs in one: that ends as by SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

HURRIED_DRAIN_S = 5.0
_STDERR = 2


def _tell_nobody(_which: signal.Signals) -> None:
    """There are no other processes."""


class StopSignals:
    """Listens for the signals that end a process; `wait` returns at the first. `on_hangup` is called by SIGHUP."""

    def __init__(self, drain_s: float, on_signal: Callable[[signal.Signals], None] = _tell_nobody) -> None:
        """`drain_s` is how long SIGTERM lets requests run on. `on_signal` is told of each signal."""
        self._drain_s = drain_s
        self._on_signal = on_signal
        self._deadline_s: float | None = None
        self._interrupts = 0
        self._asked = asyncio.Event()
        self._in_terminal = os.isatty(_STDERR)
        self.on_hangup: Callable[[], object] | None = None
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._hung_up)
        for which in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(which, self._caught, which)

    async def wait(self) -> None:
        """Until somebody wants the process to end."""
        await self._asked.wait()

    def left_s(self) -> float:
        """Seconds that requests in flight still have; never grows once asked."""
        if self._deadline_s is None:
            return 0.0
        return max(self._deadline_s - time.monotonic(), 0.0)

    def _caught(self, which: signal.Signals) -> None:
        if which is signal.SIGINT:
            self.hurry()
        else:
            self._shorten(self._drain_s)
        self._on_signal(which)

    def _hung_up(self) -> None:
        if self._in_terminal and not os.isatty(_STDERR):
            self._caught(signal.SIGTERM)
        elif self.on_hangup is not None:
            self.on_hangup()

    def hurry(self) -> None:
        """What SIGINT does: requests in flight have HURRIED_DRAIN_S, at the second time none."""
        self._interrupts += 1
        self._shorten(HURRIED_DRAIN_S if self._interrupts == 1 else 0.0)

    def _shorten(self, drain_s: float) -> None:
        deadline_s = time.monotonic() + drain_s
        self._deadline_s = deadline_s if self._deadline_s is None else min(self._deadline_s, deadline_s)
        self._asked.set()
