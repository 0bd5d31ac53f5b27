"""Every error there is, over HTTP and over gRPC: status, type, code, param, headers and request id agree."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc
import pytest
from worldrouter.client import AsyncClient, error_info
from worldrouter.v1.account_pb2 import CreateAccountRequest
from worldrouter.v1.auth_pb2 import RevokeApiKeyRequest, RotateApiKeyRequest
from worldrouter.v1.metering_pb2 import CreateTopUpRequest, GetUsageRecordRequest
from worldrouter.v1.raw_chat_pb2 import CreateRawCompletionRequest, StreamRawCompletionRequest
from worldrouter.v1.routing_pb2 import GetModelRequest

C = grpc.StatusCode
OPENAI_CHAT = 1
HELLO = [{"role": "user", "content": "one two three"}]


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "scripted", "messages": HELLO, **fields}).encode()


def scripted(**script: Any) -> bytes:
    return chat(script=script)


@dataclass(frozen=True)
class Row:
    """A failing chat: its body, and what it is to be told."""

    name: str
    body: bytes
    status: int
    grpc_code: grpc.StatusCode
    reason: str
    type: str
    code: str
    param: str | None = None
    retry_after_s: int | None = None
    message: str = ""


INVALID = (400, C.INVALID_ARGUMENT, "INVALID_REQUEST", "invalid_request_error")
REJECTED = (400, C.INVALID_ARGUMENT, "UPSTREAM_REJECTED", "invalid_request_error")
NO_MODEL = (400, C.INVALID_ARGUMENT, "MODEL_NOT_FOUND", "invalid_request_error", "model_not_found", "model")
FAILED = (502, C.UNAVAILABLE, "UPSTREAM_ERROR", "server_error", "upstream_error")
TIMEOUT = (504, C.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT", "server_error", "upstream_timeout")
LIMITED = (429, C.RESOURCE_EXHAUSTED, "RATE_LIMIT_EXCEEDED", "rate_limit_error", "rate_limit_exceeded")
TOO_LONG = {"message": "too long", "param": "messages", "code": "context_length_exceeded"}

ROWS = [
    Row("broken JSON", b'{"model": ', *INVALID, "invalid_json"),
    Row("no object", b"[1]", *INVALID, "invalid_json"),
    Row("empty", b"", *INVALID, "invalid_json"),
    Row("not UTF-8", b'{"model": "\xff"}', *INVALID, "invalid_json"),
    Row("nested too deeply", chat(x=1)[:-2] + b"[" * 100_000 + b"]" * 100_000 + b"}", *INVALID, "invalid_json"),
    Row(
        "no model", b'{"messages": [{"role": "user", "content": ""}]}', *INVALID, "missing_required_parameter", "model"
    ),
    Row("no messages", b'{"model": "scripted"}', *INVALID, "missing_required_parameter", "messages"),
    Row("bad stream", chat(stream="yes"), *INVALID, "invalid_type", "stream"),
    Row("bad n", chat(n=1.5), *INVALID, "invalid_type", "n"),
    Row("n too large", chat(n=10**30), *INVALID, "invalid_value", "n"),
    Row("no output", chat(max_tokens=0), *INVALID, "invalid_value", "max_tokens"),
    Row("stray stream_options", chat(stream_options={}), *INVALID, "invalid_value", "stream_options"),
    Row("unknown model", chat(model="nothing"), *NO_MODEL),
    Row("another case", chat(model="Scripted"), *NO_MODEL),
    Row(
        "hidden model",
        chat(model="hidden"),
        403,
        C.PERMISSION_DENIED,
        "MODEL_NOT_ALLOWED",
        "permission_error",
        "model_not_allowed",
        "model",
    ),
    Row(
        "rejected upstream",
        scripted(status=400, error=TOO_LONG),
        *REJECTED,
        "context_length_exceeded",
        "messages",
        message="too long",
    ),
    Row("unprocessable upstream", scripted(status=422), *REJECTED, "invalid_value", message="scripted status 422"),
    Row(
        "too large for the upstream",
        scripted(status=413),
        413,
        C.RESOURCE_EXHAUSTED,
        "REQUEST_TOO_LARGE",
        "invalid_request_error",
        "request_too_large",
    ),
    Row("limited upstream", scripted(status=429, retry_after_s=17), *LIMITED, retry_after_s=17),
    Row("limited upstream that does not say for how long", scripted(status=429), *LIMITED, retry_after_s=1),
    *(Row(f"upstream {status}", scripted(status=status), *FAILED) for status in (401, 402, 403, 404, 500, 503)),
    *(
        Row(fault, scripted(fault=fault), *FAILED)
        for fault in ("connect_failed", "head_cut", "cut", "error", "bad_json")
    ),
    Row("no chat completion", scripted(raw_body="<html>"), *FAILED),
    Row("upstream timeout", scripted(status=408), *TIMEOUT),
    Row("silent upstream", scripted(fault="no_head"), *TIMEOUT),
    Row(
        "upstream away for long",
        scripted(status=503, retry_after_s=30),
        503,
        C.UNAVAILABLE,
        "SERVICE_UNAVAILABLE",
        "server_error",
        "service_unavailable",
        retry_after_s=30,
    ),
]

NEVER_STREAMED = ("bad stream", "stray stream_options")


@dataclass(frozen=True)
class Seen:
    """A failure as a client saw it; `headers` over HTTP, `reason` over gRPC."""

    status: int | grpc.StatusCode
    message: str
    code: str | None
    param: str | None
    request_id: str
    reason: str = ""
    type: str = ""
    retry_after_s: float | None = None
    more: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def service(scripted_router: Any) -> AsyncIterator[AsyncClient]:
    """A gRPC client with the key of an ordinary account."""
    async with AsyncClient(scripted_router.grpc, scripted_router.key, plaintext=True) as client:
        yield client


def bearer(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}


async def seen_over_http(answer: aiohttp.ClientResponse) -> Seen:
    """The error of an answer, which is JSON with one request id, whatever it is."""
    assert answer.content_type == "application/json"
    error = (await answer.json())["error"]
    assert answer.headers["x-request-id"] == error["request_id"]
    known = {"message", "type", "param", "code", "request_id"}
    assert known <= set(error)
    retry_after = answer.headers.get("retry-after")
    assert (answer.headers.get("x-should-retry") == "false") == (answer.status in (502, 504))
    assert answer.headers.get("www-authenticate") == ("Bearer" if answer.status == 401 else None)
    return Seen(
        answer.status,
        **{name: error[name] for name in known},
        retry_after_s=None if retry_after is None else int(retry_after),
        more={name: value for name, value in error.items() if name not in known},
        headers=dict(answer.headers),
    )


async def post(session: aiohttp.ClientSession, router: Any, body: bytes, key: str | None) -> Seen:
    async with session.post(f"{router.base_url}/chat/completions", data=body, headers=bearer(key)) as answer:
        return await seen_over_http(answer)


async def read_to_end(call: Any) -> None:
    if not hasattr(call, "read"):
        await call
    while hasattr(call, "read") and await call.read() is not grpc.aio.EOF:
        pass


async def seen_over_grpc(call: Any) -> Seen:
    """The error of a call; its request id is in the trailers too."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_to_end(call)
    info = error_info(caught.value)
    assert info is not None, caught.value
    assert dict(caught.value.trailing_metadata())["x-request-id"] == info.request_id
    return Seen(
        caught.value.code(),
        caught.value.details() or "",
        info.code,
        info.param,
        info.request_id or "",
        reason=info.reason,
        retry_after_s=info.retry_after_s,
        more={k: v for k, v in info.metadata.items() if k not in ("code", "param", "request_id")},
    )


def raw_unary(body: bytes) -> CreateRawCompletionRequest:
    return CreateRawCompletionRequest(dialect=OPENAI_CHAT, body=body)


def raw_stream(body: bytes) -> StreamRawCompletionRequest:
    return StreamRawCompletionRequest(dialect=OPENAI_CHAT, body=body)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_a_chat_that_fails(
    scripted_router: Any, http: aiohttp.ClientSession, service: AsyncClient, row: Row
) -> None:
    """The row of the table over HTTP and over gRPC, streamed and not: one cause, one code, one message."""
    bodies = [row.body] if row.name in NEVER_STREAMED else [row.body, row.body.replace(b"{", b'{"stream": true, ', 1)]
    calls = [service.raw_chat.CreateRawCompletion(raw_unary(row.body))]
    if len(bodies) > 1:
        calls.append(service.raw_chat.StreamRawCompletion(raw_stream(bodies[1])))
    over_http, over_grpc = await asyncio.gather(
        asyncio.gather(*(post(http, scripted_router, body, scripted_router.key) for body in bodies)),
        asyncio.gather(*map(seen_over_grpc, calls)),
    )
    for seen in over_http:
        assert (seen.status, seen.type, seen.code, seen.param) == (row.status, row.type, row.code, row.param)
        assert seen.retry_after_s == row.retry_after_s
    for seen in over_grpc:
        assert (seen.status, seen.reason, seen.code, seen.param) == (row.grpc_code, row.reason, row.code, row.param)
        assert seen.retry_after_s == row.retry_after_s
    assert len({seen.request_id for seen in (*over_http, *over_grpc)}) == 2 * len(bodies)
    assert [seen.message for seen in over_http] == [seen.message for seen in over_grpc]
    assert row.message in over_http[0].message


def keys(router: Any) -> dict[str, str | None]:
    """Credentials that are none."""
    revoked = router.account()
    router.operator.auth.RevokeApiKey(RevokeApiKeyRequest(api_key_id=revoked.key_id))
    good: str = router.key
    return {
        "missing": None,
        "malformed": "sk-1234",
        "empty": "",
        "wrong checksum": good[:-1] + ("0" if good[-1] != "0" else "1"),
        "revoked": revoked.key,
        "beyond any key": "wlrouter_" + "x" * 5000,
    }


async def test_a_credential_that_is_none(scripted_router: Any, http: aiohttp.ClientSession) -> None:
    """401 with WWW-Authenticate, UNAUTHENTICATED with INVALID_API_KEY, for every kind of bad credential."""
    async with grpc.aio.insecure_channel(scripted_router.grpc) as channel:
        create = channel.unary_unary("/worldrouter.v1.RawChatService/CreateRawCompletion")
        for name, key in keys(scripted_router).items():
            seen = await post(http, scripted_router, scripted(), key)
            wanted = (401, "authentication_error", "invalid_api_key", None)
            assert (seen.status, seen.type, seen.code, seen.param) == wanted, name
            metadata = tuple(bearer(key).items())
            by_grpc = await seen_over_grpc(create(raw_unary(scripted()).SerializeToString(), metadata=metadata))
            assert (by_grpc.status, by_grpc.reason) == (C.UNAUTHENTICATED, "INVALID_API_KEY"), name
            async with http.get(f"{scripted_router.base_url}/models", headers=bearer(key)) as answer:
                assert (await seen_over_http(answer)).status == 401, name


async def test_a_balance_that_is_too_low(scripted_router: Any, http: aiohttp.ClientSession) -> None:
    """402 and FAILED_PRECONDITION say what is missing, what the balance would buy, and where to top up."""
    account = scripted_router.account(usd=10)
    body = chat(model="dear", max_tokens=4000, n=3)
    seen = [await post(http, scripted_router, body, account.key)]
    async with AsyncClient(scripted_router.grpc, account.key, plaintext=True) as client:
        seen.append(await seen_over_grpc(client.raw_chat.CreateRawCompletion(raw_unary(body))))
    assert (seen[0].status, seen[0].type, seen[0].code) == (402, "insufficient_balance", "insufficient_balance")
    assert (seen[1].status, seen[1].reason) == (C.FAILED_PRECONDITION, "INSUFFICIENT_BALANCE")
    for each in seen:
        assert each.more == {
            "missing_nano_usd": str(2 * 10**9),
            "affordable_token_count": "10000",
            "credits_url": "https://router.example/credits",
        }
        assert each.retry_after_s is None
        assert "10000 output tokens" in each.message


async def test_a_balance_that_running_requests_hold(scripted_router: Any, http: aiohttp.ClientSession) -> None:
    """When only running requests hold the money, the 402 says when to try again; then it is admitted."""
    account = scripted_router.account(usd=10)
    slow = chat(model="dear", n=2, script={"head_delay_ms": 700})
    running = asyncio.create_task(_status(http, scripted_router, slow, account.key))
    while scripted_router.metric("worldrouter_held_nano_usd") < 8 * 10**9:  # noqa: ASYNC110  polled over HTTP
        await asyncio.sleep(0.02)
    refused = await post(http, scripted_router, chat(model="dear", max_tokens=4000), account.key)
    assert (refused.status, refused.retry_after_s) == (402, 1)
    assert await running == 200
    assert await _status(http, scripted_router, chat(model="dear", max_tokens=4000), account.key) == 200


async def _status(session: aiohttp.ClientSession, router: Any, body: bytes, key: str) -> int:
    async with session.post(f"{router.base_url}/chat/completions", data=body, headers=bearer(key)) as answer:
        await answer.read()
        return answer.status


async def test_what_the_edge_refuses_itself(scripted_router: Any, http: aiohttp.ClientSession) -> None:
    """Unknown routes, wrong methods, encoded and oversized bodies: JSON errors with an id, which need no key."""
    base = scripted_router.base_url
    cases: list[tuple[str, str, dict[str, Any], int, str]] = [
        ("GET", "/nothing", {}, 404, "not_found"),
        ("POST", "/models", {}, 405, "method_not_allowed"),
        ("GET", "/chat/completions", {}, 405, "method_not_allowed"),
        ("POST", "/chat/completions", {"data": io.BytesIO(b"x" * (10 * 2**20 + 1))}, 413, "request_too_large"),
        (
            "POST",
            "/chat/completions",
            {"data": b"x", "headers": {"content-encoding": "gzip"}},
            415,
            "unsupported_encoding",
        ),
    ]
    for method, path, more, status, code in cases:
        async with http.request(method, f"{base}{path}", **more) as answer:
            seen = await seen_over_http(answer)
            assert (seen.status, seen.code, seen.type) == (status, code, "invalid_request_error")
            assert ("allow" in answer.headers) == (status == 405)


async def test_what_the_http_parser_refuses(scripted_router: Any) -> None:
    """A request that is not HTTP is a JSON 400 with an id that repeats none of its bytes."""
    host, port = scripted_router.http.removeprefix("http://").split(":")
    for junk in (b"NONSENSE\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\x00: secret-bytes\r\n\r\n"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(junk)
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split(b" ")[1] == b"400"
        error = json.loads(body)["error"]
        assert f"x-request-id: {error['request_id']}".encode() in head.lower()
        assert b"secret-bytes" not in answer
        assert b"NONSENSE" not in answer


async def test_resources_that_are_not_there(
    scripted_router: Any, http: aiohttp.ClientSession, service: AsyncClient
) -> None:
    """404 and NOT_FOUND for a model or a request that does not exist, or is another account's."""
    async with http.get(f"{scripted_router.base_url}/models/no/such", headers=bearer(scripted_router.key)) as answer:
        seen = await seen_over_http(answer)
    assert (seen.status, seen.code) == (404, "not_found")
    seen = await seen_over_grpc(service.routing.GetModel(GetModelRequest(model_id="no/such")))
    assert (seen.status, seen.reason) == (C.NOT_FOUND, "NOT_FOUND")
    stranger = scripted_router.account(usd=10)
    async with AsyncClient(scripted_router.grpc, stranger.key, plaintext=True) as client:
        answer = await client.raw_chat.CreateRawCompletion(raw_unary(scripted()))
    request_id = answer.started.id.removeprefix("chatcmpl-")
    seen = await seen_over_grpc(service.metering.GetUsageRecord(GetUsageRecordRequest(request_id=request_id)))
    assert (seen.status, seen.reason) == (C.NOT_FOUND, "NOT_FOUND")


async def test_what_a_key_may_not_call(service: AsyncClient) -> None:
    """PERMISSION_DENIED with FORBIDDEN when a key calls what is the operator's."""
    seen = await seen_over_grpc(service.accounts.CreateAccount(CreateAccountRequest(display_name="mine")))
    assert (seen.status, seen.reason, seen.code) == (C.PERMISSION_DENIED, "FORBIDDEN", "forbidden")


async def test_conflicts(scripted_router: Any) -> None:
    """ABORTED for an idempotency key with another body or a revoked key's rotation, ALREADY_EXISTS for a taken id."""
    account = scripted_router.account()
    async with AsyncClient(scripted_router.grpc, scripted_router.operator_token, plaintext=True) as operator:
        top_up = CreateTopUpRequest(account_id=account.id, amount_nano_usd=10 * 10**9, idempotency_key=account.id)
        first = await operator.metering.CreateTopUp(top_up)
        assert await operator.metering.CreateTopUp(top_up) == first
        top_up.amount_nano_usd += 1
        seen = await seen_over_grpc(operator.metering.CreateTopUp(top_up))
        assert (seen.status, seen.reason, seen.code) == (C.ABORTED, "CONFLICT", "conflict")
        await operator.auth.RevokeApiKey(RevokeApiKeyRequest(api_key_id=account.key_id))
        seen = await seen_over_grpc(operator.auth.RotateApiKey(RotateApiKeyRequest(api_key_id=account.key_id)))
        assert (seen.status, seen.reason) == (C.ABORTED, "CONFLICT")
        taken = CreateAccountRequest(account_id=account.id, display_name="again")
        seen = await seen_over_grpc(operator.accounts.CreateAccount(taken))
        assert (seen.status, seen.reason) == (C.ALREADY_EXISTS, "ALREADY_EXISTS")


@pytest.mark.parametrize("fault", ["cut", "error", "no_finish", "bad_json", "silence"])
async def test_a_stream_that_fails_after_its_first_text(
    scripted_router: Any, http: aiohttp.ClientSession, service: AsyncClient, fault: str
) -> None:
    """An error event with the known request id ends the stream without [DONE]; over gRPC it is the status."""
    body = chat(stream=True, script={"fault": fault, "fault_after": 2})
    async with http.post(
        f"{scripted_router.base_url}/chat/completions", data=body, headers=bearer(scripted_router.key)
    ) as answer:
        assert answer.status == 200
        events = [line[6:] for line in (await answer.read()).split(b"\n") if line.startswith(b"data: ")]
    assert b"[DONE]" not in events
    assert json.loads(events[0])["choices"][0]["delta"]["role"] == "assistant"
    error = json.loads(events[-1])["error"]
    code = "upstream_timeout" if fault == "silence" else "upstream_error"
    assert (error["type"], error["code"]) == ("server_error", code)
    assert error["request_id"] == answer.headers["x-request-id"]
    call = service.raw_chat.StreamRawCompletion(raw_stream(body))
    assert (await call.read()).HasField("started")
    seen = await seen_over_grpc(call)
    assert seen.code == code
    assert ("x-request-id", seen.request_id) in tuple(await call.initial_metadata())
