"""Whatever a caller sends beside the few fields that are looked at arrives at the upstream's socket byte for byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from random import Random
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import Launcher

SEED = 4
COUNTS = (200, pytest.param(2_000, marks=pytest.mark.slow))
CONFIG = """
[providers.raw]
kind = "openai"
base_url = "http://127.0.0.1:%d/v1"

[[models]]
id = "m"
max_output_tokens = 4000
price = { input = 1_000_000, output = 2_000_000 }
endpoints = [{ provider = "raw", model = "up/stream" }]
"""
NUMBERS = (
    *rb"""
    9007199254740993 -9007199254740993 18446744073709551617 0 -0 -0.0 1.0 1e2 1E+2 1e999 1e-400 100e-2 0.1
    0.30000000000000004
    """.split(),
    *(b"9" * 60, b"3." + b"14159265358979323846" * 3),
)
STRINGS = (
    *rb""" "" "plain" "\u00e9\/\ud83d\ude00" "\u0000\b\f\n\r\t\"\\" "{\"a\":1}" """.split(),
    *(b'"\xc3\xa9 \xe2\x80\xa8 \xf0\x9f\x98\x80"', b'"\x7f"', b'"data: [DONE]"', b'"' + b"x" * 3_000 + b'"'),
)
NAMES = (
    *rb""" "api_key" "base_url" "extra_headers" "model" "stream" "same" "same" "" "\u0061pi_key" "\n" "n" """.split(),
    *(b'"\xc3\xa9"', b'"max_tokens"', b'"__proto__"'),
)
SPACES = (b"", b"", b"", b" ", b"\n", b"\r\n\t ")
UNKNOWN = tuple(
    "seed temperature logit_bias tool_choice response_format metadata user x-é nested top_k".encode().split()
)

UNARY = b'{"id":"1","choices":[{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}'
STREAM = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


def any_json(random: Random, depth: int = 4) -> bytes:
    """JSON text written as no library would."""
    kind = random.random()
    space = random.choice(SPACES)
    if depth == 0 or kind < 0.3:
        return random.choice(NUMBERS)
    if kind < 0.5:
        return random.choice(STRINGS)
    if kind < 0.55:
        return random.choice((b"null", b"true", b"false"))
    inside = [any_json(random, depth - 1) for _ in range(random.randrange(4))]
    if kind < 0.75:
        return b"[%b%b%b]" % (space, (b",%b" % space).join(inside), space)
    pairs = [b"%b%b:%b%b" % (random.choice(NAMES), space, random.choice(SPACES), each) for each in inside]
    return b"{%b%b}" % (space, (b"%b," % space).join(pairs))


def messages(random: Random) -> bytes:
    """Messages in which only the outermost form is OpenAI's."""
    contents = [any_json(random) for _ in range(random.randrange(1, 4))]
    return b"[%b]" % b", ".join(b'{"role":"user" ,"content":%b,"x":%b}' % (each, any_json(random)) for each in contents)


def request(random: Random, *, stream: bool) -> tuple[bytes, bytes]:
    """A body, and what of it must reach the upstream."""
    fields = [(name, any_json(random)) for name in random.sample(UNKNOWN, random.randrange(len(UNKNOWN)))]
    fields += [(b"messages", messages(random)), (b"tools", b"[%b]" % any_json(random))]
    random.shuffle(fields)
    at = random.randrange(len(fields) + 1)
    return (
        written([*fields[:at], (b"model", b'"m"'), *fields[at:]], stream, b"", random.choice(SPACES)),
        written(
            [*fields[:at], (b"model", b'"up/stream"'), *fields[at:]],
            stream,
            b',"stream_options":{"include_usage":true}' if stream else b"",
        ),
    )


def written(fields: Sequence[tuple[bytes, bytes]], stream: bool, end: bytes, space: bytes = b"") -> bytes:
    pairs = [b'%b"%b"%b:%b%b%b' % (space, name, space, space, value, space) for name, value in fields]
    if stream:
        pairs.append(b'%b"stream":true' % space)
    return b"%b{%b%b%b}%b" % (space, b",".join(pairs), end, space, space)


class RawUpstream:
    """Takes HTTP requests as bytes and answers each with the shortest completion."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self._connections: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                body = await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
                self.received.append(body)
                kind, answer = (
                    (b"text/event-stream", STREAM) if b"event-stream" in head else (b"application/json", UNARY)
                )
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (kind, len(answer)))
                writer.write(answer)
        except asyncio.IncompleteReadError:
            pass
        finally:
            self._connections.discard(writer)
            writer.close()

    def close(self) -> None:
        for writer in self._connections:
            writer.transport.abort()


@pytest.fixture
async def upstream() -> AsyncIterator[tuple[RawUpstream, int]]:
    """A far end and its port."""
    made = RawUpstream()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    yield made, server.sockets[0].getsockname()[1]
    server.close()
    made.close()


@pytest.fixture
def routed(launcher: Launcher, upstream: tuple[RawUpstream, int]) -> Any:
    """A router in front of it."""
    router = launcher.serve(CONFIG % upstream[1])
    router.key = router.account(usd=1000).key
    return router


@pytest.mark.parametrize("count", COUNTS)
async def test_what_is_not_looked_at_arrives_byte_for_byte(
    routed: Any, upstream: tuple[RawUpstream, int], count: int
) -> None:
    """Unknown fields, tools and content: integers above 2^53, 1.0, -0, names that come twice, `api_key` in depth."""
    random, (far, _) = Random(SEED), upstream
    headers = {"authorization": f"Bearer {routed.key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for number in range(count):
            body, wanted = request(random, stream=number % 2 == 1)
            async with session.post(f"{routed.base_url}/chat/completions", data=body) as answer:
                assert answer.status == 200, (await answer.read(), body)
                await answer.read()
            assert "x-worldrouter-ignored" not in answer.headers
            assert far.received.pop() == wanted, f"of {body!r}"
    assert far.received == []


async def test_a_field_given_twice_arrives_once(routed: Any, upstream: tuple[RawUpstream, int]) -> None:
    """At the top level the last one is judged, so it alone is sent: no upstream can read another one."""
    body = (
        b'{"model":"elsewhere","max_tokens":4000,"x":1,"messages":[{"role":"user","content":"a"}],"stream":true,'
        b'"n":100,"model":"m","max\\u005ftokens":5,"x":{"y":1,"y":2},"stream":false,"n":1,"messages":[{"role":"user"}]}'
    )
    headers = {"authorization": f"Bearer {routed.key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{routed.base_url}/chat/completions", data=body) as answer,
    ):
        assert answer.status == 200
        assert json.loads(await answer.read())["model"] == "m"
    assert upstream[0].received == [
        b'{"model":"up/stream","max_tokens":5,"x":{"y":1,"y":2},"messages":[{"role":"user"}],"stream":false,"n":1}'
    ]
