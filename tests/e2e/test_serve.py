"""`worldrouter serve` as an operator meets it: start, files, refusals, stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import stat
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from worldrouter.client import AsyncClient, error_info
from worldrouter.v1.raw_chat_pb2 import CreateRawCompletionRequest

from tests.e2e.conftest import PLAIN_RPCS

pytestmark = pytest.mark.slow

SECOND_START_S = 2.5
ENDS_WITHIN_S = 2.0

FURTHER_BAD_SETTINGS: list[tuple[str, tuple[str, ...]]] = [
    ("[edge]\nprot = 1\n", ("prot",)),
    ("[edge]\ncors_origins = ['example.com']\n", ("cors_origins", "'example.com'", "scheme://host[:port]")),
    ("[[models]]\nid = 'm'\nmax_output_tokens = 1\nendpoints = []\n", ("price", "models[0]")),
    ("[providers.p]\nkind = 'openai'\nbase_url = 'https://x'\napi_key = 'env:NOT_SET'\n", ("NOT_SET",)),
    ("[core\n", ("worldrouter.toml",)),
]


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    return [
        int(child) for each in Path(f"/proc/{pid}/task").iterdir() for child in (each / "children").read_text().split()
    ]


def keys_in(home: Path) -> int:
    with closing(sqlite3.connect(f"file:{home / 'worldrouter.db'}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT count(*) FROM api_keys").fetchone()[0])


def get(url: str, key: str = "") -> Any:
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {key}"} if key else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def test_the_ready_file(router: Any) -> None:
    """ready.json says where everything is, and it is there."""
    told = json.loads((router.home / "ready.json").read_text())
    assert told["pid"] == router.process.pid
    assert told["grpc"] == router.grpc
    assert get(f"{told['http']}/healthz") == get(f"{told['http']}/readyz") == {"status": "ok"}
    (model,) = told["upstreams"]
    assert model == "smollm2-135m-instruct"
    assert told["upstreams"][model].endswith("/v1")
    assert get(f"{told['upstreams'][model]}/models")["data"]
    assert router.metric("worldrouter_requests_in_flight") == 0
    assert all(url.startswith("http://127.0.0.1:") for url in (told["http"], *told["admin"]))


def test_the_state_folder_is_its_owner_s(router: Any) -> None:
    """Nobody else may look into the state folder, and its secrets are readable by their owner alone."""
    assert stat.S_IMODE(router.home.stat().st_mode) == 0o700
    for secret in ("operator.token", "pepper", "worldrouter.db"):
        assert stat.S_IMODE((router.home / secret).stat().st_mode) == 0o600


def test_the_commands_that_scripts_use(router: Any) -> None:
    """Accounts, keys and top-ups are made by the command line while it runs, and the key works at once."""
    account = router.command("accounts", "create", "from a script")
    paid = router.command("topup", "--account", account["id"], "--usd", "10")
    key = router.command("keys", "create", "of a script", "--account", account["id"])
    assert key["name"] == "of a script"
    assert key["id"].startswith("key_")
    assert key["secret"].startswith("wlrouter_")
    assert paid["amount_nano_usd"] == 10 * 10**9
    assert get(f"{router.base_url}/models", key["secret"])["data"][0]["id"] == "smollm2-135m-instruct"
    assert "secret" not in json.dumps(router.command("keys", "list")).replace("secret_prefix", "").replace(
        "secret_suffix", ""
    )


def test_a_second_start_makes_no_second_key(launcher: Any, scripted_config: str) -> None:
    """The first start shows a key, the second none; key and account are those of the first."""
    home = launcher.home()
    shown = []
    for _ in range(2):
        router = launcher.serve(scripted_config, home=home)
        shown.append((home.parent / "serve.out").read_text())
        assert router.stop(signal.SIGTERM) == [0]
        assert not (home / "ready.json").exists()
    assert "wlrouter_" in shown[0]
    assert "wlrouter_" not in shown[1]
    assert "as shown at the first start" in shown[1]
    assert keys_in(home) == 1


@pytest.mark.measured
def test_a_second_start_is_quick(launcher: Any) -> None:
    """With the real model it is ready within two and a half seconds; one of three, the machine may be busy."""
    home, took_s = launcher.home(), list[float]()
    launcher.serve(home=home).stop()
    while len(took_s) < 3 and not any(each < SECOND_START_S for each in took_s):
        began_s = time.monotonic()
        router = launcher.serve(home=home)
        took_s.append(time.monotonic() - began_s)
        router.stop()
    assert min(took_s) < SECOND_START_S


def test_everything_ends_with_it(launcher: Any) -> None:
    """After kill -9 the model's server is gone too; a stale ready.json does not fool the next start."""
    router = launcher.serve()
    started = children(router.process.pid)
    assert started
    router.process.kill()
    router.process.wait(timeout=10)
    deadline_s = time.monotonic() + ENDS_WITHIN_S
    while any(is_alive(pid) for pid in started):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    assert (router.home / "ready.json").exists()
    again = launcher.serve("[embedded]\nenabled = false\n", home=router.home)
    assert json.loads((again.home / "ready.json").read_text())["pid"] == again.process.pid


@pytest.mark.parametrize(
    "option", ["--http-port", *(pytest.param(name, marks=pytest.mark.slow) for name in ("--grpc-port", "--admin-port"))]
)
def test_a_taken_port(launcher: Any, option: str) -> None:
    """Exit status 1, one line that names the port, and nothing made or left running."""
    ports = {"--http-port": "0", "--grpc-port": "0"}
    home = launcher.home()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        options = [part for pair in {**ports, option: port}.items() for part in pair]
        process = launcher.run("serve", *options, home=home)
        assert process.wait(timeout=30) == 1
    said = (home.parent / "serve.err").read_text()
    assert len(said.splitlines()) == 1
    assert port in said
    assert "in use" in said
    assert (home.parent / "serve.out").read_text() == ""
    assert [path for path in home.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("[core]\ngrpc_port = 'x'\n", ("grpc_port", "'x'", "int")),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in FURTHER_BAD_SETTINGS),
    ],
)
def test_a_bad_setting(launcher: Any, config: str, says: tuple[str, ...]) -> None:
    """Exit status 1 and one line that names the key, its value and what is wanted; nothing is made."""
    home = launcher.home()
    home.parent.mkdir(parents=True)
    file = home.parent / "worldrouter.toml"
    file.write_text(config)
    process = launcher.run("serve", "--config", str(file), "--http-port", "0", home=home)
    assert process.wait(timeout=30) == 1
    said = (home.parent / "serve.err").read_text()
    assert len(said.splitlines()) == 1
    assert all(part in said for part in says), said
    assert not (home / "worldrouter.db").exists()


@pytest.mark.slow
def test_a_second_router_on_the_same_state(launcher: Any, scripted_config: str) -> None:
    """It is refused with the first one's pid, and leaves the first one's ready.json and database alone."""
    router = launcher.serve(scripted_config)
    config = str(router.home.parent / "worldrouter.toml")
    process = launcher.run("serve", "--http-port", "0", "--grpc-port", "0", "--config", config, home=router.home)
    assert process.wait(timeout=30) == 1
    assert f"pid {router.process.pid}" in (router.home.parent / "serve.err").read_text()
    assert json.loads((router.home / "ready.json").read_text())["pid"] == router.process.pid
    assert router.command("models")


@pytest.mark.slow
def test_the_edges_settings_from_outside_the_file(launcher: Any, scripted_config: str) -> None:
    """Origins come from the command line; of a Kubernetes service's address the log says that it is none of ours."""
    theirs = {"WORLDROUTER_EDGE_PORT": "tcp://10.0.0.11:8080"}
    router = launcher.serve(scripted_config, "--cors-origins", "https://app.example", environment=theirs)
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    request = urllib.request.Request(f"{router.base_url}/chat/completions", headers=asked, method="OPTIONS")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, "https://app.example")
    assert [line["message"] for line in router.log() if "Kubernetes" in line.get("message", "")] == [
        "WORLDROUTER_EDGE_PORT is ignored: Kubernetes sets it for a service of this name"
    ]


def test_providers_from_the_environment(launcher: Any) -> None:
    """With a provider's key in the environment its models stand beside the embedded one; the key is shown nowhere."""
    secret = "sk-not-a-real-secret-0123456789"
    router = launcher.serve(environment={"OPENAI_API_KEY": secret})
    key = router.command("keys", "create", "mine")["secret"]
    models = {model["id"]: model for model in get(f"{router.base_url}/models", key)["data"]}
    assert "smollm2-135m-instruct" in models
    assert len(models) > 1
    assert all(model["pricing"] for model in models.values())
    router.stop()
    assert secret not in (router.home.parent / "serve.out").read_text() + (router.home.parent / "serve.err").read_text()


async def refuses_over_grpc(router: Any, key: str) -> None:
    """A core that drains says so, to its callers and to those who look after its health."""
    async with AsyncClient(router.grpc, key, plaintext=True, follow_health=False) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.raw_chat.CreateRawCompletion(CreateRawCompletionRequest(dialect=1, body=b"{}"))
        health = await HealthStub(client.channel).Check(HealthCheckRequest())
    info = error_info(caught.value)
    assert info is not None
    assert (caught.value.code(), info.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE")
    assert info.retry_after_s == 1
    assert health.status == HealthCheckResponse.NOT_SERVING


async def test_sigterm_lets_running_streams_end(launcher: Any, scripted_config: str) -> None:
    """A stream that runs is completed and charged; a new request is a 503 with Retry-After; then it ends with 0."""
    router = await asyncio.to_thread(launcher.serve, scripted_config)
    account = router.account(usd=10)
    headers = {"authorization": f"Bearer {account.key}"}
    url = f"{router.base_url}/chat/completions"
    asked = {"model": "scripted", "messages": [{"role": "user", "content": "one"}]}
    slow = {**asked, "stream": True, "script": {"token_count": 60, "chunk_delay_ms": 20}}
    async with aiohttp.ClientSession() as session, session.post(url, json=slow, headers=headers) as stream:
        await stream.content.readany()
        router.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        async with session.post(url, json=asked, headers=headers) as refused:
            error = (await refused.json())["error"]
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert (error["type"], error["code"]) == ("server_error", "service_unavailable")
        assert error["request_id"] == refused.headers["x-request-id"]
        async with session.get(f"{router.http}/readyz") as ready:
            assert ready.status == 503
        await refuses_over_grpc(router, account.key)
        assert router.metric("worldrouter_requests_in_flight") == 1
        rest = await stream.read()
    assert rest.endswith(b"data: [DONE]\n\n")
    assert await asyncio.to_thread(router.process.wait, 10) == 0
    request_id = stream.headers["x-request-id"]
    with closing(sqlite3.connect(f"file:{router.home / 'worldrouter.db'}?mode=ro", uri=True)) as books:
        query = "SELECT status, amount FROM ledger WHERE ref = ?"
        ((status, amount),) = books.execute(query, (request_id,)).fetchall()
        assert books.execute("SELECT count(*) FROM leases WHERE state = 'active'").fetchone() == (0,)
    assert (status, amount) == ("complete", 1_000 + 60 * 2_000)
    assert router.complaints() == []


@pytest.mark.slow
async def test_a_second_sigint_ends_streams_at_once(launcher: Any, scripted_config: str) -> None:
    """The stream is told by an error event and charged for what it got; the process ends with 0."""
    router = await asyncio.to_thread(launcher.serve, scripted_config)
    account = router.account(usd=10)
    headers = {"authorization": f"Bearer {account.key}"}
    slow = {
        "model": "scripted",
        "messages": [{"role": "user", "content": "one"}],
        "stream": True,
        "script": {"token_count": 1000, "chunk_delay_ms": 20},
    }
    url = f"{router.base_url}/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=slow, headers=headers) as stream:
        await stream.content.readany()
        began_s = time.monotonic()
        for _ in range(2):
            os.kill(router.process.pid, signal.SIGINT)
            await asyncio.sleep(0.2)
        text = await stream.read()
    assert await asyncio.to_thread(router.process.wait, 10) == 0
    assert time.monotonic() - began_s < 4
    error = json.loads(text.rstrip().rpartition(b"data: ")[2])["error"]
    assert error["code"] == "service_unavailable"
    assert error["request_id"] == stream.headers["x-request-id"]
    with closing(sqlite3.connect(f"file:{router.home / 'worldrouter.db'}?mode=ro", uri=True)) as books:
        query = "SELECT status, amount > 2000 FROM ledger WHERE ref = ?"
        assert books.execute(query, (stream.headers["x-request-id"],)).fetchall() == [("shutdown", 1)]


@pytest.mark.slow
@pytest.mark.parametrize("edge", ["", PLAIN_RPCS], ids=["relay", "plain"])
async def test_a_core_that_drains_behind_an_edge(launcher: Any, scripted_config: str, edge: str) -> None:
    """SIGTERM to a core apart: its stream ends well through the edge, which turns unready and refuses new ones."""
    router = await asyncio.to_thread(launcher.apart, scripted_config + edge)
    account = router.account(usd=10)
    url = f"{router.base_url}/chat/completions"
    asked = {"model": "scripted", "messages": [{"role": "user", "content": "one"}]}
    slow = {**asked, "stream": True, "script": {"token_count": 100, "chunk_delay_ms": 20}}
    headers = {"authorization": f"Bearer {account.key}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.post(url, json=slow) as stream:
        await stream.content.readany()
        router.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        async with session.get(f"{router.http}/readyz") as ready:
            assert ready.status == 503
        async with session.post(url, json=asked) as refused:
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert (await stream.read()).endswith(b"data: [DONE]\n\n")
    assert await asyncio.to_thread(router.process.wait, 10) == 0
