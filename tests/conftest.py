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
    """The quick part keeps SQLite and the loop of production; `measured` tests are slow too."""
    for item in items:
        if item.get_closest_marker("measured") or re.search(r"postgresql|\[asyncio\b", item.name):
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
