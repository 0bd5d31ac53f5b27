"""The memory of large messages is used again."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource
from worldrouter.calls.memory import reuse_memory

reuse_memory()
def rounds(count):
    for _ in range(count):
        copies = [bytearray(900_000) for _ in range(8)]
        for copy in copies:
            copy[::4096] = b"x" * len(copy[::4096])
        del copies, copy
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
first = rounds(2)
print(rounds(20) - first)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_reuses_memory() -> None:
    """Large messages that come and go in several copies do not fault their pages in again and again."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2_000
