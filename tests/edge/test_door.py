"""Crowds at the door: let in at once, gone before that, there when the edge stops."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
import struct
import time
from typing import Any

import aiohttp
import pytest

from edge.server import ACCEPTS_PER_TURN, Door, bind

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
TURNS = range(6)
"""Rounds of the event loop until something happens: 0, none is let in; 5, all are."""


def _crowd(edge: Any, size: int) -> list[socket.socket]:
    return [socket.create_connection(("127.0.0.1", edge.server.port)) for _ in range(size)]


async def test_a_crowd_is_let_in_at_once(edge: Any) -> None:
    """Who connects together with many is taken in within a few rounds of the event loop, not one in each."""
    watch = edge.server._watch
    crowd = _crowd(edge, 2 * ACCEPTS_PER_TURN)
    try:
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(watch.connections) == len(crowd)
    finally:
        for client in crowd:
            client.close()


@pytest.mark.parametrize("turns", TURNS)
async def test_clients_that_vanish_while_they_are_let_in(
    turns: int, edge: Any, http: aiohttp.ClientSession, complaints: list[Any]
) -> None:
    """A crowd that resets its connections at any moment is nobody's trouble: others are served, nothing stays."""
    async with http.get(f"{edge.url}/healthz") as answer:
        assert answer.status == 200
    open_before = len(os.listdir("/proc/self/fd"))
    crowd = _crowd(edge, 2 * ACCEPTS_PER_TURN)
    patient = _crowd(edge, 1)[0]
    patient.sendall(b"GET /healthz HTTP/1.1\r\nHost: e\r\nConnection: close\r\n\r\n")
    for client in crowd:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    for _ in range(turns):
        await asyncio.sleep(0)
    for client in crowd:
        client.close()
    with patient:
        patient.setblocking(False)
        async with asyncio.timeout(5):
            answered = await asyncio.get_running_loop().sock_recv(patient, 1 << 16)
    assert answered.startswith(b"HTTP/1.1 200 OK\r\n")
    async with asyncio.timeout(5):
        while len(edge.server._watch.connections) > 1:  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.005)
    assert len(os.listdir("/proc/self/fd")) == open_before
    assert complaints == []


async def test_a_connection_that_cannot_be_made_is_closed(
    complaints: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Where the system refuses what is done to the socket of a client that is gone, it is closed, with a debug line."""
    refused: list[socket.socket] = []

    class OtherSystem:
        """Options of a socket that was reset cannot be set, as on macOS."""

        create_task = staticmethod(asyncio.get_running_loop().create_task)

        async def connect_accepted_socket(self, connect: Any, accepted: socket.socket) -> None:
            refused.append(accepted)
            raise OSError(errno.EINVAL, "Invalid argument")

    caplog.set_level(logging.DEBUG, "edge")
    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        door = Door(OtherSystem(), listener, lambda: None)  # type: ignore[arg-type, return-value]
        with socket.create_connection(listener.getsockname()):
            door.let_in()
            await door.closed()
    assert [accepted.fileno() for accepted in refused] == [-1]
    assert [record.levelname for record in caplog.records if record.name == "edge.server"] == ["DEBUG"]


async def test_the_log_tells_that_clients_cannot_connect(edge: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Once, although it finds so at each try."""
    crowd = _crowd(edge, 2 * ACCEPTS_PER_TURN)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (crowd[-1].fileno() + 3, hard))
        for _ in range(20):
            await asyncio.sleep(0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for client in crowd:
            client.close()
    assert [record.getMessage() for record in caplog.records] == ["no more clients can connect: Too many open files"]


@pytest.mark.parametrize("turns", TURNS)
async def test_a_crowd_at_the_door_does_not_hold_up_a_stop(turns: int, edge: Any) -> None:
    """Who was let in but is no connection yet when the edge stops is closed with the others."""
    crowd = _crowd(edge, 2 * ACCEPTS_PER_TURN)
    try:
        for _ in range(turns):
            await asyncio.sleep(0)
        began_s = time.monotonic()
        await edge.server.stop(0)
        assert time.monotonic() - began_s < 2
        assert len(edge.server._watch.connections) == 0
    finally:
        for client in crowd:
            client.close()
