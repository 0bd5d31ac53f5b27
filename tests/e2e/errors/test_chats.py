"""Every error there is, over HTTP and over gRPC: status, type, code, param, headers and request id agree."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import pytest
from worldrouter.client import AsyncClient
from worldrouter.v1.auth_pb2 import RevokeApiKeyRequest
from worldrouter.v1.chat_pb2 import (
    ChatCompletionParams,
    ChatMessage,
    CreateChatCompletionRequest,
    StreamChatCompletionRequest,
)
from worldrouter.v1.raw_chat_pb2 import CreateRawCompletionRequest, StreamRawCompletionRequest

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


def bearer(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}


def raw_unary(body: bytes) -> CreateRawCompletionRequest:
    return CreateRawCompletionRequest(dialect=OPENAI_CHAT, body=body)


def raw_stream(body: bytes) -> StreamRawCompletionRequest:
    return StreamRawCompletionRequest(dialect=OPENAI_CHAT, body=body)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_a_chat_that_fails(scripted_router: Any, service: AsyncClient, witness: Any, row: Row) -> None:
    """The row of the table over HTTP and over gRPC, streamed and not: one cause, one code, one message."""
    bodies = [row.body] if row.name in NEVER_STREAMED else [row.body, row.body.replace(b"{", b'{"stream": true, ', 1)]
    calls = [service.raw_chat.CreateRawCompletion(raw_unary(row.body))]
    if len(bodies) > 1:
        calls.append(service.raw_chat.StreamRawCompletion(raw_stream(bodies[1])))
    over_http, over_grpc = await asyncio.gather(
        asyncio.gather(*(witness.post(body, scripted_router.key) for body in bodies)),
        asyncio.gather(*map(witness.over_grpc, calls)),
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


TYPED = ("unknown model", "hidden model", "rejected upstream", "limited upstream", "upstream 500", "bad_json")


@pytest.mark.parametrize("row", [row for row in ROWS if row.name in TYPED], ids=lambda row: row.name)
async def test_a_typed_chat_that_fails(service: AsyncClient, witness: Any, row: Row) -> None:
    """ChatService says of a failure what RawChatService says."""
    asked = json.loads(row.body)
    params = ChatCompletionParams(
        model=asked["model"],
        messages=[ChatMessage(**message) for message in asked["messages"]],
        extra_json=json.dumps({"script": asked["script"]}) if "script" in asked else "",
    )
    for call in (
        service.chat.CreateChatCompletion(CreateChatCompletionRequest(params=params)),
        service.chat.StreamChatCompletion(StreamChatCompletionRequest(params=params)),
    ):
        seen = await witness.over_grpc(call)
        assert (seen.status, seen.reason, seen.code, seen.param) == (row.grpc_code, row.reason, row.code, row.param)
        assert seen.retry_after_s == row.retry_after_s
        assert row.message in seen.message


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


async def test_a_credential_that_is_none(scripted_router: Any, witness: Any, http: aiohttp.ClientSession) -> None:
    """401 with WWW-Authenticate, UNAUTHENTICATED with INVALID_API_KEY, for every kind of bad credential."""
    async with grpc.aio.insecure_channel(scripted_router.grpc) as channel:
        create = channel.unary_unary("/worldrouter.v1.RawChatService/CreateRawCompletion")
        for name, key in keys(scripted_router).items():
            seen = await witness.post(scripted(), key)
            wanted = (401, "authentication_error", "invalid_api_key", None)
            assert (seen.status, seen.type, seen.code, seen.param) == wanted, name
            metadata = tuple(bearer(key).items())
            by_grpc = await witness.over_grpc(create(raw_unary(scripted()).SerializeToString(), metadata=metadata))
            assert (by_grpc.status, by_grpc.reason) == (C.UNAUTHENTICATED, "INVALID_API_KEY"), name
            async with http.get(f"{scripted_router.base_url}/models", headers=bearer(key)) as answer:
                assert (await witness.over_http(answer)).status == 401, name


async def test_a_balance_that_is_too_low(scripted_router: Any, witness: Any) -> None:
    """402 and FAILED_PRECONDITION say what is missing, what the balance would buy, and where to top up."""
    account = scripted_router.account(usd=10)
    body = chat(model="dear", max_tokens=4000, n=3)
    seen = [await witness.post(body, account.key)]
    async with AsyncClient(scripted_router.grpc, account.key, plaintext=True) as client:
        seen.append(await witness.over_grpc(client.raw_chat.CreateRawCompletion(raw_unary(body))))
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


async def test_a_balance_that_running_requests_hold(
    scripted_router: Any, witness: Any, http: aiohttp.ClientSession
) -> None:
    """When only running requests hold the money, the 402 says when to try again; then it is admitted."""
    account = scripted_router.account(usd=10)
    slow = chat(model="dear", n=2, script={"head_delay_ms": 700})
    running = asyncio.create_task(_status(http, scripted_router, slow, account.key))
    while scripted_router.metric("worldrouter_held_nano_usd") < 8 * 10**9:  # noqa: ASYNC110  polled over HTTP
        await asyncio.sleep(0.02)
    refused = await witness.post(chat(model="dear", max_tokens=4000), account.key)
    assert (refused.status, refused.retry_after_s) == (402, 1)
    assert await running == 200
    assert await _status(http, scripted_router, chat(model="dear", max_tokens=4000), account.key) == 200


async def _status(session: aiohttp.ClientSession, router: Any, body: bytes, key: str) -> int:
    async with session.post(f"{router.base_url}/chat/completions", data=body, headers=bearer(key)) as answer:
        await answer.read()
        return answer.status


@pytest.mark.parametrize("fault", ["cut", "error", "no_finish", "bad_json", "silence"])
async def test_a_stream_that_fails_after_its_first_text(
    scripted_router: Any, http: aiohttp.ClientSession, service: AsyncClient, witness: Any, fault: str
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
    seen = await witness.over_grpc(call)
    assert seen.code == code
    assert ("x-request-id", seen.request_id) in tuple(await call.initial_metadata())
