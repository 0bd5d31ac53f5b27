"""Whole routers for end-to-end tests: real processes, started as an operator would start them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

START_TIMEOUT_S = 60.0
COMMAND = str(Path(sys.executable).with_name("worldrouter"))

SCRIPTED = """
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
id = "unstreamed"
streaming = false
max_output_tokens = 4000
price = { input = 1_000_000, output = 2_000_000 }
endpoints = [{ provider = "script", model = "upstream-name" }]
"""


@dataclass
class Router:
    """A running `worldrouter serve`."""

    home: Path
    process: subprocess.Popen[str]
    http: str
    grpc: str
    upstreams: dict[str, str]
    admin: str
    key: str = ""

    @property
    def operator_token(self) -> str:
        return (self.home / "operator.token").read_text().strip()

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

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(how)
        self.process.wait(timeout=30)


def start_router(home: Path, *arguments: str, environment: dict[str, str] | None = None) -> Router:
    """Start `worldrouter serve` on free ports and wait until it is ready."""
    output = (home.parent / f"{home.name}.out").open("w+")
    process = subprocess.Popen(
        [COMMAND, "serve", "--http-port", "0", "--grpc-port", "0", *arguments],
        env={**os.environ, "WORLDROUTER_HOME": str(home), **(environment or {})},
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
    )
    ready = home / "ready.json"
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (ready.exists() and json.loads(ready.read_text())["pid"] == process.pid):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            output.seek(0)
            pytest.fail(f"the router did not start:\n{output.read()}")
        time.sleep(0.05)
    output.close()
    told = json.loads(ready.read_text())
    return Router(home, process, told["http"], told["grpc"], told["upstreams"], told["admin"][0])


def _running(router: Router, name: str) -> Iterator[Router]:
    router.key = router.command("keys", "create", name)["secret"]
    router.command("topup", "--account", "default", "--usd", "1000")
    yield router
    if router.process.poll() is None:
        router.process.send_signal(signal.SIGINT)
        try:
            router.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            router.process.kill()
            router.process.wait(timeout=15)


@pytest.fixture(scope="session")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """The embedded default: a real model."""
    yield from _running(start_router(tmp_path_factory.mktemp("embedded") / "home"), "embedded")


@pytest.fixture(scope="session")
def scripted_router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """A router whose models answer from scripts that the requests carry."""
    folder = tmp_path_factory.mktemp("scripted")
    (folder / "worldrouter.toml").write_text(SCRIPTED)
    config = str(folder / "worldrouter.toml")
    yield from _running(start_router(folder / "home", "--config", config), "scripted")
