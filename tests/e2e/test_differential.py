"""The router changes nothing: what the real model's own server answers is what comes out, by every way in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from worldrouter.client import AsyncClient
from worldrouter.v1.chat_pb2 import (
    ChatCompletionParams,
    ChatMessage,
    CreateChatCompletionRequest,
    FunctionTool,
    JsonSchemaFormat,
    ResponseFormat,
    StreamChatCompletionRequest,
    Tool,
)
from worldrouter.v1.raw_chat_pb2 import CreateRawCompletionRequest, StreamRawCompletionRequest

MODEL = "smollm2-135m-instruct"
FEW = 5
CITY = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}}, "required": ["city"]}
SUM = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}


def tool(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "description": f"Call {name}.", "parameters": parameters}}


def schema(name: str, **properties: Any) -> dict[str, Any]:
    form = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": name, "schema": form}}


QUESTIONS: list[dict[str, Any]] = [
    {"q": "Say hello."},
    {"q": "Name a colour.", "seed": 42, "temperature": 0.9},
    {"q": "Count to five.", "stop": [" three", "3"], "max_tokens": 24},
    {"q": "Give me the name of a colour.", "response_format": schema("colour", colour={"type": "string"})},
    {"q": "What is the weather in Paris?", "tools": [tool("weather", CITY)], "tool_choice": "required"},
    {"q": "What is the capital of France?", "logprobs": True, "top_logprobs": 2, "max_tokens": 5},
    {"q": "Tell me a joke.", "n": 2, "seed": 1, "temperature": 0.7},
    {"q": "Is water wet?", "max_tokens": 1},
    {"q": "Quel temps fait-il à Genève ? 🌦", "max_tokens": 16},
    {"q": "What is 2 + 3?", "tools": [tool("add", SUM), tool("weather", CITY)], "tool_choice": "required"},
    {"q": "Write a haiku.", "seed": 9_007_199_254_740_993, "temperature": 1.2, "top_p": 0.8},
    {"q": "What did I say?", "history": ["My name is Ada.", "Nice to meet you, Ada."]},
    {"q": "Be brief.", "system": "You answer with one word."},
    {"q": "List fruits.", "frequency_penalty": 1.5, "presence_penalty": 0.5},
    {"q": "Yes or no?", "response_format": {"type": "json_object"}},
    {"q": "Repeat: alpha beta.", "max_completion_tokens": 6},
    {"q": "Who are you?", "seed": 0, "temperature": 0.5, "top_k": 5},
    {"q": "Tell me about cats.", "logit_bias": {"253": -100, "28": 5}},
    {"q": "Tell me about dogs.", "stop": "\n", "seed": 7, "temperature": 0.3},
    {"q": "How old are you?", "response_format": schema("age", age={"type": "integer"}, sure={"type": "boolean"})},
    {"q": "Weather in Rome, please.", "tools": [tool("weather", CITY)], "parallel_tool_calls": False},
    {"q": "Sing.", "user": "somebody", "metadata": {"api_key": "kept"}, "unknown_field": {"a": [1.0, 1e2, None]}},
    {"q": 'Say "quoted" \\ and <tags> & \u2028 line breaks\n\tand tabs.', "max_tokens": 12},
    {"q": "Complete: the quick brown fox", "seed": 3, "temperature": 0.6, "min_p": 0.1},
    {"q": "Choose.", "response_format": schema("choice", choice={"enum": ["left", "right"]}), "logprobs": True},
]


@dataclass
class Outcome:
    """An answer, whole or put together from its pieces, without what differs from run to run."""

    texts: dict[int, str] = field(default_factory=dict)
    calls: dict[int, dict[int, list[str]]] = field(default_factory=dict)
    finish_reasons: dict[int, str] = field(default_factory=dict)
    logprobs: dict[int, list[tuple[str, float]]] = field(default_factory=dict)
    usage: tuple[int, int, int] = (0, 0, 0)

    def add(self, choice: dict[str, Any], said: dict[str, Any]) -> None:
        """A choice and its message or delta, of OpenAI's JSON."""
        index = choice["index"]
        self.texts[index] = self.texts.get(index, "") + (said.get("content") or "")
        for at, call in enumerate(said.get("tool_calls") or ()):
            function = call.get("function", {})
            named = self.calls.setdefault(index, {}).setdefault(call.get("index", at), ["", ""])
            named[0] += function.get("name") or ""
            named[1] += function.get("arguments") or ""
        if choice.get("finish_reason"):
            self.finish_reasons[index] = choice["finish_reason"]
        for token in (choice.get("logprobs") or {}).get("content") or ():
            self.logprobs.setdefault(index, []).append((token["token"], round(token["logprob"], 3)))

    def count(self, usage: dict[str, Any]) -> None:
        self.usage = (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"])


def of_json(answers: Iterable[bytes | str]) -> Outcome:
    """The outcome of a whole answer, or of all chunks of a stream."""
    outcome = Outcome()
    for text in answers:
        answer = json.loads(text)
        for choice in answer["choices"]:
            outcome.add(choice, choice.get("message") or choice.get("delta") or {})
        if answer.get("usage"):
            outcome.count(answer["usage"])
    return outcome


def add_typed(outcome: Outcome, choice: Any, said: Any, *, whole: bool) -> None:
    """The same of a typed choice."""
    calls = []
    for call in said.tool_calls:
        function = {"name": call.function.name, "arguments": call.function.arguments}
        calls.append({"function": function} if whole else {"index": call.index, "function": function})
    tokens = [{"token": token.token, "logprob": token.logprob} for token in choice.logprobs.content]
    outcome.add(
        {"index": choice.index, "finish_reason": choice.finish_reason, "logprobs": {"content": tokens}},
        {"content": said.content, "tool_calls": calls},
    )


def body_of(question: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's JSON of a question, at temperature 0 where nothing else is said."""
    asked = {"model": MODEL, "max_tokens": 8, "temperature": 0, **question}
    if "max_completion_tokens" in asked:
        del asked["max_tokens"]
    if "tools" in asked or "response_format" in asked:
        asked["max_tokens"] = 40
    messages = [{"role": "system", "content": asked.pop("system")}] if "system" in asked else []
    for at, text in enumerate(asked.pop("history", [])):
        messages.append({"role": "assistant" if at % 2 else "user", "content": text})
    return asked | {"messages": [*messages, {"role": "user", "content": asked.pop("q")}]}


def params_of(body: dict[str, Any]) -> ChatCompletionParams:
    """The same question with types; what has no field goes to extra_json."""
    left = dict(body)
    params = ChatCompletionParams(messages=[ChatMessage(**message) for message in left.pop("messages")])
    if "stop" in left:
        stop = left.pop("stop")
        params.stop.extend([stop] if isinstance(stop, str) else stop)
    if "response_format" in left:
        form = left.pop("response_format")
        params.response_format.CopyFrom(ResponseFormat(type=form["type"]))
        if "json_schema" in form:
            named = JsonSchemaFormat(
                name=form["json_schema"]["name"], schema_json=json.dumps(form["json_schema"]["schema"])
            )
            params.response_format.json_schema.CopyFrom(named)
    for each in left.pop("tools", []):
        function = {**each["function"], "parameters_json": json.dumps(each["function"]["parameters"])}
        del function["parameters"]
        params.tools.append(Tool(function=FunctionTool(**function)))
    for name in [name for name in left if name in ChatCompletionParams.DESCRIPTOR.fields_by_name]:
        value = left.pop(name)
        if isinstance(value, dict):
            getattr(params, name).update(value)
        else:
            setattr(params, name, value)
    params.extra_json = json.dumps(left) if left else ""
    return params


class Ways:
    """The model's own server, and all ways to it through the router."""

    def __init__(self, router: Any, session: aiohttp.ClientSession, client: AsyncClient) -> None:
        self._router = router
        self._session = session
        self._client = client

    async def direct(self, body: dict[str, Any], *, stream: bool) -> Outcome:
        """No router at all."""
        return await self._post(self._router.upstreams[MODEL], body, stream=stream)

    async def http(self, body: dict[str, Any], *, stream: bool) -> Outcome:
        return await self._post(self._router.base_url, body, stream=stream)

    async def _post(self, base_url: str, body: dict[str, Any], *, stream: bool) -> Outcome:
        headers = {"authorization": f"Bearer {self._router.key}"}
        asked = streamed(body) if stream else body
        async with self._session.post(f"{base_url}/chat/completions", json=asked, headers=headers) as answer:
            text = await answer.text()
            assert answer.status == 200, text
        if not stream:
            return of_json([text])
        events = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
        assert events.pop() == "[DONE]"
        return of_json(events)

    async def raw(self, body: dict[str, Any], *, stream: bool) -> Outcome:
        if not stream:
            request = CreateRawCompletionRequest(dialect=1, body=json.dumps(body).encode())
            return of_json([(await self._client.raw_chat.CreateRawCompletion(request)).body])
        asked = StreamRawCompletionRequest(dialect=1, body=json.dumps(streamed(body)).encode())
        chunks = [
            chunk
            async for event in self._client.raw_chat.StreamRawCompletion(asked)
            for chunk in event.chunks.chunk_json
        ]
        return of_json(chunks)

    async def typed(self, body: dict[str, Any], *, stream: bool) -> Outcome:
        outcome, params = Outcome(), params_of(body)
        if not stream:
            answer = await self._client.chat.CreateChatCompletion(CreateChatCompletionRequest(params=params))
            for choice in answer.choices:
                add_typed(outcome, choice, choice.message, whole=True)
            usage = answer.usage
        else:
            async for event in self._client.chat.StreamChatCompletion(StreamChatCompletionRequest(params=params)):
                for chunk in event.deltas.chunks:
                    for choice in chunk.choices:
                        add_typed(outcome, choice, choice.delta, whole=False)
            assert list(outcome.finish_reasons.values()) == list(event.finished.finish_reasons)
            usage = event.finished.usage
        outcome.usage = (usage.prompt_token_count, usage.completion_token_count, usage.total_token_count)
        return outcome


def streamed(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
async def ways(router: Any) -> AsyncIterator[Ways]:
    fresh = aiohttp.TCPConnector(force_close=True)  # the model's server hangs up when it likes
    async with (
        aiohttp.ClientSession(connector=fresh) as session,
        AsyncClient(router.grpc, router.key, plaintext=True) as client,
    ):
        yield Ways(router, session, client)


async def compare(ways: Ways, body: dict[str, Any], *, stream: bool) -> bool:
    """Whether the model's server agrees with itself; if so, every way must agree with it."""
    first = await ways.direct(body, stream=stream)
    if await ways.direct(body, stream=stream) != first:
        return False
    through: list[Callable[..., Awaitable[Outcome]]] = [ways.http, ways.raw, ways.typed]
    for way in through:
        assert await way(body, stream=stream) == first, way.__name__
    assert first.finish_reasons
    assert any(first.texts.values()) or first.calls
    return True


@pytest.mark.slow
async def test_a_few_questions(ways: Ways) -> None:
    """Text, tool calls, finish reasons, log probabilities and usage are the model's own, streamed or not by turns."""
    agreed = [await compare(ways, body_of(question), stream=at % 2 == 1) for at, question in enumerate(QUESTIONS[:FEW])]
    assert sum(agreed) >= FEW - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "stream", [pytest.param(False, id="whole", marks=pytest.mark.long), pytest.param(True, id="streamed")]
)
async def test_all_questions(ways: Ways, stream: bool) -> None:
    """All 25 of them, streamed and not."""
    agreed = [await compare(ways, body_of(question), stream=stream) for question in QUESTIONS]
    assert len(QUESTIONS) == 25
    assert sum(agreed) >= 20
