"""The embedded model's child process: how it starts, fails and ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from core.embedded.model_server import ModelServer, ModelServerError

CHILD = [sys.executable, "-P", "-m", "core.embedded.llama_server"]

PARENT = """
import asyncio, sys
from pathlib import Path
import uvloop
from core.embedded.model_server import ModelServer

async def main():
    server = ModelServer(log_path=Path(sys.argv[1]))
    await server.start()
    print(server.pid, flush=True)
    await server.wait()

uvloop.run(main())
"""

pytestmark = pytest.mark.slow


def ended(pid: int) -> bool:
    """Whether the process is gone, or only waits for its new parent to take note."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def ends_within(pid: int, seconds: float) -> bool:
    """Wait for a process that is not our child."""
    deadline = time.monotonic() + seconds
    while not ended(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return ended(pid)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ModelServer]:
    """A server that is not started yet."""
    server = ModelServer(log_path=tmp_path / "model.log")
    yield server
    await server.stop()


async def test_tells_people_what_it_does(tmp_path: Path) -> None:
    """Starting is announced, and being ready with the address."""
    told: list[str] = []
    server = ModelServer(log_path=tmp_path / "model.log", progress=told.append)
    await server.start()
    await server.stop()
    assert told == [
        "Starting SmolLM2 135M Instruct …",
        f"SmolLM2 135M Instruct is ready at {server.base_url}",
    ]


async def test_stop_ends_the_child(server: ModelServer) -> None:
    """`stop` returns when the process is gone, and may be called again."""
    await server.start()
    await server.stop()
    await server.stop()
    assert ended(server.pid)


async def test_sigterm_ends_the_child_and_it_starts_again_on_its_port(server: ModelServer) -> None:
    """`wait` tells of an end that nobody asked for; a new child takes the same address."""
    await server.start()
    address, first = server.base_url, server.pid
    os.kill(server.pid, signal.SIGTERM)
    assert await server.wait() == -signal.SIGTERM
    await server.start()
    assert (server.base_url, server.pid != first) == (address, True)


async def test_the_child_sees_no_secret(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provider keys in our environment do not reach it."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    await server.start()
    assert "OPENAI_API_KEY" not in psutil.Process(server.pid).environ()


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    """Somebody else's port is an error that says which."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = ModelServer(log_path=tmp_path / "model.log", port=port)
        with pytest.raises(ModelServerError, match=rf"port {port} .*in use"):
            await server.start()
    assert ended(server.pid)


async def test_a_start_that_takes_too_long_leaves_nothing(tmp_path: Path) -> None:
    """After the time limit the child is gone and the error names the log."""
    (tmp_path / "model.log").write_text("of another router that still runs\n")
    server = ModelServer(log_path=tmp_path / "model.log", start_timeout_s=0.01)
    with pytest.raises(ModelServerError, match=r"not ready after 0.01 s; its log is .*model.log$"):
        await server.start()
    assert ended(server.pid)


def test_a_missing_model_says_how_to_get_it() -> None:
    """Without the packages the error names the script that installs them."""
    code = "from core.embedded.model import find_model; find_model()"
    without_packages = {"PYTHONPATH": str(Path(__file__).parents[3])}
    run = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env=without_packages,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert "not installed: run ./scripts/setup" in run.stderr


def test_kill_9_of_the_parent_ends_the_child(tmp_path: Path) -> None:
    """The model never outlives whoever started it, here on uvloop."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "model.log")], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    assert ends_within(child, 2)


def test_the_child_ends_when_its_standard_input_closes(tmp_path: Path) -> None:
    """Of two ways to notice the parent's death, the first alone."""
    child = subprocess.Popen(CHILD, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with child:
        assert child.stdout is not None
        assert b"http://127.0.0.1:" in child.stdout.readline()
    assert child.returncode == 0


def test_the_kernel_ends_the_child_when_standard_input_stays_open(tmp_path: Path) -> None:
    """Of two ways to notice the parent's death, the second alone: we hold the pipe ourselves."""
    code = f"import subprocess; subprocess.Popen({CHILD!r}, stderr=subprocess.DEVNULL).wait()"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
        assert ends_within(child.pid, 2)


def test_a_child_that_lost_its_parent_before_it_asked_ends_at_once() -> None:
    """The parent's id is compared after asking the kernel, which is silent about earlier deaths."""
    run = subprocess.run(
        [*CHILD, "--parent", "1"], stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False
    )
    assert (run.returncode, run.stdout) == (1, b"")
