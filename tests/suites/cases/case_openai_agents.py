"""The OpenAI Agents SDK, on its chat completions model."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool
from expected import (
    BASE_URL,
    CALLS,
    COMPLETION_TOKENS,
    KEY,
    PERSON,
    PROMPT,
    PROMPT_TOKENS,
    TEXT,
    TOLD,
    WEATHER,
    WHO,
    report,
)
from openai import AsyncOpenAI
from openai.types.responses import ResponseTextDeltaEvent
from pydantic import BaseModel

get_weather = function_tool(report, name_override="get_weather")


class Person(BaseModel):
    name: str
    born: int
    tags: list[str]


@pytest.fixture
async def model(model_id: str) -> AsyncIterator[OpenAIChatCompletionsModel]:
    async with AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0) as client:
        yield OpenAIChatCompletionsModel(model_id, client)


def asked_for(result: Any) -> list[dict[str, Any]]:
    """The arguments of the tool calls of a run."""
    calls = [item.raw_item for item in result.new_items if item.type == "tool_call_item"]
    assert {call.name for call in calls} <= {"get_weather"}
    return [json.loads(call.arguments) for call in calls]


async def test_an_answer(model: OpenAIChatCompletionsModel, has_usage: bool) -> None:
    """The text is the upstream's, and so is the usage."""
    result = await Runner.run(Agent("agent", model=model), PROMPT)
    assert result.final_output == TEXT
    if has_usage:
        usage = result.context_wrapper.usage
        assert (usage.input_tokens, usage.output_tokens) == (PROMPT_TOKENS, COMPLETION_TOKENS)


async def test_a_stream(model: OpenAIChatCompletionsModel, has_usage: bool) -> None:
    """The deltas are the text, in pieces."""
    result = Runner.run_streamed(Agent("agent", model=model, model_settings=ModelSettings(include_usage=True)), PROMPT)
    events = [event.data async for event in result.stream_events() if event.type == "raw_response_event"]
    deltas = [event.delta for event in events if isinstance(event, ResponseTextDeltaEvent)]
    assert "".join(deltas) == result.final_output == TEXT
    assert len(deltas) > 3
    if has_usage:
        usage = result.context_wrapper.usage
        assert (usage.input_tokens, usage.output_tokens) == (PROMPT_TOKENS, COMPLETION_TOKENS)


async def test_tools(model: OpenAIChatCompletionsModel) -> None:
    """Two calls in one turn reach the tool, and what it says reaches the upstream."""
    result = await Runner.run(Agent("agent", model=model, tools=[get_weather]), WEATHER)
    assert asked_for(result) == CALLS
    assert result.final_output == TOLD


async def test_streamed_tools(model: OpenAIChatCompletionsModel) -> None:
    """The same from deltas."""
    result = Runner.run_streamed(Agent("agent", model=model, tools=[get_weather]), WEATHER)
    assert [event async for event in result.stream_events()]
    assert asked_for(result) == CALLS
    assert result.final_output == TOLD


async def test_structured_output(model: OpenAIChatCompletionsModel) -> None:
    """The object is the upstream's, streamed and not."""
    agent = Agent("agent", model=model, output_type=Person)
    assert (await Runner.run(agent, WHO)).final_output == Person(**PERSON)
    result = Runner.run_streamed(agent, WHO)
    assert [event async for event in result.stream_events()]
    assert result.final_output == Person(**PERSON)
