"""What is measured: the upstream itself, a bare proxy, the router in one process, the router as edge and core.

All run at once, each idle while another one is measured, so that their turns can be interleaved.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.bench import answers, processes

DIRECT, FLOOR, TOGETHER, APART = "direct", "bare proxy", "one process", "edge + core"
UNMETERED, BARELY_METERED = "without metering", "without chaining and roll-ups"
ROOT = Path(__file__).parents[2]
PYTHON = sys.executable
COMMAND = str(Path(PYTHON).with_name("worldrouter"))
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
BALANCE_USD = 1000
"""Far above the mode in which the balance is leased request by request."""
_KEY = "bench-key"
_URL = re.compile(r"http://[\d.]+:\d+(?=\D)")
_CONFIG = """
[core]
grpc_socket = "{home}/core.sock"

[providers.bench]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"

[[models]]
id = "{model}"
max_output_tokens = 4000
price = {{ input = 10_000, output = 20_000 }}
endpoints = [{{ provider = "bench", model = "{upstream_model}" }}]
"""


class DidNotStart(Exception):
    """A program ended or stayed silent; the message has its last words."""


@dataclass(frozen=True)
class System:
    """Something to measure: where it listens on loopback, with which key, which processes it is made of.

    `loops` are its event loops: a port that answers /healthz, and the process whose first thread runs it.
    """

    name: str
    port: int
    key: str
    pids: tuple[int, ...]
    loops: tuple[tuple[int, int], ...]
    on_load_core: bool = False


@dataclass(frozen=True)
class Cores:
    """The CPU that what is measured gets, and the one for the load generator, the upstream and the probes."""

    measured: frozenset[int]
    load: frozenset[int]

    @classmethod
    def split(cls) -> Cores:
        """One for each side when there are two; else they share."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(frozenset(usable[-1:]), frozenset(usable[:1]))


class Machinery:
    """Starts the systems in a state folder of their own, and ends all of it. A context manager."""

    def __init__(self, cores: Cores, *, keep: bool) -> None:
        self.cores = cores
        self.folder = Path(tempfile.mkdtemp(prefix="worldrouter-bench-"))
        self._keep = keep
        self._running: list[subprocess.Popen[bytes]] = []
        self.upstream = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._running):
            _end(process)
        if self._keep:
            sys.stderr.write(f"state and logs are kept in {self.folder}\n")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, names: Sequence[str]) -> list[System]:
        """Start these systems, the upstream in any case. Raises DidNotStart."""
        self.upstream, pid = self._module("upstream", self.cores.load)
        makers: Mapping[str, Callable[[], System]] = {
            DIRECT: lambda: System(DIRECT, self.upstream, _KEY, (pid,), ((self.upstream, pid),), True),
            FLOOR: self._floor,
            TOGETHER: lambda: self._together(TOGETHER, [COMMAND]),
            UNMETERED: lambda: self._together(UNMETERED, [PYTHON, "-m", "tests.bench.without", "metering"]),
            BARELY_METERED: lambda: self._together(BARELY_METERED, [PYTHON, "-m", "tests.bench.without", "background"]),
            APART: self._apart,
        }
        return [makers[name]() for name in names]

    def _floor(self) -> System:
        port, pid = self._module("bare_proxy", self.cores.measured, f"http://127.0.0.1:{self.upstream}", _KEY)
        return System(FLOOR, port, _KEY, (pid,), ((port, pid),))

    def _module(self, name: str, cores: frozenset[int], *arguments: str) -> tuple[int, int]:
        """Run a module of this package that prints its port; (port, process id)."""
        said = self.folder / f"{name}.out"
        process = self._run([PYTHON, "-m", f"tests.bench.{name}", *arguments], said, cores)
        self._until(lambda: said.read_text().endswith("\n"), process, said)
        return int(said.read_text()), process.pid

    def _together(self, name: str, command: list[str]) -> System:
        home, config = self._home(name.replace(" ", "-"))
        ready = home / "ready.json"
        said = home / "serve.out"
        ports = ["--http-port", "0", "--grpc-port", "0"]
        process = self._run([*command, "serve", *ports, "--config", config, "--home", str(home)], said)
        self._until(ready.exists, process, said)
        port = _port(json.loads(ready.read_text())["http"])
        return System(name, port, self._account(home), (process.pid,), ((port, process.pid),))

    def _apart(self) -> System:
        home, config = self._home("apart")
        options = ["--config", config, "--home", str(home)]
        subprocess.run([COMMAND, "migrate", *options], check=True, stdout=subprocess.DEVNULL, timeout=START_TIMEOUT_S)
        said, heard = home / "core.out", home / "edge.out"
        core = self._run([COMMAND, "core", "--grpc-port", "0", *options], said)
        admin = self._first_url(core, said)
        target = f"unix:{home}/core.sock"
        edge = self._run([PYTHON, "-m", "edge", "--http-port", "0", "--core", target], heard)
        url = self._first_url(edge, heard)
        self._until(lambda: _answers(f"{url}/readyz"), edge, heard)
        loops = ((_port(url), edge.pid), (_port(admin), core.pid))
        return System(APART, _port(url), self._account(home, "--grpc", target), (core.pid, edge.pid), loops)

    def _first_url(self, process: subprocess.Popen[bytes], said: Path) -> str:
        """The first address that a program names: the edge its own, the core that of its admin port."""
        self._until(lambda: _URL.search(said.read_text()) is not None, process, said)
        found = _URL.search(said.read_text())
        assert found is not None
        return found[0]

    def _home(self, name: str) -> tuple[Path, str]:
        home = self.folder / name
        home.mkdir()
        config = home / "worldrouter.toml"
        values = {"home": home, "port": self.upstream, "model": answers.MODEL, "upstream_model": answers.UPSTREAM_MODEL}
        config.write_text(_CONFIG.format(**values))
        return home, str(config)

    def _account(self, home: Path, *options: str) -> str:
        """Top the default account up; a key of it."""

        def ask(*words: str) -> str:
            command = [COMMAND, "--home", str(home), *options, *words, "--json"]
            return subprocess.run(command, check=True, capture_output=True, text=True, timeout=START_TIMEOUT_S).stdout

        ask("topup", "--account", "default", "--usd", str(BALANCE_USD))
        return str(json.loads(ask("keys", "create", "benchmark"))["secret"])

    def _run(self, command: list[str], said: Path, cores: frozenset[int] | None = None) -> subprocess.Popen[bytes]:
        """Start a program, pinned; what it says goes to a file."""
        with said.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=_environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=processes.bound(cores or self.cores.measured),
            )
        self._running.append(process)
        return process

    def _until(self, is_so: Callable[[], bool], process: subprocess.Popen[bytes], said: Path) -> None:
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not is_so():
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise DidNotStart(f"{process.args!r}:\n{said.read_text()[-3000:]}")
            time.sleep(0.05)


def _environment() -> dict[str, str]:
    """Ours without what would configure the router otherwise, providers' keys included."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("WORLDROUTER_") and not name.endswith("_API_KEY")
    }


def _port(url: str) -> int:
    return int(url.rstrip("/").rpartition(":")[2])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
