"""A SQLite database copied while it is in use, and a copy put in its place."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import quote

from storage.errors import BackupFailed, BadBackup, NotEmpty

MAGIC: Final = b"SQLite format 3\x00"
"""First bytes of every SQLite database (https://www.sqlite.org/fileformat.html)."""
REPLACED: Final = ".replaced"
"""What the name of a database ends with, that a restored one took the place of."""
_OWN_FILES: Final = ("", "-wal", "-shm")


def unfinished(database: Path, name: str) -> Path:
    """A file beside the database for a copy that is not whole yet."""
    return database.with_name(f".{database.name}.copying-{name}")


def remove_unfinished(database: Path) -> None:
    """Remove what a process left behind that died while it copied. Nobody else may be at it."""
    for path in database.parent.glob(f".{database.name}.copying-*"):
        path.unlink(missing_ok=True)


def copy(database: Path, target: Path) -> None:
    """Copy a database as of one moment into a file that does not exist yet. Its writer goes on meanwhile.

    One long read transaction: what is written meanwhile gathers in the write-ahead log. BackupFailed, with no file
    left.
    """
    target.touch(mode=0o600, exist_ok=False)
    try:
        with closing(_reader(database)) as source, closing(sqlite3.connect(target)) as made:
            # If this fails, the file goes: nothing has to be durable nor to be rolled back.
            made.execute("PRAGMA synchronous = OFF")
            made.execute("PRAGMA journal_mode = OFF")
            source.backup(made)  # in one step
            made.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
    except sqlite3.Error as error:
        target.unlink()
        raise BackupFailed(f"SQLite cannot copy the database: {error}") from error


def put_in_place(backup: Path, database: Path, *, replace: bool, known_revisions: Collection[str]) -> None:
    """Check a backup and make it the database, under the database's lock, which is the caller's.

    A database that somebody used is refused with NotEmpty, unless `replace`: then it is kept beside it. BadBackup
    when the backup is damaged, or of no revision known; OSError. The database is as it was then.
    """
    if not replace and _is_used(database):
        raise NotEmpty(f"there is a database at {database} that is not empty")
    incoming = unfinished(database, "restore")
    with _removed(incoming):
        incoming.touch(mode=0o600)
        shutil.copyfile(backup, incoming)
        _check(incoming, backup, known_revisions)
        with incoming.open("rb+") as file:
            os.fsync(file.fileno())
        _set_aside(database)
        os.replace(incoming, database)
        folder = os.open(database.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def _set_aside(database: Path) -> None:
    if not database.exists():
        return
    kept = database.with_name(database.name + REPLACED)
    if kept.exists():
        raise NotEmpty(f"{kept} is in the way: an earlier restore set it aside; move it elsewhere")
    # The database last: until it goes, all of it is where it was.
    for suffix in reversed(_OWN_FILES):
        with suppress(FileNotFoundError):
            os.rename(f"{database}{suffix}", f"{kept}{suffix}")


def _check(incoming: Path, backup: Path, known_revisions: Collection[str]) -> None:
    try:
        with closing(sqlite3.connect(incoming)) as found:
            size, pages = (found.execute(f"PRAGMA page_{what}").fetchone()[0] for what in ("size", "count"))
            if incoming.stat().st_size < size * pages:  # SQLite reads what is missing as zeros
                raise BadBackup(f"{backup} is cut off")
            wrong = [row[0] for row in found.execute("PRAGMA integrity_check(1)") if row[0] != "ok"]
            if wrong or found.execute("PRAGMA foreign_key_check").fetchone():
                raise BadBackup(f"{backup} is damaged: {wrong[0] if wrong else 'a row names one that is missing'}")
            revisions = {row[0] for row in found.execute("SELECT version_num FROM alembic_version")}
    except sqlite3.Error as error:
        raise BadBackup(f"{backup} is no backup of WorldRouter's: {error}") from error
    refuse_unknown(backup, revisions, known_revisions)


def refuse_unknown(backup: Path, revisions: Collection[str], known: Collection[str]) -> None:
    """BadBackup unless a backup has a schema that this program knows."""
    if not revisions:
        raise BadBackup(f"{backup} is no backup of WorldRouter's: it does not say which schema it has")
    if not set(revisions) <= set(known):
        raise BadBackup(f"{backup} has a newer schema than this program: use a newer one")


def _is_used(database: Path) -> bool:
    """Whether there is anything in the file that a restore must not lose."""
    if not database.exists():
        return False
    with closing(sqlite3.connect(database)) as found:
        try:
            tables = {row[0] for row in found.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            if "accounts" not in tables:
                return bool(tables)
            return found.execute("SELECT 1 FROM accounts WHERE kind <> 'house'").fetchone() is not None
        except sqlite3.DatabaseError:
            return True  # whatever it is


def _reader(database: Path) -> sqlite3.Connection:
    """A connection that only reads. It is not the last one: the writer's log stays as it is when it closes."""
    return sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)


@contextmanager
def _removed(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
