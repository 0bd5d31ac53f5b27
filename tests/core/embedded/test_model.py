"""The embedded model's answers, from its own server, by way of the OpenAI SDK."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from openai import AsyncOpenAI, BadRequestError

from core.embedded.model import MODEL_ID
from core.embedded.model_server import ModelServer

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncOpenAI]:
    """One real model for all tests of this file."""
    server = ModelServer(log_path=Path(tmp_path_factory.mktemp("model")) / "model.log")
    await server.start()
    async with AsyncOpenAI(base_url=server.base_url, api_key="none") as client:
        yield client
    await server.stop()


def ask(text: str, **options: Any) -> dict[str, Any]:
    """A request for the likeliest answer."""
    return {
        "model": MODEL_ID,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 60,
        **options,
    }


async def test_samples_as_its_makers_recommend(client: AsyncOpenAI) -> None:
    """Where a request says nothing of it, the same seed gives what it gives when the request says so."""

    async def said(**sampling: float) -> str | None:
        request = {**ask("Write of the sea.", seed=7), **sampling}
        if not sampling:
            del request["temperature"]
        return (await client.chat.completions.create(**request)).choices[0].message.content

    unsaid = await said()
    assert unsaid == await said(temperature=0.2, top_p=0.9)
    assert unsaid != await said(temperature=0.8, top_p=0.95)


async def test_answers_a_question(client: AsyncOpenAI) -> None:
    """Text, finish reason and usage are real."""
    answer = await client.chat.completions.create(**ask("What is the capital of France?"))
    assert answer.choices[0].message.content == "The capital of France is Paris."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


async def test_is_listed_under_its_id(client: AsyncOpenAI) -> None:
    """The catalog's ID is the server's too."""
    assert [model.id async for model in client.models.list()] == [MODEL_ID]


async def test_the_same_seed_gives_the_same_text(client: AsyncOpenAI) -> None:
    """At any temperature, as long as questions come one at a time."""
    request = ask("Write a story about a dog.", temperature=0.9, seed=7)
    first = await client.chat.completions.create(**request)
    second = await client.chat.completions.create(**request)
    assert first.choices[0].message.content == second.choices[0].message.content


async def test_accepts_every_form_of_content(client: AsyncOpenAI) -> None:
    """Parts, a developer's message, null beside tool calls."""
    messages = [
        {"role": "developer", "content": "You are a helpful AI assistant."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "What is the capital"}, {"type": "text", "text": "of France?"}],
        },
    ]
    answer = await client.chat.completions.create(**ask("", messages=messages))
    assert "Paris" in (answer.choices[0].message.content or "")


@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_calls_a_tool(client: AsyncOpenAI, choice: str) -> None:
    """The model's call arrives as OpenAI's tool_calls."""
    request = ask("What is the weather in Paris?", tools=[WEATHER], tool_choice=choice)
    (chosen,) = (await client.chat.completions.create(**request)).choices
    assert chosen.finish_reason == "tool_calls"
    (call,) = chosen.message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})


async def test_streams_a_tool_call(client: AsyncOpenAI) -> None:
    """The name comes once, the arguments in fragments."""
    request = ask("What is the weather in Paris?", tools=[WEATHER], tool_choice="required")
    names, arguments, finish = [], "", None
    async for chunk in await client.chat.completions.create(**request, stream=True):
        finish = chunk.choices[0].finish_reason
        for call in chunk.choices[0].delta.tool_calls or []:
            assert call.function is not None
            names += [call.function.name] if call.function.name else []
            arguments += call.function.arguments or ""
    assert (names, json.loads(arguments), finish) == (["get_weather"], {"city": "Paris"}, "tool_calls")


async def test_answers_from_a_tools_result(client: AsyncOpenAI) -> None:
    """With the result at hand it speaks rather than calls again."""
    call = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'}}
    messages = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "18 degrees and sunny"},
    ]
    answer = await client.chat.completions.create(**ask("", messages=messages, tools=[WEATHER]))
    assert "18 degrees and sunny" in (answer.choices[0].message.content or "")


async def test_keeps_to_a_json_schema(client: AsyncOpenAI) -> None:
    """Structured output is enforced, not hoped for."""
    schema = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": PERSON}}
    answer = await client.chat.completions.create(**ask("Invent a person.", response_format=schema))
    person = json.loads(answer.choices[0].message.content or "")
    assert (sorted(person), type(person["age"])) == (["age", "name"], int)


async def test_refuses_what_exceeds_its_context(client: AsyncOpenAI) -> None:
    """Too long a prompt is the caller's fault, before any work."""
    with pytest.raises(BadRequestError, match="exceeds the available context size"):
        await client.chat.completions.create(**ask("word " * 9000))
