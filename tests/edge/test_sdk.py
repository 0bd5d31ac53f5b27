"""The openai Python SDK against the edge: what users have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import openai
import pytest
from openai.types.chat import ChatCompletion
from worldrouter.v1 import raw_chat_pb2, routing_pb2, types_pb2

REQUEST_ID = "01k9zz2w8x5qv3d7m4t6c1b0ra"
ANSWER = (
    b'{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Hello."},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}'
)
CHUNK = (
    b'{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    b'{"role":"assistant","content":"%b"},"finish_reason":%b}]}'
)
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture
async def sdk(edge: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key="wlrouter_x", base_url=f"{edge.url}/v1", max_retries=0) as client:
        yield client


async def test_a_whole_answer(core: Any, sdk: openai.AsyncOpenAI) -> None:
    """The SDK reads the answer, its usage and its request id."""

    async def create(request: Any, context: Any) -> Any:
        await core.admit(context)
        return raw_chat_pb2.CreateRawCompletionResponse(body=ANSWER, started=types_pb2.CompletionStarted())

    core.create = create
    answer: ChatCompletion = await sdk.chat.completions.create(**ASK)
    assert answer.choices[0].message.content == "Hello."
    assert answer.usage is not None
    assert answer.usage.total_tokens == 3
    assert answer._request_id == REQUEST_ID
    assert core.calls[0].metadata["authorization"] == "Bearer wlrouter_x"


async def test_a_stream(core: Any, start_edge: Any) -> None:
    """The SDK reads a stream with comments in it to its end."""
    edge = await start_edge(comment_interval_s=0.1)

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        await asyncio.sleep(0.3)
        yield core.started()
        yield core.chunks(CHUNK % (b"Hel", b"null"), CHUNK % (b"lo", b"null"))
        await asyncio.sleep(0.3)
        yield core.chunks(CHUNK % (b".", b'"stop"'))
        yield core.finished()

    core.stream = stream
    async with openai.AsyncOpenAI(api_key="k", base_url=f"{edge.url}/v1", max_retries=0) as sdk:
        text = ""
        async for chunk in await sdk.chat.completions.create(**ASK, stream=True):
            text += chunk.choices[0].delta.content
    assert text == "Hello."


async def test_models(core: Any, sdk: openai.AsyncOpenAI) -> None:
    """The SDK lists models and retrieves one whose id has a slash."""

    async def list_models(request: Any, context: Any) -> Any:
        return routing_pb2.ListModelsResponse(models=[routing_pb2.Model(id="openai/gpt-4o", owned_by="openai")])

    async def get_model(request: Any, context: Any) -> Any:
        return routing_pb2.Model(id=request.model_id)

    core.list_models, core.get_model = list_models, get_model
    assert [model.id async for model in sdk.models.list()] == ["openai/gpt-4o"]
    assert (await sdk.models.retrieve("openai/gpt-4o")).id == "openai/gpt-4o"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "MODEL_NOT_FOUND", openai.BadRequestError),
        (grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY", openai.AuthenticationError),
        (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_BALANCE", openai.APIStatusError),
        (grpc.StatusCode.PERMISSION_DENIED, "MODEL_NOT_ALLOWED", openai.PermissionDeniedError),
        (grpc.StatusCode.NOT_FOUND, "NOT_FOUND", openai.NotFoundError),
        (grpc.StatusCode.ABORTED, "CONFLICT", openai.ConflictError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMIT_EXCEEDED", openai.RateLimitError),
        (grpc.StatusCode.INTERNAL, "INTERNAL_ERROR", openai.InternalServerError),
        (grpc.StatusCode.UNAVAILABLE, "UPSTREAM_ERROR", openai.InternalServerError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT", openai.InternalServerError),
    ],
)
async def test_errors_are_the_sdks_own(
    core: Any, sdk: openai.AsyncOpenAI, code: Any, reason: str, kind: type[openai.APIStatusError], *, stream: bool
) -> None:
    """Each failure is the SDK's exception class for it, with code, param and request id."""

    async def create(request: Any, context: Any) -> None:
        await core.admit(context)
        await core.fail(context, code, reason, "No.", {"param": "model", "code": "because"})

    async def streamed(request: Any, context: Any) -> AsyncIterator[Any]:
        await create(request, context)
        yield

    core.create, core.stream = create, streamed
    with pytest.raises(kind) as raised:
        await sdk.chat.completions.create(**ASK, stream=stream)
    assert raised.value.request_id == REQUEST_ID
    assert (raised.value.code, raised.value.param) == ("because", "model")


async def test_the_sdk_does_not_repeat_what_the_core_has_tried(core: Any, edge: Any) -> None:
    """x-should-retry keeps the SDK from asking again after the router's own attempts."""

    async def create(request: Any, context: Any) -> None:
        await core.admit(context)
        await core.fail(context, grpc.StatusCode.UNAVAILABLE, "UPSTREAM_ERROR", "No.")

    core.create = create
    async with openai.AsyncOpenAI(api_key="k", base_url=f"{edge.url}/v1", max_retries=2) as sdk:
        with pytest.raises(openai.InternalServerError):
            await sdk.chat.completions.create(**ASK)
    assert len(core.calls) == 1


async def test_a_stream_that_breaks_raises(core: Any, sdk: openai.AsyncOpenAI) -> None:
    """A failure in mid-stream is an exception, not a short answer."""

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        await core.admit(context)
        yield core.chunks(CHUNK % (b"Hel", b"null"))
        await core.fail(context, grpc.StatusCode.UNAVAILABLE, "UPSTREAM_ERROR", "The upstream broke off.")

    core.stream = stream
    chunks = await sdk.chat.completions.create(**ASK, stream=True)
    assert (await anext(chunks)).choices[0].delta.content == "Hel"
    with pytest.raises(openai.APIError, match=r"The upstream broke off\."):
        await anext(chunks)
