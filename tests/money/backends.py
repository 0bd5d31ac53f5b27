"""What the state machine runs on: a store in memory, SQLite, PostgreSQL; all in the time of one stepped loop."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from pathlib import Path
from typing import Any, Protocol

import asyncpg
from sqlalchemy import make_url

from storage.store import open_store
from tests.money import books
from tests.money.books import Books
from tests.money.loop import SteppedLoop
from tests.money.memory import MemoryStore

EMPTY = """
    SET session_replication_role = replica;  -- no triggers, no foreign keys
    DELETE FROM ledger; DELETE FROM leases; DELETE FROM purses; DELETE FROM limits; DELETE FROM cores;
    DELETE FROM accounts WHERE kind <> 'house';
    DELETE FROM idempotency;
"""


class Backend(Protocol):
    """A database in the loop's time. `core_count` cores can use it at once; `skew_s` is how far its clock is wrong."""

    loop: SteppedLoop
    core_count: int
    skew_s: float

    async def fresh(self) -> Any:
        """The store, emptied."""
        ...

    async def books(self) -> Books:
        """What is committed."""
        ...

    async def lend(self, account_id: str, amount: int) -> None:
        """Give an account a credit limit."""
        ...

    async def age(self, by_s: float) -> None:
        """Time has passed: called when the loop's clock has moved."""
        ...

    async def close(self) -> None: ...


class Memory:
    """A store in memory, and three cores."""

    def __init__(self, loop: SteppedLoop) -> None:
        self.loop = loop
        self.core_count = 3
        self.skew_s = 0.0
        self._store = MemoryStore(self._now_us)

    def _now_us(self) -> int:
        return int((self.loop.now_s + self.skew_s) * 1_000_000)

    async def fresh(self) -> MemoryStore:
        self.skew_s = 0.0
        self._store = MemoryStore(self._now_us)
        return self._store

    async def books(self) -> Books:
        return Books.of_memory(self._store)

    async def lend(self, account_id: str, amount: int) -> None:
        self._store.accounts_[account_id].credit_limit = amount

    async def age(self, by_s: float) -> None:
        pass

    async def close(self) -> None:
        pass


class Sqlite:
    """A file, copied from a migrated one, and one core at a time."""

    def __init__(self, loop: SteppedLoop, template: Path, folder: Path) -> None:
        self.loop = loop
        self.core_count = 1
        self.skew_s = 0.0
        self._template = template
        self._file = folder / "machine.db"
        self._store: Any = None
        self._reader: sqlite3.Connection | None = None

    async def fresh(self) -> Any:
        await self.close()
        for left in self._file.parent.glob("machine.db*"):
            left.unlink()
        shutil.copy(self._template, self._file)
        self.skew_s = 0.0
        with self.loop.outside():
            self._store = await open_store(f"sqlite+aiosqlite:///{self._file}", now_us=self._now_us)
        self._reader = sqlite3.connect(f"file:{self._file}?mode=ro", uri=True)
        return self._store

    def _now_us(self) -> int:
        return int((self.loop.now_s + self.skew_s) * 1_000_000)

    async def books(self) -> Books:
        assert self._reader is not None
        read = self._reader.execute
        return Books.of(read(books.ACCOUNTS), read(books.LEASES), read(books.LEDGER), read(books.PURSES))

    async def lend(self, account_id: str, amount: int) -> None:
        with sqlite3.connect(self._file) as connection:
            connection.execute("UPDATE accounts SET credit_limit = ? WHERE id = ?", (amount, account_id))
        connection.close()

    async def age(self, by_s: float) -> None:
        pass

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            with self.loop.outside():
                await self._store.close()
            self._reader = None


class Postgres:
    """A migrated database, and three cores. Its clock cannot be moved: what it has written down is.

    The cores reach it by the Unix socket in the folder `through`, if one is given.
    """

    def __init__(self, loop: SteppedLoop, url: str, *, through: Path | None = None) -> None:
        self.loop = loop
        self.core_count = 3
        self.skew_s = 0.0
        self._url = url
        self._through = through
        self._store: Any = None
        self._connection: Any = None
        self._reading = asyncio.Lock()

    async def fresh(self) -> Any:
        with self.loop.outside():
            if self._store is None:
                url = make_url(self._url)
                near = url if self._through is None else url.update_query_dict({"host": str(self._through)})
                self._store = await open_store(near.render_as_string(hide_password=False))
                self._connection = await asyncpg.connect(
                    user=url.username, database=url.database, host=str(url.query["host"])
                )
            await self._connection.execute(EMPTY)
        return self._store

    async def books(self) -> Books:
        with self.loop.outside():
            async with self._reading, self._connection.transaction(isolation="repeatable_read"):
                read = self._connection.fetch
                queries = (books.ACCOUNTS, books.LEASES, books.LEDGER, books.PURSES)
                return Books.of(*[await read(query) for query in queries])

    async def lend(self, account_id: str, amount: int) -> None:
        with self.loop.outside():
            await self._connection.execute("UPDATE accounts SET credit_limit = $2 WHERE id = $1", account_id, amount)

    async def age(self, by_s: float) -> None:
        by_us = int(by_s * 1_000_000)
        with self.loop.outside():
            async with self._reading:
                await self._connection.execute("UPDATE leases SET expires_us = expires_us - $1::bigint", by_us)
                await self._connection.execute("UPDATE cores SET heartbeat_us = heartbeat_us - $1::bigint", by_us)

    async def close(self) -> None:
        if self._store is not None:
            with self.loop.outside():
                await self._store.close()
                await self._connection.close()
