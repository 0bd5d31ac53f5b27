"""A core that audits itself."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from worldrouter.v1 import metering_pb2, metering_pb2_grpc


def body(**fields: Any) -> bytes:
    """A small request."""
    plain = {"model": "m", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 50}
    return json.dumps(plain | fields).encode()


@pytest.fixture
async def core(start: Any, settings: Any) -> Any:
    """A core that audits several times a second."""
    return await start(settings(money={"audit_every_s": 0.1}))


@pytest.fixture
def add(core: Any) -> Callable[[int], Awaitable[None]]:
    """A function that adds to the default account's balance past the core, and waits until it has taken note."""

    async def change(amount: int) -> None:
        connection = sqlite3.connect(core.home.database)
        connection.execute("UPDATE accounts SET available = available + ? WHERE id = 'default'", (amount,))
        connection.commit()
        connection.close()
        async with asyncio.timeout(10):
            while bool(core.server.engine.escrow.stopped) is not (amount > 0):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    return change


async def test_requests_of_an_account_that_does_not_add_up_are_503(core: Any, add: Any) -> None:
    """Its running ones finish and are charged; the metric shows it, and with the deviation all of it is over."""
    running = core.stream(body(stream=True, script={"first_delay_ms": 600}))
    await running.read()
    await add(1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await core.unary(body())
    info, retry, _ = core.info(caught.value)
    assert (info.reason, caught.value.code()) == ("SERVICE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE)
    assert retry.retry_delay.seconds == 60
    assert core.server.registry.get_sample_value("worldrouter_core_audit_deviations") == 1
    events, error = await core.rest_of(running)
    assert error is None
    assert events[-1].finished.cost_nano_usd > 0

    await add(-1)
    assert (await core.unary(body())).finished.cost_nano_usd > 0
    assert core.server.registry.get_sample_value("worldrouter_core_audit_deviations") == 0


async def test_what_is_charged_is_chained(core: Any) -> None:
    """Soon, by the core itself; a full audit over gRPC says so."""
    await core.unary(body())
    stub = metering_pb2_grpc.MeteringServiceStub(core.channel)
    async with asyncio.timeout(10):
        while True:
            report = await stub.Audit(metering_pb2.AuditRequest(), metadata=core.metadata)
            if report.chained_entry_count == 2:
                break
            await asyncio.sleep(0.02)
    assert (report.deviation_count, report.chain_holds, report.entry_count) == (0, True, 2)
