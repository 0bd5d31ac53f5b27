"""Prometheus metrics of a core. Labels are models, providers, statuses; never keys or accounts.

Counted in plain numbers (the event loop is one thread) and turned into metric families at the scrape: a tenth of
the cost of the client library's own locked counters, on a path that every request takes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import grpc
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from core.access_log import AccessRecord
from core.call import Call
from storage.records import Settlement

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
_COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_BATCH_ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


class _Histogram:
    """Values counted by bucket."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Cumulative, as Prometheus wants them."""
        total, buckets = 0, []
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        family.add_metric(labels, buckets, self._sum)


class _ModelSeries:
    """What is counted by model."""

    __slots__ = (
        "cached",
        "completion",
        "cost",
        "cost_shown",
        "first_token",
        "output_token",
        "prompt",
        "seconds",
        "shortfall",
    )

    def __init__(self) -> None:
        self.prompt = self.cached = self.completion = self.cost = self.cost_shown = self.shortfall = 0
        self.seconds = _Histogram(_SECONDS)
        self.first_token = _Histogram(_SECONDS)
        self.output_token = _Histogram(_TOKEN_SECONDS)


class Metrics(Collector):
    """What one core counts. Register it with one registry."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, str, str, bool]] = Counter()
        self._upstream_errors: Counter[tuple[str, str, str]] = Counter()
        self._rpcs: Counter[tuple[str, grpc.StatusCode]] = Counter()
        self._models: dict[str, _ModelSeries] = {}
        self._overhead = {stream: _Histogram(_OVERHEAD_SECONDS) for stream in (False, True)}
        self._commit_seconds = _Histogram(_COMMIT_SECONDS)
        self._commit_rows = _Histogram(_BATCH_ROWS)
        self._gauges: Mapping[str, tuple[str, Callable[[], int]]] = {}

    def watch(
        self,
        *,
        in_flight: Callable[[], int],
        drains: Callable[[], int],
        queue: Callable[[], int],
        held_nano_usd: Callable[[], int],
        deviations: Callable[[], int],
        outdated: Callable[[], bool],
    ) -> None:
        """Read these when the metrics are scraped."""
        self._gauges = {
            "worldrouter_requests_in_flight": ("Chat requests that are running.", in_flight),
            "worldrouter_drains_in_flight": ("Those whose callers are gone and whose answers are read on.", drains),
            "worldrouter_ledger_queue_rows": ("Settlements that are not committed yet.", queue),
            "worldrouter_held_nano_usd": ("Money held by running requests, in nanodollars.", held_nano_usd),
            "worldrouter_core_audit_deviations": ("What did not add up at the last audit.", deviations),
            "worldrouter_configuration_outdated": ("1 while other cores serve a newer configuration.", outdated),
        }

    def commit(self, rows: int, seconds: float) -> None:
        """A ledger commit."""
        self._commit_seconds.observe(seconds)
        self._commit_rows.observe(rows)

    def finished(self, method: str, call: Call | None, code: grpc.StatusCode, duration_s: float) -> None:
        """An RPC is over; what the guard reports to."""
        self._rpcs[method, code] += 1

    def chat(self, record: AccessRecord) -> None:
        """A finished chat request."""
        self._requests[record.model, record.provider, record.status, record.stream] += 1
        if not record.model:
            return  # refused before it named a model of ours
        series = self._models.get(record.model)
        if series is None:
            series = self._models[record.model] = _ModelSeries()
        series.seconds.observe(record.duration_ms / 1_000)
        self._overhead[record.stream].observe(record.overhead_ms / 1_000)
        if record.ttft_ms is not None:
            series.first_token.observe(record.ttft_ms / 1_000)
            if record.stream and record.completion_tokens > 1:
                after_first_ms = record.duration_ms - record.ttft_ms
                series.output_token.observe(after_first_ms / 1_000 / (record.completion_tokens - 1))
        series.prompt += record.prompt_tokens
        series.cached += record.cached_tokens
        series.completion += record.completion_tokens
        series.cost += record.cost_nano_usd
        series.shortfall += record.shortfall_nano_usd
        if record.error_reason and record.attempts:
            self._upstream_errors[record.model, record.provider, record.error_reason] += 1

    def changed(self, asked: Settlement, charged: Settlement) -> None:
        """The charge of a request that was counted turned out to be another."""
        series = self._models.get(asked.model_id)
        if series is not None:
            series.cost += charged.amount_nano_usd - asked.amount_nano_usd
            series.shortfall += charged.shortfall_nano_usd - asked.shortfall_nano_usd

    def collect(self) -> Iterator[Metric]:
        """The families, at a scrape."""
        for name, (text, read) in self._gauges.items():
            yield GaugeMetricFamily(name, text, read())
        requests = CounterMetricFamily(
            "worldrouter_requests",
            "Chat requests by how they ended.",
            labels=["model", "provider", "status", "stream"],
        )
        for (model, provider, status, stream), count in self._requests.items():
            requests.add_metric([model, provider, status, _yes_no(stream)], count)
        yield requests
        errors = CounterMetricFamily(
            "worldrouter_upstream_errors", "Failed requests.", labels=["model", "provider", "reason"]
        )
        for labels, count in self._upstream_errors.items():
            errors.add_metric(list(labels), count)
        yield errors
        rpcs = CounterMetricFamily("worldrouter_rpcs", "RPCs by method and status code.", labels=["method", "code"])
        for (method, code), count in self._rpcs.items():
            rpcs.add_metric([method, code.name], count)
        yield rpcs
        yield from self._collect_models()
        yield from self._collect_histograms()

    def _collect_models(self) -> Iterator[Metric]:
        tokens = CounterMetricFamily("worldrouter_tokens", "Tokens as charged.", labels=["model", "kind"])
        cost = CounterMetricFamily("worldrouter_cost_nano_usd", "Charges, in nanodollars.", labels=["model"])
        shortfall = CounterMetricFamily(
            "worldrouter_shortfall_nano_usd", "Costs beyond holds, paid by the house.", labels=["model"]
        )
        for model, series in self._models.items():
            tokens.add_metric([model, "prompt"], series.prompt)
            tokens.add_metric([model, "cached"], series.cached)
            tokens.add_metric([model, "completion"], series.completion)
            series.cost_shown = max(series.cost_shown, series.cost)  # a counter never goes back
            cost.add_metric([model], series.cost_shown)
            shortfall.add_metric([model], series.shortfall)
        yield from (tokens, cost, shortfall)

    def _collect_histograms(self) -> Iterator[Metric]:
        by_model: tuple[tuple[str, str, Callable[[_ModelSeries], _Histogram]], ...] = (
            ("request_seconds", "Time of a chat request.", lambda series: series.seconds),
            ("time_to_first_token_seconds", "From receipt to the first token.", lambda series: series.first_token),
            ("time_per_output_token_seconds", "Per token after the first.", lambda series: series.output_token),
        )
        for name, text, of in by_model:
            family = HistogramMetricFamily(f"worldrouter_{name}", text, labels=["model"])
            for model, series in self._models.items():
                of(series).add_to(family, [model])
            yield family
        overhead = HistogramMetricFamily(
            "worldrouter_overhead_seconds", "Time of a request not spent waiting for an upstream.", labels=["stream"]
        )
        for stream, histogram in self._overhead.items():
            histogram.add_to(overhead, [_yes_no(stream)])
        yield overhead
        seconds = HistogramMetricFamily("worldrouter_ledger_commit_seconds", "Time of a ledger commit.", labels=[])
        self._commit_seconds.add_to(seconds, [])
        rows = HistogramMetricFamily("worldrouter_ledger_commit_rows", "Rows of a ledger commit.", labels=[])
        self._commit_rows.add_to(rows, [])
        yield from (seconds, rows)


def _yes_no(value: bool) -> str:
    return "true" if value else "false"
