"""Lines that leave by a thread."""

from __future__ import annotations

import contextlib
import io
import os
import time

from core.process.line_writer import MAX_WAITING, LineWriter


def test_lines_arrive_in_order() -> None:
    """All of them, at the latest when it is closed."""
    out = io.StringIO()
    writer = LineWriter(out)
    for number in range(100):
        writer.write(f"{number}\n")
    writer.close()
    assert out.getvalue().split() == [str(number) for number in range(100)]


def test_a_reader_that_stalls_stops_nobody() -> None:
    """A pipe that nobody reads takes 64 KiB; then lines are dropped and counted, and writing never waits."""
    reading, writing = os.pipe()
    out = os.fdopen(writing, "w")
    writer = LineWriter(out)
    began_s = time.monotonic()
    for _ in range(MAX_WAITING + 2_000):
        writer.write("x" * 200 + "\n")
    assert time.monotonic() - began_s < 5
    assert writer.dropped > 0
    os.close(reading)
    writer.close()
    with contextlib.suppress(BrokenPipeError):
        out.close()
