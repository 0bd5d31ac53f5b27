"""Runs one load on one system and reads what it cost."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

import msgspec

from tests.bench import processes
from tests.bench.cases import Case
from tests.bench.plan import Plan, Result, Spread
from tests.bench.systems import PYTHON, ROOT, Cores, System

PROBE_MARGIN_S = 0.3
"""A probe ends so long before the load does, for it takes that long to start."""
SLACK_S = 60.0


class LoadFailed(Exception):
    """The load generator or a probe ended without a result."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One run of one load on one system. CPU time is of the system's whole process tree inside the window."""

    case: str
    system: str
    round: int
    cpu_us_per_request: float | None
    cpu_us_per_chunk: float | None
    cpus_used: float
    requests_per_s: float
    chunks_per_s: float
    latency_ms: Spread | None
    first_token_ms: Spread | None
    probe_ms: Spread | None
    """The worst event loop of the system; only where stalls are looked for."""
    requests: int
    errors: int
    samples: list[str]


def measure(case: Case, system: System, round_: int, cores: Cores) -> Row:
    """One run. Raises LoadFailed."""
    plan = case.plan_for(system)
    result, cpu_s, probes = run_load(plan, system.pids, system.loops if case.probed else (), cores)
    errors = result.errors or int(result.requests == 0)
    return Row(
        case=case.name,
        system=system.name,
        round=round_,
        cpu_us_per_request=None if case.probed else _per(1e6 * cpu_s, result.requests),
        cpu_us_per_chunk=None if case.probed else _per(1e6 * cpu_s, result.chunks),
        cpus_used=round(cpu_s / result.window_s, 4),
        requests_per_s=round(result.requests / result.window_s, 1),
        chunks_per_s=round(result.chunks / result.window_s, 1),
        latency_ms=result.latency_ms,
        first_token_ms=result.first_token_ms,
        probe_ms=max(probes, key=lambda found: found.most, default=None),
        requests=result.requests,
        errors=errors,
        samples=result.samples or ["no request was answered"] * errors,
    )


def _per(amount: float, count: int) -> float | None:
    return round(amount / count, 3) if count else None


def run_load(
    plan: Plan, pids: tuple[int, ...], loops: tuple[tuple[int, int], ...], cores: Cores
) -> tuple[Result, float, list[Spread]]:
    """(what the load generator says, CPU seconds of `pids` and their descendants, what the probes say). LoadFailed."""
    before = after = None
    probes: list[subprocess.Popen[bytes]] = []
    result = b""
    with _module(cores, "load", msgspec.json.encode(plan).decode()) as load:
        assert load.stdout is not None
        for line in load.stdout:
            if line == b"start\n":
                before = processes.cpu_ns(pids)
                seconds = str(plan.window_s - PROBE_MARGIN_S)
                probes = [_module(cores, "probe", str(port), str(pid), seconds) for port, pid in loops]
            elif line == b"end\n":
                after = processes.cpu_ns(pids)
            else:
                result = line
    found = [_spread(probe) for probe in probes]
    if not result or before is None or after is None:
        raise LoadFailed(f"the load generator ended with status {load.returncode}")
    return msgspec.json.decode(result, type=Result), processes.cpu_between_s(before, after), found


def _module(cores: Cores, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [PYTHON, "-m", f"tests.bench.{name}", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        preexec_fn=lambda: os.sched_setaffinity(0, cores.load),
    )


def _spread(probe: subprocess.Popen[bytes]) -> Spread:
    said, _ = probe.communicate(timeout=SLACK_S)
    if probe.returncode:
        raise LoadFailed(f"a probe ended with status {probe.returncode}")
    return msgspec.json.decode(said, type=Spread)
