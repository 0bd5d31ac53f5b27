"""What upstreams report, end to end: a whole core, its ledger, its balance and its counters."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest
from worldrouter.v1 import metering_pb2, metering_pb2_grpc

from core.settings import ModelSettings

IN, CACHED, OUT = 1_000, 100, 2_000
MODEL = {
    "id": "m",
    "max_output_tokens": 4_000,
    "price": {"input": 1_000_000, "cache_read": 100_000, "output": 2_000_000},
    "endpoints": [{"provider": "script", "model": "up"}],
}
LIMIT = 50


def usage(prompt: Any, completion: Any, cached: Any = None, reasoning: Any = None) -> dict[str, Any]:
    found = {"prompt_tokens": prompt, "completion_tokens": completion}
    if cached is not None:
        found["prompt_tokens_details"] = {"cached_tokens": cached}
    if reasoning is not None:
        found["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return {"usage": found, "usage_mode": "always"}


@pytest.fixture
async def priced(start: Any, settings: Any) -> Any:
    """A core whose cached tokens have a price of their own."""
    return await start(msgspec.structs.replace(settings(), models=msgspec.convert([MODEL], list[ModelSettings])))


async def spent(core: Any) -> int:
    stub = metering_pb2_grpc.MeteringServiceStub(core.channel)
    balance = await stub.GetBalance(metering_pb2.GetBalanceRequest(), metadata=core.metadata)
    return 5_000_000_000 - int(balance.balance_nano_usd)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("script", "changed", "charged"),
    [
        pytest.param(usage(10, 20), {}, 10 * IN + 20 * OUT, id="reported"),
        pytest.param(usage(10, 20, cached=4), {}, 6 * IN + 4 * CACHED + 20 * OUT, id="cached"),
        pytest.param(usage(10, 20, cached=11), {}, 10 * CACHED + 20 * OUT, id="cached-beyond-the-prompt"),
        pytest.param(usage(10, 20, cached=-1), {}, 10 * IN + 20 * OUT, id="negative-cached"),
        pytest.param(usage(10, 20, reasoning=18), {}, 10 * IN + 20 * OUT, id="reasoning-is-part-of-the-completion"),
        pytest.param(usage(10, 20, reasoning=99), {}, 10 * IN + 20 * OUT, id="reasoning-beyond-the-completion"),
        pytest.param(usage(0, 0), {}, 0, id="zero"),
        pytest.param({"usage_mode": "zero"}, {}, 0, id="zero-by-itself"),
        pytest.param({"usage_mode": "every_chunk"}, {}, 3 * IN + 3 * OUT, id="again-and-again"),
        pytest.param({"usage_mode": "split"}, {}, 3 * IN + 3 * OUT, id="in-two-halves"),
        pytest.param({}, {"n": 3}, 3 * IN + 9 * OUT, id="three-choices"),
        pytest.param({"n": 2}, {}, 3 * IN + 6 * OUT, id="a-choice-too-many"),
        pytest.param({"token_count": 80}, {}, 3 * IN + LIMIT * OUT, id="limited"),
    ],
)
async def test_what_is_reported_is_charged(
    priced: Any, rows_of: Any, streamed: bool, script: Any, changed: Any, charged: int
) -> None:
    """In the row, in the finished message and off the balance, and nothing is paid by the house."""
    finished = await ask(priced, script, changed, streamed)
    ((amount, shortfall, estimated),) = rows_of("SELECT amount, shortfall, estimated FROM ledger WHERE kind = 'usage'")
    assert (amount, shortfall, estimated) == (charged, 0, 0)
    assert finished.cost_nano_usd == await spent(priced) == charged
    assert counted(priced, "worldrouter_cost_nano_usd_total") == charged


async def ask(core: Any, script: Any, changed: Any, streamed: bool) -> Any:
    """The finished message of a request of three words."""
    plain = {"model": "m", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": LIMIT}
    sent = json.dumps(plain | changed | {"script": script}).encode()
    if not streamed:
        return (await core.unary(sent)).finished
    return [event async for event in core.stream(sent)][-1].finished


def counted(core: Any, name: str) -> int:
    """A counter of the model "m"."""
    found = core.server.registry.get_sample_value(name, {"model": "m"})
    assert found is not None
    return int(found)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "script",
    [
        pytest.param({"usage_mode": "missing"}, id="missing"),
        pytest.param(usage(-1, 20), id="negative-prompt"),
        pytest.param(usage(10, -20), id="negative-completion"),
        pytest.param(usage(10**12, 20), id="no-count"),
        pytest.param(usage(1.5, 2), id="a-fraction"),
        pytest.param(usage("10", "20"), id="text"),
        pytest.param(usage(None, None), id="null"),
    ],
)
async def test_what_nobody_counted_is_estimated(priced: Any, rows_of: Any, streamed: bool, script: Any) -> None:
    """Never free, never beyond the request's limits, and marked."""
    finished = await ask(priced, script, {}, streamed)
    ((amount, shortfall, estimated),) = rows_of("SELECT amount, shortfall, estimated FROM ledger WHERE kind = 'usage'")
    assert (shortfall, estimated, finished.usage.estimated) == (0, 1, True)
    assert 4 * OUT < amount == finished.cost_nano_usd == await spent(priced) < 100 * IN + LIMIT * OUT


@pytest.mark.parametrize("streamed", [False, True])
async def test_absurd_usage_is_charged_within_the_hold(priced: Any, rows_of: Any, streamed: bool) -> None:
    """The house pays what is beyond, and the shortfall is counted."""
    finished = await ask(priced, usage(10, 10**7), {}, streamed)
    ((amount, shortfall),) = rows_of("SELECT amount, shortfall FROM ledger WHERE kind = 'usage'")
    assert amount + shortfall == 10 * IN + 10**7 * OUT
    assert LIMIT * OUT < amount == finished.cost_nano_usd == await spent(priced) < 200 * IN + LIMIT * OUT
    assert counted(priced, "worldrouter_shortfall_nano_usd_total") == shortfall
    assert counted(priced, "worldrouter_cost_nano_usd_total") == amount


@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
async def test_a_late_charge_is_counted_as_it_was_made(priced: Any, home: Any, rows_of: Any, leaves: bool) -> None:
    """Its lease was closed meanwhile, and the account has 7 nUSD left: those are the charge, the rest is shortfall."""
    script = usage(10, 20) | {"chunk_delay_ms": 50}
    body = {"model": "m", "messages": [{"role": "user", "content": "one"}], "max_tokens": LIMIT, "script": script}
    call = priced.stream(json.dumps(body).encode())
    while not (await call.read()).HasField("chunks"):
        pass
    await asyncio.to_thread(take_away, home.database)
    if leaves:
        call.cancel()
    await priced.rest_of(call)
    rows = await until(lambda: rows_of("SELECT amount, shortfall FROM ledger WHERE kind = 'usage'"))
    ((amount, shortfall),) = rows
    assert amount == 7
    assert shortfall > OUT if leaves else shortfall == 10 * IN + 20 * OUT - 7
    await until(lambda: counted(priced, "worldrouter_shortfall_nano_usd_total") == shortfall)


async def until(look: Any) -> Any:
    """What is seen, as soon as there is something."""
    for _ in range(500):
        if seen := look():
            return seen
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come about")


def take_away(database: Path) -> None:
    """Close every lease, and leave 7 nUSD to the account."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE leases SET state = 'closed'")
        connection.execute("UPDATE accounts SET available = 7 WHERE id = 'default'")
