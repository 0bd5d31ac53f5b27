"""`python -m edge`: a process of its own, over TLS or a Unix socket."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
import trustme

pytestmark = pytest.mark.slow

Start = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
async def start_process() -> AsyncIterator[Start]:
    """Starts `python -m edge` with arguments; kills what still runs at the end."""
    started: list[asyncio.subprocess.Process] = []

    async def start(*arguments: str) -> asyncio.subprocess.Process:
        command = (sys.executable, "-m", "edge", "--http-port", "0", "--admin-port", "0", *arguments)
        started.append(await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE))
        return started[-1]

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.wait()
        # uvloop's transport keeps the pipe open until its end is read.
        assert process.stderr is not None
        await process.stderr.read()


async def line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """The next line of its log, but for what it says of its streams to cores."""
    assert process.stderr is not None
    while True:
        said = dict(json.loads(await asyncio.wait_for(process.stderr.readline(), 10)))
        if not said["logger"].startswith("edge.relay"):
            return said


async def test_a_process_from_start_to_end(core: Any, start_process: Start, http: aiohttp.ClientSession) -> None:
    """It says where it listens as a JSON line, serves, drains on SIGTERM and ends with 0."""

    async def slow(request: Any, context: Any) -> Any:
        await asyncio.sleep(0.3)
        return await core.answer(request, context)

    core.create = slow
    process = await start_process("--core", core.target)
    listening = await line(process)
    assert (listening["message"], listening["level"]) == (f"listening on {listening['url']}", "info")
    assert listening["core"] == core.target
    async with http.get(f"{listening['admin']}/metrics") as answer:
        assert answer.status == 200
    asking = asyncio.create_task(http.post(f"{listening['url']}/v1/chat/completions", data=b"{}"))
    while not core.calls:  # noqa: ASYNC110 - a poll keeps the fake simple
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert (await line(process))["message"] == "stopping"
    async with await asking as answer:
        assert answer.status == 200
    assert await asyncio.wait_for(process.wait(), 5) == 0


async def test_two_interrupts_end_it_at_once(core: Any, start_process: Start, http: aiohttp.ClientSession) -> None:
    """Ctrl-C waits a little for requests in flight, a second one does not."""

    async def endless(request: Any, context: Any) -> None:
        await core.admit(context)
        await asyncio.sleep(30)

    core.create = endless
    process = await start_process("--core", core.target)
    listening = await line(process)
    asking = asyncio.create_task(http.post(f"{listening['url']}/v1/chat/completions", data=b"{}"))
    while not core.calls:  # noqa: ASYNC110 - a poll keeps the fake simple
        await asyncio.sleep(0.01)
    process.send_signal(signal.SIGINT)
    await line(process)
    process.send_signal(signal.SIGINT)
    async with await asyncio.wait_for(asking, 4) as answer:  # less than the first one waits
        assert answer.status == 503
    assert await asyncio.wait_for(process.wait(), 3) == 0


async def test_a_bad_start_is_one_line(edge: Any, core: Any, start_process: Start, tmp_path: Path) -> None:
    """A taken port or a bad setting ends the process with 1 and one line that says what is wrong."""
    config = tmp_path / "worldrouter.toml"
    config.write_text('[edge]\nbody_limit_bytes = "ten"\n')
    for arguments, text in (
        (["--http-port", str(edge.server.port)], f"Error: cannot listen on 127.0.0.1 port {edge.server.port}: "),
        (["--config", str(config)], "Error: [edge] body_limit_bytes = 'ten': Expected `int`"),
        (["--core", "dns:///core.example.org:1"], "Error: core = 'dns:///core.example.org:1' is another machine"),
    ):
        process = await start_process(*arguments)
        assert process.stderr is not None
        shown = (await process.stderr.read()).decode()
        assert shown.startswith(text)
        assert shown.count("\n") == 1
        assert await process.wait() == 1


async def test_the_file_is_read(core: Any, start_process: Start, tmp_path: Path) -> None:
    """Settings come from the [edge] table; other tables are not the edge's business."""
    config = tmp_path / "worldrouter.toml"
    config.write_text(f'[edge]\ncore = "{core.target}"\n[core]\nwhatever = 1\n')
    assert (await line(await start_process("--config", str(config))))["core"] == core.target


async def test_a_core_that_was_never_there_is_told(start_process: Start) -> None:
    """Soon after the start, before any request."""
    process = await start_process("--core", "unix:/nonexistent/core.sock")
    await line(process)
    said = await line(process)
    assert said["level"] == "warning"
    assert said["message"].startswith("cannot reach a core at unix:/nonexistent/core.sock: ")


async def test_mutual_tls(core: Any, start_edge: Any, http: aiohttp.ClientSession) -> None:
    """With a CA the channel is encrypted and the core proven; with a certificate the edge is too."""
    authority = trustme.CA()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        authority.cert_pem.write_to_path(folder / "ca.pem")
        ours = authority.issue_cert("edge")
        ours.private_key_pem.write_to_path(folder / "key.pem")
        ours.cert_chain_pems[0].write_to_path(folder / "cert.pem")
        theirs = authority.issue_cert("localhost", "127.0.0.1")
        pair = (theirs.private_key_pem.bytes(), theirs.cert_chain_pems[0].bytes())
        credentials = grpc.ssl_server_credentials([pair], authority.cert_pem.bytes(), require_client_auth=True)
        server = grpc.aio.server()
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await core.start(server)
        tls = {"core": f"dns:///localhost:{port}", "core_ca": str(folder / "ca.pem")}
        pair_files = {"core_cert": str(folder / "cert.pem"), "core_key": str(folder / "key.pem")}
        for settings, status in ((tls, 503), (tls | pair_files, 200)):
            edge = await start_edge(**settings)
            async with http.post(f"{edge.url}/v1/chat/completions", data=b"{}") as answer:
                assert answer.status == status
        await server.stop(0)
