"""A real SQLite store with faults on demand, clocks moved by hand, and the check that no money is lost."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from storage.interfaces import CommitUnknown, Store, StoreUnavailable
from storage.migrate import migrate
from storage.store import open_store

NOT_CONSERVED = """
    SELECT a.id, a.available, a.credit_limit FROM accounts a WHERE a.kind <> 'house' AND (
      a.available + a.credit_limit < 0 OR a.available
      + (SELECT coalesce(sum(granted - spent), 0) FROM leases l WHERE l.account_id = a.id AND l.state = 'active')
      + (SELECT coalesce(sum(amount), 0) FROM ledger WHERE debit_account = a.id)
      <> (SELECT coalesce(sum(amount), 0) FROM ledger WHERE credit_account = a.id))
"""


class FakeClock:
    """Seconds, moved by hand."""

    def __init__(self, now_s: float = 1_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class FaultyStore:
    """A store whose next calls of a method fail as its list of `faults` says; `calls` counts them by method.

    "refused": unavailable, nothing happened. "lost": it happened, but the answer got lost. "lost before": neither.
    "hang" waits for `resume` first, "hang after" at last, "hang, then refused" in vain. "bug": no error of a store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.faults: dict[str, list[str]] = {}
        self.calls: Counter[str] = Counter()
        self.batches: list[list[Any]] = []
        self.resume = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            if name == "settle":
                self.batches.append(list(args[0]))
            pending = self.faults.get(name)
            fault = pending.pop(0) if pending else "ok"
            if fault in ("hang", "hang, then refused"):
                await self.resume.wait()
            if fault in ("refused", "hang, then refused"):
                raise StoreUnavailable("no answer")
            if fault == "lost before":
                raise CommitUnknown("no answer")
            if fault == "bug":
                raise RuntimeError("a bug")
            result = await method(*args, **kwargs)
            if fault == "hang after":
                await self.resume.wait()
            if fault == "lost":
                raise CommitUnknown("no answer")
            return result

        return call


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with the schema and nothing else, to be copied."""
    path = tmp_path_factory.mktemp("core") / "template.db"
    asyncio.run(migrate(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture
def database(tmp_path: Path, migrated_database: Path) -> Path:
    """A SQLite database of the test's own."""
    return Path(shutil.copy(migrated_database, tmp_path / "core.db"))


@pytest.fixture
async def store(database: Path) -> AsyncIterator[FaultyStore]:
    """A store on `database`; its faults are at the test's command."""
    opened = await open_store(f"sqlite+aiosqlite:///{database}")
    yield FaultyStore(opened)
    await opened.close()


@pytest.fixture
def rows(database: Path) -> Callable[[str], list[tuple[Any, ...]]]:
    """A function that reads the database past the store."""

    def read(sql: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    return read


@pytest.fixture
def conserved(rows: Callable[[str], list[tuple[Any, ...]]]) -> Callable[[], None]:
    """A function that checks the equation of every account, and that no lease has spent more than it was granted."""

    def check() -> None:
        assert rows(NOT_CONSERVED) == []
        assert rows("SELECT id FROM leases WHERE spent > granted OR spent < 0") == []

    return check
