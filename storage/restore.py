"""A backup put in the place of a database."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import URL
from sqlalchemy.exc import SQLAlchemyError

from storage import postgres, postgres_backup, sqlite_backup
from storage.errors import BadBackup, StoreUnavailable
from storage.migrate import known_revisions, migrate, upgrade
from storage.sqlite import FileLock, path_of
from storage.url import SQLITE, parse


async def restore(url: str, backup: Path, *, replace: bool) -> None:
    """Make the database at `url` what it was when the backup was made, and bring it to this program's schema.

    InvalidUrl; BadBackup when the file is not a backup of such a database, damaged, or newer than this program;
    NotEmpty when somebody used the database, unless `replace`; BackupFailed, StoreUnavailable, OSError. A database on
    SQLite that is replaced is kept beside the new one, its name ending in ".replaced"; one on PostgreSQL is replaced in
    one transaction, so that it is as it was whenever this fails.
    """
    parsed = parse(url)
    on_sqlite = parsed.drivername == SQLITE
    with backup.open("rb") as file:
        begins = file.read(len(sqlite_backup.MAGIC))
    magic, kind = (sqlite_backup.MAGIC, "SQLite") if on_sqlite else (postgres_backup.MAGIC, "PostgreSQL")
    if not begins.startswith(magic):
        raise BadBackup(f"{backup} is no backup of a {kind} database, and the database to restore is one")
    if on_sqlite:
        _put_in_place(parsed, backup, replace=replace)
        await migrate(url)
        return
    await postgres_backup.check(backup, parsed, known_revisions())
    try:
        async with postgres.exclusive(parsed) as connection:
            await postgres_backup.make_room(connection, replace=replace)
            await postgres_backup.fill(connection, backup, parsed)
            await connection.run_sync(upgrade)
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"cannot restore: {error}") from error


def _put_in_place(url: URL, backup: Path, *, replace: bool) -> None:
    lock = FileLock(url)
    try:
        sqlite_backup.put_in_place(backup, path_of(url), replace=replace, known_revisions=known_revisions())
    finally:
        lock.release()
