"""Errors beside those of chats: routes, methods, bodies, HTTP itself, resources, permissions, conflicts."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import aiohttp
import grpc
import pytest
from multidict import CIMultiDict
from worldrouter.client import AsyncClient
from worldrouter.v1.account_pb2 import CreateAccountRequest
from worldrouter.v1.auth_pb2 import RevokeApiKeyRequest, RotateApiKeyRequest
from worldrouter.v1.metering_pb2 import CreateTopUpRequest, GetUsageRecordRequest
from worldrouter.v1.raw_chat_pb2 import CreateRawCompletionRequest
from worldrouter.v1.routing_pb2 import GetModelRequest

C = grpc.StatusCode
BODY = b'{"model": "scripted", "messages": [{"role": "user", "content": "one two three"}]}'


def bearer(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}


async def test_what_the_edge_refuses_itself(scripted_router: Any, witness: Any, http: aiohttp.ClientSession) -> None:
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
            seen = await witness.over_http(answer)
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


@pytest.mark.parametrize("which", ["scripted_router", "scripted_apart"])
async def test_two_credentials(request: pytest.FixtureRequest, http: aiohttp.ClientSession, which: str) -> None:
    """A request with two Authorization headers is a 401 over HTTP as over gRPC, even when both are good."""
    router = request.getfixturevalue(which)
    headers = CIMultiDict([("Authorization", f"Bearer {router.key}")] * 2)
    for path, body in (("chat/completions", BODY), ("models", None)):
        async with http.request(
            "POST" if body else "GET", f"{router.base_url}/{path}", data=body, headers=headers
        ) as answer:
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
            error = (await answer.json())["error"]
        assert (error["code"], error["message"]) == ("invalid_api_key", "More than one credential was sent.")


async def test_resources_that_are_not_there(
    scripted_router: Any, witness: Any, http: aiohttp.ClientSession, service: AsyncClient
) -> None:
    """404 and NOT_FOUND for a model or a request that does not exist, or is another account's."""
    async with http.get(f"{scripted_router.base_url}/models/no/such", headers=bearer(scripted_router.key)) as answer:
        seen = await witness.over_http(answer)
    assert (seen.status, seen.code) == (404, "not_found")
    seen = await witness.over_grpc(service.routing.GetModel(GetModelRequest(model_id="no/such")))
    assert (seen.status, seen.reason) == (C.NOT_FOUND, "NOT_FOUND")
    stranger = scripted_router.account(usd=10)
    async with AsyncClient(scripted_router.grpc, stranger.key, plaintext=True) as client:
        answer = await client.raw_chat.CreateRawCompletion(CreateRawCompletionRequest(dialect=1, body=BODY))
    request_id = answer.started.id.removeprefix("chatcmpl-")
    seen = await witness.over_grpc(service.metering.GetUsageRecord(GetUsageRecordRequest(request_id=request_id)))
    assert (seen.status, seen.reason) == (C.NOT_FOUND, "NOT_FOUND")


async def test_what_a_key_may_not_call(service: AsyncClient, witness: Any) -> None:
    """PERMISSION_DENIED with FORBIDDEN when a key calls what is the operator's."""
    seen = await witness.over_grpc(service.accounts.CreateAccount(CreateAccountRequest(display_name="mine")))
    assert (seen.status, seen.reason, seen.code) == (C.PERMISSION_DENIED, "FORBIDDEN", "forbidden")


async def test_conflicts(scripted_router: Any, witness: Any) -> None:
    """ABORTED for an idempotency key with another body or a revoked key's rotation, ALREADY_EXISTS for a taken id."""
    account = scripted_router.account()
    async with AsyncClient(scripted_router.grpc, scripted_router.operator_token, plaintext=True) as operator:
        top_up = CreateTopUpRequest(account_id=account.id, amount_nano_usd=10 * 10**9, idempotency_key=account.id)
        first = await operator.metering.CreateTopUp(top_up)
        assert await operator.metering.CreateTopUp(top_up) == first
        top_up.amount_nano_usd += 1
        seen = await witness.over_grpc(operator.metering.CreateTopUp(top_up))
        assert (seen.status, seen.reason, seen.code) == (C.ABORTED, "CONFLICT", "conflict")
        await operator.auth.RevokeApiKey(RevokeApiKeyRequest(api_key_id=account.key_id))
        seen = await witness.over_grpc(operator.auth.RotateApiKey(RotateApiKeyRequest(api_key_id=account.key_id)))
        assert (seen.status, seen.reason) == (C.ABORTED, "CONFLICT")
        taken = CreateAccountRequest(account_id=account.id, display_name="again")
        seen = await witness.over_grpc(operator.accounts.CreateAccount(taken))
        assert (seen.status, seen.reason) == (C.ALREADY_EXISTS, "ALREADY_EXISTS")
