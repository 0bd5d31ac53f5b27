"""The schema: made from nothing, brought up to date, checked before use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, NullPool, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from storage.errors import SchemaOutdated, StoreUnavailable
from storage.migrate import migrate, upgrade
from storage.records import Account
from storage.store import open_store
from storage.tables import metadata


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a schema; on SQLite not even a file."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'empty.db'}"
    create: Callable[[], str] = request.getfixturevalue("postgres_url")
    return create()


async def test_migrate_makes_a_usable_schema_and_may_be_repeated(empty_url) -> None:
    """From nothing to a store with its house accounts; a second run changes nothing."""
    for _ in range(2):
        await migrate(empty_url)
    store = await open_store(empty_url)
    for name in ("house_payments", "house_fees", "house_usage", "house_adjustments"):
        assert (await store.account(name)).kind == "house"
    await store.close()


async def test_open_refuses_a_database_that_was_not_migrated(empty_url) -> None:
    """The error names the command that helps."""
    with pytest.raises(SchemaOutdated, match="worldrouter migrate"):
        await open_store(empty_url)


async def test_open_refuses_an_older_and_a_newer_schema(database_url, query) -> None:
    """A schema that lacks steps is outdated; one with unknown steps is newer, and migrating does not touch it."""
    [[current]] = await query("SELECT version_num FROM alembic_version")
    await query("DELETE FROM alembic_version")
    with pytest.raises(SchemaOutdated, match="worldrouter migrate"):
        await open_store(database_url)
    await query("INSERT INTO alembic_version VALUES ('9999')")
    with pytest.raises(SchemaOutdated, match="newer"):
        await open_store(database_url)
    with pytest.raises(SchemaOutdated, match="newer"):
        await migrate(database_url)
    await query(f"UPDATE alembic_version SET version_num = '{current}'")


async def test_the_steps_make_exactly_the_tables_of_the_program(database_url) -> None:
    """Alembic finds no difference between the migrated database and the Core tables."""

    def differences(connection: Connection) -> object:
        return compare_metadata(MigrationContext.configure(connection), metadata)

    engine = create_async_engine(database_url, poolclass=NullPool)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_the_steps_make_the_constraints_of_the_program(migrated_file, tmp_path) -> None:
    """Statement by statement, checks and partial indexes included, which Alembic does not compare."""
    made = create_engine(f"sqlite:///{tmp_path / 'made.db'}", poolclass=NullPool)
    metadata.create_all(made)
    statements = "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'index') AND sql IS NOT NULL"
    with made.connect() as connection:
        wanted = {name: sql.split() for name, sql in connection.exec_driver_sql(statements)}
    with create_engine(f"sqlite:///{migrated_file}", poolclass=NullPool).connect() as connection:
        found = {name: sql.split() for name, sql in connection.exec_driver_sql(statements)}
    del found["alembic_version"]
    assert found == wanted


async def test_accounts_and_keys_of_an_older_schema_go_on(empty_url) -> None:
    """Rows made before there was a tree are roots that every core finds, may use all, and can be parents."""
    blob = "x'00'" if empty_url.startswith("sqlite") else "'\\x00'"
    engine = create_async_engine(empty_url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade, "0006")
        for number, (id_, kind) in enumerate((("old_2", "service"), ("old_1", "user"))):
            row = f"'{id_}', 'Old', '{kind}', {number + 5}, 7, {number}"
            await connection.exec_driver_sql(
                f"INSERT INTO accounts (id, display_name, kind, available, credit_limit, created_us) VALUES ({row})"
            )
        await connection.exec_driver_sql(
            "INSERT INTO api_keys (id, account_id, display_name, digest, pepper_version, secret_prefix, secret_suffix,"
            f" created_us, seq) VALUES ('key_1', 'old_1', 'Key', {blob}, 1, 'p', 's', 0, 1)"
        )
    await migrate(empty_url)
    store = await open_store(empty_url)
    [key] = await store.keys_changed_since(0, 10)
    assert (key.id, key.allowed_models, key.seq) == ("key_1", (), 1)
    old = [Account("old_2", "Old", "service", 7, 0, seq=1), Account("old_1", "Old", "user", 7, 1, seq=2)]
    assert await store.accounts_changed_since(0, 10) == old
    assert (await store.balance("old_1")).available_nano_usd == 6
    child = await store.create_account("new", "New", "user", parent_id="old_1")
    assert [each.id for each in await store.lineage("new")] == ["old_1", "new"]
    assert await store.accounts_changed_since(2, 10) == [child]
    await store.close()
    await engine.dispose()


async def test_migrate_refuses_a_sqlite_file_in_use(sqlite_url) -> None:
    """A running core is not migrated under its feet."""
    store = await open_store(sqlite_url)
    with pytest.raises(StoreUnavailable, match="in use"):
        await migrate(sqlite_url)
    await store.close()


async def test_a_failed_migration_leaves_nothing(tmp_path) -> None:
    """The steps are one transaction: an obstacle half way leaves the database as it was."""
    path = tmp_path / "taken.db"
    with create_engine(f"sqlite:///{path}", poolclass=NullPool).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE prices (id TEXT)")
    with pytest.raises(StoreUnavailable, match="prices"):
        await migrate(f"sqlite+aiosqlite:///{path}")
    with create_engine(f"sqlite:///{path}", poolclass=NullPool).connect() as connection:
        tables = connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars().all()
    assert tables == ["prices"]
