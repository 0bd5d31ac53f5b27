"""What the kernel says about processes: their children, their CPU time, their memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

NS_PER_S = 10**9
KIB = 1024


class NoAccounting(Exception):
    """This kernel does not account CPU time per thread; the message says what is missing."""


def tree(roots: Iterable[int]) -> set[int]:
    """The given processes and all their descendants, as of now."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            parent = _parent(int(entry))
            children.setdefault(parent, []).append(int(entry))
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, [])
    return found


def _parent(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0  # it has ended meanwhile
    return int(text[text.rindex(")") + 2 :].split()[1])


def cpu_ns(roots: Iterable[int]) -> dict[tuple[int, int], int]:
    """Time on a CPU of every thread of these processes and their descendants, by (process, thread)."""
    times: dict[tuple[int, int], int] = {}
    for pid in tree(roots):
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                times[pid, int(thread)] = int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
        except OSError:
            continue  # it has ended meanwhile
    return times


def cpu_between_s(before: dict[tuple[int, int], int], after: dict[tuple[int, int], int]) -> float:
    """CPU seconds used between two readings of `cpu_ns`; a thread that ended between them is not counted."""
    return sum(ns - before.get(thread, 0) for thread, ns in after.items()) / NS_PER_S


def require_accounting() -> None:
    """Raises NoAccounting where `cpu_ns` cannot work."""
    if not Path("/proc/self/schedstat").exists():
        raise NoAccounting("the benchmark needs Linux with /proc/PID/schedstat")


def pss_bytes(roots: Iterable[int]) -> int:
    """Memory of these processes and their descendants; a page that n processes share counts 1/n for each."""
    return sum(_pss_kib(pid) for pid in tree(roots)) * KIB


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def descriptors(roots: Iterable[int]) -> int:
    """Open file descriptors of these processes and their descendants."""
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in tree(roots))
