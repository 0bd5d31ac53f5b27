"""Finds stalls of an event loop from outside. `python -m tests.bench.probe PORT PID SECONDS`.

It asks for /healthz, which the loop answers at once when it is free, a hundred times a second, and takes the time
from before its own write to the kernel's arrival stamp of the answer: a probe that itself waits for a CPU after that
adds nothing. The time that the loop's thread, the first one of PID, meanwhile was ready but had no CPU is taken off:
other programs have it then. It prints the spread of what is left as JSON.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import time

import msgspec

from tests.bench.plan import Spread, spread

INTERVAL_S = 0.01
TIMEOUT_S = 10.0
SO_TIMESTAMPNS = 35
"""From asm-generic/socket.h; the answer is a struct timespec of the real-time clock (socket(7))."""
NS_PER_S = 10**9
_TIMESPEC = struct.Struct("@qq")


class NoStamp(Exception):
    """The kernel gave no arrival time."""


def probe(port: int, pid: int, seconds: float) -> Spread:
    """Ask for `seconds`, one question at a time. Raises OSError, NoStamp."""
    schedstat = os.open(f"/proc/{pid}/task/{pid}/schedstat", os.O_RDONLY)
    question = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    times_s = []
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        next_s = time.monotonic()
        end_s = next_s + seconds
        while next_s < end_s:
            time.sleep(max(next_s - time.monotonic(), 0.0))
            waited_ns = _waited_ns(schedstat)
            asked_ns = time.time_ns()
            connection.sendall(question)
            arrived_ns = _arrival_ns(connection)
            if arrived_ns is not None:
                answer_ns = arrived_ns - asked_ns - (_waited_ns(schedstat) - waited_ns)
                times_s.append(max(answer_ns, 0) / NS_PER_S)
            next_s = max(next_s + INTERVAL_S, time.monotonic())
    found = spread(times_s)
    if found is None:
        raise NoStamp("no arrival times from the kernel")
    return found


def _waited_ns(schedstat: int) -> int:
    """How long the thread has been ready to run without running (the second figure, sched-stats.rst)."""
    return int(os.pread(schedstat, 100, 0).split()[1])


def _arrival_ns(connection: socket.socket) -> int | None:
    """Read one whole answer; when its last part came in. The kernel may not yet stamp the very first ones."""
    content, stamps = b"", list[bytes]()
    while not _whole(content):
        part, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(_TIMESPEC.size))
        if not part:
            raise ConnectionError("closed by the router")
        content += part
        stamps = [data for level, kind, data in ancillary if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS)]
    if not stamps:
        return None
    seconds, nanoseconds = _TIMESPEC.unpack(stamps[0])
    return int(seconds) * NS_PER_S + int(nanoseconds)


def _whole(content: bytes) -> bool:
    head, blank, body = content.partition(b"\r\n\r\n")
    if not blank:
        return False
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return len(body) >= int(lengths[0].partition(b":")[2])


if __name__ == "__main__":
    found = probe(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
