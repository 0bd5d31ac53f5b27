"""The router on a real PostgreSQL: in one process, apart, several cores, killed, and cut off from its database."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg
import pytest
from sqlalchemy import make_url

pytestmark = pytest.mark.slow

LEASE_TTL_S = 2.0
SETTLE_S = 1.0
CONFIG = f"""
[money]
lease_ttl_s = {LEASE_TTL_S}
chunk_nano_usd = 100_000_000
"""
QUICK_TO_GIVE_UP = f"settle_s = {SETTLE_S}\nadmission_s = 0.5\n"
BOOKS = """
SELECT available
     + (SELECT coalesce(sum(granted - spent), 0) FROM leases WHERE account_id = accounts.id AND state = 'active')
     + (SELECT coalesce(sum(amount), 0) FROM ledger WHERE debit_account = accounts.id)
     - (SELECT coalesce(sum(amount), 0) FROM ledger WHERE credit_account = accounts.id)
  FROM accounts WHERE kind <> 'house'
"""


@asynccontextmanager
async def connected(url: str, *, database: str = "") -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own, to the same server."""
    parsed = make_url(url)
    parsed = parsed.set(drivername="postgresql", database=database or parsed.database)
    connection = await asyncpg.connect(parsed.render_as_string(hide_password=False))
    try:
        yield connection
    finally:
        await connection.close()


def asked(**script: Any) -> dict[str, Any]:
    return {"model": "scripted", "messages": [{"role": "user", "content": "one two three"}], "script": script}


async def ask(session: aiohttp.ClientSession, router: Any, **more: Any) -> tuple[int, str, str]:
    """Status, request id and text of a chat."""
    async with session.post(f"{router.base_url}/chat/completions", json={**asked(), **more}) as answer:
        return answer.status, answer.headers["x-request-id"], await answer.text()


def as_caller(account: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(headers={"authorization": f"Bearer {account.key}"})


async def eventually(is_so: Callable[[], Awaitable[bool]], within_s: float) -> None:
    deadline_s = time.monotonic() + within_s
    while not await is_so():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.1)


async def check_books(connection: asyncpg.Connection) -> None:
    """Every balance is exactly the sum of its ledger."""
    assert {row[0] for row in await connection.fetch(BOOKS)} == {0}


def test_a_database_without_a_schema(launcher: Any, scripted_config: str, postgres_url: Any) -> None:
    """`serve` refuses it with one line that names the command to run."""
    home = launcher.home()
    home.parent.mkdir(parents=True)
    file = home.parent / "worldrouter.toml"
    file.write_text(scripted_config)
    options = ["--config", str(file), "--http-port", "0", "--grpc-port", "0"]
    process = launcher.run("serve", *options, home=home, environment={"WORLDROUTER_DATABASE_URL": postgres_url()})
    assert process.wait(timeout=30) == 1
    said = (home.parent / "serve.err").read_text()
    assert len(said.splitlines()) == 1
    assert "worldrouter migrate" in said
    assert not (home / "ready.json").exists()


async def test_serve_is_killed_and_goes_on(launcher: Any, scripted_config: str, postgres_url: Any) -> None:
    """After kill -9 the lease comes back within its life, what was complete is charged, and balances add up."""
    url, home = postgres_url(), launcher.home()
    environment = {"WORLDROUTER_DATABASE_URL": url}
    assert launcher.run("migrate", home=home, environment=environment).wait(timeout=30) == 0
    config = scripted_config + CONFIG
    router = await asyncio.to_thread(launcher.serve, config, home=home, environment=environment)
    account = router.account(usd=10)
    async with as_caller(account) as session:
        status, request_id, _ = await ask(session, router)
        assert status == 200
        running = asyncio.create_task(ask(session, router, **asked(head_delay_ms=5_000)))
        await asyncio.sleep(0.2)
        router.process.kill()
        with pytest.raises(aiohttp.ClientError):
            await running
    router.process.wait(timeout=10)
    router = await asyncio.to_thread(launcher.serve, config, home=home, environment=environment)
    async with connected(url) as database, as_caller(account) as session:
        assert (await ask(session, router))[0] == 200
        cores = "SELECT count(DISTINCT core_id) FROM leases WHERE state = 'active'"

        async def expired() -> bool:
            return bool(await database.fetchval(cores) <= 1)

        await eventually(expired, within_s=2 * LEASE_TTL_S)
        await check_books(database)
        charges = "SELECT count(*) FROM ledger WHERE ref = $1 AND kind = 'usage' AND amount > 0"
        assert await database.fetchval(charges, request_id) == 1
        assert await asyncio.to_thread(router.stop, signal.SIGTERM) == [0]
        assert await database.fetchval("SELECT count(*) FROM leases WHERE state = 'active'") == 0
        await check_books(database)


@pytest.mark.slow
async def test_two_cores_on_one_database(launcher: Any, scripted_config: str, postgres_url: Any) -> None:
    """Two cores share a database and one account: both are charged rightly, and when one dies the other serves on."""
    environment = {"WORLDROUTER_DATABASE_URL": postgres_url()}
    config = scripted_config + CONFIG
    router = await asyncio.to_thread(launcher.apart, config, environment=environment)
    other = await asyncio.to_thread(launcher.apart, config, home=router.home, environment=environment)
    account = router.account(usd=10)
    async with connected(environment["WORLDROUTER_DATABASE_URL"]) as database, as_caller(account) as session:
        answers = await asyncio.gather(*(ask(session, each, **asked()) for each in (router, other) * 10))
        assert {status for status, *_ in answers} == {200}
        await check_books(database)
        used = "SELECT count(DISTINCT core_id), count(*), sum(amount) FROM ledger WHERE kind = 'usage'"
        assert tuple(await database.fetchrow(used)) == (2, 20, 20 * 9_000)
        other.process.kill()
        assert (await ask(session, router))[0] == 200

        async def reaped() -> bool:
            return bool(await database.fetchval("SELECT count(*) FROM leases WHERE state = 'active'") <= 1)

        await eventually(reaped, within_s=3 * LEASE_TTL_S)
        await check_books(database)


async def cut_off(database: asyncpg.Connection, name: str) -> None:
    """End all connections to a database and refuse further ones."""
    await database.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    await database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)


@pytest.mark.slow
async def test_a_database_that_goes_away(launcher: Any, scripted_config: str, postgres_url: Any) -> None:
    """A running stream ends with an error and no charge, new requests are 503, never 401; then all is well again."""
    url = postgres_url()
    name = str(make_url(url).database)
    config = scripted_config.replace("[timeouts]\n", f"[timeouts]\n{QUICK_TO_GIVE_UP}")
    router = await asyncio.to_thread(launcher.apart, config, environment={"WORLDROUTER_DATABASE_URL": url})
    account, stranger = router.account(usd=10), router.account(usd=10)
    async with connected(url, database="postgres") as server, as_caller(account) as mine, as_caller(stranger) as theirs:
        assert (await ask(mine, router))[0] == 200
        slow = asked(token_count=40, chunk_delay_ms=10)
        running = asyncio.create_task(ask(mine, router, **slow, stream=True))
        await asyncio.sleep(0.15)
        await cut_off(server, name)
        status, request_id, text = await running
        assert status == 200
        assert "[DONE]" not in text
        error = json.loads(text.rpartition("data: ")[2])["error"]
        assert (error["code"], error["request_id"]) == ("service_unavailable", request_id)
        for session in (mine, theirs):
            async with session.post(f"{router.base_url}/chat/completions", json=asked()) as answer:
                assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        for session in (mine, theirs):

            async def served(session: aiohttp.ClientSession = session) -> bool:
                return (await ask(session, router))[0] == 200

            await eventually(served, within_s=10)
    async with connected(url) as database:
        await check_books(database)
        charged = "SELECT coalesce(sum(amount), 0) FROM ledger WHERE ref = $1"
        assert await database.fetchval(charged, request_id) == 0
