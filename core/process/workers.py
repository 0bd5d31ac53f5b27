"""`worldrouter serve --workers N`: the processes that share the HTTP port, seen from the one that keeps them.

Each worker is a whole router, edge and core, spawned anew (gRPC does not survive a fork). It gets its `Order` as one
line of JSON on standard input and answers with lines on standard output: `Started` once it serves, or `Refused`; then
`Reloaded` whenever it has loaded the configuration again, so that whoever is started later gets that one. It ends when
its standard input closes, so at the latest with the process that keeps it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from core.home import WorkerProcess
from core.reload import RELOADED, Reloaded, Source
from core.settings import Settings

_log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.5, 30.0
STEADY_S = 60.0
"""A worker that lived so long had started well: the backoff begins anew."""
GRACE_S = 30.0
"""For a worker's last words and its flush, after the time that its requests had; then it is killed."""
_POLL_S = 0.1
_MAX_LINE_BYTES = 64 << 20


class WorkerFailed(Exception):
    """A worker did not start; the message is the reason, in one line."""


class PortTaken(WorkerFailed):
    """Because somebody else has its gRPC or its admin port."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is to run. `edge` holds the edge's settings, which only the launcher may know; `source` is where
    the others came from.

    `first_key`: make a key when the database has none. `parent` is the process to end with.
    """

    home: str
    settings: Settings
    source: Source
    edge: dict[str, Any]
    first_key: bool
    parent: int


class Started(msgspec.Struct, frozen=True, tag=True):
    """A worker serves: `http` and `admin` are URLs, `grpc` a channel target, `secret` the first key if it made one."""

    http: str
    grpc: str
    admin: str
    secret: str | None = None


class Refused(msgspec.Struct, frozen=True, tag=True):
    """A worker cannot start, and why; `port_taken` when a port of its own is somebody else's."""

    reason: str
    port_taken: bool = False


class Worker:
    """One worker, over the lives of its process. `number` counts from 1."""

    def __init__(self, number: int, order: Order, on_reload: Callable[[Reloaded], None]) -> None:
        """`on_reload` is told what it reports."""
        self.number = number
        self._on_reload = on_reload
        self._listener: asyncio.Task[None] | None = None
        self._order = order
        self._next = order
        self._process: Process | None = None
        self._started: Started | None = None
        self._started_s = 0.0

    @property
    def running(self) -> WorkerProcess | None:
        """Where it is reached while it serves."""
        if self._process is None or self._started is None:
            return None
        return WorkerProcess(self._process.pid, self._started.grpc, self._started.admin)

    @property
    def pid(self) -> int:
        """Of its process, the last one's if none runs; 0 before the first."""
        return self._process.pid if self._process is not None else 0

    @property
    def age_s(self) -> float:
        """Since it began to serve the last time."""
        return time.monotonic() - self._started_s

    async def start(self, stopping: asyncio.Event) -> Started:
        """Spawn the process and return when it serves. WorkerFailed, with nothing left running.

        A free port that it found stays its own: its next process asks for it again, until somebody else has it.
        """
        order, self._next = self._next, msgspec.structs.replace(self._next, first_key=False)
        process = self._process = await _spawn()
        if stopping.is_set():
            self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                started = await _report(process, order, self._on_reload)
        except TimeoutError:
            await self.end()
            raise WorkerFailed(f"it was not ready after {START_TIMEOUT_S:g} s") from None
        except BaseException as error:
            await self.end()
            if isinstance(error, PortTaken):
                self._next = msgspec.structs.replace(self._order, first_key=False)
            raise
        self._started, self._started_s = started, time.monotonic()
        self._next = _with_ports_of(started, self._next)
        self._listener = asyncio.get_running_loop().create_task(self._listen(process))
        if _reloaded_of(self._next.settings) != _reloaded_of(order.settings):
            self.reload()  # others did meanwhile
        return started

    def reload(self) -> None:
        """Have it load the configuration again, if it serves."""
        if self._started is not None:
            self.signal(signal.SIGHUP)

    def take(self, reloaded: Reloaded) -> None:
        """Its next process begins with this configuration, unless it knows a newer one."""
        if reloaded.settings.version < self._next.settings.version:
            return
        self._order, self._next = _with(reloaded, self._order), _with(reloaded, self._next)

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self._on_reload(msgspec.json.decode(line, type=Reloaded))

    async def wait(self) -> int:
        """Until its process ends; the exit status, negative: the signal's number. 0 without a process."""
        if self._process is None:
            return 0
        status = await self._process.wait()
        self._started = None
        return status

    def signal(self, how: signal.Signals) -> None:
        """Send a signal. One that does not serve yet has nothing to hurry or to drain, and may not know SIGINT yet."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(how if self._started or how is signal.SIGKILL else signal.SIGTERM)

    async def end(self) -> None:
        """By force."""
        self.signal(signal.SIGKILL)
        await self.wait()


class Workers:
    """All workers: started together, kept running, stopped together."""

    def __init__(self) -> None:
        self._workers: list[Worker] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    @property
    def stopping(self) -> bool:
        """Whether a signal was forwarded: none is restarted any more."""
        return self._stopping.is_set()

    @property
    def running(self) -> list[WorkerProcess]:
        """Those that serve, in the order of their numbers."""
        return [running for worker in self._workers if (running := worker.running) is not None]

    def reload(self) -> None:
        """Have all that serve load the configuration again."""
        for worker in self._workers:
            worker.reload()

    def _reloaded(self, reloaded: Reloaded) -> None:
        for worker in self._workers:
            worker.take(reloaded)

    async def start(self, orders: Sequence[Order]) -> list[Started]:
        """Start one for each order; what they report, fewer when stopped meanwhile. WorkerFailed: of one of them."""
        self._workers = [Worker(number, order, self._reloaded) for number, order in enumerate(orders, 1)]
        starts = [worker.start(self._stopping) for worker in self._workers]
        outcomes = await asyncio.gather(*starts, return_exceptions=True)
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failures and not self.stopping:
            raise failures[0]
        return [outcome for outcome in outcomes if isinstance(outcome, Started)]

    def keep(self, on_change: Callable[[list[WorkerProcess]], None]) -> None:
        """From now on start each again that ends by itself.

        `on_change` is called with those that serve, whenever one has ended or come back, but never with none.
        """
        loop = asyncio.get_running_loop()
        self._keepers = [loop.create_task(self._keep(worker, on_change)) for worker in self._workers]

    def forward(self, how: signal.Signals) -> None:
        """Hand a signal that ends us on to all of them."""
        self._stopping.set()
        for worker in self._workers:
            worker.signal(how)

    async def stop(self, left_s: Callable[[], float]) -> None:
        """Wait until all have ended, which they are told to if nobody did; kill what remains.

        `left_s` says how long requests may still take; asked again and again, as a second signal may shorten it.
        """
        if not self.stopping:
            self.forward(signal.SIGTERM)
        ended = asyncio.gather(*(worker.wait() for worker in self._workers), *self._keepers, return_exceptions=True)
        deadline_s = float("inf")
        while not ended.done():
            deadline_s = min(deadline_s, time.monotonic() + left_s() + GRACE_S)
            if time.monotonic() > deadline_s:
                _log.error("Workers are killed: they did not end in time")
                self.forward(signal.SIGKILL)
                deadline_s = float("inf")
            await asyncio.wait([ended], timeout=_POLL_S)

    async def _keep(self, worker: Worker, on_change: Callable[[list[WorkerProcess]], None]) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            status = await worker.wait()
            if self.stopping:
                return
            _log.error("Worker %d (process %d) ended with status %d", worker.number, worker.pid, status)
            self._tell(on_change)
            backoff_s = await self._restart(worker, FIRST_BACKOFF_S if worker.age_s > STEADY_S else backoff_s)
            self._tell(on_change)

    async def _restart(self, worker: Worker, backoff_s: float) -> float:
        """Start it as often as it takes; how long to wait when it ends soon again, in seconds."""
        while not await self._stops_within(backoff_s):
            backoff_s = min(backoff_s * 2, LAST_BACKOFF_S)
            try:
                await worker.start(self._stopping)
            except WorkerFailed as error:
                if not self.stopping:
                    _log.error("Worker %d could not be started again: %s", worker.number, error)
                continue
            _log.info("Worker %d serves again, as process %d", worker.number, worker.pid)
            break
        return backoff_s

    async def _stops_within(self, delay_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay_s):
                await self._stopping.wait()
        return self.stopping

    def _tell(self, on_change: Callable[[list[WorkerProcess]], None]) -> None:
        if self.stopping or not (running := self.running):
            return
        try:
            on_change(running)
        except OSError as error:
            _log.error("Where the workers are could not be written: %s", error)


async def _spawn() -> Process:
    """In a session of its own: a terminal's Ctrl-C reaches it through us alone, and so once."""
    command = [sys.executable, "-P", "-m", "core.process.worker"]
    try:
        return await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, start_new_session=True, limit=_MAX_LINE_BYTES
        )
    except OSError as error:
        raise WorkerFailed(f"no process could be made: {os.strerror(error.errno or 0)}") from error


async def _report(process: Process, order: Order, on_reload: Callable[[Reloaded], None]) -> Started:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(ConnectionError):  # it has ended: so does its output
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        await process.stdin.drain()
    report: Started | Refused | Reloaded | None = None
    while report is None or isinstance(report, Reloaded):
        line = await process.stdout.readline()
        if not line:
            raise WorkerFailed("a worker ended while starting; the log says why")
        try:
            report = msgspec.json.decode(line, type=Started | Refused | Reloaded)
        except msgspec.MsgspecError as error:
            raise WorkerFailed(f"a worker reported {line[:80]!r}") from error
        if isinstance(report, Reloaded):  # its core serves before the rest of it does
            on_reload(report)
    if isinstance(report, Refused):
        raise PortTaken(report.reason) if report.port_taken else WorkerFailed(report.reason)
    return report


def _with_ports_of(started: Started, order: Order) -> Order:
    ports = {"grpc_port": _port(started.grpc), "admin_port": _port(started.admin)}
    core = msgspec.structs.replace(order.settings.core, **ports)
    return msgspec.structs.replace(order, settings=msgspec.structs.replace(order.settings, core=core))


def _reloaded_of(settings: Settings) -> list[object]:
    return [getattr(settings, name) for name in sorted(RELOADED)]


def _with(reloaded: Reloaded, order: Order) -> Order:
    changed = {name: getattr(reloaded.settings, name) for name in RELOADED}
    return msgspec.structs.replace(order, settings=msgspec.structs.replace(order.settings, **changed))


def _port(address: str) -> int:
    return int(address.rsplit(":", 1)[1])
