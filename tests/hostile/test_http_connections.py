"""Connections used in ways that HTTP allows and few clients try: ended early, pipelined by the thousand, never read."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.hostile.raw import RawClient
from tests.hostile.test_bodies import memory_bytes, nothing_stays
from tests.hostile.vectors import ALIVE, BODY, MARKER, STREAM, chat

MIB = 1 << 20
Connect = Callable[[], Awaitable[RawClient]]


@pytest.fixture(scope="module", autouse=True)
def _nothing_stays(scripted_router: Any) -> Iterator[None]:
    yield
    nothing_stays(scripted_router)


@pytest.fixture
async def connect(scripted_router: Any) -> AsyncIterator[Connect]:
    """Opens connections to a router."""
    clients: list[RawClient] = []

    async def open_one() -> RawClient:
        clients.append(await RawClient.to(urlsplit(scripted_router.http).port or 0, limit_s=20))
        return clients[-1]

    yield open_one
    for client in clients:
        client.close()


def scripted(body: bytes = BODY, **script: Any) -> bytes:
    return body[:-1] + b',"script":%b}' % json.dumps(script).encode()


@pytest.mark.parametrize(
    ("request_", "times"),
    [
        pytest.param(ALIVE, 1, id="a route of aiohttp's"),
        pytest.param(chat(), 1, id="a chat"),
        pytest.param(chat(body=scripted(head_delay_ms=800)), 1, id="a slow chat"),
        pytest.param(chat(body=STREAM), 1, id="a stream"),
        pytest.param(chat(body=scripted(STREAM, chunk_delay_ms=200)), 1, id="a slow stream"),
        pytest.param(chat(body=scripted(STREAM, first_delay_ms=300)), 1, id="a stream that begins late"),
        pytest.param(chat(b"Expect: 100-continue\r\n"), 1, id="with an expectation"),
        pytest.param(chat(body=scripted(token_count=300_000)), 1, id="a large answer"),
        pytest.param(chat(line=b"POST /v1/chat/completions HTTP/1.0"), 1, id="HTTP/1.0"),
        pytest.param((chat() + chat(body=STREAM) + ALIVE) * 20, 60, id="60 requests"),
        pytest.param(chat(b"Connection: Upgrade\r\nUpgrade: websocket\r\n") + chat(), 2, id="behind an upgrade"),
    ],
)
async def test_a_client_that_ends_its_side_gets_its_answers(
    connect: Connect, scripted_router: Any, request_: bytes, times: int
) -> None:
    """Whoever has sent all it wants to send may say so (FIN); every answer still comes, then the end."""
    client = await connect()
    await client.send(request_.replace(b"<key>", scripted_router.key.encode()))
    client.writer.write_eof()
    for _ in range(times):
        answer = await client.answer()
        assert answer.status == 200
        if answer.headers["content-type"].startswith("text/event-stream"):
            assert answer.body.endswith(b"data: [DONE]\n\n")
    assert await client.rest() == b""


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"\r\n",
        b"GET /" + MARKER,
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\n",
        chat()[:-1],
        chat(b"Expect: 100-continue\r\n")[: -len(BODY)],
        chat(b"Transfer-Encoding: chunked\r\n", b"5\r\n{", length=False),
    ],
)
async def test_half_a_request_and_the_end(connect: Connect, scripted_router: Any, part: bytes) -> None:
    """What is not whole when the client ends its side is not served: the connection closes at once, in silence."""
    client = await connect()
    await client.send(part.replace(b"<key>", scripted_router.key.encode()))
    began_s = time.monotonic()
    client.writer.write_eof()
    assert (await client.rest()).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n") == b""
    assert time.monotonic() - began_s < 1


async def test_ten_thousand_pipelined(connect: Connect, scripted_router: Any) -> None:
    """10,000 requests in one go, of which some are chats, get as many answers, in their order; little is held."""
    client = await connect()
    mixed = [chat(body=STREAM), chat(), b"GET /v1/nothing HTTP/1.1\r\nHost: e\r\n\r\n", *[ALIVE] * 17] * 500
    before_bytes = memory_bytes(scripted_router.process.pid)
    sending = asyncio.create_task(client.send(b"".join(mixed).replace(b"<key>", scripted_router.key.encode())))
    for number in range(len(mixed)):
        answer = await client.answer()
        kind = number % 20
        assert answer.status == (404 if kind == 2 else 200), number
        assert (b"[DONE]" in answer.body, b'"chat.completion"' in answer.body) == (kind == 0, kind == 1), number
    await sending
    client.writer.write_eof()
    assert await client.rest() == b""
    assert memory_bytes(scripted_router.process.pid) - before_bytes < 20 * MIB


async def test_a_client_that_sends_and_never_reads(connect: Connect, scripted_router: Any) -> None:
    """Requests that wait behind unread answers are not taken in: a connection holds a few MB of them at most."""
    large = chat(body=b" " * 1_900_000).replace(b"<key>", b"none")
    warm = await connect()
    for _ in range(5):
        await warm.send(large)
        assert (await warm.answer()).status == 401
    before_bytes = memory_bytes(scripted_router.process.pid)
    clients = [await connect() for _ in range(5)]
    unread = chat(body=scripted(token_count=200_000)).replace(b"<key>", scripted_router.key.encode())

    async def flood(client: RawClient) -> None:
        client.writer.transport.pause_reading()
        client.limit_s = 1.0
        await client.send(unread)
        for _ in range(40):
            await client.send(large)

    await asyncio.gather(*map(flood, clients), return_exceptions=True)
    grown_bytes = memory_bytes(scripted_router.process.pid) - before_bytes
    assert grown_bytes < len(clients) * 16 * MIB, grown_bytes / MIB
