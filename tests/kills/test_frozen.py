"""A core that is stopped for longer than its leases live, and goes on: fenced, and it adds up."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import make_url

from tests.kills.crowd import Crowd
from tests.kills.run import Plan, accounts_of, scene

PLAN = Plan(kills=0, streams=30, ttl_s=2.0, after_s=5.0)
LOCKED_S = 25.0
"""PostgreSQL ends a transaction that nobody goes on with after 15 s (`storage.postgres`)."""
LEASES = "SELECT id, core_id, spent, state FROM leases"
ENDED = "SELECT count(*) FROM ledger l JOIN leases USING (core_id) WHERE l.kind = 'usage' AND leases.id = ANY($1)"


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_a_frozen_core_is_fenced(tmp_path: Path, postgres_url: Callable[[], str]) -> None:
    """Another core closes its leases; what it still charges comes from the accounts; then it serves on."""
    url = postgres_url()
    environment = {"WORLDROUTER_DATABASE_URL": url}
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    database = await asyncpg.connect(plain)
    with scene(tmp_path, PLAN) as on:
        frozen = await asyncio.to_thread(on.launcher.apart, on.config, environment=environment)
        other = await asyncio.to_thread(on.launcher.apart, on.config, home=frozen.home, environment=environment)
        keys = await asyncio.to_thread(accounts_of, frozen, 2 * PLAN.streams)
        urls = [frozen.http]
        with on.client_log.open("a", buffering=1) as log:
            crowd = Crowd(PLAN.streams, log, lambda: urls, keys)
            await on.until_live(crowd, 0.9)
            mine = {row["id"] for row in await database.fetch(LEASES) if row["state"] == "active"}
            frozen.process.send_signal(signal.SIGSTOP)
            urls.append(other.http)
            assert mine
            async with asyncio.timeout(LOCKED_S):  # it may have been stopped in the middle of a transaction
                while any(row["state"] == "active" for row in await database.fetch(LEASES) if row["id"] in mine):  # noqa: ASYNC110
                    await asyncio.sleep(1)
            closed = {row["id"]: row["spent"] for row in await database.fetch(LEASES) if row["id"] in mine}
            before = await database.fetchval(ENDED, list(mine))
            frozen.process.send_signal(signal.SIGCONT)
            await asyncio.sleep(6)
            await crowd.stop()
        assert await database.fetchval(ENDED, list(mine)) > before  # it went on charging
        spent = {row["id"]: row["spent"] for row in await database.fetch(LEASES) if row["id"] in mine}
        assert spent == closed  # and not to what it had lost
        assert crowd.outcomes["complete"] > PLAN.streams
        await asyncio.sleep(PLAN.after_s)
        await database.close()
        found = await asyncio.to_thread(on.check, plain)
    assert found["wrong"] == []
