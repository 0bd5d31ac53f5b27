"""Medians of what was measured, and the comparisons: with the upstream itself and with the bare proxy.

A comparison is made within a round, in which all systems had their turn within seconds; then the median of the rounds
is taken. On a machine that is busy with other things, times drift and such ratios do not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from tests.bench.measure import Row
from tests.bench.plan import Spread
from tests.bench.systems import DIRECT, FLOOR, UNMETERED

Value = Callable[[Row], float | None]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One load on one system over all rounds. Times in milliseconds, CPU in microseconds; None: not measured."""

    case: str
    system: str
    rounds: int
    requests: int
    errors: int
    cpu_us_per_request: float | None
    cpu_us_per_chunk: float | None
    cpu_ratio_to_bare_proxy: float | None
    """Of CPU per chunk where there are chunks, else per request."""
    cpu_us_added_by_metering: float | None
    """Per request."""
    requests_per_s: float | None
    requests_per_s_per_core: float | None
    chunks_per_s_per_core: float | None
    cpus_used: float | None
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    added_latency_p50_ms: float | None
    added_latency_p99_ms: float | None
    first_token_p50_ms: float | None
    first_token_p99_ms: float | None
    added_first_token_p50_ms: float | None
    added_first_token_p99_ms: float | None
    probe_p50_ms: float | None
    probe_p99_ms: float | None
    stall_ms: float | None
    """The longest time that a probe waited: the median over the rounds of each round's longest."""


def summarise(rows: Iterable[Row]) -> list[Summary]:
    """One summary for each load and system, in the order in which they first appear."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.case, row.system), []).append(row)
    return [
        _summary(mine, *(groups.get((case, other), []) for other in (DIRECT, FLOOR, UNMETERED)))
        for (case, _), mine in groups.items()
    ]


def _summary(mine: list[Row], direct: list[Row], floor: list[Row], unmetered: list[Row]) -> Summary:
    per_chunk = mine[0].cpu_us_per_chunk is not None
    cpu: Value = (lambda row: row.cpu_us_per_chunk) if per_chunk else (lambda row: row.cpu_us_per_request)
    return Summary(
        case=mine[0].case,
        system=mine[0].system,
        rounds=len(mine),
        requests=sum(row.requests for row in mine),
        errors=sum(row.errors for row in mine),
        cpu_us_per_request=_middle(mine, lambda row: row.cpu_us_per_request),
        cpu_us_per_chunk=_middle(mine, lambda row: row.cpu_us_per_chunk),
        cpu_ratio_to_bare_proxy=_against(mine, floor, cpu, lambda own, other: own / other),
        cpu_us_added_by_metering=_added(mine, unmetered, lambda row: row.cpu_us_per_request),
        requests_per_s=_middle(mine, lambda row: row.requests_per_s),
        requests_per_s_per_core=_per_core(_middle(mine, lambda row: row.cpu_us_per_request)),
        chunks_per_s_per_core=_per_core(_middle(mine, lambda row: row.cpu_us_per_chunk)),
        cpus_used=_middle(mine, lambda row: row.cpus_used),
        latency_p50_ms=_middle(mine, _latency_p50),
        latency_p99_ms=_middle(mine, _latency_p99),
        added_latency_p50_ms=_added(mine, direct, _latency_p50),
        added_latency_p99_ms=_added(mine, direct, _latency_p99),
        first_token_p50_ms=_middle(mine, _first_token_p50),
        first_token_p99_ms=_middle(mine, _first_token_p99),
        added_first_token_p50_ms=_added(mine, direct, _first_token_p50),
        added_first_token_p99_ms=_added(mine, direct, _first_token_p99),
        probe_p50_ms=_middle(mine, lambda row: _of(row.probe_ms, "p50")),
        probe_p99_ms=_middle(mine, lambda row: _of(row.probe_ms, "p99")),
        stall_ms=_middle(mine, lambda row: _of(row.probe_ms, "most")),
    )


def _of(spread: Spread | None, name: str) -> float | None:
    return None if spread is None else float(getattr(spread, name))


def _latency_p50(row: Row) -> float | None:
    return _of(row.latency_ms, "p50")


def _latency_p99(row: Row) -> float | None:
    return _of(row.latency_ms, "p99")


def _first_token_p50(row: Row) -> float | None:
    return _of(row.first_token_ms, "p50")


def _first_token_p99(row: Row) -> float | None:
    return _of(row.first_token_ms, "p99")


def _middle(rows: list[Row], value: Value) -> float | None:
    found = [each for row in rows if (each := value(row)) is not None]
    return round(median(found), 3) if found else None


def _added(mine: list[Row], others: list[Row], value: Value) -> float | None:
    return _against(mine, others, value, lambda own, other: own - other)


def _against(
    mine: list[Row], others: list[Row], value: Value, compare: Callable[[float, float], float]
) -> float | None:
    """The median of a comparison made round by round; None where one side is missing or cannot be divided by."""
    by_round = {row.round: value(row) for row in others}
    found = [
        compare(own, other) for row in mine if (own := value(row)) is not None and (other := by_round.get(row.round))
    ]
    return round(median(found), 3) if found else None


def _per_core(cpu_us: float | None) -> float | None:
    return round(1e6 / cpu_us, 1) if cpu_us else None
