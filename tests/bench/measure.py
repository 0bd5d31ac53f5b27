"""Runs one load on one system and reads what it cost."""

from __future__ import annotations

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
    others_part: float
    """The part of the measured core's time that other programs had; 0 where the load shares the core."""
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
    run = run_load(plan, system, cores, probed=case.probed)
    result, cpu_s = run.result, run.cpu_s
    errors = result.errors or int(result.requests == 0)
    return Row(
        case=case.name,
        system=system.name,
        round=round_,
        cpu_us_per_request=None if case.probed else _per(1e6 * cpu_s, result.requests),
        cpu_us_per_chunk=None if case.probed else _per(1e6 * cpu_s, result.chunks),
        cpus_used=round(cpu_s / result.window_s, 4),
        others_part=_others_part(run, system, cores),
        requests_per_s=round(result.requests / result.window_s, 1),
        chunks_per_s=round(result.chunks / result.window_s, 1),
        latency_ms=result.latency_ms,
        first_token_ms=result.first_token_ms,
        probe_ms=max(run.probes, key=lambda found: found.most, default=None),
        requests=result.requests,
        errors=errors,
        samples=result.samples or ["no request was answered"] * errors,
    )


def _per(amount: float, count: int) -> float | None:
    return round(amount / count, 3) if count else None


@dataclass(frozen=True, kw_only=True)
class Run:
    """What the load generator found, and what the kernel counted meanwhile."""

    result: Result
    cpu_s: float
    """Of the system's processes and their descendants."""
    busy_s: float
    """Of the measured core, whoever used it."""
    probes: list[Spread]
    """One for each event loop of the system."""


def run_load(plan: Plan, system: System, cores: Cores, *, probed: bool = False) -> Run:
    """One run of the load generator against a system. Raises LoadFailed."""
    marks: list[tuple[dict[tuple[int, int], int], float]] = []
    probes: list[subprocess.Popen[bytes]] = []
    said = b""
    with _module(cores, "load", msgspec.json.encode(plan).decode()) as load:
        assert load.stdout is not None
        for said in load.stdout:
            if said in (b"start\n", b"end\n"):
                marks.append((processes.cpu_ns(system.pids), processes.busy_s(cores.measured)))
            if said == b"start\n" and probed:
                seconds = str(plan.window_s - PROBE_MARGIN_S)
                probes = [_module(cores, "probe", str(port), str(pid), seconds) for port, pid in system.loops]
    found = [_spread(probe) for probe in probes]
    if load.returncode or len(marks) != 2:
        raise LoadFailed(f"the load generator ended with status {load.returncode}")
    (cpu_before, busy_before), (cpu_after, busy_after) = marks
    return Run(
        result=msgspec.json.decode(said, type=Result),
        cpu_s=processes.cpu_between_s(cpu_before, cpu_after),
        busy_s=busy_after - busy_before,
        probes=found,
    )


def _others_part(run: Run, system: System, cores: Cores) -> float:
    if cores.measured == cores.load:
        return 0.0
    measured_s = 0.0 if system.on_load_core else run.cpu_s
    return round(max(run.busy_s - measured_s, 0.0) / run.result.window_s, 3)


def _module(cores: Cores, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [PYTHON, "-m", f"tests.bench.{name}", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        preexec_fn=processes.bound(cores.load),
    )


def _spread(probe: subprocess.Popen[bytes]) -> Spread:
    said, _ = probe.communicate(timeout=SLACK_S)
    if probe.returncode:
        raise LoadFailed(f"a probe ended with status {probe.returncode}")
    return msgspec.json.decode(said, type=Spread)
