"""The yardstick: the least that a gateway on aiohttp can do. `python -m tests.bench.bare_proxy UPSTREAM_URL KEY`.

aiohttp's server and client on uvloop; the key is looked up, the body parsed, the model checked, every upstream read
passed straight on, the tokens counted in memory. No database, no limits, no deadlines, no disconnects, no retries.
It prints the port it listens on, on loopback.
"""

from __future__ import annotations

import asyncio
import re
import sys

import aiohttp
import msgspec
import uvloop
from aiohttp import web

from tests.bench import answers

BACKLOG = 4096
BODY_LIMIT_BYTES = 64 << 20
_TOTAL = re.compile(rb'"total_tokens":(\d+)')


class BareProxy:
    """Forwards chat requests to one upstream and counts the tokens of each key."""

    def __init__(self, http: aiohttp.ClientSession, upstream: str, keys: frozenset[str]) -> None:
        self._http, self._url, self._keys = http, f"{upstream}/v1/chat/completions", keys
        self._headers = {"Authorization": "Bearer upstream", "Content-Type": "application/json"}
        self.tokens = dict.fromkeys(keys, 0)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        key = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if key not in self._keys:
            return web.json_response({"error": {"message": "bad key"}}, status=401)
        raw = await request.read()
        body = msgspec.json.decode(raw)
        if body.get("model") != answers.MODEL:
            return web.json_response({"error": {"message": "no such model"}}, status=404)
        async with self._http.post(self._url, data=raw, headers=self._headers) as upstream:
            if body.get("stream"):
                return await self._stream(request, upstream, key)
            content = await upstream.read()
            self._meter(key, content)
            return web.Response(body=content, status=upstream.status, content_type="application/json")

    async def _stream(self, request: web.Request, upstream: aiohttp.ClientResponse, key: str) -> web.StreamResponse:
        response = web.StreamResponse(status=upstream.status, headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        tail = b""
        async for read in upstream.content.iter_any():
            await response.write(read)
            if b'"usage":{' in read:
                tail = read
        await response.write_eof()
        self._meter(key, tail)
        return response

    def _meter(self, key: str, content: bytes) -> None:
        if found := _TOTAL.search(content):
            self.tokens[key] += int(found[1])


async def _alive(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def serve(upstream: str, key: str) -> None:
    """Listen, say where, and serve for ever."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as http:
        app = web.Application(client_max_size=BODY_LIMIT_BYTES)
        app.router.add_post("/v1/chat/completions", BareProxy(http, upstream, frozenset({key})).chat)
        app.router.add_get("/healthz", _alive)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=BACKLOG).start()
        sys.stdout.write(f"{runner.addresses[0][1]}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], sys.argv[2]))
