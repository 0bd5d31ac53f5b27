"""Pydantic AI, on its OpenAI chat model."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
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
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, PromptedOutput, Tool, ToolOutput
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

get_weather = Tool(report, name="get_weather")


class Person(BaseModel):
    name: str
    born: int
    tags: list[str]


@pytest.fixture
async def model(model_id: str) -> AsyncIterator[OpenAIChatModel]:
    async with AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0) as client:
        yield OpenAIChatModel(model_id, provider=OpenAIProvider(openai_client=client))


def asked_for(result: Any) -> list[dict[str, Any]]:
    """The arguments of the tool calls of a run."""
    parts = [part for message in result.all_messages() for part in message.parts]
    return [part.args_as_dict() for part in parts if isinstance(part, ToolCallPart)]


async def test_an_answer(model: OpenAIChatModel, has_usage: bool) -> None:
    """The text is the upstream's, and so is the usage."""
    result = await Agent(model).run(PROMPT)
    assert result.output == TEXT
    if has_usage:
        assert (result.usage.input_tokens, result.usage.output_tokens) == (PROMPT_TOKENS, COMPLETION_TOKENS)


async def test_a_stream(model: OpenAIChatModel, has_usage: bool) -> None:
    """The deltas are the text, in pieces; the usage chunk is found."""
    async with Agent(model).run_stream(PROMPT) as result:
        deltas = [delta async for delta in result.stream_text(delta=True, debounce_by=None)]
        assert "".join(deltas) == await result.get_output() == TEXT
    assert len(deltas) > 3
    if has_usage:
        assert (result.usage.input_tokens, result.usage.output_tokens) == (PROMPT_TOKENS, COMPLETION_TOKENS)


async def test_tools(model: OpenAIChatModel) -> None:
    """Two calls in one turn reach the tool, and what it says reaches the upstream."""
    result = await Agent(model, tools=[get_weather]).run(WEATHER)
    assert asked_for(result) == CALLS
    assert result.output == TOLD


async def test_streamed_tools(model: OpenAIChatModel) -> None:
    """The same from deltas."""
    async with Agent(model, tools=[get_weather]).run_stream(WEATHER) as result:
        assert await result.get_output() == TOLD
    assert asked_for(result) == CALLS


@pytest.mark.parametrize("kind", [ToolOutput, NativeOutput, PromptedOutput])
async def test_structured_output(model: OpenAIChatModel, kind: Any) -> None:
    """By a forced tool call, by a JSON schema and by JSON mode, the object is the upstream's; streamed and not."""
    agent = Agent(model, output_type=kind(Person))
    assert (await agent.run(WHO)).output == Person(**PERSON)
    async with agent.run_stream(WHO) as result:
        assert await result.get_output() == Person(**PERSON)
