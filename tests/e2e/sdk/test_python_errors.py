"""The openai SDK for Python: each failure is the class of it that applications catch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import openai
import pytest
from worldrouter.v1.auth_pb2 import RevokeApiKeyRequest
from worldrouter.v1.metering_pb2 import ListUsageRecordsRequest

HELLO = [{"role": "user", "content": "Say hello."}]


def script(**fields: Any) -> dict[str, Any]:
    """A request to the scripted model."""
    return {"model": "scripted", "messages": HELLO, "extra_body": {"script": fields}}


def attempts_of(router: Any, account: Any) -> int:
    """How many requests of this account were admitted."""
    router.settle()
    listed = router.operator.metering.ListUsageRecords(ListUsageRecordsRequest(account_id=account.id))
    return len(listed.records)


async def test_bad_requests(scripted: Any) -> None:
    """What is wrong with a request is a BadRequestError that names the field, with the request id."""
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"model": "nothing", "messages": HELLO}, "model", "model_not_found"),
        ({"model": "Scripted", "messages": HELLO}, "model", "model_not_found"),
        ({"model": "scripted", "messages": []}, "messages", "invalid_type"),
        ({"model": "scripted", "messages": HELLO, "n": 0}, "n", "invalid_value"),
        ({"model": "scripted", "messages": HELLO, "max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", ""),
        ({"model": "scripted", "messages": HELLO, "stream_options": {"include_usage": True}}, "stream_options", ""),
    ]
    for asked, param, code in cases:
        with pytest.raises(openai.BadRequestError) as caught:
            await scripted.create(**asked)
        assert caught.value.param == param
        assert caught.value.code == code or not code
        assert caught.value.type == "invalid_request_error"
        assert caught.value.request_id == caught.value.body["request_id"]
    with pytest.raises(openai.BadRequestError) as caught:
        await scripted.stream(model="unstreamed", messages=HELLO)
    assert caught.value.param == "stream"


async def test_a_model_that_is_not_for_everybody(scripted: Any) -> None:
    """A model that the key may not use is a PermissionDeniedError."""
    with pytest.raises(openai.PermissionDeniedError) as caught:
        await scripted.create(model="hidden", messages=HELLO)
    assert (caught.value.code, caught.value.type) == ("model_not_allowed", "permission_error")
    assert caught.value.request_id


async def test_what_the_upstream_says_of_a_bad_request(scripted: Any) -> None:
    """An upstream's 400 or 422 is a BadRequestError with its message, param and code."""
    error = {"message": "temperature is too high", "type": "whatever", "param": "temperature", "code": 400}
    for status in (400, 422):
        with pytest.raises(openai.BadRequestError, match="temperature is too high") as caught:
            await scripted.create(**script(status=status, error=error))
        assert (caught.value.param, caught.value.code) == ("temperature", "400")


async def test_bad_keys(scripted_router: Any, connect: Callable[..., Any]) -> None:
    """A wrong, malformed or revoked key is an AuthenticationError."""
    account = scripted_router.account()
    scripted_router.operator.auth.RevokeApiKey(RevokeApiKeyRequest(api_key_id=account.key_id))
    for key in ("sk-something", account.key, account.key[:-1] + ("0" if account.key[-1] != "0" else "1")):
        sdk = connect(scripted_router, key)
        with pytest.raises(openai.AuthenticationError) as caught:
            await sdk.create(model="scripted", messages=HELLO)
        assert (caught.value.code, caught.value.type) == ("invalid_api_key", "authentication_error")
        assert caught.value.request_id
        with pytest.raises(openai.AuthenticationError):
            await sdk.models()


async def test_unknown_routes(scripted: Any) -> None:
    """A route that does not exist is a NotFoundError with a request id."""
    with pytest.raises(openai.NotFoundError) as caught:
        await scripted.post("/nothing")
    assert caught.value.code == "not_found"
    assert caught.value.request_id


async def test_an_empty_balance_is_told_once(scripted_router: Any, connect: Callable[..., Any]) -> None:
    """Without money: APIStatusError 402, code insufficient_balance, what is missing, and the SDK does not retry."""
    account = scripted_router.account()
    sdk = connect(scripted_router, account.key, max_retries=5)
    began_s = time.monotonic()
    with pytest.raises(openai.APIStatusError) as caught:
        await sdk.create(**script(), max_tokens=100)
    assert time.monotonic() - began_s < 0.5  # the SDK's first pause is half a second
    assert caught.value.status_code == 402
    assert (caught.value.code, caught.value.type) == ("insufficient_balance", "insufficient_balance")
    assert int(caught.value.body["missing_nano_usd"]) > 200_000
    assert caught.value.body["affordable_token_count"] == "0"
    assert caught.value.body["credits_url"] == "https://router.example/credits"
    assert "https://router.example/credits" in caught.value.message
    assert await sdk.create(model="free", messages=HELLO)


async def test_a_rate_limit_is_retried_when_it_says(scripted_router: Any, connect: Callable[..., Any]) -> None:
    """A 429 is a RateLimitError with the upstream's Retry-After, which the SDK waits for before it tries again."""
    account = scripted_router.account(usd=10)
    sdk = connect(scripted_router, account.key, max_retries=1)
    began_s = time.monotonic()
    with pytest.raises(openai.RateLimitError) as caught:
        await sdk.create(**script(status=429, retry_after_s=0.7))
    assert time.monotonic() - began_s >= 1.0  # whole seconds, rounded up
    assert caught.value.response.headers["retry-after"] == "1"
    assert (caught.value.code, caught.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    assert attempts_of(scripted_router, account) == 2


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"fault": "connect_failed"}, 502, "upstream_error"),
        ({"status": 401}, 502, "upstream_error"),
        ({"status": 402}, 502, "upstream_error"),
        ({"fault": "head_cut"}, 502, "upstream_error"),
        ({"status": 408}, 504, "upstream_timeout"),
        ({"status": 503, "retry_after_s": 30}, 503, "service_unavailable"),
    ],
    ids=lambda value: str(value),
)
async def test_failing_upstreams(scripted_router: Any, fields: dict[str, Any], status: int, code: str) -> None:
    """A failing upstream is an InternalServerError of its own status; what we tried enough, the SDK does not retry."""
    account = scripted_router.account(usd=10)
    retries = 0 if status == 503 else 2
    async with openai.AsyncOpenAI(
        base_url=scripted_router.base_url, api_key=account.key, max_retries=retries
    ) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(**script(**fields))
    assert (caught.value.status_code, caught.value.code, caught.value.type) == (status, code, "server_error")
    assert caught.value.request_id == caught.value.body["request_id"]
    assert caught.value.response.headers.get("retry-after") == ("30" if status == 503 else None)
    assert attempts_of(scripted_router, account) == 1


async def test_a_stream_that_breaks_raises(scripted: Any) -> None:
    """A stream that fails after its first text raises APIError with code and request id: it never just ends."""
    for fault in ("cut", "error", "no_finish", "bad_json"):
        with pytest.raises(openai.APIError) as caught:
            await scripted.stream(**script(text="one two three four", fault=fault, fault_after=3))
        assert caught.value.body["code"] == "upstream_error"
        assert caught.value.body["request_id"]


async def test_a_stream_that_fails_before_its_first_text_keeps_the_status(scripted: Any) -> None:
    """A failure before the first delta is an ordinary error answer, not a stream."""
    with pytest.raises(openai.RateLimitError):
        await scripted.stream(**script(status=429))
    with pytest.raises(openai.InternalServerError):
        await scripted.stream(**script(fault="cut", fault_after=0))
