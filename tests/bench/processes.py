"""What the kernel says about processes: their children, their CPU time, their memory."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterable
from pathlib import Path

NS_PER_S = 10**9
KIB = 1024
PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""


class NoAccounting(Exception):
    """This kernel does not account CPU time per thread; the message says what is missing."""


def bound(cores: Iterable[int]) -> Callable[[], None]:
    """For Popen's `preexec_fn`: the child runs on these CPUs alone, and ends when its parent does, in any way."""
    libc = ctypes.CDLL(None)
    pinned = frozenset(cores)

    def bind() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.sched_setaffinity(0, pinned)

    return bind


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


def busy_s(cores: Iterable[int]) -> float:
    """Time that these CPUs were not idle since the start of the machine, to 10 ms; stolen time too (proc_stat(5))."""
    wanted = {f"cpu{core}" for core in cores}
    busy = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name in wanted:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
            busy += user + nice + system + irq + softirq + steal
    return busy / os.sysconf("SC_CLK_TCK")


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
