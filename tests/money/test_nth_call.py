"""The n-th call of the database fails, for every n: before or after it had its effect, once or from then on. And
nobody is told of the n-th commit, for every n, because the database is away from then on.

Always the same day at a router, with real stores: whatever fails, no answer is complete without its row, nothing is
charged twice, and when the trouble is over everything is settled, given back and adds up.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from tests.money.backends import Backend, Postgres, Sqlite
from tests.money.loop import SteppedLoop
from tests.money.world import ACCOUNTS, World

NEVER = sys.maxsize
LONG_S = 7.0
"""Longer than an answer waits for its charge."""


class Trouble:
    """Counts what is sent to the database, and says what becomes of it."""

    def __init__(self) -> None:
        self.sent = 0
        self.mode = ""
        self.at = NEVER
        self.left_open = False

    def begin(self, mode: str, at: int) -> None:
        """From now on count, and let the one with this number fail; "commit untold" counts commits alone."""
        self.mode, self.at, self.sent = mode, at, 0

    def next(self, *, commits: bool) -> str:
        """The fate of the next one: "", "before" or "after"."""
        untold = self.mode == "commit untold"
        if untold and not commits and self.sent < self.at:
            return ""
        self.sent += 1
        if self.sent == self.at:
            return "after" if untold else self.mode.removesuffix(" for good")
        return "before" if self.sent > self.at and (untold or self.mode.endswith("for good")) else ""


async def day(world: World) -> None:
    """Two customers, one of them under limits, long and short requests, a payment, renewals, idle money, a restart:
    calls of every kind."""
    core = world.cores[0]
    core.line.trouble_s = float("inf")  # the line knows nothing of what happens behind it
    for amount in (10, 20, 30):
        world.admit(core, ACCOUNTS[0], amount)
    world.admit(core, ACCOUNTS[1], 500)
    await world.calm(0)
    for request, how in zip(list(world.requests), ("complete", "client_gone"), strict=False):
        world.finish(request, 15, how)
    world.top_up(core, ACCOUNTS[1], "pay_1", 1_000, "key_1")
    await world.pass_time(0.4)
    world.admit(core, ACCOUNTS[1], 500)
    world.maintain(core)
    await world.pass_time(LONG_S / 2)
    world.give_back_idle(core)
    world.sweep(core)
    await world.calm(0)
    await world.check()
    for request in world.requests[2:4]:
        world.finish(request, 40, "complete")
    await world.pass_time(LONG_S / 2)
    world.maintain(core)
    world.give_back_idle(core)
    await world.pass_time(LONG_S)
    world.sweep(core)
    world.admit(core, ACCOUNTS[0], 5)
    await world.calm(0)
    await world.check()


async def lived(backend: Backend, trouble: Trouble, mode: str, at: int) -> int:
    """A day with this trouble, and its end without; how many calls it had."""
    world = World(backend, await backend.fresh(), chunk=25)
    backend.core_count, cores = 1, backend.core_count
    try:
        await world.begin(200, 0)
        await world.give_limits(ACCOUNTS[1], 2_000, 5)
        trouble.begin(mode, at)
        await day(world)
        sent = trouble.sent
        trouble.begin("", NEVER)
        for core in world.cores:
            core.line.trouble_s = world.loop.now_s
        await world.end()
    finally:
        trouble.begin("", NEVER)
        backend.core_count = cores
        await world.close()
    assert not trouble.left_open
    return sent


def every_call(backend: Backend, trouble: Trouble, step: int) -> None:
    """Every `step`-th call of the day fails, in each mode, and the outcome of every commit is untold."""
    run = backend.loop.run_until_complete
    modes = {"before": step, "after": step, "before for good": step, "commit untold": 1}
    try:
        for mode, each in modes.items():
            count = run(lived(backend, trouble, mode, NEVER))
            assert count > 10
            for at in range(1, count + 1, each):
                try:
                    run(lived(backend, trouble, mode, at))
                except BaseException as error:
                    error.add_note(f"call {at} of {count} failed, {mode}")
                    raise
    finally:
        run(backend.close())


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """What fails is logged."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# SQLite: every statement, and every COMMIT


class FailingCursor(sqlite3.Cursor):
    """A cursor whose statements meet trouble."""

    def execute(self, *args: Any) -> Any:
        return self._meet(super().execute, *args)

    def executemany(self, *args: Any) -> Any:
        return self._meet(super().executemany, *args)

    def _meet(self, work: Any, *args: Any) -> Any:
        connection: Any = self.connection
        return connection.meet(work, *args)


def failing(trouble: Trouble) -> type[sqlite3.Connection]:
    """The connection class of a disk with trouble."""

    class Failing(sqlite3.Connection):
        def cursor(self, *_args: Any) -> Any:  # type: ignore[override]
            return super().cursor(FailingCursor)

        # These two do not go by way of `cursor`: settlements run through them.
        def execute(self, *args: Any) -> Any:
            return self.meet(super().execute, *args)

        def executemany(self, *args: Any) -> Any:
            return self.meet(super().executemany, *args)

        def commit(self) -> None:
            self.meet(super().commit)

        def meet(self, work: Any, *args: Any) -> Any:
            began = str(*args[:1]).startswith("BEGIN")
            trouble.left_open = trouble.left_open or (began and self.in_transaction)
            fate = trouble.next(commits="COMMIT" in args or work.__name__ == "commit")
            if fate == "before":
                raise sqlite3.OperationalError("disk I/O error")
            result = work(*args)
            if fate == "after":
                raise sqlite3.OperationalError("disk I/O error")
            return result

    return Failing


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.long)])
def test_every_call_of_sqlite(
    stepped_loop: SteppedLoop, migrated_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Statements and commits."""
    trouble, connect = Trouble(), sqlite3.connect

    def with_trouble(database: Any, **options: Any) -> sqlite3.Connection:
        if "mode=ro" not in str(database):  # the test's own
            options["factory"] = failing(trouble)
        return connect(database, **options)

    monkeypatch.setattr(sqlite3, "connect", with_trouble)
    every_call(Sqlite(stepped_loop, migrated_file, tmp_path), trouble, step)


# PostgreSQL: every message to the server


class Wire:
    """A line to the server that hangs up."""

    def __init__(self, far: Path, trouble: Trouble) -> None:
        self._far, self._trouble = far, trouble

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(str(self._far))
        answering = asyncio.create_task(self._answers(far_reader, writer))
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                fate = self._trouble.next(commits=data.startswith(b"Q") and b"COMMIT" in data)
                if fate == "after":
                    answering.cancel()
                    await asyncio.wait([answering])
                    far_writer.write(data)
                    await far_reader.read(65536)
                if fate:
                    break
                far_writer.write(data)
        answering.cancel()
        far_writer.close()
        writer.close()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
            writer.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("step", [11, pytest.param(1, marks=pytest.mark.long)])
def test_every_message_to_postgresql(stepped_loop: SteppedLoop, migrated_postgres_url: str, step: int) -> None:
    """The server hangs up instead of hearing it, or instead of answering it."""
    trouble, near = Trouble(), Path(tempfile.mkdtemp(prefix="worldrouter-wire-"))
    url = make_url(migrated_postgres_url)
    wire = Wire(Path(str(url.query["host"])) / ".s.PGSQL.5432", trouble)
    server = stepped_loop.run_until_complete(asyncio.start_unix_server(wire.serve, str(near / ".s.PGSQL.5432")))
    try:
        every_call(Postgres(stepped_loop, migrated_postgres_url, through=near), trouble, step)
    finally:
        server.close()
        shutil.rmtree(near)
