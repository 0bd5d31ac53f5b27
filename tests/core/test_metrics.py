"""What a core counts, and the port where it is read."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import aiohttp
import grpc
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from core.access_log import AccessRecord
from core.metrics import Metrics
from core.process.admin import AdminServer
from core.process.listen import CannotListen
from storage.records import Settlement


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def value(metrics: Metrics) -> Any:
    """A function that reads a sample of a scrape."""
    registry = CollectorRegistry()
    registry.register(metrics)

    def read(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    return read


def record(**changed: Any) -> AccessRecord:
    fields: dict[str, Any] = {
        "time": "1970-01-01T00:00:01.000+00:00",
        "request_id": "req1",
        "method": "chat",
        "status": "complete",
        "model": "m",
        "provider": "p",
        "account_id": "account-canary",
        "key_id": "key-canary",
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "completion_tokens": 5,
        "cost_nano_usd": 123,
        "attempts": 1,
        "ttft_ms": 40,
        "duration_ms": 240,
        "overhead_ms": 0.7,
        "stream": True,
    }
    return AccessRecord(**(fields | changed))


def settlement(**changed: Any) -> Settlement:
    """A settlement of which only the model and what is given matters."""
    plain = dict.fromkeys(Settlement.__struct_fields__, "")
    return Settlement(**plain | {"model_id": "m"} | changed)  # type: ignore[arg-type]


def test_a_request_is_counted_in_every_respect(metrics: Metrics, value: Any) -> None:
    """How it ended, its tokens and cost, its times."""
    metrics.chat(record())
    metrics.chat(record(shortfall_nano_usd=7))
    labels = {"model": "m", "provider": "p", "status": "complete", "stream": "true"}
    assert value("worldrouter_requests_total", **labels) == 2
    for kind, count in (("prompt", 20), ("cached", 8), ("completion", 10)):
        assert value("worldrouter_tokens_total", model="m", kind=kind) == count
    assert value("worldrouter_cost_nano_usd_total", model="m") == 246
    assert value("worldrouter_shortfall_nano_usd_total", model="m") == 7
    assert value("worldrouter_request_seconds_sum", model="m") == pytest.approx(0.48)
    assert value("worldrouter_time_to_first_token_seconds_count", model="m") == 2
    assert value("worldrouter_time_per_output_token_seconds_sum", model="m") == pytest.approx(0.1)
    assert value("worldrouter_overhead_seconds_sum", stream="true") == pytest.approx(0.0014)


def test_histograms_are_cumulative(metrics: Metrics, value: Any) -> None:
    """A bucket counts all that is at most its bound, the last one everything."""
    for duration_ms in (4, 5, 6, 10_000_000):
        metrics.chat(record(duration_ms=duration_ms))
    buckets = [
        value("worldrouter_request_seconds_bucket", model="m", le=le) for le in ("0.005", "0.01", "300.0", "+Inf")
    ]
    assert buckets == [2, 3, 3, 4]
    assert value("worldrouter_request_seconds_count", model="m") == 4


def test_an_answer_of_one_token_has_no_pace(metrics: Metrics, value: Any) -> None:
    """There is no token after the first."""
    metrics.chat(record(completion_tokens=1))
    assert value("worldrouter_time_per_output_token_seconds_count", model="m") == 0
    assert value("worldrouter_time_to_first_token_seconds_count", model="m") == 1


def test_a_charge_that_turns_out_smaller_is_counted_as_it_is(metrics: Metrics, value: Any) -> None:
    """What the house pays at once; the sum of charges never goes back, but does not grow until it is true again."""
    metrics.chat(record(cost_nano_usd=100))
    assert value("worldrouter_cost_nano_usd_total", model="m") == 100
    asked = settlement(amount_nano_usd=100, shortfall_nano_usd=0)
    metrics.changed(asked, settlement(amount_nano_usd=30, shortfall_nano_usd=70))
    assert value("worldrouter_shortfall_nano_usd_total", model="m") == 70
    assert value("worldrouter_cost_nano_usd_total", model="m") == 100
    for cost, shown in ((60, 100), (50, 140)):
        metrics.chat(record(cost_nano_usd=cost))
        assert value("worldrouter_cost_nano_usd_total", model="m") == shown


def test_failures_of_upstreams_are_counted_by_reason(metrics: Metrics, value: Any) -> None:
    """Once an upstream was called; a refused request is none."""
    metrics.chat(record(status="upstream_failed", error_reason="UPSTREAM_ERROR"))
    metrics.chat(record(status="refused", error_reason="MODEL_NOT_FOUND", model="", provider="", attempts=0))
    assert value("worldrouter_upstream_errors_total", model="m", provider="p", reason="UPSTREAM_ERROR") == 1
    metrics.chat(record(status="refused", error_reason="RATE_LIMIT_EXCEEDED", provider="", attempts=0))
    assert value("worldrouter_upstream_errors_total", model="m", provider="", reason="RATE_LIMIT_EXCEEDED") is None
    assert value("worldrouter_requests_total", model="", provider="", status="refused", stream="true") == 1
    assert value("worldrouter_tokens_total", model="", kind="prompt") is None


def test_the_ledger_and_the_rpcs_are_counted(metrics: Metrics, value: Any) -> None:
    """Commits by their time and rows, RPCs by method and status."""
    metrics.commit(100, 0.003)
    metrics.finished("/a.B/C", None, grpc.StatusCode.UNAUTHENTICATED, 0.1)
    assert value("worldrouter_ledger_commit_rows_sum") == 100
    assert value("worldrouter_ledger_commit_seconds_bucket", le="0.005") == 1
    assert value("worldrouter_rpcs_total", method="/a.B/C", code="UNAUTHENTICATED") == 1


def test_the_present_is_read_at_the_scrape(metrics: Metrics, value: Any) -> None:
    """In flight, read on, queued, held, and what the last audit found."""
    now = [1]
    metrics.watch(
        in_flight=lambda: now[0],
        drains=lambda: 5,
        queue=lambda: 2,
        held_nano_usd=lambda: 3,
        deviations=lambda: 4,
        outdated=lambda: True,
    )
    now[0] = 7
    assert value("worldrouter_requests_in_flight") == 7
    assert value("worldrouter_drains_in_flight") == 5
    assert value("worldrouter_ledger_queue_rows") == 2
    assert value("worldrouter_held_nano_usd") == 3
    assert value("worldrouter_core_audit_deviations") == 4
    assert value("worldrouter_configuration_outdated") == 1


# The port


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_the_admin_port_shows_all_registries(metrics: Metrics) -> None:
    """As Prometheus reads them; no label names a key or an account."""
    metrics.chat(record())
    first, second = CollectorRegistry(), CollectorRegistry()
    first.register(metrics)
    server = await AdminServer.start([first, second], "127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(server.url) as session:
            async with session.get("/metrics") as answer:
                text = await answer.text()
                assert answer.content_type == "text/plain"
            async with session.get("/healthz") as answer:
                assert (answer.status, await answer.json()) == (200, {"status": "ok"})
    finally:
        await server.stop()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["worldrouter_requests"].samples[0].value == 1
    assert "canary" not in text


async def test_a_taken_admin_port_is_named(taken_port: int) -> None:
    """With its cause, and nothing left open."""
    with pytest.raises(CannotListen, match=f"metrics on 127.0.0.1 port {taken_port}.*in use"):
        await AdminServer.start([], "127.0.0.1", taken_port)
