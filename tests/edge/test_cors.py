"""Browsers on other sites: an allow-list of origins, preflights, and what their pages may read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import aiohttp
import grpc
import pytest

APP, OTHER = "https://app.example.com", "https://other.example.com"
CHAT = "/v1/chat/completions"
STREAMED = b'{"stream":true}'


def cors(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers of an answer that CORS looks at, and Vary; names in lower case."""
    found = {name.lower(): value for name, value in headers.items()}
    return {name: value for name, value in found.items() if name.startswith("access-control-") or name == "vary"}


def preflight(origin: str = APP, method: str = "POST") -> dict[str, str]:
    """What a browser asks with before it sends a request that has an Authorization header."""
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }


@pytest.fixture
async def open_edge(start_edge: Any) -> Any:
    """An edge that two origins may call."""
    return await start_edge(cors_origins=(APP, "http://localhost:3000"))


async def test_it_is_off_by_default(edge: Any, http: aiohttp.ClientSession) -> None:
    """Without the setting no answer speaks of CORS, and a preflight is a method that the route does not take."""
    for body in (b"{}", STREAMED):
        async with http.post(edge.url + CHAT, data=body, headers={"Origin": APP}) as answer:
            assert (answer.status, cors(answer.headers)) == (200, {})
    async with http.options(edge.url + CHAT, headers=preflight()) as answer:
        assert (answer.status, cors(answer.headers)) == (405, {})


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/models/a/b", "/v1/nothing"])
async def test_a_preflight_of_a_listed_origin(
    core: Any, open_edge: Any, http: aiohttp.ClientSession, path: str
) -> None:
    """It needs no key, is answered at once for any path, and names what the page may send."""
    async with http.options(open_edge.url + path, headers=preflight("http://localhost:3000")) as answer:
        assert (answer.status, await answer.read()) == (204, b"")
        assert answer.headers["x-request-id"].startswith("edge-")
        named = cors(answer.headers)
    del named["access-control-expose-headers"]
    assert named == {
        "access-control-allow-origin": "http://localhost:3000",
        "access-control-allow-methods": "GET, HEAD, POST",
        "access-control-allow-headers": "Authorization, Content-Type, *",
        "access-control-max-age": "7200",
        "vary": "Origin",
    }
    assert core.calls == []


@pytest.mark.parametrize(
    "origin", [OTHER, "null", "http://app.example.com", APP + ":8443", APP + ".evil.com", APP.upper(), ""]
)
async def test_origins_that_are_not_listed(open_edge: Any, http: aiohttp.ClientSession, origin: str) -> None:
    """They get the same answers without leave to read them; origins are compared whole."""
    async with http.options(open_edge.url + CHAT, headers=preflight(origin)) as answer:
        assert (answer.status, cors(answer.headers)) == (204, {"vary": "Origin"})
    async with http.post(open_edge.url + CHAT, data=b"{}", headers={"Origin": origin}) as answer:
        assert (answer.status, cors(answer.headers)) == (200, {"vary": "Origin"})


async def test_what_is_no_preflight(open_edge: Any, http: aiohttp.ClientSession) -> None:
    """OPTIONS without the method that would follow is still a method that the route does not take."""
    async with http.options(open_edge.url + CHAT, headers={"Origin": APP}) as answer:
        assert answer.status == 405
        assert cors(answer.headers)["access-control-allow-origin"] == APP


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", CHAT, b"{}", 200),
        ("POST", CHAT, STREAMED, 200),
        ("POST", "/v1/chat%2Fcompletions", b"{}", 404),
        ("POST", "/v1/%63hat/completions?a=b", STREAMED, 200),
        ("GET", "/v1/models", None, 401),
        ("GET", "/healthz", None, 200),
        ("GET", "/nothing", None, 404),
        ("PUT", CHAT, b"{}", 405),
    ],
)
async def test_every_answer_may_be_read(
    core: Any, open_edge: Any, connect: Any, method: str, path: str, body: bytes | None, status: int
) -> None:
    """Whole answers, streams and errors, by whichever way: the listed origin, and which headers its page may read."""

    async def refuse(request: Any, context: Any) -> None:
        await core.fail(context, grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY", "No.")

    core.list_models = refuse
    client = await connect(open_edge)
    sent = body or b""
    await client.send(
        f"{method} {path} HTTP/1.1\r\nHost: e\r\nOrigin: {APP}\r\nContent-Length: {len(sent)}\r\n\r\n".encode() + sent
    )
    found, headers = await client.head()
    assert found == status
    assert (headers["access-control-allow-origin"], headers["vary"]) == (APP, "Origin")
    exposed = headers["access-control-expose-headers"].lower().split(", ")
    assert {"x-request-id", "x-ratelimit-remaining-tokens", "retry-after"} <= set(exposed)
    assert [name for name in headers if name.startswith("x-worldrouter-") and name not in exposed] == []
    assert "access-control-allow-credentials" not in headers


async def test_an_error_of_the_chat_route(core: Any, open_edge: Any, http: aiohttp.ClientSession) -> None:
    """The page of a listed origin can read why: a refusal of the core, and of the edge itself."""

    async def refuse(request: Any, context: Any) -> None:
        await core.fail(context, grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY", "No.")

    core.create = refuse
    async with http.post(open_edge.url + CHAT, data=b"{}", headers={"Origin": APP}) as answer:
        assert (answer.status, cors(answer.headers)["access-control-allow-origin"]) == (401, APP)
        assert json.loads(await answer.read())["error"]["message"] == "No."
    headers = {"Origin": APP, "Content-Encoding": "gzip"}
    async with http.post(open_edge.url + CHAT, data=b"{}", headers=headers) as answer:
        assert (answer.status, cors(answer.headers)["access-control-allow-origin"]) == (415, APP)


async def test_the_star_stands_for_all(start_edge: Any, http: aiohttp.ClientSession) -> None:
    """Every origin may read then, and answers are the same for all of them."""
    edge = await start_edge(cors_origins=(APP, "*"))
    async with http.options(edge.url + CHAT, headers=preflight("null")) as answer:
        assert (answer.status, cors(answer.headers)["access-control-allow-origin"]) == (204, "*")
    async with http.post(edge.url + CHAT, data=STREAMED, headers={"Origin": APP}) as answer:
        assert cors(answer.headers)["access-control-allow-origin"] == "*"
        assert "Vary" not in answer.headers


async def test_what_the_http_parser_refuses(open_edge: Any, connect: Any) -> None:
    """Of such a request no origin is known; the answer is the usual 400."""
    client = await connect(open_edge)
    await client.send(b"GET / HTTP/1.1\r\nHost: e\r\nOrigin: " + APP.encode() + b"\r\nBad\x00Header: evil\r\n\r\n")
    status, headers = await client.head()
    assert (status, cors(headers)) == (400, {"vary": "Origin"})
