"""PostgreSQL through asyncpg: many cores, rows locked in one order, conflicts run again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]  # it ships no types
from sqlalchemy import (
    URL,
    BigInteger,
    ColumnElement,
    Table,
    Text,
    cast,
    extract,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from storage import postgres_chain
from storage.database import Conflict, ConnectionLost, Database, Refused
from storage.errors import CommitUnknown, StoreError, StoreUnavailable
from storage.postgres_backup import dump
from storage.postgres_settle import DRIVER_FAILURES, SettleTransaction
from storage.records import Charge, Settlement
from storage.settle_statements import CommitFailed
from storage.settlement import storable
from storage.tables import ledger

WRITER_COUNT = 8
READER_COUNT = 4
CONNECT_TIMEOUT_S = 5.0
"""For opening a connection."""
STATEMENT_TIMEOUT_S = 10.0
"""After which a statement is given up: a network that swallows packets must not hold a core for ever."""

_SETTINGS: Final = {
    "application_name": "worldrouter",
    "lock_timeout": "5s",
    # Locks of a core that vanished in mid-transaction end with it.
    "idle_in_transaction_session_timeout": "15s",
}
_RACES = frozenset({"23505", "0A000"})
"""unique_violation: a repeated call overtook its first attempt, and finds its rows the next time. What is a
plain duplicate never gets here: those statements say ON CONFLICT. feature_not_supported: a cached plan is
older than the last migration; SQLAlchemy forgets it."""
_WRITING = (
    select(literal_column("virtualtransaction", Text))
    .distinct()
    .select_from(text("pg_locks"))
    .where(
        text("locktype = 'relation' AND relation = CAST('ledger' AS regclass) AND mode = 'RowExclusiveLock'"),
        text("database = (SELECT oid FROM pg_database WHERE datname = current_database())"),
    )
)
"""Transactions that write the ledger, or are about to: INSERT takes the lock before anything else."""
_MIGRATION_LOCK = 0x776C726F75746572
"""Key of the advisory lock that lets one migration run at a time: "wlrouter" in ASCII."""


def reader_engine(url: URL) -> AsyncEngine:
    """The engine of connections that only read; every SELECT is a transaction of its own."""
    settings = {**_SETTINGS, "default_transaction_read_only": "on"}
    return _engine(url, READER_COUNT, settings, isolation_level="AUTOCOMMIT")


def _engine(
    url: URL, size: int, settings: dict[str, str], *, statement_s: float | None = STATEMENT_TIMEOUT_S, **options: Any
) -> AsyncEngine:
    limits = {"timeout": CONNECT_TIMEOUT_S, "command_timeout": statement_s}
    return create_async_engine(
        url,
        pool_size=size,
        max_overflow=0,
        connect_args={**limits, "server_settings": settings},
        **options,
    )


@asynccontextmanager
async def exclusive(url: URL) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction that is committed at the end, one at a time over all processes."""
    engine = create_async_engine(url, connect_args={"timeout": CONNECT_TIMEOUT_S})
    try:
        async with engine.begin() as connection:
            await connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
            yield connection
    finally:
        await engine.dispose()


class Horizon:
    """How far the ledger is settled, although ids become visible out of their order.

    An id is taken by a transaction that holds a lock of the ledger from before until its end. So once all those have
    ended that held one when an id was visible, whatever smaller id they took is visible too, or never will be.
    """

    def __init__(self) -> None:
        self._settled = 0
        self._next = 0
        self._awaited: frozenset[str] | None = None

    def move(self, visible: int, writing: frozenset[str]) -> int:
        """The settled id, when `visible` was the greatest one and afterwards these transactions held a lock."""
        if self._awaited is not None and not self._awaited & writing:
            self._settled, self._awaited = self._next, None
        if self._awaited is None:
            if writing:
                self._next, self._awaited = visible, writing
            else:
                self._settled = visible
        return self._settled


class PostgresDatabase(Database):
    """A PostgreSQL database, shared with other cores."""

    single_core = False
    failures = (SQLAlchemyError, *DRIVER_FAILURES, UnicodeError)

    def __init__(self, url: URL, *, jitter: Callable[[], float]) -> None:
        """Connects when first used."""
        self._url = url
        super().__init__(
            # One more than transactions take: it belongs to settling.
            _engine(url, WRITER_COUNT + 1, _SETTINGS),
            reader_engine(url),
            writer_count=WRITER_COUNT,
            reader_count=READER_COUNT,
            jitter=jitter,
        )
        self._settle = SettleTransaction(self.now_us())
        self._settling = asyncio.Semaphore(1)
        self._settler: AsyncConnection | None = None
        self._horizon = Horizon()
        self._looking = asyncio.Lock()

    def insert(self, table: Table) -> postgresql.Insert:
        return postgresql.insert(table)

    def now_us(self) -> ColumnElement[int]:
        # The start of the transaction: waiting for a lock makes no lease look older.
        return cast(extract("epoch", func.now()) * literal_column("1000000"), BigInteger)

    def snapshot_engine(self) -> AsyncEngine:
        settings = {**_SETTINGS, "default_transaction_read_only": "on"}
        return _engine(self._url, 1, settings, statement_s=None, isolation_level="REPEATABLE READ")

    async def chain_once(self, limit: int) -> int:
        async def work(connection: AsyncConnection) -> int:
            # The driver's transaction begins with the first statement that SQLAlchemy sends.
            await connection.execute(select(1))
            return await postgres_chain.chain((await connection.get_raw_connection()).driver_connection, limit)

        return await self.write(work)

    def translate(self, error: Exception) -> StoreError:
        cause = (error.orig if isinstance(error, DBAPIError) else error) or error
        # The system says what failed, and not where.
        where = f" at {self._url.host or self._url.query.get('host')}" if isinstance(cause, OSError) else ""
        text = f"PostgreSQL{where} failed: {str(cause) or type(cause).__name__}"
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return ConnectionLost(text)
        sqlstate: str | None = getattr(cause, "sqlstate", None)
        if sqlstate is not None:
            return _by_sqlstate(sqlstate)(text)
        if isinstance(cause, UnicodeError):
            return Refused(text)
        # Without an error of the server's, the driver itself found its connection closed or out of step.
        by_driver = isinstance(error, DBAPIError | asyncpg.InterfaceError | asyncpg.InternalClientError)
        return ConnectionLost(text) if by_driver else StoreUnavailable(text)

    async def settled_ledger_id(self) -> int:
        """See `Horizon`."""
        async with self._looking:
            [[last_id]] = await self.rows(select(func.coalesce(func.max(ledger.c.id), 0)))
            # Apart, and after it: whoever took a smaller id and has not ended is among them.
            writing = await self.rows(_WRITING)
            return self._horizon.move(int(last_id), frozenset(row[0] for row in writing))

    def backup(self) -> AsyncIterator[bytes]:
        return dump(self._url)

    async def settle(self, batch: Sequence[Settlement]) -> Mapping[str, Charge]:
        async def once() -> Mapping[str, Charge]:
            try:
                return await self._settle_once(batch)
            except Refused:
                return await self._settle_once([storable(settlement) for settlement in batch])

        return await self._detached(self._settling, once)

    async def release(self) -> None:
        await self._drop_settler()
        await super().release()

    async def _settle_once(self, batch: Sequence[Settlement]) -> Mapping[str, Charge]:
        try:
            if self._settler is None:
                self._settler = await self._writers.connect()
            driver = (await self._settler.get_raw_connection()).driver_connection
            return await self._settle.run(driver, batch)
        except CommitFailed as error:
            await self._drop_settler()
            raise CommitUnknown(f"the connection was lost during COMMIT: {error}") from error
        except self.failures as error:
            await self._drop_settler()
            raise self.translate(error) from error

    async def _drop_settler(self) -> None:
        settler, self._settler = self._settler, None
        if settler is not None:
            await settler.invalidate()
            await settler.close()


def _by_sqlstate(sqlstate: str) -> type[StoreError]:
    """What an error of the server means (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""
    if sqlstate.startswith("40") or sqlstate in _RACES:
        return Conflict
    if sqlstate.startswith(("08", "57P")):
        return ConnectionLost
    if sqlstate.startswith(("22", "23", "42")):
        return Refused
    return StoreUnavailable
