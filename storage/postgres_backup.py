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
from typing import IO, Any, Final

from sqlalchemy import URL, Connection, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.errors import BackupFailed, BadBackup, NotEmpty
from storage.postgres_settle import DRIVER_FAILURES
from storage.sqlite_backup import refuse_unknown
from storage.tables import accounts, metadata

MAGIC: Final = b"PGDMP"
"""First bytes of a dump in pg_dump's own format."""
PIECE_BYTES: Final = 256 * 1024
LAST_LINES: Final = 3
"""Of what a program that failed has to say."""
_PLAIN: Final = ("--no-owner", "--no-privileges")
_COPY: Final = re.compile(rb'COPY "?(\w+)"?\."?(\w+)"? \((.+)\) FROM stdin;\n')
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
            await _end(process)


async def check(backup: Path, url: URL, known_revisions: Collection[str]) -> None:
    """BadBackup when a dump is of no revision known, or cannot be read; BackupFailed when pg_restore is missing."""
    with tempfile.TemporaryFile() as errors:
        rows = ["--data-only", "--table=alembic_version", "--file=-", str(backup)]
        process = await _start(url, "pg_restore", rows, errors)
        printed, _ = await process.communicate()
        if process.returncode:
            raise BadBackup(f"pg_restore failed: {_last_words(errors)}")
    refuse_unknown(backup, re.findall(r"^(\d{4})$", printed.decode(), flags=re.MULTILINE), known_revisions)


async def make_room(connection: AsyncConnection, *, replace: bool) -> None:
    """Drop our tables in the transaction that is open. NotEmpty when somebody used them, unless `replace`; BackupFailed
    when a core is connected."""
    if (await connection.execute(_OTHERS)).scalar_one():
        raise BackupFailed("a core is connected to this database: stop it first")
    await connection.run_sync(_drop, replace=replace)


async def fill(connection: AsyncConnection, backup: Path, url: URL) -> None:
    """Restore a dump in the transaction that is open, where there is room for it. BadBackup when it cannot be read to
    its end; BackupFailed when the database does not take it."""
    driver = (await connection.get_raw_connection()).driver_connection
    with tempfile.TemporaryFile() as errors:
        process = await _start(url, "pg_restore", [*_PLAIN, "--file=-", str(backup)], errors)
        assert process.stdout is not None, "it is a pipe"
        refused: Exception | None = None
        try:
            try:
                await _Script(process.stdout).run(driver)
            except (*DRIVER_FAILURES, UnicodeError) as error:
                refused = error
            # Who reads to the end of half a script is refused for that.
            if process.stdout.at_eof() and await process.wait():
                raise BadBackup(f"pg_restore failed: {_last_words(errors)}")
            if refused is not None:
                raise BackupFailed(f"the database does not take the backup: {refused}")
        finally:
            await _end(process)


class _Script:
    """What pg_restore prints: SQL, and in it the rows of tables, each table's behind a COPY and before a line of "\\."
    (https://www.postgresql.org/docs/current/sql-copy.html)."""

    def __init__(self, printed: asyncio.StreamReader) -> None:
        self._printed = printed
        # Begins where a line does.
        self._ahead = b""

    async def run(self, driver: Any) -> None:
        """Execute all of it on a connection of the driver's, whose settings are its own again afterwards."""
        sql = ""
        while line := await self._line():
            copied = _COPY.fullmatch(line)
            if copied is None:
                # What begins so is for psql, to guard it against dumps of others.
                sql += "" if line.startswith(b"\\") else line.decode()
                continue
            await driver.execute(sql + "SELECT")  # asyncpg fails at comments alone
            sql = ""
            schema, table, columns = copied.group(1, 2, 3)
            names = columns.decode().replace('"', "").split(", ")
            await driver.copy_to_table(
                table.decode(), schema_name=schema.decode(), columns=names, source=self._rows(), timeout=None
            )
        await driver.execute(sql + "RESET ALL")

    async def _line(self) -> bytes:
        """The next line; empty when there is none."""
        while b"\n" not in self._ahead and await self._more():
            pass
        line, newline, self._ahead = self._ahead.partition(b"\n")
        return line + newline

    async def _rows(self) -> AsyncIterator[bytes]:
        """The rows of a table, many at a time."""
        while True:
            end = (b"\n" + self._ahead).find(b"\n\\.\n")
            cut = end if end >= 0 else self._ahead.rfind(b"\n") + 1
            rows, self._ahead = self._ahead[:cut], self._ahead[cut:]
            if rows:
                yield rows
            if end >= 0 or not await self._more():
                self._ahead = self._ahead.removeprefix(b"\\.\n")
                return

    async def _more(self) -> bool:
        piece = await self._printed.read(PIECE_BYTES)
        self._ahead += piece
        return bool(piece)


def _drop(connection: Connection, *, replace: bool) -> None:
    there = connection.execute(select(func.to_regclass("accounts"))).scalar_one() is not None
    if there and not replace:
        used = connection.execute(select(accounts.c.id).where(accounts.c.kind != "house").limit(1)).first()
        if used is not None:
            raise NotEmpty("the database is not empty")
    metadata.drop_all(connection)
    connection.execute(text("DROP TABLE IF EXISTS alembic_version"))
    connection.execute(text("DROP FUNCTION IF EXISTS ledger_refuse"))


async def _start(url: URL, name: str, arguments: Sequence[str], errors: IO[bytes]) -> Process:
    program = shutil.which(name)
    if program is None:
        raise BackupFailed(
            f"{name} is not on the PATH here: install PostgreSQL's client programs, of the server's version or newer"
        )
    return await asyncio.create_subprocess_exec(
        program, *arguments, stdin=DEVNULL, stdout=PIPE, stderr=errors, env={**os.environ, **_environment(url)}
    )


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()  # at once


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
