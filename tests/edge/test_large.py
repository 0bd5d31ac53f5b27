"""Large whole answers whose clients do not take them at once: nothing is lost, and memory is not where they wait."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

from edge.app import CHAT
from edge.large import ROOM_BYTES, Room

BODY = b'{"text":"%b"}' % b"".join(b"%d," % number for number in range(400_000))
SIZE_BYTES = len(BODY)


@pytest.fixture
def transport() -> str:
    return "inprocess"


@pytest.fixture
def large(core: Any) -> Any:
    """A core whose answers are large."""
    answer = core.create

    async def create(request: Any, context: Any) -> Any:
        found = await answer(request, context)
        found.body = BODY
        return found

    core.create = create
    return core


def room_of(edge: Any) -> Room:
    """Where rests wait in memory."""
    return edge.server._runner.app[CHAT]._room


def files() -> int:
    """Files without a name that this process has open."""
    found = 0
    for each in os.listdir("/proc/self/fd"):
        try:
            found += "(deleted)" in os.readlink(f"/proc/self/fd/{each}")
        except OSError:
            continue
    return found


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that no event announces."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def stalled(edge: Any, connect: Any) -> Any:
    """A client with an answer that it does not read."""
    client = await connect(edge, limit=1000)
    await client.post(b"{}")
    return client


async def taken(client: Any) -> bytes:
    """The answer's body."""
    _, headers = await client.head()
    async with asyncio.timeout(5):
        return await client.reader.readexactly(int(headers["content-length"]))


@pytest.mark.usefixtures("large")
async def test_it_arrives_whole_however_late(edge: Any, connect: Any) -> None:
    """Of three the first waits in memory, the others in files; all get every byte, and nothing is left of it."""
    before, room = files(), room_of(edge)
    room.free_bytes = SIZE_BYTES
    clients = [await stalled(edge, connect)]
    await until(lambda: room.free_bytes < SIZE_BYTES)
    clients += [await stalled(edge, connect) for _ in range(2)]
    await until(lambda: files() == before + 2)
    for client in reversed(clients):
        assert await taken(client) == BODY
    await until(lambda: room.free_bytes == SIZE_BYTES)
    await until(lambda: files() == before)
    await clients[1].post(b"{}")  # the connection goes on
    assert await taken(clients[1]) == BODY


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("free_bytes", [ROOM_BYTES, 0], ids=["memory", "file"])
async def test_a_client_that_goes_away_leaves_nothing(edge: Any, connect: Any, free_bytes: int) -> None:
    """Neither room taken nor a file open, and the request is counted as one whose client went."""
    before, room = files(), room_of(edge)
    room.free_bytes = free_bytes
    client = await stalled(edge, connect)
    await until(lambda: room.free_bytes < free_bytes or files() > before)
    client.abort()
    await until(lambda: not edge.metric("worldrouter_edge_in_flight"))
    assert (room.free_bytes, files()) == (free_bytes, before)
    assert edge.metric("worldrouter_edge_client_disconnects_total") == 1


@pytest.mark.usefixtures("large")
async def test_a_client_that_says_no_more_gets_its_answer_alone(edge: Any, connect: Any) -> None:
    """Nothing that asks whether it is still there gets into the answer."""
    client = await stalled(edge, connect)
    await until(lambda: room_of(edge).free_bytes < ROOM_BYTES)
    client.writer.write_eof()
    await asyncio.sleep(0.1)
    assert await taken(client) == BODY


@pytest.mark.usefixtures("large")
async def test_without_a_place_for_files_the_client_is_cut(
    edge: Any, connect: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It would be half an answer else; the log says why."""
    room_of(edge).free_bytes = 0
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    client = await stalled(edge, connect)
    _, headers = await client.head()
    assert len(await client.rest()) < int(headers["content-length"])
    assert "No such file" in caplog.text
