"""Fixtures that several folders need."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.postgres import databases


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quick part keeps SQLite, the loop of production and, of whole routers, the SDK; `measured` tests are slow."""
    for item in items:
        folders = item.path.relative_to(Path(__file__).parent).parts
        whole = folders[0] == "hostile" or (folders[0] == "e2e" and folders[1] != "sdk")
        if whole or item.get_closest_marker("measured") or re.search(r"postgresql|\[asyncio\b", item.name):
            item.add_marker(pytest.mark.slow)


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
