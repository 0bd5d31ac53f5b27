"""What is SQLite's alone: durability, readers, integers, failing commits."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from collections.abc import Callable

import pytest

from storage.errors import CommitUnknown, StoreUnavailable
from storage.migrate import migrate
from storage.store import open_store


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """These tests are about SQLite alone."""
    return sqlite_url


def no_commit(action: int, argument: str | None, *_others: object) -> int:
    """An authorizer under which COMMIT fails."""
    is_commit = action == sqlite3.SQLITE_TRANSACTION and argument == "COMMIT"
    return sqlite3.SQLITE_DENY if is_commit else sqlite3.SQLITE_OK


def no_insert(table: str) -> Callable[..., int]:
    """An authorizer under which INSERT into a table fails."""

    def authorizer(action: int, argument: str | None, *_others: object) -> int:
        is_insert = action == sqlite3.SQLITE_INSERT and argument == table
        return sqlite3.SQLITE_DENY if is_insert else sqlite3.SQLITE_OK

    return authorizer


async def authorize(store, authorizer) -> None:
    driver = await store._db._enter_writer()
    store._db._writing.release()
    await driver._execute(driver._conn.set_authorizer, authorizer)


async def test_a_sqlite_file_is_private_and_durable(tmp_path) -> None:
    """The file is its owner's alone; the writer commits to the disk, in WAL mode."""
    path = tmp_path / "new.db"
    await migrate(f"sqlite+aiosqlite:///{path}")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    store = await open_store(f"sqlite+aiosqlite:///{path}")

    async def pragmas(connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return [(await connection.exec_driver_sql(f"PRAGMA {name}")).scalar() for name in names]

    full = 2
    assert await store._db.write(pragmas) == ["wal", full, 1, 5000]
    await store.close()


async def test_readers_of_a_sqlite_file_cannot_write_nor_checkpoint(store) -> None:
    """A reading connection refuses changes and never moves the write-ahead log into the database."""

    async def change(connection) -> None:
        await connection.exec_driver_sql("DELETE FROM accounts")

    async def checkpoints(connection) -> object:
        return (await connection.exec_driver_sql("PRAGMA wal_autocheckpoint")).scalar()

    with pytest.raises(StoreUnavailable, match="readonly"):
        await store._db.read(change)
    assert await store._db.read(checkpoints) == 0


async def test_sqlite_keeps_integers_only(sqlite_url) -> None:
    """A fraction of a nanodollar is refused by the table itself."""
    path = sqlite_url.removeprefix("sqlite+aiosqlite:///")
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="REAL"):
        connection.execute("UPDATE accounts SET available = 1.5")
    connection.close()


async def test_settle_or_chain_whose_commit_fails_is_of_unknown_outcome(
    store, funded, acquire, settlement, audit
) -> None:
    """A failing COMMIT is reported as such, leaves no transaction open, and the same may come again."""
    await funded(balance=100)
    await acquire("lease_1", 50)
    for work in (lambda: store.settle([settlement("req_1", "lease_1", 5)]), store.chain):
        await authorize(store, no_commit)
        with pytest.raises(CommitUnknown):
            await work()
        await authorize(store, None)
        await work()
    assert (await store.balance("acc_1")).balance_nano_usd == 95
    await audit()


async def test_settle_or_chain_that_fails_halfway_has_changed_nothing(
    store, funded, acquire, settlement, audit
) -> None:
    """Its failure is an ordinary one, it leaves no transaction open, and the same may come again."""
    await funded(balance=100)
    await acquire("lease_1", 50)
    works = {"ledger": lambda: store.settle([settlement("req_1", "lease_1", 5)]), "ledger_chain": store.chain}
    for table, work in works.items():
        await authorize(store, no_insert(table))
        with pytest.raises(StoreUnavailable) as caught:
            await work()
        assert not isinstance(caught.value, CommitUnknown)
        await authorize(store, None)
        await work()
    assert (await store.balance("acc_1")).balance_nano_usd == 95
    await audit()


@pytest.mark.parametrize("denied", [None, no_insert("ledger_chain"), no_commit], ids=["done", "broken off", "in doubt"])
async def test_settlements_are_durable_after_a_step_of_the_chain(store, funded, denied) -> None:
    """The chain does not wait for the disk, as it can be made again; however its step ends, commits do as before."""
    await funded(balance=100)
    await authorize(store, denied)
    if denied is None:
        await store.chain()
    else:
        with pytest.raises(StoreUnavailable):
            await store.chain()
    await authorize(store, None)

    async def synchronous(connection) -> object:
        return (await connection.exec_driver_sql("PRAGMA synchronous")).scalar()

    full = 2
    assert await store._db.write(synchronous) == full


async def test_a_change_whose_commit_fails_is_of_unknown_outcome(store, funded, acquire, settlement, audit) -> None:
    """So are other changes; the connection is replaced, everything goes on, and the error is one line of SQLite's."""
    await funded(balance=100)
    await authorize(store, no_commit)
    with pytest.raises(CommitUnknown, match=r"^what came of a COMMIT is not known: SQLite failed: not authorized\Z"):
        await acquire("lease_1", 50)
    await acquire("lease_1", 50)
    await store.settle([settlement("req_1", "lease_1", 5)])
    assert (await store.balance("acc_1")).balance_nano_usd == 95
    await audit()


async def test_a_settlement_that_nobody_waits_for_is_committed_before_the_store_closes(
    store, funded, acquire, settlement, query, audit
) -> None:
    """Its caller's cancellation neither stops it nor lets anybody write or close meanwhile."""
    await funded(balance=100)
    await acquire("lease_1", 50)
    task = asyncio.create_task(store.settle([settlement("req_1", "lease_1", 5)]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    closing = asyncio.create_task(store.close())
    with pytest.raises(StoreUnavailable):
        await store.settle([settlement("req_2", "lease_1", 5)])
    await closing
    assert [tuple(row) for row in await query("SELECT ref FROM ledger WHERE kind = 'usage'")] == [("req_1",)]
    await audit()


async def test_a_failure_that_nobody_waits_for_is_not_reported_as_unseen(store, complaints) -> None:
    """A transaction that fails after its caller went away leaves nothing for the event loop to complain about."""
    await authorize(store, no_insert("accounts"))
    task = asyncio.create_task(store.create_account("acc_2", "Gone", "user"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await store.close()
