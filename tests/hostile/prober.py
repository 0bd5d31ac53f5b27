"""Requests on new connections, one after the other, from a process that does nothing else; how long each took.

`python -m tests.hostile.prober PORT KEY PID PAUSE_S KIND` asks a router, for its models or for a chat with its scripted
one, until standard input ends, and writes a line for each request: when it began, how long it took, and for how much of
that the router's event loop (its process is PID) or this process was ready to run while the machine ran others. That
part is no doing of the router's; nor is what a chat waits for the disk, which `models` do not.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

BODY = b'{"model":"scripted","messages":[{"role":"user","content":"one"}]}'
ME = b"Host: e\r\nConnection: close\r\nAuthorization: Bearer %b\r\n"
REQUESTS = {
    "models": b"GET /v1/models HTTP/1.1\r\n" + ME + b"\r\n",
    "chat": b"POST /v1/chat/completions HTTP/1.1\r\n" + ME + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY),
}


@dataclass(frozen=True)
class Probe:
    """One request. `began_s` is monotonic, `waited_s` what the machine took of `took_s`."""

    began_s: float
    took_s: float
    waited_s: float

    @property
    def own_s(self) -> float:
        """What remains for the router to answer for."""
        return max(self.took_s - self.waited_s, 0.0)


@dataclass
class Probes:
    """All of a prober, once it has ended."""

    found: list[Probe] = field(default_factory=list)

    def between(self, first_s: float, last_s: float) -> list[Probe]:
        """Those that began then."""
        return [each for each in self.found if first_s <= each.began_s < last_s]


@asynccontextmanager
async def probing(router: Any, kind: Literal["models", "chat"], *, pause_s: float) -> AsyncIterator[Probes]:
    """Probe a router meanwhile."""
    probes, port = Probes(), urlsplit(router.http).port
    command = [sys.executable, "-m", __name__, str(port), router.key, str(router.process.pid), str(pause_s), kind]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield probes
    finally:
        said, _ = await process.communicate(b"")
        probes.found += [Probe(*json.loads(line)) for line in said.splitlines()]
    assert process.returncode == 0


def waited_s(pid: int) -> float:
    """For how long the main thread of a process was ready to run and did not (schedstat); 0 if nobody counts."""
    with suppress(OSError), open(f"/proc/{pid}/task/{pid}/schedstat") as counted:
        return int(counted.read().split()[1]) / 1e9
    return 0.0


def ask(port: int, request: bytes) -> None:
    """One request, which must succeed."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(request)
        got = client.recv(65_536)
        assert got.startswith(b"HTTP/1.1 200"), got
        while client.recv(65_536):
            pass


def main(port: int, key: str, pid: int, pause_s: float, kind: str) -> None:
    """Probe until standard input ends."""
    request, me = REQUESTS[kind] % key.encode(), os.getpid()
    lines = []
    while not select.select([sys.stdin], [], [], pause_s)[0]:
        before_s, began_s = waited_s(pid) + waited_s(me), time.monotonic()
        ask(port, request)
        took_s = time.monotonic() - began_s
        lines.append(json.dumps([began_s, took_s, waited_s(pid) + waited_s(me) - before_s]))
    print("\n".join(lines))  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
