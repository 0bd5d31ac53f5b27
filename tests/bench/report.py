"""The benchmark's result as Markdown tables and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from tests.bench.cases import Case
from tests.bench.measure import Row
from tests.bench.plan import Spread
from tests.bench.summary import Summary
from tests.bench.systems import DIRECT, FLOOR, UNMETERED, Cores

MB = 1e6
QUIET_PART = 0.05
"""A machine on which other programs have more than that of the router's core is not quiet enough."""
Cell = Callable[[Summary], str]


@dataclass(frozen=True)
class Memory:
    """Of one system's process tree, as proportional set size (PSS) in bytes."""

    system: str
    idle_bytes: int
    loaded_bytes: int
    """After all loads."""


@dataclass(frozen=True)
class Report:
    """All that was found out."""

    cases: Sequence[Case]
    rows: Sequence[Row]
    summaries: Sequence[Summary]
    memory: Sequence[Memory]
    rounds: int
    cores: Cores
    commit_ms: Spread
    """What the disk takes for a small commit; see `tests.bench.disk`."""

    @property
    def errors(self) -> int:
        """Wrong, incomplete or missing answers; the figures count only without any."""
        return sum(summary.errors for summary in self.summaries)

    @property
    def others_part(self) -> float:
        """How much of the measured core other programs had: the median of all runs, between 0 and 1."""
        return median(row.others_part for row in self.rows)

    def as_json(self) -> dict[str, object]:
        """Everything, the single runs included."""
        return {
            "machine": _machine(self.cores),
            "rounds": self.rounds,
            "others_part": self.others_part,
            "commit_ms": _spread(self.commit_ms),
            "errors": self.errors,
            "cases": {case.name: case.title for case in self.cases},
            "summaries": [asdict(summary) for summary in self.summaries],
            "memory_pss": [asdict(memory) for memory in self.memory],
            "runs": [_plain(row) for row in self.rows],
        }

    def as_markdown(self) -> str:
        """Tables for a terminal or a README."""
        parts = [self._metering() or self._cpu(), self._latency(), self._stalls(), self._memory()]
        machine = ", ".join(f"{name} {value}" for name, value in _machine(self.cores).items())
        closing = (
            f"Medians of {self.rounds} rounds, taken in turns; {self.errors} errors. Machine: {machine}. "
            f"The disk takes {_pair(self.commit_ms.p50, self.commit_ms.p99)} ms for a small commit; every unary answer "
            "waits for one. "
            f"Other programs had {self.others_part:.0%} of the router's core"
            + ("." if self.others_part < QUIET_PART else ": times are too long and 99th percentiles mean little.")
        )
        return "\n\n".join([*(part for part in parts if part), closing]) + "\n"

    def _cpu(self) -> str:
        head = ["CPU of the process tree", "", "µs/request", "µs/chunk", "to bare proxy", "requests/s", "per core"]
        cells: list[Cell] = [
            lambda found: found.system,
            lambda found: "" if found.cpu_us_per_chunk else _number(found.cpu_us_per_request, 0),
            lambda found: _number(found.cpu_us_per_chunk, 1),
            lambda found: _number(found.cpu_ratio_to_bare_proxy, 2),
            lambda found: _number(found.requests_per_s, 0),
            _throughput,
        ]
        return self._table(head, cells, lambda found: found.system != DIRECT and found.cpu_us_per_request is not None)

    def _metering(self) -> str:
        """What metering costs; nothing where that was not asked."""
        head = ["CPU of the process tree, µs/request", "", "whole", "of which metering", "to bare proxy", "requests/s"]
        cells: list[Cell] = [
            lambda found: found.system,
            lambda found: _number(found.cpu_us_per_request, 0),
            lambda found: "" if found.system in (FLOOR, UNMETERED) else _number(found.cpu_us_added_by_metering, 1),
            lambda found: _number(found.cpu_ratio_to_bare_proxy, 2),
            lambda found: _number(found.requests_per_s, 0),
        ]
        asked = any(found.system == UNMETERED for found in self.summaries)
        return self._table(head, cells, lambda _: True) if asked else ""

    def _latency(self) -> str:
        head = ["Latency, ms, p50 / p99", "", "whole", "added", "first token", "added"]
        cells: list[Cell] = [
            lambda found: found.system,
            lambda found: _pair(found.latency_p50_ms, found.latency_p99_ms),
            lambda found: _pair(found.added_latency_p50_ms, found.added_latency_p99_ms, found),
            lambda found: _pair(found.first_token_p50_ms, found.first_token_p99_ms),
            lambda found: _pair(found.added_first_token_p50_ms, found.added_first_token_p99_ms, found),
        ]
        timed = {case.name for case in self.cases if case.plan.loop != "closed" and not case.probed}
        return self._table(head, cells, lambda found: found.case in timed)

    def _stalls(self) -> str:
        head = ["A probe's wait for the event loop, ms", "", "p50", "p99", "longest"]
        cells: list[Cell] = [
            lambda found: found.system,
            lambda found: _number(found.probe_p50_ms, 2),
            lambda found: _number(found.probe_p99_ms, 2),
            lambda found: _number(found.stall_ms, 2),
        ]
        return self._table(head, cells, lambda found: found.stall_ms is not None)

    def _memory(self) -> str:
        lines = [_line("Memory (PSS), MB", "idle", "after all loads"), _line("---", "---:", "---:")]
        for memory in self.memory:
            lines.append(_line(memory.system, f"{memory.idle_bytes / MB:.0f}", f"{memory.loaded_bytes / MB:.0f}"))
        return "\n".join(lines)

    def _table(self, head: Sequence[str], cells: Sequence[Cell], wanted: Callable[[Summary], bool]) -> str:
        lines = []
        for case in self.cases:
            title = case.title
            for summary in self.summaries:
                if summary.case == case.name and wanted(summary):
                    lines.append(_line(title, *(cell(summary) for cell in cells)))
                    title = ""
        return "\n".join([_line(*head), _line("---", "---", *["---:"] * (len(head) - 2)), *lines]) if lines else ""


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _pair(first: float | None, second: float | None, added: Summary | None = None) -> str:
    """Two times; nothing where there are none, or where the upstream would be compared with itself."""
    if first is None or second is None or (added is not None and added.system == DIRECT):
        return ""
    return f"{first:.2f} / {second:.2f}"


def _throughput(found: Summary) -> str:
    if found.chunks_per_s_per_core is not None:
        return f"{found.chunks_per_s_per_core:,.0f} chunks/s"
    return f"{found.requests_per_s_per_core or 0:,.0f} requests/s"


def _machine(cores: Cores) -> Mapping[str, object]:
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), platform.machine())
    shared = cores.measured == cores.load
    return {
        "CPU": model,
        "cores": os.cpu_count() or 1,
        "of which for the router": "shared with the load" if shared else len(cores.measured),
        "Python": platform.python_version(),
        "Linux": platform.release(),
    }


def _plain(row: Row) -> dict[str, object]:
    spreads = ("latency_ms", "first_token_ms", "probe_ms")
    plain: dict[str, object] = {name: value for name, value in vars(row).items() if name not in spreads}
    for name in spreads:
        spread = getattr(row, name)
        plain[name] = spread and _spread(spread)
    return plain


def _spread(found: Spread) -> dict[str, float]:
    return {"p50": found.p50, "p99": found.p99, "longest": found.most}
