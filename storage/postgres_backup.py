"""PostgreSQL databases dumped and restored, by PostgreSQL's own programs."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path
from typing import IO, Final

from sqlalchemy import URL, Connection, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.errors import BackupFailed, BadBackup, NotEmpty
from storage.sqlite_backup import refuse_unknown
from storage.tables import accounts, metadata

MAGIC: Final = b"PGDMP"
"""First bytes of a dump in pg_dump's own format."""
PIECE_BYTES: Final = 256 * 1024
LAST_LINES: Final = 3
"""Of what a program that failed has to say."""
_PLAIN: Final = ("--no-owner", "--no-privileges")
_OTHERS: Final = text("""
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'worldrouter' AND pid <> pg_backend_pid()
""")


async def dump(url: URL) -> AsyncIterator[bytes]:
    """A dump of one moment, in pieces. BackupFailed when pg_dump is missing or fails. Cores go on meanwhile."""
    with tempfile.TemporaryFile() as errors:
        process = await _start(url, "pg_dump", ["--format=custom", *_PLAIN], errors)
        try:
            assert process.stdout is not None, "it is a pipe"
            while piece := await process.stdout.read(PIECE_BYTES):
                yield piece
            if await process.wait():
                raise BackupFailed(f"pg_dump failed: {_last_words(errors)}")
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()  # at once


async def check(backup: Path, url: URL, known_revisions: Collection[str]) -> None:
    """BadBackup when a dump cannot be read to its end, or is of no revision known; BackupFailed when pg_restore is
    missing."""
    await _run(url, [f"--file={os.devnull}", str(backup)], BadBackup)
    schema = await _run(url, ["--data-only", "--table=alembic_version", "--file=-", str(backup)], BadBackup)
    refuse_unknown(backup, re.findall(r"^(\d{4})$", schema, flags=re.MULTILINE), known_revisions)


async def make_room(connection: AsyncConnection, *, replace: bool) -> None:
    """Drop our tables. NotEmpty when somebody used them, unless `replace`; BackupFailed when a core is connected."""
    if (await connection.execute(_OTHERS)).scalar_one():
        raise BackupFailed("a core is connected to this database: stop it first")
    await connection.run_sync(_drop, replace=replace)


async def fill(backup: Path, url: URL) -> None:
    """Restore a dump, whole or not at all, where there is room for it. BackupFailed."""
    await _run(url, ["--single-transaction", "--exit-on-error", *_PLAIN, f"--dbname={url.database}", str(backup)])


def _drop(connection: Connection, *, replace: bool) -> None:
    there = connection.execute(select(func.to_regclass("accounts"))).scalar_one() is not None
    if there and not replace:
        used = connection.execute(select(accounts.c.id).where(accounts.c.kind != "house").limit(1)).first()
        if used is not None:
            raise NotEmpty("the database is not empty")
    metadata.drop_all(connection)
    connection.execute(text("DROP TABLE IF EXISTS alembic_version"))
    connection.execute(text("DROP FUNCTION IF EXISTS ledger_refuse"))


async def _run(url: URL, arguments: Sequence[str], failed: type[BackupFailed | BadBackup] = BackupFailed) -> str:
    """What pg_restore prints. `failed` when it fails."""
    with tempfile.TemporaryFile() as errors:
        process = await _start(url, "pg_restore", arguments, errors)
        printed, _ = await process.communicate()
        if process.returncode:
            raise failed(f"pg_restore failed: {_last_words(errors)}")
        return printed.decode("utf-8", "replace")


async def _start(url: URL, name: str, arguments: Sequence[str], errors: IO[bytes]) -> Process:
    program = shutil.which(name)
    if program is None:
        raise BackupFailed(
            f"{name} is not on the PATH here: install PostgreSQL's client programs, of the server's version or newer"
        )
    return await asyncio.create_subprocess_exec(
        program, *arguments, stdin=DEVNULL, stdout=PIPE, stderr=errors, env={**os.environ, **_environment(url)}
    )


def _environment(url: URL) -> dict[str, str]:
    """How PostgreSQL's programs are told where the database is: not by arguments, which others can read."""
    parts = {
        "PGHOST": url.host or url.query.get("host"),
        "PGPORT": url.port,
        "PGUSER": url.username,
        "PGPASSWORD": url.password,
        "PGDATABASE": url.database,
        "PGSSLMODE": url.query.get("ssl"),
    }
    return {name: str(value) for name, value in parts.items() if value}


def _last_words(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode("utf-8", "replace").strip().splitlines()
    return "; ".join(lines[-LAST_LINES:]) or "it did not say why"
