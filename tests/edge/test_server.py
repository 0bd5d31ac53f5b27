"""The listening edge: ports, readiness, draining, metrics."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import CollectorRegistry

from edge.admin import start_admin
from edge.server import SEND_BUFFER_BYTES, CannotListen, bind

STREAM = b'{"stream":true}'


async def test_port_0_picks_a_free_one(edge: Any, http: aiohttp.ClientSession) -> None:
    """The port that was picked can be read, and serves."""
    assert edge.server.url == f"http://127.0.0.1:{edge.server.port}"
    assert edge.server.port > 0
    async with http.get(f"{edge.url}/healthz") as answer:
        assert (answer.status, await answer.json()) == (200, {"status": "ok"})
        assert answer.headers["x-request-id"].startswith("edge-")
        assert answer.headers["Server"] == "worldrouter"


async def test_a_taken_port_is_one_clear_line(edge: Any, start_edge: Any) -> None:
    """A port that somebody listens on is refused in one line that names it."""
    with pytest.raises(CannotListen, match=rf"^cannot listen on 127.0.0.1 port {edge.server.port}: .*in use$"):
        await start_edge(port=edge.server.port)


def test_an_address_that_is_not_ours() -> None:
    """A host that does not resolve or is not this machine's is refused the same way."""
    with pytest.raises(CannotListen, match=r"^cannot listen on 192\.0\.2\.1 port 0: "):
        bind("192.0.2.1", 0)
    with pytest.raises(CannotListen, match=r"^cannot listen on no such host port 0: "):
        bind("no such host", 0)


def test_sockets_have_a_small_send_buffer() -> None:
    """A stalled client can make the kernel hold little."""
    with bind("127.0.0.1", 0) as listener:
        # Linux reports twice what was set.
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 2 * SEND_BUFFER_BYTES


async def test_readiness_follows_the_core(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """Ready means that a core serves; liveness does not depend on it."""
    async with http.get(f"{edge.url}/readyz") as answer:
        assert answer.status == 200
    await core.set_health(serving=False)
    async with http.get(f"{edge.url}/readyz") as answer:
        assert answer.status == 503
        error = (await answer.json())["error"]
        assert error["code"] == "service_unavailable"
        assert error["message"].endswith(" cannot reach a core.")
    async with http.get(f"{edge.url}/healthz") as answer:
        assert answer.status == 200


async def test_a_core_that_says_nothing_is_not_ready(
    start_edge: Any, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks is not kept waiting for it."""
    monkeypatch.setattr("edge.reach.CHECK_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        edge = await start_edge(core=f"ipv4:127.0.0.1:{silent.getsockname()[1]}")
        async with http.get(f"{edge.url}/readyz", timeout=aiohttp.ClientTimeout(1)) as answer:
            assert answer.status == 503


async def test_a_draining_edge_refuses_what_is_new(
    core: Any, edge: Any, http: aiohttp.ClientSession, connect: Any
) -> None:
    """While it drains, the edge is alive, unready, finishes what it has and refuses what comes."""
    more = asyncio.Event()

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        yield core.chunks(b"{}")
        await more.wait()
        yield core.finished()

    core.stream = stream
    client = await connect(edge)
    await client.post(STREAM)
    await client.head()
    assert await client.chunk() == b"data: {}\n\n"
    stopping = asyncio.create_task(edge.server.stop(10))
    await asyncio.sleep(0.1)
    async with http.get(f"{edge.url}/readyz") as answer:
        assert answer.status == 503
    async with http.get(f"{edge.url}/healthz") as answer:
        assert (answer.status, answer.headers["Connection"]) == (200, "close")
    for body in (b"{}", STREAM):
        async with http.post(f"{edge.url}/v1/chat/completions", data=body) as answer:
            assert (answer.status, answer.headers["Connection"]) == (503, "close")
            assert answer.headers["Retry-After"] == "1"
    async with http.get(f"{edge.url}/v1/models") as answer:
        assert answer.status == 503
    assert not stopping.done()
    more.set()
    assert [await client.chunk() for _ in range(2)] == [b"data: [DONE]\n\n", b""]
    await asyncio.wait_for(stopping, 2)
    with pytest.raises(aiohttp.ClientConnectorError):
        await http.get(f"{edge.url}/healthz")


async def test_a_drain_that_takes_too_long_is_cut(core: Any, edge: Any, connect: Any) -> None:
    """At the limit a stream ends with an error event, a whole answer with 503, and their calls end."""

    async def create(request: Any, context: Any) -> None:
        await core.admit(context)
        await asyncio.sleep(30)

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        yield core.chunks(b"{}")
        await asyncio.sleep(30)

    core.create, core.stream = create, stream
    streaming, whole = await connect(edge), await connect(edge)
    await streaming.post(STREAM)
    await streaming.head()
    assert await streaming.chunk() == b"data: {}\n\n"
    await whole.post(b"{}")
    await asyncio.sleep(0.05)
    began_s = time.monotonic()
    await edge.server.stop(0.2)
    assert 0.15 < time.monotonic() - began_s < 2
    error = json.loads((await streaming.chunk()).removeprefix(b"data: "))["error"]
    assert (error["code"], error["request_id"]) == ("service_unavailable", "01k9zz2w8x5qv3d7m4t6c1b0ra")
    assert await streaming.chunk() == b""
    assert (await whole.head())[0] == 503
    for call in core.calls:
        await asyncio.wait_for(call.ended.wait(), 1)


async def test_a_drain_can_be_hastened(core: Any, edge: Any, connect: Any) -> None:
    """A second signal shortens the wait."""

    async def create(request: Any, context: Any) -> None:
        await core.admit(context)
        await asyncio.sleep(30)

    core.create = create
    client = await connect(edge)
    await client.post(b"{}")
    await asyncio.sleep(0.05)
    stopping = asyncio.create_task(edge.server.stop(60))
    await asyncio.sleep(0.05)
    edge.server.hasten(0)
    await asyncio.wait_for(stopping, 2)
    assert (await client.head())[0] == 503


async def test_an_idle_edge_stops_at_once(edge: Any, connect: Any) -> None:
    """Idle connections do not hold up a stop."""
    client = await connect(edge)
    await client.send(b"GET /healthz HTTP/1.1\r\nHost: e\r\n\r\n")
    await client.head()
    began_s = time.monotonic()
    await edge.server.stop(60)
    assert time.monotonic() - began_s < 1
    await client.rest()


async def test_the_last_bytes_leave_before_the_end(core: Any, edge: Any, connect: Any) -> None:
    """A large answer that the client is still reading arrives whole although the edge stops."""

    async def create(request: Any, context: Any) -> Any:
        answer = await core.answer(request, context)
        answer.body = b"x" * 3_000_000
        return answer

    core.create = create
    client = await connect(edge, limit=1000)
    await client.post(b"{}")
    _, headers = await client.head()
    stopping = asyncio.create_task(edge.server.stop(60))
    await asyncio.sleep(0.3)
    body = await client.reader.readexactly(int(headers["content-length"]))
    assert len(body) == 3_000_000
    await stopping


async def test_metrics(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """Requests are counted by route, status and kind, with their times, and without anything personal."""
    async with http.post(f"{edge.url}/v1/chat/completions", data=b"{}") as answer:
        await answer.read()
    async with http.post(f"{edge.url}/v1/chat/completions", data=STREAM) as answer:
        await answer.read()
    async with http.get(f"{edge.url}/nothing") as answer:
        await answer.read()
    count = "worldrouter_edge_requests_total"
    assert edge.metric(count, route="chat", status="200", stream="false") == 1
    assert edge.metric(count, route="chat", status="200", stream="true") == 1
    assert edge.metric(count, route="none", status="404", stream="false") == 1
    for name in ("worldrouter_edge_first_byte_seconds", "worldrouter_edge_request_seconds"):
        assert edge.metric(f"{name}_count", route="chat", stream="true") == 1
        assert edge.metric(f"{name}_bucket", route="chat", stream="true", le="+Inf") == 1
        assert 0 < edge.metric(f"{name}_sum", route="chat", stream="true") < 5


async def test_the_admin_port(edge: Any, http: aiohttp.ClientSession) -> None:
    """/metrics speaks Prometheus' format and /healthz answers; nothing else is there."""
    admin, port = await start_admin(edge.registry, "127.0.0.1", 0)
    try:
        async with http.get(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            assert "worldrouter_edge_in_flight 0.0" in await answer.text()
        async with http.get(f"http://127.0.0.1:{port}/healthz") as answer:
            assert answer.status == 200
        with pytest.raises(CannotListen):
            await start_admin(CollectorRegistry(), "127.0.0.1", port)
    finally:
        await admin.cleanup()


class Frozen(health.aio.HealthServicer):
    """A health service that tells who watches it that it serves, and does not answer who asks."""

    asked = False

    async def Check(self, request: Any, context: Any) -> Any:
        self.asked = True
        await asyncio.Event().wait()


async def test_a_frozen_core_makes_no_edge_unready(start_edge: Any, http: aiohttp.ClientSession) -> None:
    """A probe that comes to a core that does not answer finds the other one in time."""
    servers, targets = [], []
    frozen = Frozen()
    for servicer in (frozen, health.aio.HealthServicer()):
        await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        servers.append(grpc.aio.server())
        health_pb2_grpc.add_HealthServicer_to_server(servicer, servers[-1])
        targets.append(f"127.0.0.1:{servers[-1].add_insecure_port('127.0.0.1:0')}")
        await servers[-1].start()
    edge = await start_edge(core="ipv4:" + ",".join(targets), relay=False)
    while not frozen.asked:
        async with http.get(f"{edge.url}/readyz", timeout=aiohttp.ClientTimeout(total=1)) as answer:
            assert answer.status == 200
    for server in servers:
        await server.stop(0)
