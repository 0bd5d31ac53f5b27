"""`worldrouter serve --workers N` on PostgreSQL: processes that share the HTTP port, one that keeps them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import make_url

pytestmark = pytest.mark.slow

LEASE_TTL_S = 6.0
TIMEOUT_S = 20.0
TOKENS = 40
ASK = {"model": "scripted", "messages": [{"role": "user", "content": "word"}]}
SLOW_STREAM = {**ASK, "stream": True, "script": {"token_count": TOKENS, "chunk_delay_ms": 50}}
UNBALANCED = """
    SELECT a.id FROM accounts a WHERE a.kind <> 'house' AND (a.available < 0 OR
      a.available
      + (SELECT coalesce(sum(granted - spent), 0) FROM leases l WHERE l.account_id = a.id AND state = 'active')
      + (SELECT coalesce(sum(amount), 0) FROM ledger WHERE debit_account = a.id)
      <> (SELECT coalesce(sum(amount), 0) FROM ledger WHERE credit_account = a.id))
"""
UNGRACIOUS = "import core.process.workers as workers; workers.GRACE_S = 0.5; from core.cli import main; main('serve')"


@dataclass
class Answer:
    """What a client got: which request it was, and whether it was whole."""

    request_id: str
    complete: bool


@pytest.fixture(scope="module")
def environment(postgres_url: Callable[[], str], session_launcher: Any) -> dict[str, str]:
    """A migrated database, and leases that do not live long."""
    found = {"WORLDROUTER_DATABASE_URL": postgres_url(), "WORLDROUTER_MONEY_LEASE_TTL_S": str(LEASE_TTL_S)}
    assert session_launcher.run("migrate", home=session_launcher.home(), environment=found).wait(TIMEOUT_S) == 0
    return found


@pytest.fixture(scope="module")
def workers(session_launcher: Any, scripted_config: str, environment: dict[str, str]) -> Iterator[Any]:
    """A router of three workers."""
    router = session_launcher.serve(scripted_config, "--workers", "3", environment=environment)
    router.key = router.account(usd=1000).key
    yield router
    router.stop()


def told(router: Any) -> Any:
    """What ready.json says now."""
    return json.loads((router.home / "ready.json").read_text())


def in_flight(worker: dict[str, Any]) -> float:
    """Requests that this worker runs."""
    with urllib.request.urlopen(f"{worker['admin']}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return sum(s.value for each in families for s in each.samples if s.name == "worldrouter_requests_in_flight")


def lives(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until(is_so: Callable[[], bool]) -> None:
    """Poll until it is so."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)


async def rows(environment: dict[str, str], sql: str) -> list[Any]:
    """What the database answers."""
    url = make_url(environment["WORLDROUTER_DATABASE_URL"])
    connection = await asyncpg.connect(user=url.username, database=url.database, host=str(url.query["host"]))
    try:
        return list(await connection.fetch(sql))
    finally:
        await connection.close()


async def ask(router: Any, body: dict[str, Any] = ASK) -> Answer:
    """One request over a connection of its own; not complete, whatever the connection met with."""
    try:
        return await _ask(router, body)
    except aiohttp.ClientError:
        return Answer("", complete=False)


async def _ask(router: Any, body: dict[str, Any]) -> Answer:
    headers = {"Authorization": f"Bearer {router.key}"}
    url, limit = f"{router.base_url}/chat/completions", aiohttp.ClientTimeout(TIMEOUT_S)
    async with (
        aiohttp.ClientSession(timeout=limit) as session,
        session.post(url, json=body, headers=headers) as answer,
    ):
        assert answer.status == 200, await answer.text()
        whole = await answer.text()
    complete = whole.endswith("data: [DONE]\n\n") if "stream" in body else whole.endswith("}")
    return Answer(answer.headers["x-request-id"], complete)


async def many(router: Any, count: int) -> list[Answer]:
    return await asyncio.gather(*(ask(router) for _ in range(count)))


async def streams_on_all(router: Any) -> list[asyncio.Task[Answer]]:
    """Slow streams, running, at least one on each worker."""
    running: list[asyncio.Task[Answer]] = []
    while not running or not all(in_flight(worker) for worker in told(router)["workers"]):
        running += [asyncio.create_task(ask(router, SLOW_STREAM)) for _ in range(8)]
        assert len(running) <= 64
        await asyncio.sleep(0.3)
    return running


async def test_all_workers_answer(workers: Any, environment: dict[str, str]) -> None:
    """Connections spread over the workers: each has a core of its own, a gRPC port and metrics."""
    found = told(workers)
    assert found["pid"] == workers.process.pid
    assert found["grpc"] == found["workers"][0]["grpc"]
    assert found["admin"] == [worker["admin"] for worker in found["workers"]]
    for name in ("pid", "grpc", "admin"):
        assert len({worker[name] for worker in found["workers"]}) == 3
    assert all(answer.complete for answer in await many(workers, 60))
    cores = await rows(environment, "SELECT core_id, count(*) FROM ledger WHERE core_id IS NOT NULL GROUP BY 1")
    assert len(cores) == 3
    assert sum(core["count"] for core in cores) == 60
    for worker in found["workers"]:
        assert workers.command("--grpc", worker["grpc"], "balance", "--account", workers.account().id)


async def test_a_killed_worker_comes_back(workers: Any, environment: dict[str, str]) -> None:
    """Its streams are cut, the others' are not; new requests are answered all the while; no money is lost or stuck."""
    before = told(workers)["workers"]
    streams = await streams_on_all(workers)
    os.kill(before[0]["pid"], signal.SIGKILL)
    await until(lambda: told(workers)["workers"] == before[1:])
    assert all(answer.complete for answer in await many(workers, 20))
    answers = await asyncio.gather(*streams)
    assert {answer.complete for answer in answers} == {True, False}
    await until(lambda: len(told(workers)["workers"]) == 3)
    after = told(workers)["workers"]
    assert after[0]["pid"] != before[0]["pid"]
    assert [worker | {"pid": 0} for worker in after] == [worker | {"pid": 0} for worker in before]
    assert after[1:] == before[1:]
    [[last]] = await rows(environment, "SELECT max(id) FROM ledger")
    deadline_s = time.monotonic() + TIMEOUT_S
    while len(await rows(environment, f"SELECT core_id FROM ledger WHERE id > {last} GROUP BY 1")) < 3:
        assert time.monotonic() < deadline_s
        await many(workers, 8)

    charged = {row["ref"]: row["amount"] for row in await rows(environment, "SELECT ref, amount FROM ledger")}
    assert all(charged.get(answer.request_id, 0) > 0 for answer in answers if answer.complete)
    assert await rows(environment, UNBALANCED) == []
    deadline_s = time.monotonic() + LEASE_TTL_S + TIMEOUT_S
    while await rows(environment, "SELECT 1 FROM leases WHERE state = 'active'"):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.1)
    assert await rows(environment, UNBALANCED) == []


async def test_sigterm_drains_all(launcher: Any, scripted_config: str, environment: dict[str, str]) -> None:
    """Running streams end whole on every worker and are charged, leases go back, then no process is left."""
    router = launcher.serve(scripted_config, "--workers", "2", environment=environment)
    router.key = router.account(usd=1000).key
    pids = [worker["pid"] for worker in told(router)["workers"]]
    streams = await streams_on_all(router)
    router.process.send_signal(signal.SIGTERM)
    answers = await asyncio.gather(*streams)
    assert all(answer.complete for answer in answers)
    assert await asyncio.to_thread(router.process.wait, TIMEOUT_S) == 0
    assert not any(lives(pid) for pid in pids)
    assert not (router.home / "ready.json").exists()
    charged = {row["ref"] for row in await rows(environment, "SELECT ref FROM ledger WHERE amount > 0")}
    assert {answer.request_id for answer in answers} <= charged
    cores = "core_id IN (SELECT core_id FROM ledger WHERE ref = '{}')"
    for answer in answers:
        held = f"SELECT 1 FROM leases WHERE state = 'active' AND {cores.format(answer.request_id)}"
        assert await rows(environment, held) == []


async def test_none_outlives_the_process_that_keeps_them(
    launcher: Any, scripted_config: str, environment: dict[str, str]
) -> None:
    """Kill -9 of it ends all workers; their gRPC ports had been counted up from the one that was asked for."""
    first = free_pair()
    router = launcher.serve(
        scripted_config, "--grpc-port", str(first), environment={**environment, "WORLDROUTER_CORE_WORKERS": "2"}
    )
    found = told(router)["workers"]
    assert [worker["grpc"] for worker in found] == [f"127.0.0.1:{first}", f"127.0.0.1:{first + 1}"]
    router.process.kill()
    await until(lambda: not any(lives(worker["pid"]) for worker in found))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(router.http.rsplit(":", 1)[1])))


def test_a_worker_that_does_not_end_is_killed(
    launcher: Any, environment: dict[str, str], scripted_config: str, tmp_path: Path
) -> None:
    """After a second SIGINT nobody waits for a worker that hangs."""
    home, config = launcher.home(), tmp_path / "worldrouter.toml"
    config.write_text(scripted_config)  # that of the others on this database, some of which count as live yet
    options = ["--workers", "2", "--http-port", "0", "--grpc-port", "0", "--home", str(home), "--config", str(config)]
    process = subprocess.Popen(
        [sys.executable, "-c", UNGRACIOUS, *options],
        env={**os.environ, **environment, "WORLDROUTER_EMBEDDED_ENABLED": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        asyncio.run(until((home / "ready.json").exists))
        pids = [worker["pid"] for worker in json.loads((home / "ready.json").read_text())["workers"]]
        os.kill(pids[0], signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        asyncio.run(until(lambda: not lives(pids[1])))
        assert lives(pids[0])
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0
        assert not lives(pids[0])
    finally:
        process.kill()
        process.wait()


def test_sqlite_has_one_worker(launcher: Any) -> None:
    """More are refused, by option and by setting, with the reason and what to do."""
    homes = [launcher.home(), launcher.home()]
    by_option = launcher.run("serve", "--workers", "2", home=homes[0])
    by_setting = launcher.run("serve", home=homes[1], environment={"WORLDROUTER_CORE_WORKERS": "2"})
    for home, process in zip(homes, (by_option, by_setting), strict=True):
        assert process.wait(TIMEOUT_S) == 1
        assert (home.parent / "serve.err").read_text() == (
            "worldrouter serve: core.workers: 2: a SQLite database belongs to one process, which is one worker; "
            "for more set database.url to a PostgreSQL database\n"
        )
        assert not (home / "worldrouter.db").exists()


@pytest.mark.parametrize("by", ["a stranger who shares it", "workers"])
def test_a_taken_http_port_is_refused(
    by: str, request: pytest.FixtureRequest, launcher: Any, environment: dict[str, str]
) -> None:
    """Workers share the port with one another, never with another program, nor with another router's workers."""
    with closing(socket.socket()) as stranger:
        if by == "workers":
            port = int(request.getfixturevalue("workers").http.rsplit(":", 1)[1])
        else:
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            stranger.bind(("127.0.0.1", 0))
            stranger.listen()
            port = stranger.getsockname()[1]
        home = launcher.home()
        options = ["--workers", "2", "--http-port", str(port), "--grpc-port", "0"]
        process = launcher.run("serve", *options, home=home, environment=environment)
        assert process.wait(TIMEOUT_S) == 1
        said = (home.parent / "serve.err").read_text().splitlines()
        assert said[-1] == f"worldrouter serve: cannot listen on 127.0.0.1 port {port}: Address already in use"


def test_an_outdated_schema_is_refused(launcher: Any, postgres_url: Callable[[], str]) -> None:
    """`serve` leaves a PostgreSQL database's schema alone and says which command brings it up."""
    home = launcher.home()
    environment = {"WORLDROUTER_DATABASE_URL": postgres_url()}
    options = ["--workers", "2", "--http-port", "0", "--grpc-port", "0"]
    assert launcher.run("serve", *options, home=home, environment=environment).wait(TIMEOUT_S) == 1
    said = (home.parent / "serve.err").read_text().splitlines()
    wanted = "run `worldrouter migrate` with the same configuration"
    assert said == [f"worldrouter serve: the database's schema is out of date: {wanted}"]


def free_pair() -> int:
    """A port that is free, and so is the next one."""
    while True:
        with closing(socket.socket()) as one, closing(socket.socket()) as other:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
