"""Clients that go away: the upstream's socket closes, what was produced is charged once, nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from worldrouter.client import AsyncClient
from worldrouter.v1.chat_pb2 import ChatCompletionParams, ChatMessage, StreamChatCompletionRequest
from worldrouter.v1.metering_pb2 import (
    COMPLETION_STATUS_CLIENT_GONE,
    GetBalanceRequest,
    ListLedgerEntriesRequest,
    ListUsageRecordsRequest,
    UsageRecord,
)
from worldrouter.v1.raw_chat_pb2 import CreateRawCompletionRequest

from tests.e2e.conftest import nearly_at_once

CLOSES_WITHIN_S = 1.0
AT_ONCE = 50
ROUNDS = 36
"""Of all ways: 250 clients in each topology."""
CONFIG = """
[providers.far]
kind = "openai"
base_url = "{base_url}"

[[models]]
id = "far"
max_output_tokens = 100
price = {{ input = 1_000_000, output = 2_000_000 }}
endpoints = [{{ provider = "far", model = "far" }}]
"""


@dataclass(frozen=True)
class Way:
    """How a client goes: `before` what it is waiting for when it does."""

    name: str
    stream: bool
    before: str
    grpc: bool = False


WAYS = [
    Way("whole, before headers", stream=False, before="headers"),
    Way("whole, in mid-body", stream=False, before="the rest"),
    Way("streamed, before headers", stream=True, before="headers"),
    Way("streamed, in silence", stream=True, before="the rest"),
    Way("streamed, in mid-stream", stream=True, before="the end"),
    Way("whole, over gRPC", stream=False, before="headers", grpc=True),
    Way("streamed, over gRPC", stream=True, before="the end", grpc=True),
]


@dataclass
class FarEnd:
    """A model's server that answers as far as it is told, then waits for its caller to hang up."""

    base_url: str = ""
    open: int = 0
    reached: dict[str, asyncio.Event] = field(default_factory=dict)
    closed_s: dict[str, asyncio.Future[float]] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        name = ""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            asked = json.loads(await reader.readexactly(int(length.split(b":")[1])))
            name = asked["user"]
            await self._answer(asked, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1
            if name in self.closed_s:
                self.closed_s[name].set_result(time.monotonic())
            writer.close()

    async def _answer(self, asked: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        before, name = asked["metadata"]["before"], asked["user"]
        gone = asyncio.ensure_future(reader.read())
        if before != "headers":
            kind = b"text/event-stream" if asked.get("stream") else b"application/json"
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\ncontent-length: 1000000\r\n\r\n")
            writer.write(chunk("one") + chunk(" two") if asked.get("stream") else b'{"id": "x", "choices": [{')
        self.reached[name].set()
        while before == "the end" and not gone.done():
            await asyncio.wait([gone], timeout=0.02)
            writer.write(chunk(" more"))
        await gone


def chunk(text: str) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    return f"data: {json.dumps({'id': 'x', 'created': 1, 'model': 'far', 'choices': [choice]})}\n\n".encode()


@pytest.fixture
async def far_end() -> AsyncIterator[FarEnd]:
    far_end = FarEnd()
    server = await asyncio.start_server(far_end.serve, "127.0.0.1", 0, backlog=1000)
    far_end.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    yield far_end
    server.close()
    await server.wait_closed()


class Clients:
    """Clients of one account that ask, wait until the far end got as far as wanted, and go."""

    def __init__(self, router: Any, account: Any, far_end: FarEnd, over_grpc: AsyncClient) -> None:
        self._router = router
        self._account = account
        self._far_end = far_end
        self._over_grpc = over_grpc
        self._numbers = itertools.count()
        self.gone: dict[str, Way] = {}

    async def go_all(self, ways: list[Way]) -> None:
        """So many at a time."""
        for start in range(0, len(ways), AT_ONCE):
            await asyncio.gather(*(self._go(way) for way in ways[start : start + AT_ONCE]))

    async def _go(self, way: Way) -> None:
        name = f"client-{next(self._numbers)}"
        self.gone[name] = way
        self._far_end.reached[name] = asyncio.Event()
        closed_s = self._far_end.closed_s[name] = asyncio.get_running_loop().create_future()
        go = self._go_over_grpc if way.grpc else self._go_over_http
        gone_s = await go(way, name)
        took_s = await asyncio.wait_for(closed_s, 10) - gone_s
        assert took_s < CLOSES_WITHIN_S, f"{way.name}: {took_s:.2f} s"

    def _body(self, way: Way, name: str) -> bytes:
        asked = {
            "model": "far",
            "messages": [{"role": "user", "content": "one two three"}],
            "stream": way.stream,
            "user": name,
            "metadata": {"before": way.before},
        }
        return json.dumps(asked).encode()

    async def _go_over_http(self, way: Way, name: str) -> float:
        host, port = self._router.http.removeprefix("http://").split(":")
        body = self._body(way, name)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self._account.key}\r\n"
            f"x-request-id: {name}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await asyncio.wait_for(self._far_end.reached[name].wait(), 10)
        if way.stream and way.before != "headers":
            await asyncio.wait_for(reader.readuntil(b"two"), 10)
        writer.transport.abort()
        return time.monotonic()

    async def _go_over_grpc(self, way: Way, name: str) -> float:
        metadata = (("x-request-id", name), ("authorization", f"Bearer {self._account.key}"))
        if not way.stream:
            request = CreateRawCompletionRequest(dialect=1, body=self._body(way, name))
            call: Any = self._over_grpc.raw_chat.CreateRawCompletion(request, metadata=metadata)
            await asyncio.wait_for(self._far_end.reached[name].wait(), 10)
        else:
            params = ChatCompletionParams(
                model="far",
                messages=[ChatMessage(role="user", content="one two three")],
                user=name,
                metadata={"before": way.before},
            )
            call = self._over_grpc.chat.StreamChatCompletion(
                StreamChatCompletionRequest(params=params), metadata=metadata
            )
            assert (await call.read()).HasField("started")
            assert (await call.read()).HasField("deltas")
        call.cancel()
        gone_s = time.monotonic()
        with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await call.code()
        return gone_s


@pytest.mark.slow
@pytest.mark.parametrize("topology", ["serve", "apart"])
async def test_clients_that_go_away(launcher: Any, far_end: FarEnd, topology: str) -> None:
    """Within a second each one's upstream call is closed; one ledger row has what was produced; nothing is left."""
    start: Callable[[str], Any] = getattr(launcher, topology)
    router = await asyncio.to_thread(start, CONFIG.format(base_url=far_end.base_url))
    account = router.account(usd=100)
    async with AsyncClient(router.grpc, account.key, plaintext=True) as over_grpc:
        clients = Clients(router, account, far_end, over_grpc)
        await clients.go_all(WAYS)
        await asyncio.to_thread(router.settle)
        descriptors = router.descriptors()
        await clients.go_all(WAYS * ROUNDS)
        await asyncio.to_thread(router.settle)
        records = await read_records(over_grpc)
        check_records(clients, records)
        assert router.metric("worldrouter_held_nano_usd") == 0
        assert far_end.open == 0
        await nearly_at_once(lambda: router.descriptors() <= descriptors)
        await check_money(over_grpc, records)
    assert router.complaints() == []


async def read_records(client: AsyncClient) -> list[UsageRecord]:
    listed = await client.metering.ListUsageRecords(ListUsageRecordsRequest(page_size=1000))
    assert not listed.next_page_token
    return list(listed.records)


def check_records(clients: Clients, records: list[UsageRecord]) -> None:
    """One for each client, of what its way produces."""
    assert Counter(record.client_request_id for record in records) == Counter(list(clients.gone))
    for record in records:
        way = clients.gone[record.client_request_id]
        assert record.status == COMPLETION_STATUS_CLIENT_GONE
        assert record.usage.estimated
        assert record.usage.prompt_token_count > 0
        produced = way.stream and way.before != "headers"
        assert (record.usage.completion_token_count > 0) == produced, way.name
        cost = record.usage.prompt_token_count * 1_000 + record.usage.completion_token_count * 2_000
        assert record.cost_nano_usd == cost


async def check_money(client: AsyncClient, records: list[UsageRecord]) -> None:
    """The balance is the credits less these charges, each in the ledger once; idle leases are given back."""
    entries = await client.metering.ListLedgerEntries(ListLedgerEntriesRequest(page_size=1000))
    assert Counter(entry.ref for entry in entries.entries if entry.kind == 1) == Counter(
        record.request_id for record in records
    )
    for _ in range(60):
        balance = await client.metering.GetBalance(GetBalanceRequest())
        if balance.held_nano_usd == 0:
            break
        await asyncio.sleep(0.1)
    spent = sum(record.cost_nano_usd for record in records)
    assert (balance.balance_nano_usd, balance.held_nano_usd) == (100 * 10**9 - spent, 0)
