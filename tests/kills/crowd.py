"""Clients that keep streams running whatever happens to the router, and write down how each ended."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import TextIO
from uuid import uuid4

import aiohttp

RETRY_S = 0.3


class Crowd:
    """So many clients. `live` streams have begun and not ended; `urls` says where the router is now."""

    def __init__(self, count: int, log: TextIO, urls: Callable[[], list[str]], keys: list[str]) -> None:
        self._log, self._urls, self._keys = log, urls, keys
        self.live = 0
        self.outcomes: Counter[str] = Counter()
        self._clients = [asyncio.create_task(self._client(at)) for at in range(count)]

    async def stop(self) -> None:
        """No new streams; those that run are seen to their end."""
        self._urls = list
        await asyncio.gather(*self._clients)

    async def _client(self, at: int) -> None:
        limit = aiohttp.ClientTimeout(None, connect=5, sock_read=30)
        headers = {"authorization": f"Bearer {self._keys[at % len(self._keys)]}"}
        async with aiohttp.ClientSession(timeout=limit, headers=headers) as session:
            while urls := self._urls():
                id_ = uuid4().hex
                request_id, outcome = await self._stream(session, random.choice(urls), id_)
                self.outcomes[outcome] += 1
                self._log.write(json.dumps({"id": id_, "request_id": request_id, "outcome": outcome}) + "\n")
                if outcome != "complete":
                    await asyncio.sleep(RETRY_S * (0.5 + random.random()))

    async def _stream(self, session: aiohttp.ClientSession, url: str, id_: str) -> tuple[str, str]:
        body = {
            "model": "m",
            "messages": [{"role": "user", "content": "x"}],
            "stream": True,
            "max_tokens": 100,
            "user": id_,
        }
        request_id, last, live = "", b"", False
        try:
            async with session.post(f"{url}/v1/chat/completions", json=body, headers={"x-request-id": id_}) as answer:
                request_id = answer.headers["x-request-id"]
                if answer.status != 200:
                    return request_id, f"status {answer.status}"
                async for line in answer.content:
                    if line.strip():
                        last = line.strip()
                        self.live += not live
                        live = True
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            return request_id, "cut"
        finally:
            self.live -= live
        if last == b"data: [DONE]":
            return request_id, "complete"
        return request_id, "error" if b'"error"' in last else "cut"
