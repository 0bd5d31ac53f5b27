"""A running router loads its configuration again: under load, in every kind of process, by signal and by command."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from worldrouter.client import Client
from worldrouter.v1 import metering_pb2, routing_pb2

from tests.e2e.conftest import COMMAND

pytestmark = pytest.mark.slow

OLD, NEW = 2_000, 7_000
TOKENS = 20
FILE = """
version = {version}
[providers.script]
kind = "scripted"
[[models]]
id = "scripted"
max_output_tokens = 4000
price = {{ input = 0, output = {price}_000 }}
endpoints = [{{ provider = "script", model = "up" }}]
"""


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def configuration(version: int, nano_usd: int) -> str:
    return FILE.format(version=version, price=nano_usd)


def write(router: Any, version: int, nano_usd: int) -> None:
    """Change the file as an editor does: another one in its place."""
    file = router.home.parent / "worldrouter.toml"
    unfinished = file.with_suffix(".new")
    unfinished.write_text(configuration(version, nano_usd))
    unfinished.replace(file)


def reload(router: Any) -> subprocess.CompletedProcess[str]:
    """`worldrouter reload`."""
    return subprocess.run(
        [COMMAND, "--home", str(router.home), "reload"], capture_output=True, text=True, timeout=30, check=False
    )


@dataclass
class Streamed:
    """A stream: when it was asked for, when its first and last piece came, what a token of it cost (nanodollars)."""

    request_id: str
    asked_s: float
    first_s: float
    last_s: float
    price: int = 0


async def stream(router: Any, session: aiohttp.ClientSession) -> Streamed:
    body = {
        "model": "scripted",
        "stream": True,
        "messages": [{"role": "user", "content": "x"}],
        "script": {"token_count": TOKENS, "chunk_delay_ms": 20},
    }
    headers = {"Authorization": f"Bearer {router.key}"}
    asked_s = time.monotonic()
    async with session.post(f"{router.base_url}/chat/completions", json=body, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        first = await answer.content.readany()
        first_s = time.monotonic()
        whole = first + await answer.content.read()
    assert whole.endswith(b"data: [DONE]\n\n")
    return Streamed(answer.headers["x-request-id"], asked_s, first_s, time.monotonic())


async def streams(router: Any, during: Callable[[], Any], *, at_once: int = 12) -> tuple[float, float, list[Streamed]]:
    """Streams without a pause, `at_once` at a time, while something is done in their midst; when that was."""
    done: list[Streamed] = []
    stopping = asyncio.Event()

    async def client(session: aiohttp.ClientSession) -> None:
        while not stopping.is_set():
            done.append(await stream(router, session))

    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as clients:
        for _ in range(at_once):
            clients.create_task(client(session))
            await asyncio.sleep(0.03)
        await asyncio.sleep(0.5)
        began_s = time.monotonic()
        await asyncio.to_thread(during)
        ended_s = time.monotonic()
        await asyncio.sleep(0.5)
        stopping.set()
    router.settle()
    for each in done:
        record = router.operator.metering.GetUsageRecord(metering_pb2.GetUsageRecordRequest(request_id=each.request_id))
        assert record.usage.completion_token_count == TOKENS
        each.price, rest = divmod(record.cost_nano_usd, TOKENS)
        assert rest == 0
    return began_s, ended_s, done


def price(core: Client) -> int:
    """What a core says that a token costs, in nanodollars."""
    model = core.routing.GetModel(routing_pb2.GetModelRequest(model_id="scripted"), timeout=10, wait_for_ready=True)
    return int(model.price.output_pico_usd_per_token) // 1_000


def wait_for_price(core: Client, wanted: int) -> None:
    deadline_s = time.monotonic() + 10
    while price(core) != wanted:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


@pytest.mark.parametrize("kind", ["serve", "apart"])
async def test_a_reload_under_load_changes_no_price_of_a_request(launcher: Any, kind: str) -> None:
    """Whoever came before pays the old price to the end, whoever comes after it the new one, and nobody is cut."""
    router = getattr(launcher, kind)(configuration(1, OLD))
    router.key = router.account(usd=100).key
    write(router, 2, NEW)

    def hang_up() -> None:
        router.process.send_signal(signal.SIGHUP)
        wait_for_price(router.operator, NEW)

    began_s, ended_s, done = await streams(router, hang_up)
    before = [each for each in done if each.first_s < began_s]
    across = [each for each in before if each.last_s > ended_s]
    after = [each for each in done if each.asked_s > ended_s]
    assert min(len(across), len(after)) >= 5
    assert {each.price for each in before} == {OLD}
    assert {each.price for each in after} == {NEW}
    assert any("version 2, 1 models" in line.get("message", "") for line in router.log())
    assert router.command("audit", "--grpc", router.grpc)["deviation_count"] == 0


def test_the_command_says_what_came_of_it(launcher: Any) -> None:
    """Reloaded, refused with the reason and status 1, and what waits for the next start."""
    router = launcher.serve(configuration(1, OLD))
    write(router, 2, NEW)
    done = reload(router)
    assert (done.returncode, done.stderr) == (0, "")
    assert "version 2, 1 models" in done.stdout
    file = router.home.parent / "worldrouter.toml"
    file.write_text(configuration(3, OLD) + "[timeouts]\nfirst_token_s = 7\n[core]\ngrpc_port = 7\n")
    waiting = reload(router)
    assert "timeouts.first_token_s" in waiting.stderr
    assert "core.grpc_port" not in waiting.stderr  # an option said which
    assert price(router.operator) == OLD
    file.write_text(configuration(4, NEW) + "[timeouts]\nfirst_token_s = 'x'\n")
    refused = reload(router)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "timeouts.first_token_s" in refused.stderr
    write(router, 2, NEW)
    assert "served with version 3" in reload(router).stderr
    assert price(router.operator) == OLD
    assert router.stop() == [0]


def client_of(router: Any, worker: dict[str, Any]) -> Client:
    return Client(worker["grpc"], router.operator_token, plaintext=True)


@pytest.mark.timeout(180)
async def test_workers_reload_together_and_one_that_comes_later_too(
    launcher: Any, postgres_url: Callable[[], str], stack: ExitStack
) -> None:
    """By the command and by SIGHUP to the process that keeps them; one that is started again has the new prices."""
    environment = {"WORLDROUTER_DATABASE_URL": postgres_url()}
    assert launcher.run("migrate", home=launcher.home(), environment=environment).wait(30) == 0
    router = launcher.serve(configuration(1, OLD), "--workers", "2", environment=environment)
    router.key = router.account(usd=100).key
    told = json.loads((router.home / "ready.json").read_text())["workers"]
    cores = [stack.enter_context(client_of(router, worker)) for worker in told]
    write(router, 2, NEW)
    began_s, _, done = await streams(router, lambda: reload(router), at_once=8)
    assert {each.price for each in done if each.first_s < began_s} == {OLD}
    assert {each.price for each in done} == {OLD, NEW}
    assert [price(core) for core in cores] == [NEW, NEW]
    write(router, 3, OLD)
    router.process.send_signal(signal.SIGHUP)
    for core in cores:
        wait_for_price(core, OLD)
    (router.home.parent / "worldrouter.toml").write_text("nonsense")
    os.kill(told[0]["pid"], signal.SIGKILL)
    for attempt in itertools.count():
        now = json.loads((router.home / "ready.json").read_text())["workers"]
        if len(now) == 2 and now[0]["pid"] != told[0]["pid"]:
            break
        assert attempt < 600
        await asyncio.sleep(0.1)
    assert [price(stack.enter_context(client_of(router, worker))) for worker in now] == [OLD, OLD]
    assert reload(router).returncode == 1
