"""Whole routers for end-to-end tests: real processes, started as an operator would start them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from worldrouter.client import Client
from worldrouter.v1.account_pb2 import CreateAccountRequest
from worldrouter.v1.auth_pb2 import CreateApiKeyRequest
from worldrouter.v1.metering_pb2 import CreateTopUpRequest

from core.home import Home
from storage.migrate import migrate

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
SETTLE_TIMEOUT_S = 10.0
COMMAND = str(Path(sys.executable).with_name("worldrouter"))
NANO_USD_PER_USD = 10**9

PLAIN_RPCS = """
[edge]
relay = false
"""
SCRIPTED = """
[core]
credits_url = "https://router.example/credits"
support_contact = "support@router.example"

[timeouts]
first_token_s = 0.4  # of a stream; whole answers may take five times as long
between_chunks_s = 0.5

[providers.script]
kind = "scripted"

[[models]]
id = "scripted"
max_output_tokens = 4000
price = { input = 1_000_000, output = 2_000_000, cache_read = 500_000 }
endpoints = [{ provider = "script", model = "upstream-name" }]

[[models]]
id = "free"
max_output_tokens = 4000
price = { input = 0, output = 0 }
endpoints = [{ provider = "script", model = "upstream-name" }]

[[models]]
id = "hidden"
public = false
max_output_tokens = 4000
price = { input = 1_000_000, output = 2_000_000 }
endpoints = [{ provider = "script", model = "upstream-name" }]

[[models]]
id = "dear"
max_output_tokens = 4000
price = { input = 0, output = 1_000_000_000 }  # 4 USD for the longest answer
endpoints = [{ provider = "script", model = "upstream-name" }]

[[models]]
id = "unstreamed"
streaming = false
max_output_tokens = 4000
price = { input = 1_000_000, output = 2_000_000 }
endpoints = [{ provider = "script", model = "upstream-name" }]
"""


@dataclass(frozen=True)
class Account:
    """An account with one key."""

    id: str
    key_id: str
    key: str


@dataclass
class Router:
    """A running router: `worldrouter serve`, or a core and an edge (the processes are in this order)."""

    home: Path
    processes: list[subprocess.Popen[bytes]]
    http: str
    grpc: str
    admin: list[str]
    upstreams: dict[str, str] = field(default_factory=dict)
    key: str = ""

    @property
    def base_url(self) -> str:
        """What an SDK is given."""
        return f"{self.http}/v1"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The one with the core in it."""
        return self.processes[0]

    @property
    def operator_token(self) -> str:
        return (self.home / "operator.token").read_text().strip()

    @cached_property
    def operator(self) -> Client:
        """A gRPC client that may do everything."""
        return Client(self.grpc, self.operator_token, plaintext=True)

    def command(self, *arguments: str) -> Any:
        """Run a command of the command line with --json and return what it printed."""
        done = subprocess.run(
            [COMMAND, "--home", str(self.home), *arguments, "--json"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def account(self, usd: int = 0) -> Account:
        """A new account with a key, and this much credit (10 USD at least, or none)."""
        made = self.operator.accounts.CreateAccount(CreateAccountRequest(display_name="of a test"))
        if usd:
            nano_usd = usd * NANO_USD_PER_USD
            self.operator.metering.CreateTopUp(
                CreateTopUpRequest(account_id=made.id, amount_nano_usd=nano_usd, idempotency_key=uuid4().hex)
            )
        key = self.operator.auth.CreateApiKey(CreateApiKeyRequest(account_id=made.id, display_name="of a test"))
        return Account(made.id, key.id, key.secret)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of this name with these labels, over all processes; KeyError without any."""
        found = [each.value for each in self.samples() if each.name == name and labels.items() <= each.labels.items()]
        if not found:
            raise KeyError(name)
        return sum(found)

    def samples(self) -> list[Sample]:
        """What /metrics says, of every process."""
        found = []
        for admin in self.admin:
            with urllib.request.urlopen(f"{admin}/metrics", timeout=10) as answer:
                for family in text_string_to_metric_families(answer.read().decode()):
                    found += family.samples
        return found

    def settle(self) -> None:
        """Wait until nothing runs and everything is in the ledger."""
        idle = ("worldrouter_requests_in_flight", "worldrouter_ledger_queue_rows", "worldrouter_edge_in_flight")
        deadline_s = time.monotonic() + SETTLE_TIMEOUT_S
        while any(self.metric(name) for name in idle):
            assert time.monotonic() < deadline_s, "requests are still running"
            time.sleep(0.02)

    def log(self) -> list[dict[str, Any]]:
        """The lines on standard error, of every process; what is no JSON as {"text": …}."""
        lines = [line for each in self.home.parent.glob("*.err") for line in each.read_text().splitlines() if line]
        return [json.loads(line) if line.startswith("{") else {"text": line} for line in lines]

    def complaints(self) -> list[dict[str, Any]]:
        """What it logged that is worse than a notice, or no log line at all; the access log has no level."""
        return [line for line in self.log() if "text" in line or line.get("level", "info") != "info"]

    def descriptors(self) -> int:
        """Open file descriptors of all processes, but for the database's: its pool opens one when reads coincide."""
        found = 0
        for process in self.processes:
            for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
                with suppress(FileNotFoundError):  # closed meanwhile
                    found += ".db" not in os.readlink(descriptor)
        return found

    def stop(self, how: signal.Signals = signal.SIGINT) -> list[int]:
        """End it, the edge first, and return the exit statuses."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(how)
            try:
                process.wait(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=STOP_TIMEOUT_S)
        if "operator" in self.__dict__:
            self.__dict__.pop("operator").close()
        return [process.returncode for process in self.processes]


class Tail:
    """What is written to a log file from now on; an earlier process may have written to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start = path.stat().st_size if path.exists() else 0

    def text(self) -> str:
        return self._path.read_text()[self._start :] if self._path.exists() else ""


class Launcher:
    """Starts routers in state folders of their own, and ends those that still run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[Router] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._count = 0

    def home(self) -> Path:
        """The path of a new state folder."""
        self._count += 1
        return self._folder / str(self._count) / "home"

    def serve(
        self, config: str = "", *arguments: str, home: Path | None = None, environment: Mapping[str, str] | None = None
    ) -> Router:
        """`worldrouter serve` on free ports, ready."""
        home = home or self.home()
        options = ["--http-port", "0", "--grpc-port", "0", *_config(home, config), *arguments]
        process = self.run("serve", *options, home=home, environment=environment)
        wait_for(lambda: _ready(home).get("pid") == process.pid, process, home)
        told = _ready(home)
        router = Router(home, [process], told["http"], told["grpc"], told["admin"], told["upstreams"])
        self._started.append(router)
        return router

    def apart(self, config: str, *, home: Path | None = None, environment: Mapping[str, str] | None = None) -> Router:
        """`worldrouter core` and `worldrouter edge` on free ports, after what `worldrouter migrate` does."""
        home = home or self.home()
        options = _config(home, config)
        Home(home).create()
        sqlite = f"sqlite+aiosqlite:///{Home(home).database}"
        url = (environment or {}).get("WORLDROUTER_DATABASE_URL", sqlite)
        with ThreadPoolExecutor(1) as aside:  # whoever asks may have a loop of its own
            aside.submit(lambda: asyncio.run(migrate(url))).result()
        said = Tail(home.parent / "core.err")
        core = self.run("core", "--grpc-port", "0", *options, home=home, environment=environment)
        wait_for(lambda: "serving gRPC on" in said.text(), core, home)
        grpc_address, core_admin = re.findall(r"serving gRPC on (\S+), metrics on (http://[\w.:]+)", said.text())[0]
        said = Tail(home.parent / "edge.err")
        edge = self.run("edge", "--http-port", "0", "--core", f"dns:///{grpc_address}", *options, home=home)
        wait_for(lambda: '"url":' in said.text(), edge, home)
        told = json.loads(next(line for line in said.text().splitlines() if '"url":' in line))
        router = Router(home, [core, edge], told["url"], grpc_address, [core_admin, told["admin"]])
        self._started.append(router)
        wait_for(lambda: _answers(f"{router.http}/readyz"), edge, home)
        if PLAIN_RPCS not in config:
            wait_for(lambda: "over one stream" in said.text(), edge, home)
        return router

    def run(
        self, command: str, *arguments: str, home: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """A command of `worldrouter`; it writes to COMMAND.out and COMMAND.err beside the state folder."""
        home.parent.mkdir(exist_ok=True, parents=True)
        with (home.parent / f"{command}.out").open("wb") as out, (home.parent / f"{command}.err").open("ab") as err:
            process = subprocess.Popen(
                [COMMAND, command, *arguments],
                env={**os.environ, "WORLDROUTER_HOME": str(home), **(environment or {})},
                stdout=out,
                stderr=err,
            )
        self._processes.append(process)
        return process

    def close(self) -> None:
        for router in self._started:
            router.stop()
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=STOP_TIMEOUT_S)


def wait_for(is_so: Callable[[], bool], process: subprocess.Popen[bytes], home: Path) -> None:
    """Poll until it is so, while the process lives; shows what it said otherwise."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while not is_so():
        if process.poll() is not None or time.monotonic() > deadline_s:
            said = "\n".join(each.read_text() for each in sorted(home.parent.glob("*.err")))
            pytest.fail(f"the router did not start:\n{said}")
        time.sleep(0.05)


def _ready(home: Path) -> dict[str, Any]:
    """What ready.json says, nothing while there is none."""
    try:
        return dict(json.loads((home / "ready.json").read_text()))
    except FileNotFoundError:
        return {}


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def _config(home: Path, config: str) -> list[str]:
    if not config:
        return []
    file = home.parent / "worldrouter.toml"
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text(config)
    return ["--config", str(file)]


async def nearly_at_once(is_so: Callable[[], bool]) -> None:
    """Poll for two seconds: what closes does so in the kernel's own time."""
    for _ in range(20):
        if is_so():
            return
        await asyncio.sleep(0.1)
    assert is_so()


@pytest.fixture(scope="session", autouse=True)
def _no_proxies() -> Iterator[None]:
    """Clients take proxies from the environment; nothing here leaves the machine."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        yield


@pytest.fixture(scope="session")
def session_launcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    launcher = Launcher(tmp_path_factory.mktemp("routers"))
    yield launcher
    launcher.close()


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    """For routers of one test."""
    launcher = Launcher(tmp_path)
    yield launcher
    launcher.close()


@pytest.fixture(scope="session")
def scripted_config() -> str:
    """Models that answer from scripts which the requests carry."""
    return SCRIPTED


@pytest.fixture(scope="session")
def router(session_launcher: Launcher) -> Router:
    """The embedded default: a real model."""
    router = session_launcher.serve()
    router.key = router.command("keys", "create", "embedded")["secret"]
    router.command("topup", "--account", "default", "--usd", "1000")
    return router


@pytest.fixture(scope="session")
def scripted_router(session_launcher: Launcher) -> Router:
    """A router whose models answer from scripts that the requests carry."""
    router = session_launcher.serve(SCRIPTED)
    router.key = router.account(usd=1000).key
    return router


@pytest.fixture(scope="session")
def scripted_apart(session_launcher: Launcher) -> Router:
    """The same as a core and an edge of their own."""
    router = session_launcher.apart(SCRIPTED)
    router.key = router.account(usd=1000).key
    return router
