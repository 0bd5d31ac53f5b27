"""What the edge refuses by itself: JSON, a request id, nothing echoed, one line in the log."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
from typing import Any

import aiohttp
import pytest
from worldrouter.v1 import routing_pb2

SECRET = "wlrouter_dontlogme"


def check(status: int, headers: Any, body: bytes, wanted: tuple[int, str]) -> None:
    """Hold an answer to the error format."""
    error = json.loads(body)["error"]
    assert (status, error["code"]) == wanted
    assert set(error) == {"message", "type", "param", "code", "request_id"}
    assert error["request_id"].startswith("edge-")
    assert headers["x-request-id"] == error["request_id"]
    assert headers["content-type"] == "application/json"
    assert b"aiohttp" not in body


@pytest.mark.parametrize(
    ("method", "path", "wanted", "allow"),
    [
        ("GET", "/", (404, "not_found"), None),
        ("POST", "/v1/embeddings", (404, "not_found"), None),
        ("GET", "/v1/models/", (404, "not_found"), None),
        ("GET", "/v1/chat/completions", (405, "method_not_allowed"), "POST"),
        ("OPTIONS", "/v1/chat/completions", (405, "method_not_allowed"), "POST"),
        ("DELETE", "/v1/models/a/b", (405, "method_not_allowed"), "GET,HEAD"),
    ],
)
async def test_unknown_routes_and_methods(
    edge: Any, http: aiohttp.ClientSession, method: str, path: str, wanted: Any, allow: str | None
) -> None:
    """A route or method that does not exist is a JSON error; 405 says what would do."""
    async with http.request(method, edge.url + path) as answer:
        check(answer.status, answer.headers, await answer.read(), wanted)
        assert answer.headers.get("Allow") == allow


async def test_a_body_over_the_limit(core: Any, start_edge: Any, http: aiohttp.ClientSession) -> None:
    """A Content-Length over the limit is refused with 413, and never reaches the core."""
    edge = await start_edge(body_limit_bytes=100_000)
    async with http.post(f"{edge.url}/v1/chat/completions", data=b"x" * 100_001) as answer:
        check(answer.status, answer.headers, await answer.read(), (413, "request_too_large"))
    assert core.calls == []


async def test_a_chunked_body_over_the_limit(core: Any, start_edge: Any, http: aiohttp.ClientSession) -> None:
    """A body of unannounced length is cut off at the limit with 413."""
    edge = await start_edge(body_limit_bytes=100_000)

    async def pieces() -> Any:
        for _ in range(40):
            yield b"x" * 10_000

    async with http.post(f"{edge.url}/v1/chat/completions", data=pieces()) as answer:
        check(answer.status, answer.headers, await answer.read(), (413, "request_too_large"))
    assert core.calls == []


@pytest.mark.parametrize("pause_s", [0, 0.02], ids=["at once", "in pieces"])
async def test_the_limit_of_a_chunked_body(core: Any, start_edge: Any, connect: Any, pause_s: float) -> None:
    """As many bytes as are allowed pass and one more does not, whether they wait or are waited for."""
    client = await connect(await start_edge(body_limit_bytes=2_000))
    for size, status in ((2_000, 200), (2_001, 413)):
        await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n")
        await asyncio.sleep(pause_s)
        await client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size))
        answered, headers = await client.head()
        await client.reader.readexactly(int(headers["content-length"]))
        assert answered == status
    assert [len(call.request.body) for call in core.calls] == [2_000]


async def test_the_default_limit_is_ten_mib(edge: Any, http: aiohttp.ClientSession) -> None:
    """One byte over 10 MiB is too much."""
    body = io.BytesIO(b"x" * (10 * 1024 * 1024 + 1))
    async with http.post(f"{edge.url}/v1/chat/completions", data=body) as answer:
        check(answer.status, answer.headers, await answer.read(), (413, "request_too_large"))


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate", "junk"])
async def test_encoded_bodies(core: Any, edge: Any, http: aiohttp.ClientSession, encoding: str) -> None:
    """A body with Content-Encoding is refused with 415, whatever it holds."""
    headers = {"Content-Encoding": encoding}
    async with http.post(f"{edge.url}/v1/chat/completions", data=b"\x1f\x8bjunk", headers=headers) as answer:
        check(answer.status, answer.headers, await answer.read(), (415, "unsupported_encoding"))
    assert core.calls == []


async def test_a_slow_webhook(start_edge: Any, connect: Any) -> None:
    """A body of another route that does not arrive in time is a 408 too, the last answer of its connection."""
    client = await connect(await start_edge(body_timeout_s=0.05))
    await client.send(b"POST /webhooks/stripe HTTP/1.1\r\nHost: e\r\nContent-Length: 9\r\n\r\n{")
    status, headers = await client.head()
    body = await client.reader.readexactly(int(headers["content-length"]))
    check(status, headers, body, (408, "request_timeout"))
    assert headers["connection"] == "close"


async def test_many_cut_at_once_hold_nobody_up(start_edge: Any, connect: Any) -> None:
    """Slow bodies that are due in the same moment are refused one by one, with all else between them."""
    edge = await start_edge(body_timeout_s=0.4)
    clients = [await connect(edge) for _ in range(50)]
    for client in clients:
        client.writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\nContent-Length: 9\r\n\r\n{")
    metrics, ended_at_once = edge.server._watch.metrics, []
    async with asyncio.timeout(5):
        while metrics.in_flight < len(clients):  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0)
        while before := metrics.in_flight:
            await asyncio.sleep(0)
            ended_at_once.append(before - metrics.in_flight)
    assert max(ended_at_once) == 1
    for client in clients:
        assert (await client.head())[0] == 408


async def test_a_slow_body(core: Any, start_edge: Any, connect: Any) -> None:
    """A body that does not arrive in time is a 408, and the connection closes at once."""
    client = await connect(await start_edge(body_timeout_s=0.2))
    began_s = time.monotonic()
    await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\nContent-Length: 9\r\n\r\n{")
    status, headers = await client.head()
    check(status, headers, await client.rest(), (408, "request_timeout"))
    assert headers["connection"] == "close"
    assert 0.15 < time.monotonic() - began_s < 1
    assert core.calls == []


@pytest.mark.parametrize(
    "text",
    [
        b"GET / HTTP/1.1\r\nHost: e\r\nBad\x00Header: evil\r\n\r\n",
        b"EVIL \x16\x03\x01 nonsense\r\n\r\n",
        b"GET /evil HTTP/9.9\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\nContent-Length: evil\r\n\r\n",
        b"GET /" + b"evil" * 3000 + b" HTTP/1.1\r\nHost: e\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: e\r\nX: " + b"evil" * 3000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: e\r\n" + b"X: evil\r\n" * 200 + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\nevil",
    ],
)
async def test_what_the_http_parser_refuses(edge: Any, connect: Any, text: bytes) -> None:
    """Bytes that are no HTTP get a JSON 400 that repeats none of them, and the connection closes."""
    client = await connect(edge)
    await client.send(text)
    status, headers = await client.head()
    body = await client.rest()
    check(status, headers, body, (400, "malformed_request"))
    assert b"evil" not in body
    assert b"EVIL" not in body
    assert edge.metric("worldrouter_edge_requests_total", route="none", status="400", stream="false") == 1


async def test_a_body_with_broken_framing(core: Any, start_edge: Any, connect: Any) -> None:
    """A chunked body whose framing breaks later, in what the core waits for or in what nobody reads: 400 at once."""
    client = await connect(await start_edge())
    await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
    await asyncio.sleep(0.05)
    await client.send(b"evil\r\n")
    began_s = time.monotonic()
    status, headers = await client.head()
    check(status, headers, await client.rest(), (400, "malformed_request"))
    assert headers["connection"] == "close"
    assert time.monotonic() - began_s < 2
    assert core.calls == []


async def test_a_client_in_the_midst_of_a_refused_body_gets_the_answer(start_edge: Any, connect: Any) -> None:
    """What it goes on to send is thrown away: to close on it would reset the connection, and the answer with it."""
    client = await connect(await start_edge())
    await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\nevil\r\n")
    for _ in range(3):
        await asyncio.sleep(0.02)
        await client.send(b"x" * 10_000)
    assert (await client.head())[0] == 400
    await client.rest()
    assert client.reader.exception() is None


async def test_an_expectation_that_nobody_can_meet(edge: Any, http: aiohttp.ClientSession) -> None:
    """An Expect header other than 100-continue is a JSON 417."""
    async with http.post(f"{edge.url}/v1/chat/completions", headers={"Expect": "tea"}) as answer:
        check(answer.status, answer.headers, await answer.read(), (417, "expectation_failed"))


async def test_100_continue(edge: Any, http: aiohttp.ClientSession) -> None:
    """A client that asks first, as curl does for large bodies, is told to go on."""
    async with http.post(f"{edge.url}/v1/chat/completions", data=b"{}", expect100=True) as answer:
        assert answer.status == 200


async def test_slow_headers(start_edge: Any, connect: Any) -> None:
    """A client that does not finish its headers in time is disconnected."""
    client = await connect(await start_edge(idle_timeout_s=0.2))
    await client.send(b"GET /healthz HTTP/1.1\r\nHost")
    began_s = time.monotonic()
    assert await client.rest() == b""
    assert time.monotonic() - began_s < 1


async def test_an_idle_connection_is_closed(start_edge: Any, connect: Any) -> None:
    """A connection kept alive is closed when no further request comes in time."""
    client = await connect(await start_edge(idle_timeout_s=0.2))
    await client.send(b"GET /healthz HTTP/1.1\r\nHost: e\r\n\r\n")
    _, headers = await client.head()
    assert await client.rest() == b'{"status": "ok"}'
    assert "connection" not in headers


async def test_a_refusal_is_one_line_in_the_log(
    edge: Any, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    """What the edge refuses is logged once, with its request id, without query, credential or body."""
    headers = {"Authorization": f"Bearer {SECRET}", "Content-Encoding": "gzip"}
    with caplog.at_level(logging.INFO):
        async with http.post(f"{edge.url}/v1/chat/completions?k={SECRET}", data=SECRET, headers=headers) as answer:
            request_id = answer.headers["x-request-id"]
    (record,) = caplog.records
    assert record.name == "edge.connection"
    assert record.message == f"refused POST /v1/chat/completions: 415 unsupported_encoding, request {request_id}"
    fields = {name: getattr(record, name) for name in ("request_id", "status", "code", "method", "path")}
    assert fields == {
        "request_id": request_id,
        "status": 415,
        "code": "unsupported_encoding",
        "method": "POST",
        "path": "/v1/chat/completions",
    }
    assert SECRET not in repr(vars(record))


async def test_a_refusal_logs_little(edge: Any, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture) -> None:
    """However long the path: 200 characters of it."""
    with caplog.at_level(logging.INFO):
        async with http.get(f"{edge.url}/{'x' * 5000}") as answer:
            assert answer.status == 404
    (record,) = caplog.records
    assert record.message.startswith(f"refused GET /{'x' * 199}: 404 ")
    assert record.__dict__["path"] == "/" + "x" * 199


async def test_served_requests_are_the_cores_to_log(
    edge: Any, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    """A request that reached the core leaves no line of the edge's."""
    with caplog.at_level(logging.INFO):
        async with http.post(f"{edge.url}/v1/chat/completions", data=b"{}") as answer:
            await answer.read()
    assert caplog.records == []


async def test_a_bug_is_a_bland_500_with_a_trace_inside(
    core: Any,
    edge: Any,
    http: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An exception that nobody expected is answered blandly; its trace is logged under the request id."""

    def planted(model: object) -> None:
        raise KeyError(SECRET)

    async def get_model(request: Any, context: Any) -> Any:
        return routing_pb2.Model(id="x")

    core.get_model = get_model
    monkeypatch.setattr("edge.models.model_object", planted)
    async with http.get(f"{edge.url}/v1/models/x") as answer:
        body = await answer.read()
        check(answer.status, answer.headers, body, (500, "internal_error"))
        assert SECRET.encode() not in body
    (record,) = (found for found in caplog.records if found.name == "edge.errors")
    assert record.exc_info is not None
    assert record.__dict__["request_id"] == answer.headers["x-request-id"]
