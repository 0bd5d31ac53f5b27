"""The openai SDK for Python, synchronous and asyncio: what its users do works."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

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


async def test_a_whole_answer_is_charged_under_its_request_id(router: Any, sdk: Any) -> None:
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


async def test_the_quickstart_loop_never_raises(sdk: Any) -> None:
    """Every chunk of a stream has a first choice, and the texts together are what the whole answer says."""
    asked = {"model": MODEL, "messages": HELLO, "max_tokens": 12, "temperature": 0, "seed": 7}
    chunks = await sdk.stream(**asked)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == (await sdk.create(**asked)).choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


async def test_a_stream_reports_usage_only_when_asked(sdk: Any) -> None:
    """With include_usage one last chunk without choices has the usage, and null stands on all others."""
    asked = {"model": MODEL, "messages": HELLO, "max_tokens": 8}
    assert all(chunk.usage is None for chunk in await sdk.stream(**asked))
    *chunks, last = await sdk.stream(**asked, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens
    for chunk in chunks:
        assert chunk.usage is None
        assert chunk.choices[0].delta is not None


async def test_the_real_model_calls_a_tool(sdk: Any) -> None:
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


async def test_several_tool_calls_survive_streaming(scripted: Any) -> None:
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


async def test_models_are_listed_and_retrieved(sdk: Any, scripted: Any) -> None:
    """`models.list()` has the public models, `retrieve()` one of them, and a hidden one is not found."""
    assert [model.id for model in (await sdk.models()).data] == [MODEL]
    assert (await sdk.model(MODEL)).owned_by
    assert [model.id for model in (await scripted.models()).data] == ["dear", "free", "scripted", "unstreamed"]
    for missing in ("hidden", "nothing"):
        with pytest.raises(openai.NotFoundError) as caught:
            await scripted.model(missing)
        assert caught.value.request_id


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


async def test_several_choices_and_their_extras(scripted: Any) -> None:
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
