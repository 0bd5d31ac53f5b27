"""Fixtures that several folders need."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.postgres import databases


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
