"""kill -9 of routers under live streams, again and again; then the books. `scripts/prove-kills`."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import make_url
from worldrouter.v1.limit_pb2 import (
    LIMIT_MEASURE_CONCURRENCY,
    LIMIT_MEASURE_SPEND,
    LIMIT_PERIOD_LIFETIME,
    LIMIT_PERIOD_NOW,
    SetLimitRequest,
)

from tests.e2e.conftest import Launcher, Router
from tests.kills.crowd import Crowd
from tests.postgres import databases

ROOT = Path(__file__).parents[2]
INPUT_USD, OUTPUT_USD = 1, 2
"""Per million tokens."""
ACCOUNTS = 3
READY_TIMEOUT_S = 60.0
CONFIG = """
[money]
chunk_nano_usd = 2_000_000  # small, so that leases change all the time
lease_ttl_s = {ttl_s}

[providers.slow]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"

[[models]]
id = "m"
max_output_tokens = 4000
price = {{ input = {input}_000_000, output = {output}_000_000 }}
endpoints = [{{ provider = "slow", model = "m" }}]
"""


@dataclass
class Plan:
    """How many kills, under how many streams, and how long leases live."""

    kills: int
    streams: int
    ttl_s: float
    after_s: float
    """Seconds after the last kill in which everything must have come back."""


@dataclass
class Scene:
    """The upstream, the logs, and how many streams ran at each kill."""

    folder: Path
    launcher: Launcher
    port: int
    plan: Plan
    live: list[int] = field(default_factory=list)

    @property
    def config(self) -> str:
        return CONFIG.format(ttl_s=self.plan.ttl_s, port=self.port, input=INPUT_USD, output=OUTPUT_USD)

    @property
    def client_log(self) -> Path:
        return self.folder / "client.jsonl"

    @property
    def upstream_log(self) -> Path:
        return self.folder / "upstream.jsonl"

    async def until_live(self, crowd: Crowd, share: float) -> int:
        """Wait until so many of the streams run, and a moment later still do; how many do."""
        deadline_s = time.monotonic() + READY_TIMEOUT_S
        while True:
            await asyncio.sleep(random.uniform(0.1, 1.0))  # time to notice what was killed before
            if crowd.live >= share * self.plan.streams:
                return crowd.live
            if time.monotonic() > deadline_s:
                raise AssertionError(f"{crowd.live} streams run: {crowd.outcomes}")

    def check(self, database: str) -> dict[str, Any]:
        """What the independent checker finds."""
        command = [sys.executable, "-P", str(ROOT / "tests" / "kills" / "checker.py"), "--database", database]
        command += ["--client", str(self.client_log), "--upstream", str(self.upstream_log)]
        command += ["--input-usd", str(INPUT_USD), "--output-usd", str(OUTPUT_USD)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode not in (0, 1):
            raise AssertionError(done.stderr)
        return {"kills": len(self.live), "fewest_live": min(self.live, default=0), **json.loads(done.stdout)}


@contextmanager
def scene(folder: Path, plan: Plan) -> Iterator[Scene]:
    """A stage for kills; everything started on it ends with it."""
    folder.mkdir(parents=True, exist_ok=True)
    launcher = Launcher(folder)
    command = [sys.executable, "-P", "-m", "tests.kills.upstream", str(folder / "upstream.jsonl")]
    upstream = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
    try:
        assert upstream.stdout is not None
        port = int(upstream.stdout.readline())
        yield Scene(folder, launcher, port, plan)
    finally:
        launcher.close()
        upstream.kill()
        upstream.wait()
        assert upstream.stdout is not None
        upstream.stdout.close()


def accounts_of(router: Router, streams: int) -> list[str]:
    """Keys of new accounts with money, a budget, and slots for all streams."""
    keys = []
    for _ in range(ACCOUNTS):
        account = router.account(usd=100)
        keys.append(account.key)
        spend = {"measure": LIMIT_MEASURE_SPEND, "period": LIMIT_PERIOD_LIFETIME, "maximum": 90 * 10**9}
        slots = {"measure": LIMIT_MEASURE_CONCURRENCY, "period": LIMIT_PERIOD_NOW, "maximum": streams}
        for limit in (spend, slots):
            router.operator.limits.SetLimit(SetLimitRequest(owner_id=account.id, **limit))
    return keys


async def kill_serve(on: Scene) -> dict[str, Any]:
    """SQLite: everything in one process, killed, started again on the same file."""
    home = on.launcher.home()
    router = await asyncio.to_thread(on.launcher.serve, on.config, home=home)
    keys = await asyncio.to_thread(accounts_of, router, 2 * on.plan.streams)
    urls = [router.http]
    with on.client_log.open("a", buffering=1) as log:
        crowd = Crowd(on.plan.streams, log, lambda: urls, keys)
        for _ in range(on.plan.kills):
            on.live.append(await on.until_live(crowd, 0.9))
            router.process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(router.process.wait)
            router = await asyncio.to_thread(on.launcher.serve, on.config, home=home)
            urls[:] = [router.http]
        await on.until_live(crowd, 0.9)
        await crowd.stop()
    await asyncio.sleep(on.plan.after_s)
    return await asyncio.to_thread(on.check, f"sqlite:///{home / 'worldrouter.db'}")


@dataclass
class Part:
    """A core or an edge that is started again at the same address."""

    start: Callable[[], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes]

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(self.process.wait)
        self.process = self.start()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def kill_apart(on: Scene, database_url: str, *, cores: int = 3, edges: int = 2) -> dict[str, Any]:
    """PostgreSQL: cores and edges apart, one of them killed at a time."""
    environment = {"WORLDROUTER_DATABASE_URL": database_url}
    router = await asyncio.to_thread(on.launcher.apart, on.config, environment=environment)
    keys = await asyncio.to_thread(accounts_of, router, 2 * on.plan.streams)
    await asyncio.to_thread(router.stop)  # it made the schema, the accounts and the keys
    home, options = router.home, ["--config", str(router.home.parent / "worldrouter.toml")]
    core_ports, edge_ports = [free_port() for _ in range(cores)], [free_port() for _ in range(edges)]
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in core_ports)

    def part(command: str, *arguments: str) -> Part:
        def start() -> subprocess.Popen[bytes]:
            return on.launcher.run(command, *arguments, *options, home=home, environment=environment)

        return Part(start, start())

    parts = [part("core", "--grpc-port", str(port)) for port in core_ports]
    parts += [part("edge", "--http-port", str(port), "--core", target) for port in edge_ports]
    urls = [f"http://127.0.0.1:{port}" for port in edge_ports]
    with on.client_log.open("a", buffering=1) as log:
        crowd = Crowd(on.plan.streams, log, lambda: urls, keys)
        order = [number % len(parts) for number in range(on.plan.kills)]
        random.shuffle(order)
        for number in order:
            on.live.append(await on.until_live(crowd, 0.7))
            await parts[number].kill()
        await on.until_live(crowd, 0.9)
        await crowd.stop()
    await asyncio.sleep(on.plan.after_s)
    plain = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    return await asyncio.to_thread(on.check, plain)


async def prove(folder: Path, sqlite_kills: int, postgres_kills: int, streams: int) -> bool:
    """The whole proof, as the figures go; whether nothing was wrong."""
    fine = True
    for name, kills in (("SQLite", sqlite_kills), ("PostgreSQL", postgres_kills)):
        if not kills:
            continue
        began_s = time.monotonic()
        with scene(folder / name, Plan(kills, streams, ttl_s=30.0, after_s=35.0)) as on:
            if name == "SQLite":
                found = await kill_serve(on)
            else:
                with databases(folder) as new_database:
                    found = await kill_apart(on, new_database())
        found["seconds"] = round(time.monotonic() - began_s)
        sys.stdout.write(f"{name}: {json.dumps(found, indent=1)}\n")
        sys.stdout.flush()
        fine = fine and not found["wrong"]
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/prove-kills", description=__doc__)
    parser.add_argument("--sqlite", type=int, default=100, help="kills of a core on SQLite")
    parser.add_argument("--postgres", type=int, default=60, help="kills among three cores and two edges on PostgreSQL")
    parser.add_argument("--streams", type=int, default=200, help="live streams at each kill")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="worldrouter-kills-"))
    try:
        fine = asyncio.run(prove(folder, given.sqlite, given.postgres, given.streams))
    except BaseException:
        sys.stderr.write(f"logs are in {folder}\n")
        raise
    if fine:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        sys.stderr.write(f"logs are in {folder}\n")
    return int(not fine)


if __name__ == "__main__":
    sys.exit(main())
