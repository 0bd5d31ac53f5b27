"""What a request leaves behind: nothing that waits for the garbage collector, which comes seldom."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edge.connection import Connection
from edge.request import ChatRequest

pytestmark = pytest.mark.slow

TIMES = 8
BODY_BYTES = 500_000
CHATS = {"unary": b'{"x":"%b"}' % (b"x" * BODY_BYTES), "stream": b'{"stream":true,"x":"%b"}' % (b"x" * BODY_BYTES)}


@pytest.fixture
def transport() -> str:
    """The core's own memory would be counted otherwise; gRPC's is not ours."""
    return "inprocess"


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Only what is not in a cycle is freed."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    yield
    tracemalloc.stop()
    gc.enable()


async def hung(core: Any) -> None:
    """Have the core answer with silence."""

    async def create(request: Any, context: Any) -> None:
        await core.admit(context)
        await asyncio.sleep(30)

    async def stream(request: Any, context: Any) -> Any:
        await core.admit(context)
        yield core.chunks(b"{}")
        await asyncio.sleep(30)

    core.create, core.stream = create, stream


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that no event announces."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def forgotten(core: Any, edge: Any) -> tuple[int, int]:
    """Wait until the edge has let go of every client; the requests and connections that are still in memory."""
    await until(lambda: not (edge.server._watch.connections or edge.metric("worldrouter_edge_in_flight")))
    await asyncio.sleep(0.05)
    core.calls.clear()
    left = [type(found) for found in gc.get_objects()]
    return left.count(ChatRequest), left.count(Connection)


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("kind", CHATS)
async def test_a_client_that_went_away_leaves_nothing(core: Any, edge: Any, connect: Any, kind: str) -> None:
    """Neither its request nor its body, while it waited for the core."""
    await hung(core)
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(TIMES):
        client = await connect(edge)
        await client.post(CHATS[kind])
        await until(lambda: core.calls)
        client.abort()
        assert await forgotten(core, edge) == (0, 0)
    after, _ = tracemalloc.get_traced_memory()
    assert after - before < BODY_BYTES * TIMES / 4


@pytest.mark.usefixtures("uncollected")
async def test_a_body_that_broke_off_is_not_kept(core: Any, edge: Any, connect: Any) -> None:
    """The part that came is freed at once: no key was needed to send it."""
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(TIMES):
        client = await connect(edge)
        await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\nContent-Length: 900000\r\n\r\n")
        await client.send(b"x" * BODY_BYTES)
        await asyncio.sleep(0.05)
        client.abort()
        await forgotten(core, edge)
    after, _ = tracemalloc.get_traced_memory()
    assert after - before < BODY_BYTES * TIMES / 4


@pytest.mark.usefixtures("uncollected")
async def test_a_connection_that_ended_leaves_nothing(core: Any, edge: Any, connect: Any) -> None:
    """After an answer on a connection that the client closes."""
    client = await connect(edge)
    await client.post(b"{}")
    await client.head()
    client.abort()
    assert await forgotten(core, edge) == (0, 0)
