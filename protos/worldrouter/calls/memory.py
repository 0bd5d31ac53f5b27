"""What large messages leave behind in memory: for the next ones, and what is too much for the system."""

from __future__ import annotations

import contextlib
import ctypes
from typing import Final

REUSED_BYTES: Final = 32 << 20
"""Pieces of memory up to here are taken from what is free already. glibc allows no more."""
KEPT_BYTES: Final = 16 << 20
"""So much may be free at the end of the heap before it goes back to the system."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Of glibc's malloc.h."""


def reuse_memory() -> None:
    """Let the next large message have the memory of the last one; to be called before there are threads.

    As it comes, glibc returns it and takes it anew, page fault by page fault, and gives each thread a heap of its own.
    """
    with contextlib.suppress(AttributeError):  # of another C library
        set_option = ctypes.CDLL(None).mallopt
        set_option(_M_ARENA_MAX, 1)
        set_option(_M_MMAP_THRESHOLD, REUSED_BYTES)
        set_option(_M_TRIM_THRESHOLD, KEPT_BYTES)


def give_memory_back() -> None:
    """To the system, what is free between what stays: the C library would keep it. Takes up to milliseconds."""
    with contextlib.suppress(AttributeError):  # of another one than glibc
        ctypes.CDLL(None).malloc_trim(0)
