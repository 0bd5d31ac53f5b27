"""One suite for both databases: every test that asks for `database_url` or `store` runs on SQLite and PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import NullPool, Row, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from storage.interfaces import Store
from storage.records import Lease, Settlement
from storage.store import open_store

Query = Callable[[str], Awaitable[Sequence[Row[Any]]]]

USD = 1_000_000_000
"""Nanodollars in a dollar."""

EMPTY = """
    SET session_replication_role = replica;  -- no triggers, no foreign keys
    DELETE FROM ledger; DELETE FROM ledger_chain; DELETE FROM ledger_heads; DELETE FROM leases; DELETE FROM cores;
    DELETE FROM usage_daily; DELETE FROM refunds; DELETE FROM configurations; DELETE FROM payments;
    DELETE FROM accounts WHERE kind <> 'house'; UPDATE accounts SET available = 0;
    DELETE FROM prices; DELETE FROM api_keys; DELETE FROM limits; DELETE FROM purses; DELETE FROM idempotency;
    DELETE FROM rate_windows; UPDATE revisions SET value = 0;
"""


@pytest.fixture
def sqlite_url(tmp_path: Path, migrated_file: Path) -> str:
    """A SQLite database of the test's own, migrated."""
    shutil.copy(migrated_file, tmp_path / "test.db")
    return f"sqlite+aiosqlite:///{tmp_path / 'test.db'}"


@pytest.fixture
async def fresh_postgres_url(migrated_postgres_url: str) -> str:
    """A PostgreSQL database, migrated and as if new. Emptying one takes 10 ms, making one 100 to 300."""
    url = make_url(migrated_postgres_url)
    connection = await asyncpg.connect(user=url.username, database=url.database, host=str(url.query["host"]))
    await connection.execute(EMPTY)
    await connection.close()
    return migrated_postgres_url


@pytest.fixture(params=["sqlite_url", "fresh_postgres_url"], ids=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A database of the test's own, migrated."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    """An open store on `database_url`."""
    opened = await open_store(database_url)
    yield opened
    await opened.close()


@pytest.fixture
async def another_store(database_url: str, store: Store) -> AsyncIterator[Callable[[], Awaitable[Store]]]:
    """A function that opens another store on `database_url`, as another core does; on SQLite there is but one."""
    async with AsyncExitStack() as stack:

        async def start() -> Store:
            if database_url.startswith("sqlite"):
                return store
            opened = await open_store(database_url)
            stack.push_async_callback(opened.close)
            return opened

        yield start


@pytest.fixture
def query(database_url: str) -> Query:
    """A function that runs SQL on a connection of its own and commits it."""

    async def run(sql: str) -> Sequence[Row[Any]]:
        engine = create_async_engine(database_url, poolclass=NullPool)
        async with engine.begin() as connection:
            result = await connection.execute(text(sql))
            return result.all() if result.returns_rows else []

    return run


@pytest.fixture
def tamper(database_url: str) -> Callable[..., Awaitable[None]]:
    """A function that runs statements past the triggers, as somebody may who owns the database."""

    async def run(*statements: str) -> None:
        engine = create_async_engine(database_url, poolclass=NullPool)
        async with engine.begin() as connection:
            if database_url.startswith("postgresql"):
                await connection.execute(text("SET LOCAL session_replication_role = replica"))
            else:
                for trigger in ("no_update", "no_delete"):
                    for table in ("ledger", "ledger_chain"):
                        await connection.execute(text(f"DROP TRIGGER IF EXISTS {table}_{trigger}"))
            for statement in statements:
                await connection.execute(text(statement))

    return run


@pytest.fixture
def audit(query: Query) -> Callable[..., Awaitable[None]]:
    """A function that checks the conservation of money, of accounts and leases whose ids begin with `prefix`.

    What an account has is what it was credited less what it was debited, never less than its credit limit allows;
    a lease has spent no more than the ledger says.
    """
    wrong = """
        SELECT a.id FROM accounts a WHERE a.id LIKE '{0}%' AND a.kind <> 'house' AND (a.available + credit_limit < 0 OR
          a.available
          + (SELECT coalesce(sum(granted - spent), 0) FROM leases l WHERE l.account_id = a.id AND state = 'active')
          + (SELECT coalesce(sum(amount), 0) FROM ledger WHERE debit_account = a.id)
          <> (SELECT coalesce(sum(amount), 0) FROM ledger WHERE credit_account = a.id))
    """
    overspent = """
        SELECT l.id FROM leases l WHERE l.id LIKE '{0}%' AND (spent < 0 OR spent > granted OR
          spent > (SELECT coalesce(sum(amount), 0) FROM ledger WHERE lease_id = l.id))
    """

    async def check(prefix: str = "") -> None:
        for sql in (wrong, overspent):
            assert [row.id for row in await query(sql.format(prefix))] == []

    return check


@pytest.fixture
def funded(store: Store) -> Callable[..., Awaitable[None]]:
    """A function that makes an account with a balance, in nanodollars, and registers the core `core_1`."""

    async def make(account_id: str = "acc_1", balance: int = 10 * USD) -> None:
        await store.register_core("core_1")
        await store.create_account(account_id, "Somebody", "user")
        if balance:
            await store.adjust(ref=f"adj_{account_id}", account_id=account_id, amount_nano_usd=balance, note="")

    return make


@pytest.fixture
def acquire(store: Store) -> Callable[..., Awaitable[Lease | None]]:
    """`LeaseStore.acquire` with defaults: exactly what is wanted, for core_1 and acc_1, with a life of 30 s."""

    async def take(lease_id: str, want: int, **changes: Any) -> Lease | None:
        defaults = {"account_id": "acc_1", "core_id": "core_1", "chunk_nano_usd": 0, "ttl_s": 30.0}
        return await store.acquire(lease_id=lease_id, want_nano_usd=want, **{**defaults, **changes})

    return take


@pytest.fixture
def settlement() -> Callable[..., Settlement]:
    """A function that makes a settlement of a request, by default of nothing for acc_1."""

    def make(request_id: str, lease_id: str | None = None, amount: int = 0, **changes: Any) -> Settlement:
        values: dict[str, Any] = {
            "account_id": "acc_1",
            "shortfall_nano_usd": 0,
            "key_id": "key_1",
            "client_request_id": "theirs",
            "model_id": "model",
            "endpoint": "endpoint",
            "price_id": "price_1",
            "prompt_tokens": 10,
            "cached_tokens": 1,
            "cache_write_tokens": 2,
            "completion_tokens": 20,
            "reasoning_tokens": 3,
            "estimated": False,
            "status": "completed",
            "finish_reason": "stop",
            "error_reason": "",
            "attempts": 1,
            "streamed": True,
            "ttft_ms": 12,
            "duration_ms": 345,
            "core_id": "core_1",
        }
        return Settlement(request_id=request_id, lease_id=lease_id, amount_nano_usd=amount, **{**values, **changes})

    return make
