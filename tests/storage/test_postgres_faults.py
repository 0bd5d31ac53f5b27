"""What happens to connections, locks and commits on PostgreSQL when things go wrong."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import event, make_url

from storage.errors import CommitUnknown, StoreUnavailable
from storage.interfaces import Store
from storage.records import Once
from storage.store import open_store


class Line:
    """A line to the server at the socket `far`, listening in the folder `near`, that can be cut.

    `fault` is None, "before" (hang up instead of forwarding COMMIT), "after" (let the server commit, then hang up
    instead of forwarding its answer), "mute" (neither forward COMMIT nor hang up) or "dead" (hang up on everything).
    """

    def __init__(self, far: Path, near: Path) -> None:
        self.far, self.near = far, near
        self.fault: str | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(str(self.far))
        answering = asyncio.create_task(self._answers(far_reader, writer))
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                commit = data.startswith(b"Q") and b"COMMIT" in data
                if self.fault == "mute" and commit:
                    continue
                if self.fault == "after" and commit:
                    answering.cancel()
                    await asyncio.wait([answering])
                    far_writer.write(data)
                    await far_reader.read(65536)
                if self.fault == "dead" or (self.fault and commit):
                    break
                far_writer.write(data)
        answering.cancel()
        far_writer.close()
        writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
            writer.close()


@pytest.fixture
def database_url(fresh_postgres_url: str) -> str:
    """These tests are about PostgreSQL alone."""
    return fresh_postgres_url


@pytest.fixture
async def line(database_url: str) -> AsyncIterator[Line]:
    """A line to the server."""
    near = Path(tempfile.mkdtemp(prefix="worldrouter-line-"))
    far = Path(str(make_url(database_url).query["host"]))
    line = Line(far / ".s.PGSQL.5432", near)
    server = await asyncio.start_unix_server(line.serve, str(near / ".s.PGSQL.5432"))
    yield line
    server.close()
    await server.wait_closed()
    shutil.rmtree(near)


@pytest.fixture
async def store(database_url: str, line: Line) -> AsyncIterator[Store]:
    """A store whose connections go through the line."""
    url = make_url(database_url).update_query_dict({"host": str(line.near)})
    opened = await open_store(url.render_as_string(hide_password=False))
    yield opened
    line.fault = None
    await opened.close()


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of somebody else."""
    url = make_url(database_url)
    connection = await asyncpg.connect(user=url.username, database=url.database, host=str(url.query["host"]))
    yield connection
    await connection.close()


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_settle_with_an_unknown_outcome_is_safe_to_repeat(
    store, line, funded, acquire, settlement, audit, fault
) -> None:
    """When the line breaks in COMMIT the outcome is unknown; the same batch again charges exactly once."""
    await funded(balance=100)
    await acquire("lease_1", 50)
    batch = [settlement("req_1", "lease_1", 5), settlement("req_2", "lease_1", 6)]
    line.fault = fault
    with pytest.raises(CommitUnknown):
        await store.settle(batch)
    line.fault = None
    done = await store.usage_record("req_1") is not None
    assert done == (fault == "after")
    await store.settle(batch)
    assert (await store.balance("acc_1")).balance_nano_usd == 89
    await audit()


@pytest.mark.parametrize("fault", ["before", "after"])
async def test_changes_with_an_unknown_outcome_are_safe_to_repeat(store, line, funded, acquire, audit, fault) -> None:
    """Top-ups, adjustments and every change of a lease may be sent again when their commit was cut off."""
    await funded(balance=100)
    calls = {
        "acquire": lambda: acquire("lease_1", 30),
        "extend": lambda: store.extend(lease_id="lease_1", seq=2, want_nano_usd=20, chunk_nano_usd=0),
        "give back": lambda: store.give_back(lease_id="lease_1", seq=3, amount_nano_usd=10),
        "close": lambda: store.close_lease("lease_1"),
        "register": lambda: store.register_core("core_1"),
        "chain": store.chain,
        "adjust": lambda: store.adjust(ref="adj_2", account_id="acc_1", amount_nano_usd=1000, note=""),
        "top up": lambda: store.top_up(
            payment_id="pay_1",
            account_id="acc_1",
            amount_nano_usd=10_000,
            fee_nano_usd=500,
            once=Once("top-ups", "once", b""),
        ),
    }
    for name, call in calls.items():
        line.fault = fault
        with pytest.raises(CommitUnknown):
            await call()
        line.fault = None
        await call()
        await call() if name != "acquire" else None
        await audit()
    assert (await store.balance("acc_1")).balance_nano_usd == 11_100


async def test_a_commit_without_an_answer_ends_with_its_connection(
    store, line, funded, acquire, settlement, audit
) -> None:
    """When COMMIT times out its outcome is unknown; nothing stays locked, and the same call again succeeds."""
    await funded(balance=100)
    await acquire("lease_1", 50)
    await store._db._writers.dispose()
    event.listen(store._db._writers.sync_engine, "do_connect", lambda *given: given[-1].update(command_timeout=0.3))
    for call in (
        lambda: store.settle([settlement("req_1", "lease_1", 5)]),
        lambda: store.adjust(ref="adj_2", account_id="acc_1", amount_nano_usd=1, note=""),
    ):
        line.fault = "mute"
        with pytest.raises(CommitUnknown):
            await call()
        line.fault = None
        await call()
    assert (await store.balance("acc_1")).balance_nano_usd == 96
    await audit()


async def test_a_store_outlives_the_loss_of_its_connections(store, funded, acquire, settlement, query) -> None:
    """When the server drops idle connections the next calls make new ones, and nobody notices."""
    await funded(balance=100)
    await acquire("lease_1", 50)
    await store.settle([settlement("req_1", "lease_1", 5)])
    await query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await store.settle([settlement("req_2", "lease_1", 6)])
    await store.adjust(ref="adj_2", account_id="acc_1", amount_nano_usd=1, note="")
    assert (await store.balance("acc_1")).balance_nano_usd == 90


async def test_a_dead_line_is_unavailable_until_it_works_again(store, line, funded, acquire, settlement, audit) -> None:
    """Without a server every call fails as unavailable, none as unknown; afterwards all is as it was."""
    await funded(balance=100)
    await acquire("lease_1", 50)
    await store.settle([settlement("req_1", "lease_1", 5)])
    line.fault = "dead"
    for call in (
        store.settle([settlement("req_2", "lease_1", 6)]),
        store.adjust(ref="adj_2", account_id="acc_1", amount_nano_usd=1, note=""),
        store.balance("acc_1"),
    ):
        with pytest.raises(StoreUnavailable) as caught:
            await call
        assert not isinstance(caught.value, CommitUnknown)
    line.fault = None
    await store.settle([settlement("req_2", "lease_1", 6)])
    assert (await store.balance("acc_1")).balance_nano_usd == 89
    await audit()


async def test_a_deadlock_is_run_again(store, other, funded, acquire, audit) -> None:
    """A transaction that the server ends to break a deadlock is repeated; its caller does not notice."""
    await funded(balance=100)
    await acquire("lease_1", 50)
    await other.execute("BEGIN")
    await other.execute("UPDATE accounts SET display_name = 'locked' WHERE id = 'acc_1'")
    closing = asyncio.create_task(store.close_lease("lease_1"))
    async with asyncio.timeout(10):
        while not await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await other.execute("UPDATE leases SET ttl_us = 1 WHERE id = 'lease_1'")  # a circle: one of both must end
    await other.execute("COMMIT")
    await closing
    assert (await store.balance("acc_1")).available_nano_usd == 100
    await audit()


async def test_reap_leaves_leases_that_are_being_changed(store, other, funded, acquire) -> None:
    """The reaper waits for nobody: a locked lease is closed the next time."""
    await funded(balance=100)
    await acquire("lease_1", 10, ttl_s=0.0)
    await acquire("lease_2", 20, ttl_s=0.0)
    await other.execute("BEGIN")
    await other.execute("SELECT * FROM leases WHERE id = 'lease_1' FOR UPDATE")
    assert await store.reap() == 1
    await other.execute("ROLLBACK")
    assert await store.reap() == 1
    assert (await store.balance("acc_1")).available_nano_usd == 100


async def test_the_ledger_cannot_be_truncated(funded, query) -> None:
    """TRUNCATE is refused like UPDATE and DELETE."""
    await funded(balance=100)
    with pytest.raises(Exception, match="append-only"):
        await query("TRUNCATE ledger")
