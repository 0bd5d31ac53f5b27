"""Where transactions run: detached from their callers, bounded in number, their failures sorted.

A caller may be cancelled at any await. Cancelling a task inside SQLAlchemy's connection handling leaks the
connection (sqlalchemy issues 8145 and 12077), and a cancelled COMMIT may still commit; so every transaction
is a task of its own that runs to its end, and the caller merely waits for it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from sqlalchemy import ColumnElement, Row, Select, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from storage.errors import CommitUnknown, StoreError, StoreUnavailable
from storage.records import Charge, Settlement

T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]
AnyRow = Row[*tuple[Any, ...]]
AnySelect = Select[*tuple[Any, ...]]
Insert = sqlite.Insert | postgresql.Insert

CONFLICT_PAUSES_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Waits before a transaction that lost against another one is run again; then it counts as unavailable."""


class Refused(StoreError):
    """The database refused a value or a constraint: a bug of the caller's, no trouble with the database."""


class ConnectionLost(StoreUnavailable):
    """The connection broke before COMMIT was sent: nothing was changed."""


class Conflict(StoreUnavailable):
    """The transaction lost against another one (deadlock, serialization): nothing was changed."""


class Database(ABC):
    """One database: its two pools, and what SQL or locking is its own."""

    single_core: ClassVar[bool]
    """True when only one core at a time can use the database: earlier cores are surely dead."""

    failures: ClassVar[tuple[type[Exception], ...]]
    """What its driver, and SQLAlchemy over it, raise when something fails."""

    def __init__(
        self,
        writers: AsyncEngine,
        readers: AsyncEngine,
        *,
        writer_count: int,
        reader_count: int,
        jitter: Callable[[], float],
    ) -> None:
        """`writer_count` and `reader_count` are the sizes of the pools, `jitter` a source of 0..1."""
        self._writers = writers
        self._readers = readers
        self._writing = asyncio.Semaphore(writer_count)
        self._reading = asyncio.Semaphore(reader_count)
        # Lists get half of the readers, so that no caller's lists keep the keys' poll or a balance waiting.
        self._listing = asyncio.Semaphore(max(reader_count // 2, 1))
        self._auditing = asyncio.Semaphore(1)
        self._copying = asyncio.Semaphore(1)
        self._jitter = jitter
        self._running: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Task[None] | None = None

    @abstractmethod
    def insert(self, table: Table) -> Insert:
        """An INSERT that knows ON CONFLICT."""

    @abstractmethod
    def now_us(self) -> ColumnElement[int]:
        """The present, in microseconds since the epoch, as an SQL expression: the clock that leases expire by."""

    @abstractmethod
    def translate(self, error: Exception) -> StoreError:
        """What one of `failures` means, when it came before COMMIT."""

    @abstractmethod
    async def settle(self, batch: Sequence[Settlement]) -> Mapping[str, Charge]:
        """Commit a batch in one transaction. Rows that no database can keep are made to fit rather than fail the
        others for ever. Returns what `LedgerStore.settle` does. One call at a time."""

    @abstractmethod
    def snapshot_engine(self) -> AsyncEngine:
        """The engine of a connection that only reads, whose transaction sees one moment and may take long."""

    @abstractmethod
    async def chain_once(self, limit: int) -> int:
        """Chain the next entries of the ledger, `limit` at most, in one transaction; how many."""

    @abstractmethod
    async def settled_ledger_id(self) -> int:
        """An id of the ledger up to which no entry will show up that is not there now; 0 when there is none."""

    @abstractmethod
    def backup(self) -> AsyncIterator[bytes]:
        """The database as of one moment, in pieces of a file. BackupFailed."""

    async def release(self) -> None:
        """Close the pools, when nothing runs any more. Readers go first: the last connection is the writer's."""
        await self._readers.dispose()
        await self._writers.dispose()

    async def read(self, work: Work[T]) -> T:
        """Run `work`, one SELECT, on a connection that cannot write."""

        async def once() -> T:
            try:
                async with self._readers.connect() as connection:
                    return await work(connection)
            except self.failures as error:
                raise self.translate(error) from error

        return await self._detached(self._reading, once)

    async def rows(self, statement: AnySelect) -> Sequence[AnyRow]:
        """The rows of one SELECT."""

        async def work(connection: AsyncConnection) -> Sequence[AnyRow]:
            return (await connection.execute(statement)).all()

        return await self.read(work)

    async def listed(self, statement: AnySelect) -> Sequence[AnyRow]:
        """The rows of a SELECT that may be long."""
        async with self._listing:
            return await self.rows(statement)

    async def snapshot(self, work: Work[T]) -> T:
        """Run `work`, SELECTs that see one moment and may take long, on a connection of its own; one at a time."""

        async def once() -> T:
            engine = self.snapshot_engine()
            try:
                async with engine.connect() as connection, connection.begin():
                    return await work(connection)
            except self.failures as error:
                raise self.translate(error) from error
            finally:
                await engine.dispose()

        return await self._detached(self._auditing, once)

    async def write(self, work: Work[T]) -> T:
        """Run `work` in one transaction and commit it. `work` may run again when nothing was changed."""
        return await self._detached(self._writing, lambda: self.transaction(work))

    async def transaction(self, work: Work[T]) -> T:
        """One transaction, for callers inside a detached task."""
        try:
            async with self._writers.connect() as connection:
                try:
                    await connection.begin()
                    result = await work(connection)
                except TimeoutError:
                    # A connection that does not answer would not answer ROLLBACK either.
                    await connection.invalidate()
                    raise
                await self._commit(connection)
                return result
        except self.failures as error:
            raise self.translate(error) from error

    async def close(self) -> None:
        """Wait for what runs, then release everything. Idempotent."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        while self._running:
            await asyncio.wait(self._running)
        await self.release()

    async def _commit(self, connection: AsyncConnection) -> None:
        try:
            await connection.commit()
        except self.failures as error:
            meaning = self.translate(error)
            if isinstance(meaning, Conflict):
                raise meaning from error
            await connection.invalidate()
            raise CommitUnknown(f"what came of a COMMIT is not known: {meaning}") from error

    async def _detached(self, gate: asyncio.Semaphore, once: Callable[[], Awaitable[T]]) -> T:
        """Run `once` behind `gate` in a task that its caller's cancellation does not reach."""
        await self._enter(gate)
        task = asyncio.create_task(self._attempts(once))
        self._running.add(task)

        def ended(task: asyncio.Task[T]) -> None:
            self._running.discard(task)
            gate.release()
            if not task.cancelled():
                task.exception()  # whoever waited may be gone, and then nobody else looks at it

        task.add_done_callback(ended)
        return await asyncio.shield(task)

    async def _enter(self, gate: asyncio.Semaphore) -> None:
        """Wait for `gate`, which whoever enters releases. StoreUnavailable, not entered, once the store is closed."""
        await gate.acquire()
        if self._closing is not None:
            gate.release()
            raise StoreUnavailable("the store is closed")

    async def _attempts(self, once: Callable[[], Awaitable[T]]) -> T:
        """Repeat what surely changed nothing: after a conflict with growing pauses, on a fresh connection once."""
        pauses = iter(CONFLICT_PAUSES_S)
        reconnected = False
        while True:
            try:
                return await once()
            except ConnectionLost:
                if reconnected:
                    raise
                reconnected = True
            except Conflict:
                pause_s = next(pauses, None)
                if pause_s is None:
                    raise
                await asyncio.sleep(pause_s * (0.5 + self._jitter()))


class OverDatabase:
    """Base of the store's parts: they share one database."""

    def __init__(self, database: Database) -> None:
        self._db = database
