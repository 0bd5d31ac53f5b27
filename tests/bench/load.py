"""The load generator. `python -m tests.bench.load PLAN`, a `tests.bench.plan.Plan` as JSON.

It prints `start` and `end` as its window opens and closes, so that whoever runs it can read the CPU counters of what
is measured, and then its `Result` as JSON.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time

import msgspec
import uvloop

from tests.bench.client import Client, Job
from tests.bench.plan import Plan, Tally

DRAIN_S = 15.0
WAVE_PAUSE_S = 0.3
POLL_S = 0.02


class Load:
    """A run: clients, their number, and when it ends."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.tally = plan, Tally()
        self._job = Job(plan, self.tally)
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.tally.fail(f"in the load generator: {context}"))
        self._clients: set[Client] = set()
        self._idle: list[Client] = []
        self._connecting: set[asyncio.Task[None]] = set()
        self._ending = False

    async def _window(self) -> float:
        """Warm up, open the window, close it; its length in seconds."""
        await asyncio.sleep(self.plan.warm_s)
        began_s = self._open_window()
        end_s, most = began_s + self.plan.window_s, self.plan.requests_most
        while (left_s := end_s - time.monotonic()) > 0 and not (most and self.tally.begun >= most):  # noqa: ASYNC110 - see below
            await asyncio.sleep(min(left_s, POLL_S) if most else left_s)
        return self._close_window(began_s)

    def _open_window(self) -> float:
        self.tally.counting = True
        _say("start")
        return time.monotonic()

    def _close_window(self, began_s: float) -> float:
        self.tally.counting = False
        self._ending = True
        _say("end")
        return time.monotonic() - began_s

    async def drain(self) -> None:
        """Wait for what is under way; what never ends is an error."""
        deadline_s = time.monotonic() + DRAIN_S
        # Polled, here and above: an event that the hot path has to set would cost it more.
        while self._under_way() and time.monotonic() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        for client in self._clients:
            if client.busy:
                client.busy = False
                self.tally.fail("no end of the answer in time")
            client.close()
        self._idle.clear()
        self._clients.clear()

    def _under_way(self) -> bool:
        return bool(self._connecting) or any(client.busy for client in self._clients)

    def start(self, due_s: float) -> None:
        """Send a request that was due then, on a connection that is free or else on a new one."""
        while self._idle:
            client = self._idle.pop()
            if client.transport is not None:
                client.begin(due_s)
                return
            self._clients.discard(client)
        task = self._loop.create_task(self._connect(due_s))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, due_s: float) -> None:
        try:
            _, client = await self._loop.create_connection(
                lambda: Client(self._job, self._free), "127.0.0.1", self.plan.port
            )
        except OSError as error:
            self.tally.fail(f"cannot connect: {error}")
            return
        self._clients.add(client)
        client.begin(due_s)

    def _free(self, client: Client) -> None:
        if client.transport is None:
            self._clients.discard(client)
        else:
            self._idle.append(client)
        if self.plan.loop == "closed" and not self._ending:
            # In a turn of its own: the parser that has called us is not done with its message yet.
            self._loop.call_soon(self._again)

    def _again(self) -> None:
        if not self._ending:
            self.start(time.monotonic())

    async def closed(self) -> float:
        """Every connection sends its next request when it has its answer."""
        for _ in range(self.plan.connections):
            self.start(time.monotonic())
        return await self._window()

    async def open(self) -> float:
        """Requests are due at a fixed rate. A thread keeps the time: uvloop's timers round to milliseconds."""
        clock = Clock(self.plan.rate)
        self._loop.add_reader(clock.descriptor, self._start_due, clock)
        clock.start()
        window_s = await self._window()
        self._loop.remove_reader(clock.descriptor)
        clock.stop()
        return window_s

    def _start_due(self, clock: Clock) -> None:
        for due_s in clock.due():
            self.start(due_s)

    async def waves(self) -> float:
        """All connections at once, each new and for one request, until the time is up; the last wave counts whole."""
        self._ending = True
        began_s = self._open_window()
        while time.monotonic() < began_s + self.plan.window_s:
            for _ in range(self.plan.connections):
                self.start(time.monotonic())
            await self.drain()
            await asyncio.sleep(WAVE_PAUSE_S)
        return self._close_window(began_s)


class Clock(threading.Thread):
    """Wakes the event loop whenever a request is due, to some ten microseconds."""

    def __init__(self, rate: float) -> None:
        super().__init__(daemon=True)
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK)
        self._interval_s = 1 / rate
        self._next_s = time.monotonic() + self._interval_s
        self._running = True

    def run(self) -> None:
        wake_s = self._next_s
        while self._running:
            time.sleep(max(wake_s - time.monotonic(), 0.0))
            os.eventfd_write(self.descriptor, 1)
            wake_s += self._interval_s

    def due(self) -> list[float]:
        """The times at which requests have become due since the last call."""
        times_s = []
        for _ in range(os.eventfd_read(self.descriptor)):
            times_s.append(self._next_s)
            self._next_s += self._interval_s
        return times_s

    def stop(self) -> None:
        """Wake nobody any more."""
        self._running = False


async def run(plan: Plan) -> None:
    """Do what the plan says and print what came out."""
    load = Load(plan)
    window_s = await {"closed": load.closed, "open": load.open, "waves": load.waves}[plan.loop]()
    await load.drain()
    _say(msgspec.json.encode(load.tally.result(window_s)).decode())


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(run(msgspec.json.decode(sys.argv[1], type=Plan)))
