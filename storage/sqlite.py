"""SQLite through aiosqlite: one process, one writing connection, readers that cannot write.

The database is in WAL mode with synchronous=FULL: a commit that returned is on the disk. One writer in one
process is what makes the race in WAL resets of SQLite 3.7 to 3.51.2 unreachable.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import secrets
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
from sqlalchemy import URL, ColumnElement, Table, event, func, literal, select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from storage import sqlite_backup
from storage.database import Database, Refused
from storage.errors import CommitUnknown, SchemaOutdated, StoreError, StoreUnavailable
from storage.records import Charge, Settlement
from storage.settle_statements import CommitFailed
from storage.settlement import storable
from storage.sqlite_chain import ChainTransaction
from storage.sqlite_settle import SettleTransaction
from storage.tables import BIGINT, ledger

_log = logging.getLogger(__name__)

T = TypeVar("T")

READER_COUNT = 4
BUSY_TIMEOUT_S = 5.0
PIECE_BYTES = 256 * 1024
"""Of a backup, read at a time."""
OLDEST_VERSION = (3, 37)
"""The first SQLite with STRICT tables (https://www.sqlite.org/stricttables.html)."""

_REFUSALS = (
    sqlite3.IntegrityError,
    sqlite3.DataError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    OverflowError,
    UnicodeError,
)
_WRITER_PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON")
# A reader that checkpointed would be a second writer of the database file.
_READER_PRAGMAS = ("query_only = ON", "wal_autocheckpoint = 0")


def path_of(url: URL) -> Path:
    """The database's file. Two names of one file are the same here."""
    return Path(url.database or "").resolve()


class FileLock:
    """An exclusive advisory lock beside a database file: one process at a time, freed when it dies."""

    def __init__(self, url: URL) -> None:
        """Take the lock or raise StoreUnavailable at once, naming the process that has it."""
        database = path_of(url)
        path = database.with_name(database.name + ".lock")
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreUnavailable(f"cannot open {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(self._descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise StoreUnavailable(f"{database} is in use by another process (pid {owner})") from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock up. The file stays: removing it would let two processes lock two files."""
        os.close(self._descriptor)


def exists(url: URL) -> bool:
    """Whether there is a file at all."""
    return Path(url.database or "").is_file()


def make(url: URL) -> None:
    """Make an empty file where there is none, for its owner's eyes only; SQLite's own files inherit that."""
    Path(url.database or "").touch(mode=0o600, exist_ok=True)


def writer_engine(url: URL) -> AsyncEngine:
    """The engine of the only connection that writes; its transactions begin IMMEDIATE.

    StoreUnavailable when Python's SQLite is too old.
    """
    if sqlite3.sqlite_version_info < OLDEST_VERSION:
        wanted = ".".join(str(number) for number in OLDEST_VERSION)
        raise StoreUnavailable(f"this Python has SQLite {sqlite3.sqlite_version}; {wanted} or newer is needed")
    engine = _engine(url, 1, _WRITER_PRAGMAS)
    event.listen(engine.sync_engine, "begin", _begin_immediate)
    return engine


def reader_engine(url: URL) -> AsyncEngine:
    """The engine of connections that only read; every SELECT is a transaction of its own."""
    return _engine(url, READER_COUNT, _READER_PRAGMAS)


def _engine(url: URL, size: int, pragmas: Sequence[str]) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=size,
        max_overflow=0,
        # Every transaction is ended before its connection goes back: a reset would be a thread hop for nothing.
        pool_reset_on_return=None,
        # isolation_level None: the driver begins nothing by itself.
        connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None},
    )

    def prepare(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    event.listen(engine.sync_engine, "connect", prepare)
    return engine


def _begin(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN")


def _begin_immediate(connection: Any) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


async def _nothing(_connection: AsyncConnection) -> None:
    """The work of a transaction that changes nothing."""


@asynccontextmanager
async def exclusive(url: URL) -> AsyncIterator[AsyncConnection]:
    """A connection in a write transaction that is committed at the end, while no core has the file.

    Makes the file when there is none, for its owner's eyes only.
    """
    lock = FileLock(url)
    try:
        make(url)
        engine = writer_engine(url)
        try:
            async with engine.begin() as connection:
                yield connection
        finally:
            await engine.dispose()
    finally:
        lock.release()


class SqliteDatabase(Database):
    """A SQLite file, held exclusively from construction to `close`."""

    single_core = True
    failures = (SQLAlchemyError, sqlite3.Error, OSError, OverflowError, UnicodeError)

    def __init__(self, url: URL, *, now_us: Callable[[], int], jitter: Callable[[], float]) -> None:
        """`now_us` is the clock that leases expire by.

        SchemaOutdated when there is no such file, StoreUnavailable when another process has it.
        """
        writers, readers = writer_engine(url), reader_engine(url)
        self._url = url
        if not exists(url):
            raise SchemaOutdated(f"there is no database at {url.database}: run `worldrouter migrate`")
        self._lock = FileLock(url)
        sqlite_backup.remove_unfinished(path_of(url))
        super().__init__(writers, readers, writer_count=1, reader_count=READER_COUNT, jitter=jitter)
        self._clock_us = now_us
        self._chain = ChainTransaction()
        self._settle = SettleTransaction(self._chain.keep)
        self._told_unchained = False
        self._driver: aiosqlite.Connection | None = None
        event.listen(self._writers.sync_engine, "connect", self._keep_driver)
        event.listen(self._writers.sync_engine, "invalidate", self._forget_driver)

    def insert(self, table: Table) -> sqlite.Insert:
        return sqlite.insert(table)

    def now_us(self) -> ColumnElement[int]:
        return literal(self._clock_us(), BIGINT)

    def translate(self, error: Exception) -> StoreError:
        cause = error.orig if isinstance(error, DBAPIError) else error
        meaning = Refused if isinstance(cause, _REFUSALS) else StoreUnavailable
        return meaning(f"SQLite failed: {cause}")

    def snapshot_engine(self) -> AsyncEngine:
        engine = _engine(self._url, 1, _READER_PRAGMAS)
        event.listen(engine.sync_engine, "begin", _begin)
        return engine

    async def chain_once(self, limit: int) -> int:
        return await self._in_writer(lambda connection: self._chain.run(connection, limit))

    async def settled_ledger_id(self) -> int:
        # There is one writer: ids ascend in commit order.
        [[last_id]] = await self.rows(select(func.coalesce(func.max(ledger.c.id), 0)))
        return int(last_id)

    async def backup(self) -> AsyncIterator[bytes]:
        database = path_of(self._url)
        target = sqlite_backup.unfinished(database, secrets.token_hex(8))
        abandoned = False

        async def once() -> None:
            await asyncio.to_thread(sqlite_backup.copy, database, target)
            if abandoned:
                target.unlink()

        try:
            await self._detached(self._copying, once)
        except BaseException:
            abandoned = True
            raise
        with target.open("rb") as file:
            target.unlink()  # whatever happens now, it goes
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                yield piece

    async def settle(self, batch: Sequence[Settlement]) -> Mapping[str, Charge]:
        try:
            return await self._settle_once(batch)
        except Refused:
            return await self._settle_once([storable(settlement) for settlement in batch])

    async def _settle_once(self, batch: Sequence[Settlement]) -> Mapping[str, Charge]:
        return await self._in_writer(
            lambda connection: self._settle.run(connection, batch, self._clock_us()), then=self._follow
        )

    def _follow(self, connection: sqlite3.Connection) -> None:
        try:
            if self._chain.follow(connection):
                self._told_unchained = False
        except Exception as error:  # the thread would keep a bug to itself
            expected = isinstance(error, sqlite3.Error | CommitFailed)
            if not (expected and self._told_unchained):  # a full disk is one for long: say it once
                _log.warning("Settlements were not chained at once, but will be: %s", error, exc_info=not expected)
            self._told_unchained = expected

    async def _in_writer(
        self,
        transaction: Callable[[sqlite3.Connection], T],
        *,
        then: Callable[[sqlite3.Connection], None] | None = None,
    ) -> T:
        """One hop to the writer's thread and back, without a task in between: a small batch costs less than one.
        `then` follows when the result is on its way, and must not fail.

        Who is cancelled stops waiting; the thread goes on, and the gate stays closed until it is done.
        """
        driver = await self._enter_writer()
        loop = asyncio.get_running_loop()
        told: asyncio.Future[T] = loop.create_future()

        def tell(end: Callable[[], None]) -> None:
            self._writing.release()
            if not told.done():
                end()

        def work() -> None:
            try:
                end = partial(told.set_result, transaction(driver._conn))
            except BaseException as error:
                end = partial(told.set_exception, error)
            loop.call_soon_threadsafe(tell, end)
            if then is not None:
                then(driver._conn)

        # aiosqlite has no public way to run a function of one's own in the connection's thread; this is what all
        # of its public methods are made of.
        driver._tx.put_nowait((None, work))
        try:
            return await told
        except CommitFailed as error:
            raise CommitUnknown(f"SQLite failed to commit: {error}") from error
        except self.failures as error:
            raise self.translate(error) from error

    async def _enter_writer(self) -> aiosqlite.Connection:
        """Keep everybody else from writing, until `_writing` is released; the driver's side of the connection.

        Who is in a transaction has the pool's only connection; who settles keeps everybody out of the pool, so it
        need not be taken out each time.
        """
        await self._enter(self._writing)
        while self._driver is None:
            self._writing.release()
            await self.write(_nothing)  # connects
            await self._enter(self._writing)
        return self._driver

    def _keep_driver(self, connection: Any, _record: object) -> None:
        self._driver = connection.driver_connection

    def _forget_driver(self, *_event: object) -> None:
        self._driver = None

    async def release(self) -> None:
        try:
            async with self._writing:  # a settlement may still be in the thread
                await super().release()
        finally:
            self._lock.release()
