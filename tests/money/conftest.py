"""Databases for the state machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from storage.migrate import migrate
from tests.money.loop import SteppedLoop


@pytest.fixture
def stepped_loop() -> Iterator[SteppedLoop]:
    """A loop without waiting."""
    loop = SteppedLoop()
    yield loop
    loop.close()


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with the schema and nothing else, to be copied."""
    path = tmp_path_factory.mktemp("template") / "template.db"
    asyncio.run(migrate(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def migrated_postgres_url(postgres_url: Callable[[], str]) -> str:
    """A PostgreSQL database with the schema."""
    url = postgres_url()
    asyncio.run(migrate(url))
    return url
