"""Fixtures that several folders need."""

from __future__ import annotations

import asyncio
import gc
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.migrate import migrate
from tests.postgres import databases


def pytest_configure() -> None:
    """A suite that runs in the background ignores Ctrl-C, and so would the programs that its tests interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quick part keeps SQLite, the loop of production and, of whole routers, the SDK at a scripted
    one; `measured` tests are slow."""
    for item in items:
        folders = item.path.relative_to(Path(__file__).parent).parts
        real_model = "router" in item.fixturenames  # type: ignore[attr-defined]
        whole = folders[0] == "hostile" or (folders[0] == "e2e" and (folders[1] != "sdk" or real_model))
        if whole or item.get_closest_marker("measured") or re.search(r"postgresql|\[asyncio\b", item.name):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: it need not be looked through for garbage again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
async def complaints() -> AsyncIterator[list[dict[str, Any]]]:
    """What the event loop complains about, such as exceptions nobody retrieved; empty at the end."""
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    yield found
    gc.collect(1)
    assert found == []


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with the schema and nothing else, to be copied."""
    path = tmp_path_factory.mktemp("template") / "template.db"
    asyncio.run(migrate(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def migrated_postgres_url(postgres_url: Callable[[], str]) -> str:
    """A PostgreSQL database with the schema, shared by all tests."""
    url = postgres_url()
    asyncio.run(migrate(url))
    return url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[Callable[[], str]]:
    """A function that makes an empty database on a real PostgreSQL and returns its URL."""
    # Not below pytest's own folders, which the server would make readable for all.
    home = Path(tempfile.mkdtemp(prefix="worldrouter-postgres-"))
    try:
        with databases(home) as create:
            yield create
    finally:
        shutil.rmtree(home, ignore_errors=True)
