"""`python -m tests.bench.soak`: is memory flat over many requests and streams, cancelled ones among them?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import click
import msgspec

from tests.bench import processes
from tests.bench.measure import LoadFailed, run_load
from tests.bench.plan import Plan
from tests.bench.systems import APART, TOGETHER, Cores, DidNotStart, Machinery, System

MB = 1e6
STEP_REQUESTS = 20_000
"""After so many requests memory is read."""
UNHURRIED_PART = 10
"""One request in so many has an upstream that takes its time; the client of every other one of these goes away."""
UNHURRIED_MS = 20
STREAM_CHUNKS = 20
STREAM_LEAVE_EVERY = 4
GROWTH_BYTES_MOST = 5_000_000
"""After the first step, in which pools, caches and the allocator fill up. Of a whole run it is some 30 bytes for each
request; a task or an exception left behind is more than ten times that."""
DESCRIPTORS_MOST = 16
PAUSE_S = 1.0
"""Before memory is read: what has ended is let go of by then."""


@dataclass(frozen=True)
class Reading:
    """Where a run stands. `requests` and `streams` count those whose client left, `left` those alone."""

    requests: int
    streams: int
    left: int
    errors: int
    pss_bytes: int
    descriptors: int


class Soak:
    """Loads one system in steps and reads its memory after each."""

    def __init__(self, system: System, cores: Cores, limit_s: float) -> None:
        self._system, self._cores = system, cores
        self._deadline_s = time.monotonic() + limit_s
        self._requests = self._streams = self._left = self._errors = 0
        self.samples: list[str] = []

    def steps(self, requests: int, streams: int) -> Iterator[Reading]:
        """The readings after each step, until all is done or the time is up. Raises LoadFailed."""
        yield self._reading()
        while self._requests < requests and self._left_s() > 0:
            step = min(STEP_REQUESTS, requests)
            unhurried = step // UNHURRIED_PART
            plan = Plan(port=self._system.port, key=self._system.key, warm_s=0)
            change = msgspec.structs.replace
            self._requests += self._load(change(plan, requests_most=step - unhurried))
            self._requests += self._load(change(plan, requests_most=unhurried, wait_ms=UNHURRIED_MS, leave_every=2))
            most = max(streams * step // requests, 1)
            self._streams += self._load(
                change(plan, requests_most=most, chunks=STREAM_CHUNKS, leave_every=STREAM_LEAVE_EVERY)
            )
            time.sleep(PAUSE_S)
            yield self._reading()

    def _left_s(self) -> float:
        return self._deadline_s - time.monotonic()

    def _load(self, plan: Plan) -> int:
        """Run one load for no longer than there is time; how many requests it was."""
        plan = msgspec.structs.replace(plan, window_s=max(self._left_s(), 0.1))
        result = run_load(plan, self._system, self._cores).result
        self._left += result.left
        self._errors += result.errors
        self.samples += result.samples
        return result.begun

    def _reading(self) -> Reading:
        pids = self._system.pids
        counts = (self._requests, self._streams, self._left, self._errors)
        return Reading(*counts, processes.pss_bytes(pids), processes.descriptors(pids))


def verdict(readings: list[Reading]) -> list[str]:
    """What is wrong, in words; empty when memory and descriptors stayed flat and every answer was right."""
    _, settled, *_, last = [*readings, readings[-1]]
    growth = last.pss_bytes - settled.pss_bytes
    more = last.descriptors - settled.descriptors
    wrong = []
    if growth > GROWTH_BYTES_MOST:
        wrong.append(f"memory grew by {growth / MB:.1f} MB after the first step")
    if more > DESCRIPTORS_MOST:
        wrong.append(f"{more} more descriptors are open")
    if last.errors:
        wrong.append(f"{last.errors} answers were wrong")
    return wrong


def _line(reading: Reading, began_s: float) -> str:
    cells = (reading.requests, reading.streams, reading.left, reading.errors, reading.descriptors)
    counts = " | ".join(f"{cell:>9,}" for cell in cells)
    return f"| {time.monotonic() - began_s:>5.0f} | {counts} | {reading.pss_bytes / MB:>7.1f} |"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--requests", type=click.IntRange(100), default=200_000, show_default=True, help="Unary requests.")
@click.option("--streams", type=click.IntRange(1), default=20_000, show_default=True, help="Streams beside them.")
@click.option("--limit-s", type=click.FloatRange(5), default=1200.0, show_default=True, help="End after this time.")
@click.option("--apart", is_flag=True, help="Edge and core as two processes; else in one.")
@click.option("--keep", is_flag=True, help="Keep the router's state and logs.")
def main(*, requests: int, streams: int, limit_s: float, apart: bool, keep: bool) -> None:
    """See whether the router's memory stays flat under load.

    Every twentieth request and every fourth stream is given up by its client midway. The exit status is 1 when
    memory or open descriptors grow after the first 20,000 requests, or an answer is wrong.
    """
    cores = Cores.split()
    readings = []
    try:
        with Machinery(cores, keep=keep) as machinery:
            soak = Soak(machinery.start((APART if apart else TOGETHER,))[0], cores, limit_s)
            began_s = time.monotonic()
            click.echo("|     s |  requests |   streams |  given up |    errors |     files |  PSS MB |")
            click.echo("| ----: | --------: | --------: | --------: | --------: | --------: | ------: |")
            for reading in soak.steps(requests, streams):
                readings.append(reading)
                click.echo(_line(reading, began_s))
            for sample in soak.samples:
                click.echo(sample, err=True)
    except (DidNotStart, LoadFailed) as error:
        raise click.ClickException(str(error)) from None
    if wrong := verdict(readings):
        raise click.ClickException("; ".join(wrong))
    click.echo("Flat.")


if __name__ == "__main__":
    main(prog_name="scripts/soak")
