"""What a core does by itself, beside its requests."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from core.home import Home
from core.money.escrow import EscrowSettings
from core.money.purging import purge_forever
from core.money.rollups import roll_up_forever

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
