"""What this disk takes to keep a small commit: every unary answer waits for one, since its charge goes first."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.bench.plan import Spread, spread

COMMIT_BYTES = 4 * 4120
"""Of a settlement by itself in SQLite's log: four pages, each with the head of its frame."""
COMMITS = 60
PAUSE_S = 0.005


def commit_ms(folder: Path) -> Spread:
    """Milliseconds to write so much into a file in this folder, over what it has, and flush it (fdatasync)."""
    path, content = folder / "commit", bytes(COMMIT_BYTES)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.write(descriptor, content * COMMITS)
        os.fsync(descriptor)
        times_s = []
        for place in range(COMMITS):
            time.sleep(PAUSE_S)
            began_s = time.perf_counter()
            os.pwrite(descriptor, content, place * COMMIT_BYTES)
            os.fdatasync(descriptor)
            times_s.append(time.perf_counter() - began_s)
    finally:
        os.close(descriptor)
        path.unlink()
    found = spread(times_s)
    assert found is not None
    return found
