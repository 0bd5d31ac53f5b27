"""No task outlives its request, however that ends."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import Any

import pytest

ENDS: dict[str, dict[str, Any]] = {
    "complete": {},
    "failed": {"fault": "error", "fault_after": 2},
    "gone before headers": {"fault": "no_head"},
    "gone in silence": {"fault": "silence", "fault_after": 2},
    "gone in mid-stream": {"token_count": 4000, "chunk_delay_ms": 5},
}


async def ask(inside: Any, script: dict[str, Any], *, stream: bool, gone: bool) -> None:
    """One request on a connection of its own; read to the end, or left after a moment."""
    body = json.dumps(
        {
            "model": "scripted",
            "messages": [{"role": "user", "content": "one two three"}],
            "stream": stream,
            "max_tokens": 4000 if gone else 10,
            "script": script,
        }
    ).encode()
    host, port = inside.http.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {inside.key}\r\n"
    writer.write(f"{head}connection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    if gone:
        await asyncio.sleep(0.05)
        writer.transport.abort()
    else:
        await asyncio.wait_for(reader.read(), 10)
        writer.close()


@pytest.mark.parametrize("end", ENDS)
async def test_no_task_is_left(inside: Any, end: str) -> None:
    """After fifty requests there are as many tasks as before, no exchange runs and nothing is held."""
    gone = end.startswith("gone")
    await ask(inside, ENDS[end], stream=True, gone=gone)
    await settled(inside)
    before = asyncio.all_tasks()
    for stream in (True, False):
        await asyncio.gather(*(ask(inside, ENDS[end], stream=stream, gone=gone) for _ in range(25)))
    await settled(inside)
    assert await none_but(before)
    assert inside.core.engine.escrow.held_nano_usd == 0
    gc.collect()  # a task that was dropped while pending would complain now


async def none_but(before: set[asyncio.Task[Any]]) -> bool:
    """Whether there soon is a moment at which nothing runs but that: polls come and go."""
    for _ in range(100):
        if asyncio.all_tasks() <= before:
            return True
        await asyncio.sleep(0.01)
    return False


async def settled(inside: Any) -> None:
    """Wait until nothing runs any more; connections take a moment to be seen closed."""
    for _ in range(100):
        await asyncio.sleep(0.02)
        if inside.core.engine.pipeline.in_flight == 0 and inside.core.engine.ledger.depth == 0:
            break
    await asyncio.sleep(0.2)
    assert inside.core.engine.pipeline.in_flight == 0
