"""Opening: URLs, files that somebody has, servers that are not there."""

from __future__ import annotations

import asyncio
import os
import sys

import pytest
from sqlalchemy.exc import DBAPIError

from storage.errors import InvalidUrl, StoreUnavailable
from storage.migrate import migrate
from storage.store import open_store

HOLD = """
import asyncio, sys
from storage.store import open_store

async def main():
    store = await open_store(sys.argv[1])
    await store.register_core("core_of_the_child")
    print("open", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "mysql://root:hunter2@host/db",
        "sqlite:///plain.db",
        "sqlite+aiosqlite://",
        "sqlite+aiosqlite:///:memory:",
        "sqlite+aiosqlite:///file.db?mode=ro",
        "postgresql://user:hunter2@host/db",
        "postgresql+asyncpg://user:hunter2@host",
        "postgresql+asyncpg://user:hunter2@host/db?sslmode=require",
        "postgresql+asyncpg://user:hunter2@host:port/db",
    ],
)
async def test_bad_urls_are_refused_without_their_password(url) -> None:
    """Whatever is wrong with a URL, the error says what is wanted and never repeats a password."""
    for use in (open_store, migrate):
        with pytest.raises(InvalidUrl) as caught:
            await use(url)
        assert "hunter2" not in str(caught.value)


async def test_a_second_store_on_a_sqlite_file_is_refused(sqlite_url) -> None:
    """The file belongs to one store, and is free when that one is closed."""
    first = await open_store(sqlite_url)
    with pytest.raises(StoreUnavailable, match=f"pid {os.getpid()}"):
        await open_store(sqlite_url)
    await first.close()
    await (await open_store(sqlite_url)).close()


async def test_a_second_process_on_a_sqlite_file_is_refused_until_the_first_dies(sqlite_url) -> None:
    """Another process is refused at once, and takes over when the first one was killed."""
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", HOLD, sqlite_url, stdout=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(20):
            assert await child.stdout.readline() == b"open\n"
        with pytest.raises(StoreUnavailable, match=f"pid {child.pid}"):
            await open_store(sqlite_url)
    finally:
        child.kill()
        await child.communicate()
    await (await open_store(sqlite_url)).close()


async def test_a_file_that_is_no_database_is_unavailable(tmp_path) -> None:
    """Somebody else's file is refused, and left as it is."""
    path = tmp_path / "letter.txt"
    path.write_text("Dear Sir or Madam" * 100)
    for use in (open_store, migrate):
        with pytest.raises(StoreUnavailable, match="not a database"):
            await use(f"sqlite+aiosqlite:///{path}")
    assert path.read_text().startswith("Dear Sir")


async def test_a_folder_that_is_not_there_is_unavailable(tmp_path) -> None:
    """Migrating makes a file, not its folder."""
    with pytest.raises(StoreUnavailable, match="No such file"):
        await migrate(f"sqlite+aiosqlite:///{tmp_path}/missing/file.db")


async def test_a_server_that_is_not_there_is_unavailable(tmp_path) -> None:
    """Nobody listening is an error at once, which says where."""
    url = f"postgresql+asyncpg://postgres@/db?host={tmp_path}"
    for use in (open_store, migrate):
        with pytest.raises(StoreUnavailable, match=f"at {tmp_path}"):
            await use(url)


async def test_a_database_that_is_not_there_is_unavailable(fresh_postgres_url) -> None:
    """The server's own words say which one is missing."""
    with pytest.raises(StoreUnavailable, match="does_not_exist"):
        await open_store(fresh_postgres_url.replace("/test_", "/does_not_exist_", 1))


async def test_readers_of_postgresql_cannot_write(fresh_postgres_url) -> None:
    """A reading connection refuses changes."""
    store = await open_store(fresh_postgres_url)

    async def change(connection) -> None:
        try:
            await connection.exec_driver_sql("DELETE FROM accounts")
        except DBAPIError as error:
            assert "read-only" in str(error)  # noqa: PT017
            raise

    with pytest.raises(StoreUnavailable):
        await store._db.read(change)
    await store.close()
