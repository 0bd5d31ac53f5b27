"""An upstream whose streams take their time, and which writes down what it did. `python -m tests.kills.upstream LOG`.

It prints its port, on loopback, and serves until it is ended. It writes a line before the first byte of an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sys
from pathlib import Path
from typing import TextIO

from aiohttp import web

PAUSE_S = 0.25
MOST_CHUNKS = 12


def event(**fields: object) -> bytes:
    head = {"id": "a", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps(head | fields).encode() + b"\n\n"


class Upstream:
    """Answers at its own pace, with usage of its own choice."""

    def __init__(self, log: TextIO) -> None:
        self._log = log

    async def chat(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        chunks = random.randint(1, MOST_CHUNKS)
        told = {"id": asked["user"], "prompt": random.randint(1, 9), "completion": random.randint(1, 90)}
        self._log.write(json.dumps(told) + "\n")
        self._log.flush()
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        with contextlib.suppress(ConnectionError):  # the router was killed
            await answer.prepare(request)
            await self._tell(answer, chunks, told)
        return answer

    async def _tell(self, answer: web.StreamResponse, chunks: int, told: dict[str, int]) -> None:
        for _ in range(chunks):
            choice = {"index": 0, "delta": {"content": "word "}, "finish_reason": None}
            await answer.write(event(choices=[choice]))
            await asyncio.sleep(random.uniform(0.5, 1.5) * PAUSE_S)
        usage = {"prompt_tokens": told["prompt"], "completion_tokens": told["completion"]}
        await answer.write(event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}]))
        await answer.write(event(choices=[], usage=usage | {"total_tokens": sum(usage.values())}))
        await answer.write(b"data: [DONE]\n\n")


async def serve(log: TextIO) -> None:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", Upstream(log).chat)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1_024).start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    with Path(sys.argv[1]).open("a") as opened:
        asyncio.run(serve(opened))
