"""A database that is away for ten seconds under load: shed quickly, nobody charged for an error, back quickly."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
from sqlalchemy import URL, make_url

from tests.kills.crowd import Crowd
from tests.kills.run import Plan, accounts_of, scene

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

PLAN = Plan(kills=0, streams=40, ttl_s=30.0, after_s=3.0)
AWAY_S = 10.0
WITHIN_S = 5.0
SLACK_S = 1.5
"""For a loaded machine."""
NET = """
    SELECT coalesce(sum(CASE kind WHEN 'usage' THEN amount ELSE -amount END), 0) FROM ledger
    WHERE ref IN ('{0}', 'refund-{0}')
"""


async def probe(url: str, key: str) -> tuple[int, float]:
    """Status of a new request, and the seconds until it was told."""
    id_ = uuid4().hex
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "user": id_, "stream": True}
    began_s = time.monotonic()
    async with (
        aiohttp.ClientSession(headers={"authorization": f"Bearer {key}", "x-request-id": id_}) as session,
        session.post(f"{url}/v1/chat/completions", json=body) as answer,
    ):
        return answer.status, time.monotonic() - began_s


async def shed_and_back(
    crowd: Crowd, url: str, keys: list[str], stop: Callable[[], Any], go_on: Callable[[], Any]
) -> None:
    """Stop the database under the crowd, see new requests refused in time, and served again in time."""
    await stop()
    stopped_s = time.monotonic()
    await asyncio.sleep(WITHIN_S + SLACK_S)
    while time.monotonic() - stopped_s < AWAY_S:
        told = await asyncio.gather(*(probe(url, key) for key in keys))
        assert {status for status, _ in told} == {503}
        assert max(took_s for _, took_s in told) < WITHIN_S
    await go_on()
    back_s = time.monotonic()
    while (await probe(url, keys[0]))[0] != 200:
        assert time.monotonic() - back_s < WITHIN_S + SLACK_S
        await asyncio.sleep(0.1)
    await asyncio.sleep(WITHIN_S)
    assert crowd.live > PLAN.streams // 2


def failed(log: Path) -> list[str]:
    """Request ids of streams that ended with an error."""
    seen = [json.loads(line) for line in log.read_text().splitlines()]
    return [each["request_id"] for each in seen if each["outcome"] == "error"]


@asynccontextmanager
async def gone(server: asyncpg.Connection, url: URL) -> AsyncIterator[tuple[Any, Any]]:
    """The server refuses and ends all connections to the database."""
    name = url.database

    async def stop() -> None:
        await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        await server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)

    async def go_on() -> None:
        await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")

    yield stop, go_on


def parent_of(pid: int) -> int:
    stat = Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


@asynccontextmanager
async def hung(server: asyncpg.Connection, url: URL) -> AsyncIterator[tuple[Any, Any]]:
    """The server does not move: it answers nothing, and takes connections without a word."""
    found = await server.fetch("SELECT pid FROM pg_stat_activity WHERE datname = $1", url.database)
    pids = [row["pid"] for row in found]
    pids.append(parent_of(pids[0]))  # who makes new ones

    async def stop() -> None:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)

    async def go_on() -> None:
        for pid in pids:
            with suppress(ProcessLookupError):  # its connection was given up
                os.kill(pid, signal.SIGCONT)

    try:
        yield stop, go_on
    finally:
        await go_on()


@contextmanager
def small_disk(like: str) -> Iterator[Path]:
    """A disk of 8 MB with the owner of another folder; the test is skipped where none may be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="worldrouter-disk-"))
    try:
        options = f"size=8m,mode=0700,uid={os.stat(like).st_uid}"
        try:
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a small disk cannot be mounted, which takes root: {error}")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)
    finally:
        folder.rmdir()


def fill(file: Path) -> None:
    """Until the disk is full."""
    with file.open("wb", buffering=0) as opened, suppress(OSError):
        while True:
            opened.write(bytes(65536))


@asynccontextmanager
async def full(server: asyncpg.Connection, url: URL) -> AsyncIterator[tuple[Any, Any]]:
    """There is no space left on the disk of the ledger."""
    database = await asyncpg.connect(url.render_as_string(hide_password=False))
    with small_disk(await server.fetchval("SHOW data_directory")) as disk:
        filler = disk / "filler"

        async def stop() -> None:
            fill(filler)
            with pytest.raises(asyncpg.DiskFullError):
                await database.execute("CREATE TABLE one_more TABLESPACE small AS SELECT 1")

        async def go_on() -> None:
            filler.unlink()

        await database.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
        await database.execute("ALTER TABLE ledger SET TABLESPACE small")
        try:
            yield stop, go_on
        finally:
            await database.execute("ALTER TABLE ledger SET TABLESPACE pg_default")
            await database.execute("DROP TABLESPACE small")
            await database.close()


@pytest.mark.parametrize("how", [gone, hung, full], ids=["gone", "hung", "disk full"])
async def test_postgresql_is_away_for_ten_seconds(tmp_path: Path, postgres_url: Callable[[], str], how: Any) -> None:
    """Streams that end meanwhile end with an error and are not charged."""
    url = make_url(postgres_url()).set(drivername="postgresql")
    plain = url.render_as_string(hide_password=False)
    server = await asyncpg.connect(url.set(database="postgres").render_as_string(hide_password=False))
    with scene(tmp_path, PLAN) as on:
        environment = {"WORLDROUTER_DATABASE_URL": plain.replace("postgresql://", "postgresql+asyncpg://", 1)}
        router = await asyncio.to_thread(on.launcher.apart, on.config, environment=environment)
        keys = await asyncio.to_thread(accounts_of, router, 2 * PLAN.streams)
        urls = [router.http]
        with on.client_log.open("a", buffering=1) as log:
            crowd = Crowd(PLAN.streams, log, lambda: urls, keys)
            await on.until_live(crowd, 0.9)
            async with how(server, url) as (stop, go_on):
                await shed_and_back(crowd, router.http, keys, stop, go_on)
            await crowd.stop()
        await asyncio.sleep(PLAN.after_s)
        found = await asyncio.to_thread(on.check, plain)
        assert found["wrong"] == []
        database = await asyncpg.connect(plain)
        nets = [await database.fetchval(NET.format(each)) for each in failed(on.client_log)]
        assert nets
        assert set(nets) == {0}
        await database.close()
    await server.close()


async def test_the_disk_is_full_for_ten_seconds(tmp_path: Path) -> None:
    """SQLite cannot grow; the same holds."""
    with scene(tmp_path, PLAN) as on:
        # The limit of a file's size is the kernel's: like a full disk it fails the write, and is lifted at once.
        router = await asyncio.to_thread(on.launcher.serve, on.config)
        keys = await asyncio.to_thread(accounts_of, router, 2 * PLAN.streams)
        urls, pid, database = [router.http], router.process.pid, router.home / "worldrouter.db"
        unlimited = resource.prlimit(pid, resource.RLIMIT_FSIZE)

        async def stop() -> None:
            size = max(path.stat().st_size for path in (database, database.with_name(f"{database.name}-wal")))
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size // 2, unlimited[1]))

        async def go_on() -> None:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)

        with on.client_log.open("a", buffering=1) as log:
            crowd = Crowd(PLAN.streams, log, lambda: urls, keys)
            await on.until_live(crowd, 0.9)
            await shed_and_back(crowd, router.http, keys, stop, go_on)
            await crowd.stop()
        await asyncio.sleep(PLAN.after_s)
        found = await asyncio.to_thread(on.check, f"sqlite:///{database}")
        assert found["wrong"] == []
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as books:
            nets = [books.execute(NET.format(each)).fetchone()[0] for each in failed(on.client_log)]
        assert nets
        assert set(nets) == {0}
