"""A core whose wall clock is set: nothing happens."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

HOUR_S = 3_600
LEASE_TTL_S = 1.0
BODY = {"model": "m", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 50}
SLOW = json.dumps(BODY | {"script": {"token_count": 20, "chunk_delay_ms": 100}}).encode()


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that sets this process's wall clock ahead of the real one, or behind it, by so many seconds."""
    real, real_ns = time.time, time.time_ns

    def change(by_s: float) -> None:
        monkeypatch.setattr(time, "time", lambda: real() + by_s)
        monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(by_s * 1_000_000_000))

    return change


@pytest.mark.parametrize("by_s", [HOUR_S, pytest.param(-HOUR_S, marks=pytest.mark.slow)])
async def test_a_clock_that_jumps_changes_nothing(
    start: Any,
    settings: Any,
    rows_of: Any,
    set_clock: Callable[[float], None],
    caplog: pytest.LogCaptureFixture,
    by_s: float,
) -> None:
    """Running streams end well and are charged from their lease, new ones are admitted, in both directions."""
    core = await start(settings(money={"lease_ttl_s": LEASE_TTL_S}))
    with caplog.at_level(logging.WARNING):
        running = core.stream(SLOW)
        await running.read()
        set_clock(by_s)
        assert (await core.unary(json.dumps(BODY).encode())).finished.cost_nano_usd == 9_000
        await asyncio.sleep(LEASE_TTL_S)
        set_clock(0)
        assert (await core.unary(json.dumps(BODY).encode())).finished.cost_nano_usd == 9_000
        events, error = await core.rest_of(running)
    assert error is None
    assert events[-1].HasField("finished")
    assert [record.getMessage() for record in caplog.records] == []
    assert rows_of("SELECT count(*), sum(shortfall), count(DISTINCT lease_id) FROM ledger WHERE kind = 'usage'") == [
        (3, 0, 1)
    ]
    assert rows_of("SELECT state FROM leases") == [("active",)]
