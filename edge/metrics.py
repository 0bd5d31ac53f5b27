"""The edge's Prometheus metrics.

Counted in plain integers (the event loop is one thread) and turned into metric families at the scrape: a tenth
of the cost of the client library's own locked counters. Labels never carry a key, an account or a model.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Histogram:
    """Durations in seconds, counted by bucket."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        total, found = 0, []
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class EdgeMetrics(Collector):
    """What the edge counts. Register it with one registry."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.stream_errors = 0
        self.client_disconnects = 0
        self._requests: Counter[tuple[str, int, bool]] = Counter()
        self._durations: dict[tuple[str, bool], tuple[Histogram, Histogram]] = {}

    def observe(self, route: str, status: int, stream: bool, first_byte_s: float, total_s: float) -> None:
        """Count a request that ended: time to the first byte of its answer, and to its end."""
        self._requests[route, status, stream] += 1
        durations = self._durations.get((route, stream))
        if durations is None:
            durations = self._durations[route, stream] = (Histogram(), Histogram())
        first_byte, total = durations
        first_byte.observe(first_byte_s)
        total.observe(total_s)

    def refused(self, status: int) -> None:
        """Count a request that no route took."""
        self._requests["none", status, False] += 1

    def collect(self) -> Iterator[Metric]:
        """The families, at a scrape."""
        yield GaugeMetricFamily("worldrouter_edge_in_flight", "Requests being served.", self.in_flight)
        requests = CounterMetricFamily(
            "worldrouter_edge_requests", "Requests answered.", labels=["route", "status", "stream"]
        )
        for (route, status, stream), count in self._requests.items():
            requests.add_metric([route, str(status), _yes_no(stream)], count)
        yield requests
        yield CounterMetricFamily(
            "worldrouter_edge_stream_errors", "Streams that failed after their first byte.", self.stream_errors
        )
        yield CounterMetricFamily(
            "worldrouter_edge_client_disconnects", "Clients gone before their answer.", self.client_disconnects
        )
        first_byte = {key: found[0] for key, found in self._durations.items()}
        yield _family("worldrouter_edge_first_byte_seconds", "Until the first byte.", first_byte)
        total = {key: found[1] for key, found in self._durations.items()}
        yield _family("worldrouter_edge_request_seconds", "Until the end.", total)


def _family(name: str, text: str, histograms: dict[tuple[str, bool], Histogram]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=["route", "stream"])
    for (route, stream), histogram in histograms.items():
        family.add_metric([route, _yes_no(stream)], histogram.buckets(), histogram.sum_s)
    return family


def _yes_no(value: bool) -> str:
    return "true" if value else "false"
