"""Signals, and lines that never stop the loop."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import threading
import time

import pytest

from core.process import line_writer
from core.process.lifecycle import HURRIED_DRAIN_S, StopSignals
from core.process.line_writer import LineWriter

# Signals


async def signalled(signals: StopSignals, *which: signal.Signals) -> None:
    for each in which:
        os.kill(os.getpid(), each)
        await asyncio.sleep(0.01)
    async with asyncio.timeout(1):
        await signals.wait()


async def test_sigterm_drains() -> None:
    """Running requests have the time that the settings give them, and it does not grow."""
    signals = StopSignals(600.0)
    assert signals.left_s() == 0.0
    await signalled(signals, signal.SIGTERM)
    assert 590 < signals.left_s() <= 600
    await signalled(signals, signal.SIGTERM)
    assert signals.left_s() < 600


async def test_sigint_hurries_and_a_second_one_ends() -> None:
    """Five seconds, then none."""
    signals = StopSignals(600.0)
    await signalled(signals, signal.SIGINT)
    assert HURRIED_DRAIN_S - 1 < signals.left_s() <= HURRIED_DRAIN_S
    await signalled(signals, signal.SIGINT)
    assert signals.left_s() == 0.0


async def test_a_drain_is_shortened_never_lengthened() -> None:
    """SIGINT during a drain hurries it; SIGTERM after SIGINT does not slow it down."""
    signals = StopSignals(600.0)
    await signalled(signals, signal.SIGTERM, signal.SIGINT)
    assert signals.left_s() <= HURRIED_DRAIN_S
    await signalled(signals, signal.SIGTERM)
    assert signals.left_s() <= HURRIED_DRAIN_S


async def test_whoever_must_know_is_told_of_each_signal() -> None:
    """In order, as they come."""
    told: list[signal.Signals] = []
    signals = StopSignals(1.0, told.append)
    await signalled(signals, signal.SIGTERM, signal.SIGINT)
    assert told == [signal.SIGTERM, signal.SIGINT]


async def test_sighup_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It calls whoever reloads; only when the terminal is gone that the process was started in, it is a SIGTERM."""
    terminals = iter([True, True, False])
    monkeypatch.setattr("os.isatty", lambda _: next(terminals))
    told: list[object] = []
    signals = StopSignals(600.0, told.append)
    signals.on_hangup = lambda: told.append("reload")
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep(0.01)
    assert told == ["reload"]
    await signalled(signals, signal.SIGHUP)
    assert told == ["reload", signal.SIGTERM]
    assert 590 < signals.left_s() <= 600


# Lines


class Stalled(io.StringIO):
    """A reader that takes nothing until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        self.released.wait(5)
        return super().write(text)


def test_a_reader_that_stalls_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does not take in time is dropped and counted, and the rest comes out in order."""
    monkeypatch.setattr(line_writer, "MAX_WAITING", 10)
    out = Stalled()
    lines = LineWriter(out)
    began_s = time.monotonic()
    for number in range(100):
        lines.write(f"{number}\n")
    assert time.monotonic() - began_s < 1
    assert 85 <= lines.dropped <= 95
    out.released.set()
    lines.close()
    got = [int(line) for line in out.getvalue().splitlines()]
    assert got == sorted(got)
    assert got[0] == 0


def test_what_was_written_is_out_when_it_is_closed() -> None:
    """Closing twice is closing once."""
    out = io.StringIO()
    lines = LineWriter(out)
    for number in range(50):
        lines.write(f"{number}\n")
    lines.close()
    lines.close()
    assert out.getvalue().count("\n") == 50
    assert lines.isatty() is False


def test_a_stream_that_cannot_be_written_harms_nobody() -> None:
    """A full disk ends neither the process nor the thread that writes."""

    class Full(io.StringIO):
        failing = True

        def write(self, text: str) -> int:
            if self.failing:
                raise OSError("disk full")
            return super().write(text)

    out = Full()
    lines = LineWriter(out)
    lines.write("lost\n")
    time.sleep(0.05)
    out.failing = False
    lines.write("there\n")
    lines.close()
    assert out.getvalue() == "there\n"
