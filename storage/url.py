"""Where a database is: the two kinds of URL that are understood."""

from __future__ import annotations

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from storage.errors import InvalidUrl

SQLITE = "sqlite+aiosqlite"
POSTGRES = "postgresql+asyncpg"

_WANTED = f"wanted {SQLITE}:///PATH or {POSTGRES}://USER:PASSWORD@HOST:PORT/DATABASE"
_POSTGRES_OPTIONS = frozenset({"host", "port", "ssl"})


def parse(url: str) -> URL:
    """The URL in its parts, checked as far as that is possible without connecting; else InvalidUrl."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        # The text may hold a password: it is not repeated.
        raise InvalidUrl(f"not a database URL: {_WANTED}") from error
    if parsed.drivername == SQLITE:
        return _checked_sqlite(parsed)
    if parsed.drivername == POSTGRES:
        return _checked_postgres(parsed)
    raise InvalidUrl(f"no support for {parsed.drivername!r}: {_WANTED}")


def _checked_sqlite(url: URL) -> URL:
    if url.host or url.username or url.query:
        raise InvalidUrl(f"a SQLite URL has a path and nothing else: {_WANTED}")
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise InvalidUrl(f"a SQLite URL names a file: {_WANTED}")
    return url


def _checked_postgres(url: URL) -> URL:
    if not url.database:
        raise InvalidUrl(f"a PostgreSQL URL names a database: {_WANTED}")
    unknown = sorted(set(url.query) - _POSTGRES_OPTIONS)
    if unknown:
        known = ", ".join(sorted(_POSTGRES_OPTIONS))
        raise InvalidUrl(f"unknown option {unknown[0]!r} in a PostgreSQL URL; known: {known}")
    return url
