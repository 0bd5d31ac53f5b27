"""What a core does by itself, beside its requests."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc.aio
import pytest
from worldrouter.v1 import limit_pb2, limit_pb2_grpc

from core.home import Home
from core.money.escrow import EscrowSettings
from core.money.purging import purge_forever
from core.money.rollups import roll_up_forever
from storage.ledger import SqlLedger

BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]}).encode()
LONG_AGO = """
    INSERT INTO cores (id, started_us, heartbeat_us) VALUES ('core_old', 1, 1);
    INSERT INTO idempotency VALUES ('CreateAccount of operator', 'key', x'00', 'acct', 1);
    INSERT INTO idempotency VALUES ('CreateTopUp of operator', 'key', x'00', 'pay', 1);
"""
STATE = (
    "SELECT (SELECT count(*) FROM cores), (SELECT count(*) FROM idempotency), (SELECT sum(requests) FROM usage_daily)"
)


async def test_a_core_tidies_its_database(
    start: Any, home: Home, rows_of: Callable[[str], list[tuple[Any, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cores long gone and idempotency keys go, but for those of money, and usage is rolled up; nobody asks for it."""
    monkeypatch.setattr("core.engine.purge_forever", partial(purge_forever, first_s=0.0))
    monkeypatch.setattr("core.engine.roll_up_forever", partial(roll_up_forever, every_s=0.02))
    connection = sqlite3.connect(home.database)
    connection.executescript(LONG_AGO)
    connection.close()
    core = await start()
    await core.unary(BODY)
    async with asyncio.timeout(5):
        while rows_of(STATE) != [(1, 1, 1)]:  # noqa: ASYNC110  nothing says so
            await asyncio.sleep(0.02)


async def test_idle_money_goes_back_by_itself(
    start: Any, rows_of: Callable[[str], list[tuple[Any, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to ask again."""
    monkeypatch.setattr("core.engine.EscrowSettings", partial(EscrowSettings, idle_s=0.0))
    monkeypatch.setattr("core.engine.MAINTENANCE_S", 0.02)
    core = await start()
    await core.unary(BODY)
    async with asyncio.timeout(5):
        while rows_of("SELECT DISTINCT state FROM leases") != [("closed",)]:  # noqa: ASYNC110  nothing says so
            await asyncio.sleep(0.02)


async def limit(core: Any, measure: limit_pb2.LimitMeasure, period: limit_pb2.LimitPeriod) -> Callable[[], Any]:
    """Bind the operator; a function that says what is used of the limit."""
    stub = limit_pb2_grpc.LimitServiceStub(core.channel)
    made = limit_pb2.SetLimitRequest(owner_id="default", measure=measure, period=period, maximum=1_000)
    await stub.SetLimit(made, metadata=core.metadata)

    async def used() -> int:
        asked = limit_pb2.ListLimitsRequest(owner_id="default")
        return int((await stub.ListLimits(asked, metadata=core.metadata)).limits[0].used)

    return used


async def test_what_is_set_aside_of_a_rate_goes_back_by_itself(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a request used of it stays in use."""
    monkeypatch.setattr("core.rates.share.IDLE_S", 0.0)
    monkeypatch.setattr("core.engine.MAINTENANCE_S", 0.02)
    core = await start()
    used = await limit(core, limit_pb2.LIMIT_MEASURE_REQUESTS, limit_pb2.LIMIT_PERIOD_MINUTE)
    await core.unary(BODY)
    async with asyncio.timeout(5):
        while await used() != 1:  # noqa: ASYNC110  nothing says so
            await asyncio.sleep(0.02)


async def test_slots_that_nobody_needs_go_back_though_others_are_in_use(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the account is idle."""
    monkeypatch.setattr("core.money.funds.SLOTS_IDLE_S", 0.0)
    monkeypatch.setattr("core.engine.MAINTENANCE_S", 0.02)
    core = await start()
    used = await limit(core, limit_pb2.LIMIT_MEASURE_CONCURRENCY, limit_pb2.LIMIT_PERIOD_NOW)
    slow = json.dumps(json.loads(BODY) | {"script": {"first_delay_ms": 100}}).encode()
    await asyncio.gather(*(core.unary(slow) for _ in range(3)))
    async with asyncio.timeout(1.5):
        while await used() != 1:
            await core.unary(BODY)


async def test_leases_of_a_core_that_died_are_closed(
    start: Any, settings: Any, home: Home, rows_of: Callable[[str], list[tuple[Any, ...]]]
) -> None:
    """When their time is over, without a request."""
    await start(settings(money={"lease_ttl_s": 1.0}))
    connection = sqlite3.connect(home.database)
    connection.executescript(
        "INSERT INTO cores (id, started_us, heartbeat_us) VALUES ('core_old', 1, 1);"
        "INSERT INTO leases VALUES ('lease_old', 'default', 'core_old', 0, 0, 1, 'active', 1, 1);"
    )
    connection.close()
    async with asyncio.timeout(5):
        while rows_of("SELECT state FROM leases") != [("closed",)]:  # noqa: ASYNC110  nothing says so
            await asyncio.sleep(0.02)


async def test_a_core_that_stops_writes_what_it_still_has_to(
    start: Any, rows_of: Callable[[str], list[tuple[Any, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The charge of a caller who is gone, though the database is slow; and it brings back what it set aside."""
    settle = SqlLedger.settle

    async def slowly(self: SqlLedger, batch: Any) -> Any:
        await asyncio.sleep(0.2)
        return await settle(self, batch)

    monkeypatch.setattr(SqlLedger, "settle", slowly)
    core = await start()
    await limit(core, limit_pb2.LIMIT_MEASURE_REQUESTS, limit_pb2.LIMIT_PERIOD_MINUTE)
    call = core.stream(json.dumps(json.loads(BODY) | {"script": {"chunk_delay_ms": 100}, "stream": True}).encode())
    await call.read()
    call.cancel()
    async with asyncio.timeout(5):
        while core.server.engine.ledger.depth == 0:  # noqa: ASYNC110  nothing says so
            await asyncio.sleep(0.01)
    await core.server.stop(lambda: 0.0)
    assert rows_of("SELECT status FROM ledger WHERE kind = 'usage'") == [("client_gone",)]
    [[used]] = rows_of("SELECT used FROM rate_windows")
    assert sum(json.loads(used).values()) == 1


async def test_who_waits_too_long_for_a_charge_is_told(
    start: Any, settings: Any, rows_of: Callable[[str], list[tuple[Any, ...]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the core itself, while the database does not answer; what it commits at last is given back."""
    settle, answers = SqlLedger.settle, asyncio.Event()

    async def silently(self: SqlLedger, batch: Any) -> Any:
        await answers.wait()
        return await settle(self, batch)

    monkeypatch.setattr(SqlLedger, "settle", silently)
    core = await start(settings(timeouts={"settle_s": 0.1}))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await core.unary(BODY, timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    answers.set()
    async with asyncio.timeout(5):
        await core.server.engine.ledger.drained()
    [[charged], [given_back]] = rows_of("SELECT amount FROM ledger WHERE note NOT LIKE 'starting%' ORDER BY id")
    assert charged == given_back > 0
