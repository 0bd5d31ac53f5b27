"""Bringing a database to the schema of this program, and refusing one that is not there."""

from __future__ import annotations

from functools import cache
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from storage import postgres, sqlite
from storage.errors import SchemaOutdated, StoreUnavailable
from storage.tables import metadata
from storage.url import SQLITE, parse


async def migrate(url: str) -> None:
    """Bring the database at `url` to the newest schema, in one transaction; nothing when it is there.

    InvalidUrl; StoreUnavailable when the database cannot be reached or a process has the SQLite file;
    SchemaOutdated when the schema is newer than this program.
    """
    parsed = parse(url)
    exclusive = sqlite.exclusive if parsed.drivername == SQLITE else postgres.exclusive
    try:
        async with exclusive(parsed) as connection:
            await connection.run_sync(upgrade)
    except (SQLAlchemyError, OSError) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        host = parsed.host or parsed.query.get("host")
        place = f"{parsed.database} at {host}" if host else parsed.database
        raise StoreUnavailable(f"cannot migrate {place}: {cause}") from error


def refuse_outdated(connection: Connection) -> None:
    """Raise SchemaOutdated unless the schema is this program's."""
    if _pending(connection):
        raise SchemaOutdated(
            "the database's schema is out of date: run `worldrouter migrate` with the same configuration"
        )


def known_revisions() -> frozenset[str]:
    """The schemas that this program knows: its own and those before it."""
    return frozenset(step.revision for step in _script().walk_revisions())


def _pending(connection: Connection) -> bool:
    """Whether steps are missing; SchemaOutdated when the database has steps that this program does not know."""
    present = set(MigrationContext.configure(connection).get_current_heads())
    if present - known_revisions():
        raise SchemaOutdated("the database's schema is newer than this program: use a newer one")
    return present != set(_script().get_heads())


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Take the steps that are missing up to a revision, in the transaction that is open. SchemaOutdated."""
    if not _pending(connection):
        return
    script = _script()

    def steps(present: Any, _context: MigrationContext) -> Any:
        return script._upgrade_revs(revision, present)

    # What Alembic's own env.py would do; such a file runs when it is imported, which nothing of ours does.
    with EnvironmentContext(Config(), script, fn=steps) as environment:
        environment.configure(connection=connection, target_metadata=metadata)
        environment.run_migrations()


@cache
def _script() -> ScriptDirectory:
    """The steps: files of the program, read once."""
    config = Config()
    config.set_main_option("script_location", "storage:migrations")
    return ScriptDirectory.from_config(config)
