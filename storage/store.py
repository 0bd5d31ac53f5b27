"""The store: all of its parts over one database, and opening it."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Callable

from storage.accounts import SqlAccounts
from storage.auditing import SqlAudits
from storage.configurations import SqlConfigurations
from storage.database import Database
from storage.idempotency import SqlIdempotency
from storage.interfaces import Store
from storage.keys import SqlKeys
from storage.leases import SqlLeases
from storage.ledger import SqlLedger
from storage.limits import SqlLimits
from storage.migrate import refuse_outdated
from storage.payments import SqlPayments
from storage.postgres import PostgresDatabase
from storage.purging import SqlPurging
from storage.purses import SqlPurses
from storage.rates import SqlRates
from storage.refunds import SqlRefunds
from storage.sqlite import SqliteDatabase
from storage.url import SQLITE, parse
from storage.usage import SqlUsage


def wall_clock_us() -> int:
    """The time of this process, in microseconds since the Unix epoch."""
    return time.time_ns() // 1000


class SqlStore(
    SqlAccounts,
    SqlKeys,
    SqlLimits,
    SqlLedger,
    SqlConfigurations,
    SqlRefunds,
    SqlPayments,
    SqlUsage,
    SqlLeases,
    SqlRates,
    SqlPurses,
    SqlAudits,
    SqlIdempotency,
    SqlPurging,
):
    """`Store` over SQLite or PostgreSQL."""

    def backup(self) -> AsyncIterator[bytes]:
        """The whole database as of one moment, in pieces of a file that `storage.restore` restores. Who settles does
        not wait for it. BackupFailed."""
        return self._db.backup()

    async def close(self) -> None:
        """Wait for what runs, then release connections and locks. Idempotent."""
        await self._db.close()


async def open_store(
    url: str,
    *,
    now_us: Callable[[], int] = wall_clock_us,
    jitter: Callable[[], float] = random.random,
) -> Store:
    """Open the database at `url`: `sqlite+aiosqlite:///PATH` or `postgresql+asyncpg://USER@HOST/DATABASE`.

    `now_us` is the clock that leases on SQLite expire by (PostgreSQL has its own), `jitter` a source of 0..1
    that spreads retries. InvalidUrl; StoreUnavailable when the database cannot be reached or another process
    has the SQLite file; SchemaOutdated when `migrate` has to run first.
    """
    parsed = parse(url)
    database: Database
    if parsed.drivername == SQLITE:
        database = SqliteDatabase(parsed, now_us=now_us, jitter=jitter)
    else:
        database = PostgresDatabase(parsed, jitter=jitter)
    try:
        await database.read(lambda connection: connection.run_sync(refuse_outdated))
    except BaseException:
        await database.close()
        raise
    return SqlStore(database)
