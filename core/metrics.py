"""Prometheus metrics of a core. Labels are models, providers, statuses; never keys or accounts.

Label children are looked up once per combination: the library's own look-up would cost more than the count.
"""

from __future__ import annotations

from collections.abc import Callable

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from core.access_log import AccessRecord
from core.call import Call

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)
_COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_BATCH_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class _ChatSeries:
    """The series of one (model, provider, status, stream)."""

    def __init__(self, metrics: Metrics, labels: tuple[str, str, str, str]) -> None:
        model, provider, status, stream = labels
        self.requests = metrics.requests.labels(model, provider, status, stream)
        self.seconds = metrics.seconds.labels(model, stream)
        self.first_token = metrics.first_token.labels(model)
        self.output_token = metrics.output_token.labels(model)
        self.overhead = metrics.overhead.labels(stream)
        self.tokens = {kind: metrics.tokens.labels(model, kind) for kind in ("prompt", "cached", "completion")}
        self.cost = metrics.cost.labels(model)
        self.shortfall = metrics.shortfall.labels(model)


class Metrics:
    """All series of one core, in a registry of their own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = Counter(
            "worldrouter_requests",
            "Chat requests by how they ended.",
            ("model", "provider", "status", "stream"),
            registry=registry,
        )
        self.seconds = Histogram(
            "worldrouter_request_seconds",
            "Time of a chat request.",
            ("model", "stream"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_token = Histogram(
            "worldrouter_time_to_first_token_seconds",
            "From receipt to the first token.",
            ("model",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.output_token = Histogram(
            "worldrouter_time_per_output_token_seconds",
            "Time after the first token, per token.",
            ("model",),
            buckets=_TOKEN_SECONDS,
            registry=registry,
        )
        self.overhead = Histogram(
            "worldrouter_overhead_seconds",
            "Time of a request not spent waiting for an upstream.",
            ("stream",),
            buckets=_OVERHEAD_SECONDS,
            registry=registry,
        )
        self.tokens = Counter("worldrouter_tokens", "Tokens as charged.", ("model", "kind"), registry=registry)
        self.cost = Counter("worldrouter_cost_nano_usd", "Charges, in nanodollars.", ("model",), registry=registry)
        self.shortfall = Counter(
            "worldrouter_shortfall_nano_usd", "Costs beyond holds, paid by the house.", ("model",), registry=registry
        )
        self.upstream_errors = Counter(
            "worldrouter_upstream_errors", "Failed requests.", ("model", "provider", "reason"), registry=registry
        )
        self.rpcs = Counter(
            "worldrouter_rpcs", "RPCs by method and status code.", ("method", "code"), registry=registry
        )
        self.commit_seconds = Histogram(
            "worldrouter_ledger_commit_seconds", "Time of a ledger commit.", buckets=_COMMIT_SECONDS, registry=registry
        )
        self.commit_rows = Histogram(
            "worldrouter_ledger_commit_rows", "Rows of a ledger commit.", buckets=_BATCH_ROWS, registry=registry
        )
        self._in_flight = Gauge("worldrouter_requests_in_flight", "Chat requests that are running.", registry=registry)
        self._queue = Gauge(
            "worldrouter_ledger_queue_rows", "Settlements that are not committed yet.", registry=registry
        )
        self._held = Gauge(
            "worldrouter_held_nano_usd", "Money held by running requests, in nanodollars.", registry=registry
        )
        self._chats: dict[tuple[str, str, str, str], _ChatSeries] = {}
        self._rpcs: dict[tuple[str, grpc.StatusCode], Counter] = {}

    def watch(
        self, *, in_flight: Callable[[], int], queue: Callable[[], int], held_nano_usd: Callable[[], int]
    ) -> None:
        """Read these when the metrics are scraped."""
        self._in_flight.set_function(in_flight)
        self._queue.set_function(queue)
        self._held.set_function(held_nano_usd)

    def commit(self, rows: int, seconds: float) -> None:
        """A ledger commit."""
        self.commit_seconds.observe(seconds)
        self.commit_rows.observe(rows)

    def chat(self, record: AccessRecord) -> None:
        """A finished chat request."""
        labels = (record.model, record.provider, record.status, "true" if record.stream else "false")
        series = self._chats.get(labels)
        if series is None:
            series = self._chats[labels] = _ChatSeries(self, labels)
        series.requests.inc()
        series.seconds.observe(record.duration_ms / 1_000)
        series.overhead.observe(record.overhead_ms / 1_000)
        if record.ttft_ms is not None:
            series.first_token.observe(record.ttft_ms / 1_000)
            if record.stream and record.completion_tokens > 1:
                after_first_ms = record.duration_ms - record.ttft_ms
                series.output_token.observe(after_first_ms / 1_000 / (record.completion_tokens - 1))
        self._count_tokens(series, record)
        if record.error_reason and record.attempts:
            self.upstream_errors.labels(record.model, record.provider, record.error_reason).inc()

    @staticmethod
    def _count_tokens(series: _ChatSeries, record: AccessRecord) -> None:
        if record.prompt_tokens:
            series.tokens["prompt"].inc(record.prompt_tokens)
        if record.cached_tokens:
            series.tokens["cached"].inc(record.cached_tokens)
        if record.completion_tokens:
            series.tokens["completion"].inc(record.completion_tokens)
        if record.cost_nano_usd:
            series.cost.inc(record.cost_nano_usd)
        if record.shortfall_nano_usd:
            series.shortfall.inc(record.shortfall_nano_usd)

    def finished(self, method: str, call: Call | None, code: grpc.StatusCode, duration_s: float) -> None:
        """An RPC is over; what the guard reports to."""
        counter = self._rpcs.get((method, code))
        if counter is None:
            counter = self._rpcs[method, code] = self.rpcs.labels(method, code.name)
        counter.inc()
