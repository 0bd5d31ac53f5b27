"""Clients by the hundred that read nothing, or send a byte now and then: cut in time, cheap meanwhile, in nobody's way.

Each test runs with shorter time limits too; the full one, with the defaults, is among the long ones.
"""

from __future__ import annotations

import asyncio
import math
import resource
import select
import socket
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.conftest import Launcher
from tests.hostile.far_end import CONFIG, SECRET, STOP, FarEnd, chunk, event, http_chunk, json_answer
from tests.hostile.far_end import STREAM_HEAD as HEAD
from tests.hostile.prober import Probe, probing
from tests.hostile.test_bodies import memory_bytes, nothing_stays
from tests.hostile.vectors import CHUNKED, chat

LARGE = """
[providers.script]
kind = "scripted"

[[models]]
id = "scripted"
max_output_tokens = 4000
price = { input = 1_000_000, output = 2_000_000 }
endpoints = [{ provider = "script", model = "up" }]

[providers.large]
kind = "openai"
base_url = "http://127.0.0.1:%d/v1"

[[models]]
id = "large"
max_output_tokens = 4000
price = { input = 1_000_000, output = 2_000_000 }
endpoints = [{ provider = "large", model = "up" }]

[edge]
"""
DEFAULT_LIMIT_S = 30.0
SHORT = "idle_timeout_s = 3.0\nbody_timeout_s = 3.0\nclient_stall_s = 3.0\n"
SHORT_LIMIT_S = 3.0
LARGE_BYTES = 4 << 20
MEMORY_LIMIT_BYTES = 512 << 10
P99_FACTOR = 1.2
SERVED_WITHIN_S = 0.1
UNDISTURBED_S = 5.0
"""Before and after, to compare with."""
PAUSE_S = 0.02
"""Between two probes."""
PIECE_BYTES = 65_536

short_and_full = pytest.mark.parametrize(
    ("limit_s", "settings", "count"),
    [
        pytest.param(SHORT_LIMIT_S, SHORT, 100, id="short", marks=pytest.mark.measured),
        pytest.param(DEFAULT_LIMIT_S, "", 1_000, id="full", marks=[pytest.mark.long, pytest.mark.timeout(300)]),
    ],
)


@pytest.fixture
async def far() -> AsyncIterator[FarEnd]:
    async with FarEnd().serving() as made:
        yield made


@pytest.fixture
async def far_and_large() -> AsyncIterator[FarEnd]:
    """An upstream whose answers have the number of bytes that a test sets."""
    async with FarEnd().serving() as made:
        yield made


@pytest.fixture
def serve(launcher: Launcher, far: FarEnd, far_and_large: FarEnd) -> Iterator[Callable[[str], Any]]:
    """Starts a router with these settings of the edge; nothing may stay of what was done to it."""
    routers = []

    def start(settings: str) -> Any:
        config = CONFIG % far.port + LARGE % far_and_large.port + settings
        router = launcher.serve(config, environment={"FAR_END_KEY": SECRET})
        router.key = router.account(usd=1000).key
        routers.append(router)
        return router

    yield start
    for router in routers:
        nothing_stays(router)


def answer_of(far: FarEnd, size: int) -> None:
    """Let the upstream's answers have about this many bytes."""
    text = b"a word or two of it " * 200
    events = [http_chunk(event(chunk(text)))] * (size // len(text))
    body = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"%b"},"finish_reason":"stop"}]}'
    whole = json_answer(body % (text * (size // len(text))))
    pieces = [whole[at : at + PIECE_BYTES] for at in range(0, len(whole), PIECE_BYTES)]

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        last = http_chunk(event(STOP) + event(b"[DONE]")) + b"0\r\n\r\n"
        for each in [HEAD, *events, last] if far.wants_stream else pieces:
            writer.write(each)
            await writer.drain()

    far.play = play


def body_of(model: str, *, stream: bool) -> bytes:
    return b'{"model":"%b","messages":[{"role":"user","content":"a"}]%b}' % (
        model.encode(),
        b',"stream":true' if stream else b"",
    )


async def connected(router: Any, receive_buffer_bytes: int | None = None) -> socket.socket:
    """A socket, not blocking."""
    client = socket.socket()
    if receive_buffer_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    client.setblocking(False)
    parts = urlsplit(router.http)
    await asyncio.get_running_loop().sock_connect(client, (parts.hostname, parts.port))
    return client


def p99_ms(probes: list[Probe]) -> float:
    """Without what the machine took."""
    return statistics.quantiles([each.own_s * 1e3 for each in probes], n=100)[-1]


def longest_ms(probes: list[Probe]) -> str:
    """For people: as the router answers for it, and as it was."""
    return f"{max(each.own_s for each in probes) * 1e3:.0f} ({max(each.took_s for each in probes) * 1e3:.0f})"


async def in_flight(router: Any) -> float:
    return await asyncio.to_thread(router.metric, "worldrouter_edge_in_flight")


async def has_bytes(clients: list[socket.socket]) -> None:
    """Wait until each of these has something to read."""
    for client in clients:
        while select.select([client], [], [], 0) == ([], [], []):  # noqa: ASYNC110 - to wait for it would be to read it
            await asyncio.sleep(0.01)


async def fallen_to(router: Any, count: int) -> float:
    """When no more than so many requests are in flight."""
    while await in_flight(router) > count:  # noqa: ASYNC110 - it is another process
        await asyncio.sleep(0.2)
    return time.monotonic()


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("limit_s", "settings", "count"),
    [
        pytest.param(SHORT_LIMIT_S, SHORT, 40, id="short"),
        pytest.param(DEFAULT_LIMIT_S, "", 200, id="full", marks=[pytest.mark.long, pytest.mark.timeout(300)]),
    ],
)
async def test_stalled_readers(
    serve: Callable[[str], Any], far_and_large: FarEnd, limit_s: float, settings: str, count: int, stream: bool
) -> None:
    """Readers who take nothing of an answer of 4 MB cost half a megabyte each at most, slow nobody down and are cut in
    time."""
    router = serve(settings)
    answer_of(far_and_large, LARGE_BYTES)
    request = chat(body=body_of("large", stream=stream)).replace(b"<key>", router.key.encode())
    async with probing(router, "chat", pause_s=PAUSE_S) as probes:
        await asyncio.sleep(UNDISTURBED_S)
        clients = [await connected(router) for _ in range(count)]
        before_bytes, began_s = memory_bytes(router.process.pid), time.monotonic()
        for client in clients:
            await asyncio.get_running_loop().sock_sendall(client, request)
        await has_bytes(clients)
        await asyncio.sleep(0.5)  # for what goes on behind it
        stalled_s = time.monotonic()
        each_bytes = (memory_bytes(router.process.pid) - before_bytes) // count
        assert await in_flight(router) >= count
        first_s = await fallen_to(router, count - 1)
        last_s = await fallen_to(router, 0)
        for client in clients:
            client.close()
        await asyncio.sleep(UNDISTURBED_S)
    around = [*probes.between(0, began_s), *probes.between(last_s, math.inf)]
    during = probes.between(stalled_s, first_s - 1)
    print(f"{each_bytes >> 10} KiB each, cut after {first_s - began_s:.1f} to {last_s - stalled_s:.1f} s")  # noqa: T201
    print(f"longest {longest_ms(probes.between(began_s, stalled_s))} ms while they come")  # noqa: T201
    assert each_bytes <= MEMORY_LIMIT_BYTES
    assert limit_s - 1 < first_s - began_s
    assert last_s - stalled_s < limit_s + 5
    if limit_s == DEFAULT_LIMIT_S:
        p99s_ms = p99_ms(during), p99_ms(around)
        print(f"p99 {p99s_ms[0]:.1f} ms of {len(during)} during it, {p99s_ms[1]:.1f} of {len(around)} around it")  # noqa: T201
        assert p99s_ms[0] <= P99_FACTOR * p99s_ms[1]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_a_slow_reader_is_served(serve: Callable[[str], Any], far_and_large: FarEnd, stream: bool) -> None:
    """Who takes 4 kB a second of 200 kB, with a small buffer, gets it all."""
    router = serve("")
    answer_of(far_and_large, 200_000)
    loop = asyncio.get_running_loop()
    client = await connected(router, 4096)
    with client:
        request = chat(b"Connection: close\r\n", body_of("large", stream=stream))
        await loop.sock_sendall(client, request.replace(b"<key>", router.key.encode()))
        got = bytearray()
        while piece := await loop.sock_recv(client, 2_000):
            got += piece
            await asyncio.sleep(0.5)
    assert got.startswith(b"HTTP/1.1 200")
    assert len(got) > 200_000
    assert got.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n" if stream else b"}")


@pytest.fixture
def _many_sockets() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Trickle(asyncio.Protocol):
    """Sends what it is told at once, then bytes as it is told, and keeps what it gets."""

    def __init__(self, first: bytes) -> None:
        self._first = first
        self._began_s = 0.0
        self.got = b""
        self.took_s: float | None = None
        """Until the other side ended it."""

    def connection_made(self, transport: Any) -> None:
        self._transport, self._began_s = transport, time.monotonic()
        transport.write(self._first)

    def data_received(self, data: bytes) -> None:
        self.got += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.took_s = time.monotonic() - self._began_s

    def send(self, data: bytes) -> None:
        if self.took_s is None and not self._transport.is_closing():
            self._transport.write(data)


async def trickle(router: Any, count: int, first: bytes, bytes_: bytes) -> list[Trickle]:
    """So many, who send a byte a second, each at its time of the second, until all are cut."""
    loop, parts, made = asyncio.get_running_loop(), urlsplit(router.http), list[Trickle]()
    for _ in range(count):
        _, client = await loop.create_connection(lambda: Trickle(first), parts.hostname, parts.port)
        made.append(client)
    for number in range(100):
        for at in range(0, count, count // 20):
            await asyncio.sleep(0.05)
            for client in made[at : at + count // 20]:
                client.send(bytes_[number : number + 1])
        if all(client.took_s is not None for client in made):
            return made
    raise AssertionError("never cut")


@pytest.mark.usefixtures("_many_sockets")
@short_and_full
@pytest.mark.parametrize(
    ("sent", "bytes_", "answer"),
    [
        pytest.param(b"GET /healthz HTTP/1.1\r\nHost: e\r\nX", b"a" * 100, b"", id="headers"),
        pytest.param(chat(b"Content-Length: 1000\r\n", b"{", length=False), b" " * 100, b"HTTP/1.1 408 ", id="bodies"),
        pytest.param(chat(CHUNKED, b"5;", length=False), b"a" * 100, b"HTTP/1.1 408 ", id="chunks"),
    ],
)
async def test_slow_senders(
    serve: Callable[[str], Any], limit_s: float, settings: str, count: int, sent: bytes, bytes_: bytes, answer: bytes
) -> None:
    """Requests that come in a byte a second are cut at their time limit; others are served at once meanwhile."""
    router = serve(settings)
    async with probing(router, "models", pause_s=PAUSE_S) as probes:
        await asyncio.sleep(0.5)
        clients = await trickle(router, count, sent, bytes_)
    took_s = sorted(client.took_s or 0.0 for client in clients)
    print(f"cut after {took_s[0]:.1f} to {took_s[-1]:.1f} s; others {longest_ms(probes.found)} ms")  # noqa: T201
    assert {client.got[: len(answer)] for client in clients} == {answer}
    assert limit_s - 1 < took_s[0]
    assert took_s[-1] < limit_s + 5
    assert max(each.own_s for each in probes.found) < SERVED_WITHIN_S
