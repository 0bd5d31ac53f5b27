"""LlamaIndex: its model for OpenAI-compatible services, and an agent on it."""

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
from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

get_weather = FunctionTool.from_defaults(report, name="get_weather")


class Person(BaseModel):
    name: str
    born: int
    tags: list[str]


@pytest.fixture
def model(model_id: str) -> OpenAILike:
    return OpenAILike(
        model=model_id,
        api_base=BASE_URL,
        api_key=KEY,
        is_chat_model=True,
        is_function_calling_model=True,
        max_retries=0,
        additional_kwargs={"stream_options": {"include_usage": True}},
    )


@pytest.fixture
def unstreamed(model: OpenAILike) -> OpenAILike:
    """Options of streams are refused where there is none."""
    return model.model_copy(update={"additional_kwargs": {}})


def asked(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


async def test_an_answer(unstreamed: OpenAILike, has_usage: bool) -> None:
    """The text is the upstream's, and so is the usage; by asyncio too."""
    for answer in (unstreamed.chat(asked(PROMPT)), await unstreamed.achat(asked(PROMPT))):
        assert answer.message.content == TEXT
        if has_usage:
            usage = answer.raw.usage
            assert (usage.prompt_tokens, usage.completion_tokens) == (PROMPT_TOKENS, COMPLETION_TOKENS)


async def test_a_stream(model: OpenAILike, has_usage: bool) -> None:
    """The deltas are the text, in pieces; the last chunk has the usage; by asyncio too."""
    streamed = [each async for each in await model.astream_chat(asked(PROMPT))]
    for chunks in (list(model.stream_chat(asked(PROMPT))), streamed):
        assert "".join(chunk.delta or "" for chunk in chunks) == chunks[-1].message.content == TEXT
        assert len(chunks) > 3
        if has_usage:
            usage = chunks[-1].raw.usage
            assert (usage.prompt_tokens, usage.completion_tokens) == (PROMPT_TOKENS, COMPLETION_TOKENS)


def test_tools(model: OpenAILike, unstreamed: OpenAILike) -> None:
    """Two calls in one turn, whole and from deltas."""
    asked_for = {"tools": [get_weather], "user_msg": WEATHER, "allow_parallel_tool_calls": True}
    whole = unstreamed.chat_with_tools(**asked_for)
    *_, streamed = model.stream_chat_with_tools(**asked_for)
    for answer in (whole, streamed):
        calls = model.get_tool_calls_from_response(answer)
        assert [(call.tool_name, call.tool_kwargs) for call in calls] == [("get_weather", each) for each in CALLS]
        assert all(call.tool_id for call in calls)


async def test_an_agent(model: OpenAILike) -> None:
    """Both calls reach the tool, and what it says reaches the upstream; streamed."""
    run = FunctionAgent(tools=[get_weather], llm=model).run(WEATHER)
    results = [event async for event in run.stream_events() if isinstance(event, ToolCallResult)]
    assert sorted((result.tool_kwargs for result in results), key=str) == sorted(CALLS, key=str)
    assert str(await run) == TOLD


def test_structured_output(model: OpenAILike, unstreamed: OpenAILike) -> None:
    """The object is the upstream's: by a forced tool call, and by a JSON schema, which can be streamed too."""
    assert unstreamed.as_structured_llm(Person).chat(asked(WHO)).raw == Person(**PERSON)
    by_schema = {"should_use_structured_outputs": True}
    unstreamed, model = (each.model_copy(update=by_schema) for each in (unstreamed, model))
    assert unstreamed.as_structured_llm(Person).chat(asked(WHO)).raw == Person(**PERSON)
    objects = [chunk.raw.model_dump() for chunk in model.as_structured_llm(Person).stream_chat(asked(WHO))]
    assert objects[-1] == PERSON
    assert len({str(each) for each in objects}) > 3
