"""The openai SDK for Python, synchronous and asyncio: what its users do works, and its error classes are right."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import openai
import pytest
from worldrouter.v1.auth_pb2 import RevokeApiKeyRequest
from worldrouter.v1.metering_pb2 import ListUsageRecordsRequest

MODEL = "smollm2-135m-instruct"
HELLO = [{"role": "user", "content": "Say hello."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALLS = [
    {"name": "get_weather", "arguments": '{"city": "Paris, the capital of France"}', "id": "call_a"},
    {"name": "get_time", "arguments": '{"zone": "Europe/Paris", "format": "24h"}', "id": "call_b"},
]


class Sdk(Protocol):
    """Either client, as far as the tests need it."""

    async def create(self, **asked: Any) -> Any:
        """A whole answer."""

    async def stream(self, **asked: Any) -> list[Any]:
        """All chunks, each looked at as the quickstart does."""

    async def models(self) -> Any: ...

    async def model(self, model_id: str) -> Any: ...

    async def post(self, path: str) -> Any: ...

    async def close(self) -> None: ...


class SyncSdk:
    def __init__(self, **settings: Any) -> None:
        self.client = openai.OpenAI(**settings)

    async def create(self, **asked: Any) -> Any:
        return await asyncio.to_thread(self.client.chat.completions.create, **asked)

    async def stream(self, **asked: Any) -> list[Any]:
        return await asyncio.to_thread(self._stream, **asked)

    def _stream(self, **asked: Any) -> list[Any]:
        return list(self.client.chat.completions.create(stream=True, **asked))

    async def models(self) -> Any:
        return await asyncio.to_thread(self.client.models.list)

    async def model(self, model_id: str) -> Any:
        return await asyncio.to_thread(self.client.models.retrieve, model_id)

    async def post(self, path: str) -> Any:
        return await asyncio.to_thread(self.client.post, path, cast_to=object)

    async def close(self) -> None:
        self.client.close()


class AsyncSdk:
    def __init__(self, **settings: Any) -> None:
        self.client = openai.AsyncOpenAI(**settings)

    async def create(self, **asked: Any) -> Any:
        return await self.client.chat.completions.create(**asked)

    async def stream(self, **asked: Any) -> list[Any]:
        return [chunk async for chunk in await self.client.chat.completions.create(stream=True, **asked)]

    async def models(self) -> Any:
        return await self.client.models.list()

    async def model(self, model_id: str) -> Any:
        return await self.client.models.retrieve(model_id)

    async def post(self, path: str) -> Any:
        return await self.client.post(path, cast_to=object)

    async def close(self) -> None:
        await self.client.close()


@pytest.fixture(params=[SyncSdk, AsyncSdk], ids=["sync", "async"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Sdk]]:
    """Makes clients, by default with the router's own key and without retries."""
    made: list[Sdk] = []

    def connect(router: Any, key: str = "", *, max_retries: int = 0) -> Sdk:
        made.append(request.param(base_url=router.base_url, api_key=key or router.key, max_retries=max_retries))
        return made[-1]

    yield connect
    for sdk in made:
        await sdk.close()


@pytest.fixture
def sdk(router: Any, connect: Callable[..., Sdk]) -> Sdk:
    """Talks to the real model."""
    return connect(router)


@pytest.fixture
def scripted(scripted_router: Any, connect: Callable[..., Sdk]) -> Sdk:
    """Talks to scripted models."""
    return connect(scripted_router)


def script(**fields: Any) -> dict[str, Any]:
    """A request to the scripted model."""
    return {"model": "scripted", "messages": HELLO, "extra_body": {"script": fields}}


def put_together(chunks: list[Any]) -> list[dict[str, Any]]:
    """Tool calls from their deltas, as client code does it; a name or id that came twice would show."""
    calls: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for delta in chunk.choices[0].delta.tool_calls or ():
            call = calls.setdefault(delta.index, {"id": "", "type": "", "name": "", "arguments": ""})
            call["id"] += delta.id or ""
            call["type"] += delta.type or ""
            call["name"] += delta.function.name or ""
            call["arguments"] += delta.function.arguments or ""
    return [call for _, call in sorted(calls.items())]


def attempts_of(router: Any, account: Any) -> int:
    """How many requests of this account were admitted."""
    router.settle()
    listed = router.operator.metering.ListUsageRecords(ListUsageRecordsRequest(account_id=account.id))
    return len(listed.records)


async def test_a_whole_answer_is_charged_under_its_request_id(router: Any, sdk: Sdk) -> None:
    """An answer of the real model has text, usage and a request id, and that id names its exact charge."""
    answer = await sdk.create(model=MODEL, messages=HELLO, max_tokens=12)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.model == MODEL
    assert answer.id == f"chatcmpl-{answer._request_id}"
    record = router.command("usage", answer._request_id)
    assert record["status"] == "complete"
    cached = answer.usage.prompt_tokens_details.cached_tokens  # at half the price of input, 0.05 USD per million
    fresh = answer.usage.prompt_tokens - cached
    assert record["cost_nano_usd"] == 50 * fresh + 25 * cached + 100 * answer.usage.completion_tokens


async def test_the_quickstart_loop_never_raises(sdk: Sdk) -> None:
    """Every chunk of a stream has a first choice, and the texts together are what the whole answer says."""
    asked = {"model": MODEL, "messages": HELLO, "max_tokens": 12, "temperature": 0, "seed": 7}
    chunks = await sdk.stream(**asked)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == (await sdk.create(**asked)).choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


async def test_a_stream_reports_usage_only_when_asked(sdk: Sdk) -> None:
    """With include_usage one last chunk without choices has the usage, and null stands on all others."""
    asked = {"model": MODEL, "messages": HELLO, "max_tokens": 8}
    assert all(chunk.usage is None for chunk in await sdk.stream(**asked))
    *chunks, last = await sdk.stream(**asked, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens
    for chunk in chunks:
        assert chunk.usage is None
        assert chunk.choices[0].delta is not None


async def test_the_real_model_calls_a_tool(sdk: Sdk) -> None:
    """With tool_choice "required" the real model's call has a name and JSON arguments, streamed and not."""
    asked = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [WEATHER],
        "tool_choice": "required",
        "max_tokens": 60,
        "temperature": 0,
    }
    answer = await sdk.create(**asked)
    (call,) = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "get_weather"
    assert isinstance(json.loads(call.function.arguments)["city"], str)
    (streamed,) = put_together(await sdk.stream(**asked))
    assert (streamed["name"], streamed["arguments"]) == (call.function.name, call.function.arguments)
    assert streamed["id"]
    assert streamed["type"] == "function"


async def test_several_tool_calls_survive_streaming(scripted: Sdk) -> None:
    """The deltas of two tool calls add up to the calls of the whole answer."""
    answer = await scripted.create(**script(tool_calls=CALLS))
    whole = [
        {"id": call.id, "type": call.type, "name": call.function.name, "arguments": call.function.arguments}
        for call in answer.choices[0].message.tool_calls
    ]
    assert whole == [{"type": "function", **call} for call in CALLS]
    chunks = await scripted.stream(**script(tool_calls=CALLS))
    assert put_together(chunks) == whole
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert len(chunks) > 6  # in pieces indeed


async def test_the_helper_for_streams_accumulates(scripted_router: Any) -> None:
    """The SDK's own `stream()` helper puts the same final completion together as the whole answer."""
    async with openai.AsyncOpenAI(base_url=scripted_router.base_url, api_key=scripted_router.key) as client:
        asked = script(text="one two three", tool_calls=CALLS)
        async with client.chat.completions.stream(**asked) as stream:
            async for _ in stream:
                pass
            final = await stream.get_final_completion()
        message, whole = final.choices[0].message, (await client.chat.completions.create(**asked)).choices[0].message
    assert message.content == whole.content
    assert [call.function.arguments for call in message.tool_calls] == [call["arguments"] for call in CALLS]


async def test_models_are_listed_and_retrieved(sdk: Sdk, scripted: Sdk) -> None:
    """`models.list()` has the public models, `retrieve()` one of them, and a hidden one is not found."""
    assert [model.id for model in (await sdk.models()).data] == [MODEL]
    assert (await sdk.model(MODEL)).owned_by
    assert [model.id for model in (await scripted.models()).data] == ["dear", "free", "scripted", "unstreamed"]
    for missing in ("hidden", "nothing"):
        with pytest.raises(openai.NotFoundError) as caught:
            await scripted.model(missing)
        assert caught.value.request_id


async def test_bad_requests(scripted: Sdk) -> None:
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


async def test_a_model_that_is_not_for_everybody(scripted: Sdk) -> None:
    """A model that the key may not use is a PermissionDeniedError."""
    with pytest.raises(openai.PermissionDeniedError) as caught:
        await scripted.create(model="hidden", messages=HELLO)
    assert (caught.value.code, caught.value.type) == ("model_not_allowed", "permission_error")
    assert caught.value.request_id


async def test_what_the_upstream_says_of_a_bad_request(scripted: Sdk) -> None:
    """An upstream's 400 or 422 is a BadRequestError with its message, param and code."""
    error = {"message": "temperature is too high", "type": "whatever", "param": "temperature", "code": 400}
    for status in (400, 422):
        with pytest.raises(openai.BadRequestError, match="temperature is too high") as caught:
            await scripted.create(**script(status=status, error=error))
        assert (caught.value.param, caught.value.code) == ("temperature", "400")


async def test_bad_keys(scripted_router: Any, connect: Callable[..., Sdk]) -> None:
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


async def test_unknown_routes(scripted: Sdk) -> None:
    """A route that does not exist is a NotFoundError with a request id."""
    with pytest.raises(openai.NotFoundError) as caught:
        await scripted.post("/nothing")
    assert caught.value.code == "not_found"
    assert caught.value.request_id


async def test_an_empty_balance_is_told_once(scripted_router: Any, connect: Callable[..., Sdk]) -> None:
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


async def test_a_rate_limit_is_retried_when_it_says(scripted_router: Any, connect: Callable[..., Sdk]) -> None:
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
        ({"fault": "no_head"}, 504, "upstream_timeout"),
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


async def test_a_stream_that_breaks_raises(scripted: Sdk) -> None:
    """A stream that fails after its first text raises APIError with code and request id: it never just ends."""
    for fault in ("cut", "error", "no_finish", "bad_json"):
        with pytest.raises(openai.APIError) as caught:
            await scripted.stream(**script(text="one two three four", fault=fault, fault_after=3))
        assert caught.value.body["code"] == "upstream_error"
        assert caught.value.body["request_id"]


async def test_a_stream_that_fails_before_its_first_text_keeps_the_status(scripted: Sdk) -> None:
    """A failure before the first delta is an ordinary error answer, not a stream."""
    with pytest.raises(openai.RateLimitError):
        await scripted.stream(**script(status=429))
    with pytest.raises(openai.InternalServerError):
        await scripted.stream(**script(fault="cut", fault_after=0))


async def test_raw_responses(scripted_router: Any) -> None:
    """The headers that `with_raw_response` shows: request id, overhead, media type; of a stream too."""
    async with openai.AsyncOpenAI(base_url=scripted_router.base_url, api_key=scripted_router.key) as client:
        whole = await client.chat.completions.with_raw_response.create(**script(head_delay_ms=50))
        assert whole.headers["content-type"] == "application/json"
        assert whole.parse().id == f"chatcmpl-{whole.headers['x-request-id']}"
        assert 0 < float(whole.headers["x-worldrouter-overhead-ms"]) < 50
        asked = script()
        asked["extra_body"]["api_base"] = "http://127.0.0.1:9"
        async with client.chat.completions.with_streaming_response.create(**asked, stream=True) as stream:
            assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
            assert stream.headers["cache-control"] == "no-cache"
            assert stream.headers["x-accel-buffering"] == "no"
            assert stream.headers["x-request-id"]
            assert stream.headers["x-worldrouter-ignored"] == "api_base"
            assert "content-encoding" not in stream.headers


async def test_several_choices_and_their_extras(scripted: Sdk) -> None:
    """n choices come apart by index, with log probabilities, reasoning and usage counted once."""
    logprobs = {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}], "refusal": None}
    asked = script(text="one two", reasoning="hm", choice_extra={"logprobs": logprobs}, extra={"service_tier": "flex"})
    answer = await scripted.create(**asked, n=2)
    assert [choice.message.content for choice in answer.choices] == ["one two", "one two"]
    assert answer.choices[1].logprobs.content[0].bytes == [97]
    assert answer.choices[1].message.reasoning_content == "hm"
    assert answer.service_tier == "flex"
    *chunks, last = await scripted.stream(**asked, n=2, stream_options={"include_usage": True})
    for index in (0, 1):
        mine = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert "".join(choice.delta.content or "" for choice in mine) == "one two"
        assert mine[0].logprobs.content[0].token == "a"
    assert last.usage == answer.usage
