"""Whole answers: bytes in, bytes out."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import pytest
from worldrouter.v1 import raw_chat_pb2

from edge.chat import LARGE_BODY_BYTES
from tests.edge.conftest import ANSWER

BODY = b'{"model":"m", "messages":[{"role":"user","content":"hi"}],"seed":9007199254740993,"x":1e2}'


@pytest.fixture(params=["grpc", "inprocess", "relay"])
def transport(request: pytest.FixtureRequest) -> str:
    """All of this holds whatever the channel is."""
    return str(request.param)


async def test_the_body_reaches_the_core_as_it_came(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """Not one byte of a request's body changes on its way to the core."""
    async with http.post(f"{edge.url}/v1/chat/completions", data=BODY) as answer:
        assert answer.status == 200
    assert core.calls[0].method == "create"
    assert core.calls[0].request.body == BODY
    assert core.calls[0].request.dialect == 1


async def test_the_answer_comes_back_as_the_core_sent_it(edge: Any, http: aiohttp.ClientSession) -> None:
    """Integers above 2^64 and `1e2` stay what they are, and the answer is JSON."""
    async with http.post(f"{edge.url}/v1/chat/completions", data=BODY) as answer:
        body = await answer.read()
        assert body == b'{"id":"chatcmpl-1" , "object":"chat.completion","n":18446744073709551617,"x":1e2}'
        assert answer.headers["Content-Type"] == "application/json"


async def test_headers_of_the_answer(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """The core's request id, its announcements and its overhead are headers; its other metadata is not."""

    async def answer_with_metadata(request: Any, context: Any) -> Any:
        await core.admit(context, x_worldrouter_ignored="api_base", x_ratelimit_limit_requests="60", internal="secret")
        return await core.answer(request, FakeContext())

    class FakeContext:
        async def send_initial_metadata(self, metadata: Any) -> None:
            """Sent above."""

    core.create = answer_with_metadata
    async with http.post(f"{edge.url}/v1/chat/completions", data=BODY) as answer:
        assert answer.headers["x-request-id"] == "01k9zz2w8x5qv3d7m4t6c1b0ra"
        assert answer.headers["x-worldrouter-ignored"] == "api_base"
        assert answer.headers["x-ratelimit-limit-requests"] == "60"
        assert answer.headers["x-worldrouter-overhead-ms"] == "1.234"
        assert "internal" not in answer.headers
        assert "aiohttp" not in answer.headers["Server"]


@pytest.mark.parametrize("value", ["Bearer wlrouter_abc", "bearer wlrouter_abc", "Basic dXNlcg=="])
async def test_the_credential_is_the_cores_to_judge(
    core: Any, edge: Any, http: aiohttp.ClientSession, value: str
) -> None:
    """Authorization reaches the core as received."""
    async with http.post(f"{edge.url}/v1/chat/completions", data=BODY, headers={"Authorization": value}):
        assert core.calls[0].metadata["authorization"] == value


async def test_two_credentials_are_the_cores_to_refuse(core: Any, edge: Any, connect: Any) -> None:
    """Of two Authorization headers none is chosen: the core gets both, and refuses them. Of more it gets two."""
    found: list[str] = []

    async def look(request: Any, context: Any) -> Any:
        found.extend(str(value) for key, value in context.invocation_metadata() if key == "authorization")
        return await core.answer(request, context)

    core.create = look
    client = await connect(edge)
    keys = b"".join(b"Authorization: Bearer %d%b\r\n" % (number, b"x" * 1500) for number in range(3))
    await client.send(b"POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\n%bContent-Length: 2\r\n\r\n{}" % keys)
    assert (await client.head())[0] == 200
    assert [value[:8] for value in found] == ["Bearer 0", "Bearer 1"]


async def test_no_credential_is_the_cores_to_judge_too(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """Without an Authorization header the call is made without one."""
    async with http.post(f"{edge.url}/v1/chat/completions", data=BODY):
        assert "authorization" not in core.calls[0].metadata
        assert "x-request-id" not in core.calls[0].metadata


@pytest.mark.parametrize("value", [b"Bearer schl\xc3\xbcssel", b"Bearer \xff\xfe", b"Bearer a\tb", b"x" * 8000])
async def test_a_credential_that_metadata_cannot_carry(core: Any, edge: Any, connect: Any, value: bytes) -> None:
    """Bytes or lengths that gRPC refuses reach the core as something it can answer 401 to, never a 500."""
    client = await connect(edge)
    await client.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: e\r\nAuthorization: %b\r\nContent-Length: 2\r\n\r\n{}" % value
    )
    status, _ = await client.head()
    assert status == 200
    assert core.calls[0].metadata["authorization"] != value.decode("utf-8", "replace")


async def test_a_clients_own_request_id(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """x-client-request-id of the client, or else its x-request-id, reaches the core, cut to 512 characters; the answer
    carries the core's."""
    headers = {"X-Request-Id": "mine-" + "é" + "7" * 600}
    async with http.post(f"{edge.url}/v1/chat/completions", data=BODY, headers=headers) as answer:
        assert answer.headers["x-request-id"] == "01k9zz2w8x5qv3d7m4t6c1b0ra"
    assert core.calls[0].metadata["x-request-id"] == ("mine-?" + "7" * 600)[:512]
    headers["X-Client-Request-Id"] = "a" * 512
    async with http.post(f"{edge.url}/v1/chat/completions", data=BODY, headers=headers) as answer:
        assert answer.headers["x-request-id"] == "01k9zz2w8x5qv3d7m4t6c1b0ra"
    assert core.calls[1].metadata["x-request-id"] == "a" * 512


@pytest.mark.parametrize(
    ("body", "method"),
    [
        (b'{"stream":true}', "stream"),
        (b'{"stream" :  true , "a":[{"stream":false}]}', "stream"),
        (b'{"str\\u0065am":true}', "stream"),
        (b'{"stream":false,"stream":true}', "stream"),
        (b'{"stream":true,"stream":false}', "create"),
        (b'{"stream":false}', "create"),
        (b'{"stream":null}', "create"),
        (b'{"stream":1}', "create"),
        (b'{"stream":"true"}', "create"),
        (b'{"stream":["\xed\xa0\x80"]}', "create"),
        (b'{"messages":[{"stream":true}]}', "create"),
        (b'{"messages":"\\"stream\\":true"}', "create"),
        (b'[{"stream":true}]', "create"),
        (b'{"stream":true', "create"),
        (b'{"stream":true} x', "create"),
        (b"", "create"),
        (b"\xff\xfe", "create"),
        (b'{"a":' + b"[" * 90_000, "create"),
    ],
)
async def test_which_rpc_a_body_goes_to(
    core: Any, edge: Any, http: aiohttp.ClientSession, body: bytes, method: str
) -> None:
    """Only a literal true at the top level streams; the core judges all else, broken bodies among them."""
    async with http.post(f"{edge.url}/v1/chat/completions", data=body) as answer:
        await answer.read()
        assert answer.status == 200
    assert [(call.method, call.request.body) for call in core.calls] == [(method, body)]


LARGE = b'{"messages":"%b"' % (b"x" * LARGE_BODY_BYTES)


async def test_a_large_body_is_the_cores_to_look_into(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """The core decides whether it is streamed; a whole answer, or an error, is what a small body gets."""
    async with http.post(f"{edge.url}/v1/chat/completions", data=LARGE + b',"stream":true}') as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert (await answer.read()).endswith(b"data: [DONE]\n\n")
    answers = []
    for body in (BODY, LARGE + b"}"):
        async with http.post(f"{edge.url}/v1/chat/completions", data=body) as answer:
            answers.append((answer.status, await answer.read(), {**answer.headers, "Date": ""}))
    assert answers[0] == answers[1]
    assert [(call.method, call.request.body) for call in core.calls[::2]] == [
        ("stream", LARGE + b',"stream":true}'),
        ("stream", LARGE + b"}"),
    ]

    async def refuse(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.fail(context, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "No.")
        yield

    core.whole = refuse
    async with http.post(f"{edge.url}/v1/chat/completions", data=LARGE + b"}") as answer:
        assert (answer.status, (await answer.json())["error"]["message"]) == (400, "No.")
    assert edge.metric("worldrouter_edge_in_flight_requests") == 0


async def test_a_whole_answer_is_awaited_in_silence(core: Any, start_edge: Any, http: aiohttp.ClientSession) -> None:
    """Only a stream is kept alive by comments: nothing is sent before the answer, or the error, is there."""
    fails = False

    async def slow(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context, whole_answer="true")
        await asyncio.sleep(0.4)
        if fails:
            await core.fail(context, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "No.")
        yield raw_chat_pb2.StreamRawCompletionResponse(whole=core.completion())

    core.whole = slow
    edge = await start_edge(comment_interval_s=0.1)
    async with http.post(f"{edge.url}/v1/chat/completions", data=LARGE + b"}") as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        assert await answer.read() == ANSWER
    fails = True
    async with http.post(f"{edge.url}/v1/chat/completions", data=LARGE + b"}") as answer:
        assert answer.status == 400


async def test_an_answer_may_be_larger_than_any_body(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """12 MiB, as of images: three times what gRPC takes by default."""
    completion = core.completion()
    completion.body = b"x" * (12 << 20)

    async def create(request: Any, context: Any) -> Any:
        await core.admit(context)
        return completion

    core.create = create
    async with http.post(f"{edge.url}/v1/chat/completions", data=BODY) as answer:
        assert await answer.read() == completion.body


@pytest.mark.parametrize(("overhead_us", "shown"), [(0, "0.000"), (2005, "2.005"), (1_000_040, "1000.040")])
async def test_the_overhead_has_three_decimals(
    core: Any, edge: Any, http: aiohttp.ClientSession, overhead_us: int, shown: str
) -> None:
    """Of a millisecond, zeros among them."""
    completion = core.completion()
    completion.started.overhead_us = overhead_us

    async def create(request: Any, context: Any) -> Any:
        await core.admit(context)
        return completion

    core.create = create
    async with http.post(f"{edge.url}/v1/chat/completions", data=BODY) as answer:
        assert answer.headers["x-worldrouter-overhead-ms"] == shown


async def test_a_body_of_the_full_limit_passes(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """10 MiB exactly are within every limit on the way, gRPC's own among them."""
    body = b'{"x":"' + b"a" * (10 * 1024 * 1024 - 8) + b'"}'
    async with http.post(f"{edge.url}/v1/chat/completions", data=io.BytesIO(body)) as answer:
        assert answer.status == 200
    assert core.calls[0].request.body == body


async def test_requests_follow_one_another_on_one_connection(core: Any, edge: Any, connect: Any) -> None:
    """A connection serves whole answers, streams and errors in turn, pipelined ones too."""
    client = await connect(edge)
    await client.post(b"{}")
    await client.post(b'{"stream":true}')
    await client.send(b"GET /nothing HTTP/1.1\r\nHost: e\r\n\r\n")
    status, headers = await client.head()
    assert (status, len(await client.reader.readexactly(int(headers["content-length"])))) == (200, 81)
    assert (await client.head())[0] == 200
    while await client.chunk():
        pass
    assert (await client.head())[0] == 404
