"""Raw bytes against the real edge: what HTTP forbids is refused as JSON and the end, what it allows is served."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.hostile.raw import Answer, RawClient
from tests.hostile.vectors import ALIVE, MARKER, VECTORS, Vector

AT_ONCE_S = 5.0  # a time limit of the edge is 30 s
PAUSE_S = 0.03


def check_error(answer: Answer) -> None:
    """Hold an answer to the error format; it echoes nothing."""
    assert answer.headers["content-type"] == "application/json"
    error = json.loads(answer.body)["error"]
    assert set(error) == {"message", "type", "param", "code", "request_id"}
    assert error["request_id"] == answer.headers["x-request-id"]
    assert MARKER.lower() not in answer.raw.lower()


async def bounce(client: RawClient, vector: Vector, key: str) -> None:
    """Send a vector and hold what comes back to what is expected."""
    for number, piece in enumerate(vector.sent):
        if number:
            await asyncio.sleep(PAUSE_S)
        try:
            await client.send(piece.replace(b"<key>", key.encode()))
        except ConnectionError:  # told so before all of it was sent
            break
    for status in vector.answers:
        answer = await client.answer()
        assert answer.status == status, answer.raw
        assert answer.interim <= 1
        assert "x-request-id" in answer.headers
        if status >= 400:
            check_error(answer)
    if vector.stays:
        await client.send(ALIVE)
        answer = await client.answer()
        assert (answer.status, answer.body) == (200, b'{"status": "ok"}'), "an answer too many"
        assert "connection" not in answer.headers
        return
    if vector.lingers:
        assert answer.headers["connection"] == "close"
        client.writer.write_eof()
    assert await client.rest() == b""


@pytest.mark.parametrize("vector", [pytest.param(each, id=f"{each.rule}: {each.name}") for each in VECTORS])
async def test_raw_http(scripted_router: Any, vector: Vector) -> None:
    """No more answers than requests, of the status HTTP wants, at once; the connection stays or closes as it has to."""
    client = await RawClient.to(urlsplit(scripted_router.http).port or 0, limit_s=AT_ONCE_S)
    began_s = time.monotonic()
    try:
        await bounce(client, vector, scripted_router.key)
    finally:
        client.close()
    assert time.monotonic() - began_s < AT_ONCE_S
