"""The conversion between typed messages and OpenAI's JSON."""

import json
import math
from typing import Any

import msgspec
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worldrouter.v1 import chat_pb2 as chat
from worldrouter.v1.types_pb2 import CompletionFinished, CompletionStarted, Usage

from core.chat import typed
from core.errors import InvalidRequest, UpstreamFailed

KEYS = {
    "content_parts": "content",
    "custom_voice": "voice",
    "specific_tool_choice": "tool_choice",
    "expire_time": "expires_at",
    "token_bytes": "bytes",
}
OURS = {"id", "model", "create_time", "usage", "cost_nano_usd", "endpoint", "overhead_us"}
SECOND_FORMS = {"content_parts": "content", "custom_voice": "voice", "specific_tool_choice": "tool_choice"}
STARTED = CompletionStarted(id="chatcmpl-1", model="m", endpoint="e", create_time=Timestamp(seconds=7), overhead_us=250)
FINISHED = CompletionFinished(
    finish_reasons=["stop"], usage=Usage(prompt_token_count=3, total_token_count=3), cost_nano_usd=42
)
FEW = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
SCALARS = {
    FieldDescriptor.TYPE_STRING: st.text(min_size=1, max_size=8),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=4),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
}


def dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


@st.composite
def messages(draw: st.DrawFn, kind: type[Message], depth: int = 4, leave: frozenset[str] = frozenset()) -> Message:
    """Messages with any of their fields set, never two forms of one key."""
    message = kind()
    fields = [field for field in kind.DESCRIPTOR.fields if field.name not in leave and not _too_deep(field, depth)]
    chosen = draw(st.lists(st.sampled_from(fields), unique_by=lambda field: field.name, max_size=4))
    names = {field.name for field in chosen}
    for field in chosen:
        if SECOND_FORMS.get(field.name) not in names:
            _fill(draw, message, field, depth)
    return message


def _too_deep(field: FieldDescriptor, depth: int) -> bool:
    return field.message_type is not None and depth == 0


def _fill(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    name, of = field.name, field.message_type
    if name == "extra_json":
        extra = draw(
            st.dictionaries(st.from_regex(r"x_[a-z]{1,4}", fullmatch=True), json_values, min_size=1, max_size=2)
        )
        setattr(message, name, dumps(extra))
    elif name.endswith("_json"):
        setattr(message, name, dumps(draw(json_values.filter(lambda value: value is not None))))
    elif of is None and not field.is_repeated:
        setattr(message, name, draw(SCALARS[field.type]))
    elif of is None:
        getattr(message, name).extend(draw(st.lists(SCALARS[field.type], max_size=2)))
    elif of.GetOptions().map_entry:
        values = SCALARS[of.fields_by_name["value"].type]
        getattr(message, name).update(draw(st.dictionaries(st.text(max_size=5), values, max_size=2)))
    elif of.full_name == "google.protobuf.Timestamp":
        getattr(message, name).FromSeconds(draw(st.integers(0, 2**33)))
    elif field.is_repeated:
        items = draw(st.lists(messages(of._concrete_class, depth - 1), max_size=2))
        getattr(message, name).extend(items)
    else:
        getattr(message, name).CopyFrom(draw(messages(of._concrete_class, depth - 1)))


def as_json(message: Any, leave: frozenset[str] = frozenset()) -> dict[str, Any]:
    """An answer in JSON, written apart from the code under test."""
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.name in leave:
            continue
        if field.name == "extra_json":
            found |= json.loads(value)
        elif field.name.endswith("_json"):
            found[field.name.removesuffix("_json")] = json.loads(value)
        else:
            found[KEYS.get(field.name, field.name)] = _as_value(field, value)
        if field.containing_oneof and not field.containing_oneof.name.startswith("_"):
            found["type"] = field.name
    return found


def _as_value(field: FieldDescriptor, value: Any) -> object:
    if isinstance(value, bytes):
        return list(value)
    if isinstance(value, Timestamp):
        return value.seconds
    if field.message_type is None:
        return list(value) if field.is_repeated else value
    if field.message_type.GetOptions().map_entry:
        return dict(value)
    return [as_json(item) for item in value] if field.is_repeated else as_json(value)


def body_of(**params: object) -> dict[str, Any]:
    return json.loads(typed.request_body(chat.ChatCompletionParams(**params), stream=False))


@FEW
@given(messages(chat.ChatCompletionParams, leave=frozenset(("response_format",))))
def test_request_round_trip(params: Any) -> None:
    """Every request reads back from its own JSON as it was."""
    fields = msgspec.json.decode(typed.request_body(params, stream=False), type=dict[str, msgspec.Raw])
    back = chat.ChatCompletionParams()
    typed.merge(fields, back)
    assert back == params


@FEW
@given(messages(chat.ChatCompletionParams))
def test_request_json(params: Any) -> None:
    """The body says what a second, independent reading of the message says."""
    assert json.loads(typed.request_body(params, stream=False)) == as_json(params)


@FEW
@given(messages(chat.ChatCompletion, depth=5, leave=frozenset(OURS)))
def test_answer_round_trip(answer: Any) -> None:
    """Every typed answer reads back from its JSON as it was, beside what WorldRouter says of it."""
    body = dumps({"id": "x", "object": "chat.completion", "created": 1, "model": "y"} | as_json(answer)).encode()
    found = typed.completion(body, STARTED, FINISHED)
    assert (found.id, found.model, found.endpoint, found.overhead_us) == ("chatcmpl-1", "m", "e", 250)
    assert (found.create_time.seconds, found.usage, found.cost_nano_usd) == (7, FINISHED.usage, 42)
    for name in OURS:
        found.ClearField(name)
    assert found == answer


@FEW
@given(st.lists(messages(chat.ChatCompletionChunk, depth=5), max_size=3))
def test_chunks_round_trip(chunks: list[Any]) -> None:
    """Chunks become typed chunks one for one, in order."""
    head = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "y"}
    found = typed.deltas([dumps(head | as_json(chunk)).encode() for chunk in chunks])
    assert list(found.chunks) == chunks


ANSWER_KEYS = ("choices", "service_tier", "usage", "endpoint", "cost_nano_usd", "extra_json", "error", "ä")
MESSAGE_KEYS = ("role", "content", "tool_calls", "audio", "refusal", "annotations", "reasoning", "content_parts")


def objects(keys: tuple[str, ...], **typed_values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """JSON objects whose keys are known ones, with values that fit or anything at all."""
    return st.dictionaries(st.sampled_from(keys), json_values, max_size=4).flatmap(
        lambda base: st.fixed_dictionaries({}, optional=typed_values).map(lambda good: base | good)
    )


TYPES = st.sampled_from(("function", "custom", "x"))
tool_calls = objects(
    ("id", "type", "function", "custom", "x"), function=objects(("name", "arguments", "y")), type=TYPES
)
wild_messages = objects(
    MESSAGE_KEYS, tool_calls=st.lists(tool_calls, max_size=2), audio=objects(("id", "expires_at", "data"))
)
wild_choices = objects(("index", "message", "logprobs", "finish_reason", "z"), message=wild_messages)


def bare(value: Any) -> Any:
    """A JSON value less what reads as absent, and less `type`, which a member of a oneof implies."""
    if isinstance(value, dict):
        kept = {key: bare(item) for key, item in value.items() if key != "type"}
        return {key: item for key, item in kept.items() if item or item is False}
    return [bare(item) for item in value] if isinstance(value, list) else value


@FEW
@given(objects(ANSWER_KEYS, choices=st.lists(wild_choices, max_size=2)))
def test_nothing_is_lost(answer: dict[str, Any]) -> None:
    """Whatever an upstream puts under whichever key can be read from the typed answer."""
    found = typed.completion(dumps(answer).encode(), STARTED, FINISHED)
    assert bare(as_json(found, frozenset(OURS))) == bare(answer)


def test_plain_request() -> None:
    """The smallest request is the smallest body; only a stream says `stream`."""
    params = chat.ChatCompletionParams(model="m", messages=[chat.ChatMessage(role="user", content="hi")])
    assert typed.request_body(params, stream=False) == b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    assert json.loads(typed.request_body(params, stream=True))["stream"] is True
    body = typed.request_body(params, stream=True, include_obfuscation=False)
    assert json.loads(body)["stream_options"] == {"include_obfuscation": False}


def test_content_parts() -> None:
    """Parts become OpenAI's parts, one of an unknown type what its extra_json says."""
    parts = [
        chat.ContentPart(text="see", prompt_cache_breakpoint=chat.PromptCacheBreakpoint(mode="explicit")),
        chat.ContentPart(image_url=chat.ImageUrl(url="data:,", detail="low")),
        chat.ContentPart(input_audio=chat.InputAudio(data="AA==", format="wav")),
        chat.ContentPart(file=chat.InputFile(file_id="file-1")),
        chat.ContentPart(extra_json='{"type": "video_url", "video_url": {"url": "data:,"}, "text": "odd"}'),
    ]
    body = body_of(messages=[chat.ChatMessage(role="user", content_parts=parts)])
    assert body["messages"][0]["content"] == [
        {"type": "text", "text": "see", "prompt_cache_breakpoint": {"mode": "explicit"}},
        {"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "video_url", "video_url": {"url": "data:,"}, "text": "odd"},
    ]


def test_tools() -> None:
    """Tools, the choice among them, the response format and a prediction have OpenAI's shapes."""
    named = chat.NamedTool(name="f")
    body = body_of(
        tools=[
            chat.Tool(function=chat.FunctionTool(name="f", parameters_json='{"type":"object"}', strict=False)),
            chat.Tool(
                custom=chat.CustomTool(name="c", format=chat.CustomToolFormat(grammar=chat.Grammar(syntax="lark")))
            ),
        ],
        specific_tool_choice=chat.ToolChoice(
            allowed_tools=chat.AllowedTools(mode="auto", tools=[chat.ToolReference(function=named)])
        ),
        response_format=chat.ResponseFormat(
            type="json_schema", json_schema=chat.JsonSchemaFormat(name="s", schema_json="{}")
        ),
        prediction=chat.Prediction(content="p"),
        audio=chat.AudioOptions(custom_voice=chat.CustomVoice(id="v"), format="wav"),
    )
    assert body == {
        "tools": [
            {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": False}},
            {"type": "custom", "custom": {"name": "c", "format": {"type": "grammar", "grammar": {"syntax": "lark"}}}},
        ],
        "tool_choice": {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]},
        },
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}}},
        "prediction": {"type": "content", "content": "p"},
        "audio": {"voice": {"id": "v"}, "format": "wav"},
    }
    assert body_of(tool_choice="required") == {"tool_choice": "required"}


def test_json_text_keeps_every_digit() -> None:
    """Numbers in JSON text reach the body as they were written."""
    text = '{"top_k":1,"big":123456789012345678901234567890,"f":1.00,"e":1e2}'
    body = typed.request_body(chat.ChatCompletionParams(seed=2**63 - 1, extra_json=text), stream=False)
    assert body == b'{"seed":9223372036854775807,' + text[1:].encode()


@pytest.mark.parametrize("text", ["{", "[]", "null", "1", '{"a":1}x', '{"a":nan}', '{"a":' + "[" * 100_000])
def test_extra_json_must_be_an_object(text: str) -> None:
    """Text that is no JSON object is refused, with the path of its field."""
    with pytest.raises(InvalidRequest) as raised:
        body_of(messages=[chat.ChatMessage(), chat.ChatMessage(extra_json=text)])
    assert raised.value.param == "messages[1].extra_json"


@pytest.mark.parametrize("text", ["{", "", " ", "nil", "{}{}"])
def test_schema_must_be_json(text: str) -> None:
    """A schema that is not JSON is refused, with its path; an empty one is none."""
    tool = chat.Tool(function=chat.FunctionTool(name="f", parameters_json=text))
    if not text:
        assert body_of(tools=[tool]) == {"tools": [{"type": "function", "function": {"name": "f"}}]}
        return
    with pytest.raises(InvalidRequest) as raised:
        body_of(tools=[tool])
    assert raised.value.param == "tools[0].function.parameters_json"


@pytest.mark.parametrize(
    ("params", "param"),
    [
        (chat.ChatCompletionParams(extra_json='{"temperature":1}'), "extra_json"),
        (chat.ChatCompletionParams(extra_json='{"user":null}'), "extra_json"),
        (chat.ChatCompletionParams(user="u", extra_json='{"user":1}'), "extra_json"),
        (chat.ChatCompletionParams(extra_json='{"messages":1}'), "extra_json"),
        (chat.ChatCompletionParams(extra_json='{"stream":true}'), "extra_json"),
        (chat.ChatCompletionParams(extra_json='{"stream_options":{}}'), "extra_json"),
        (chat.ChatCompletionParams(tools=[chat.Tool(function={}, extra_json='{"type":"x"}')]), "tools[0].extra_json"),
        (chat.ChatCompletionParams(tools=[chat.Tool(function={}, extra_json='{"custom":1}')]), "tools[0].extra_json"),
        (
            chat.ChatCompletionParams(messages=[chat.ChatMessage(content="", content_parts=[chat.ContentPart()])]),
            "messages[0].content_parts",
        ),
        (chat.ChatCompletionParams(tool_choice="auto", specific_tool_choice={}), "specific_tool_choice"),
    ],
)
def test_nothing_is_said_twice(params: chat.ChatCompletionParams, param: str) -> None:
    """A key with a field is refused in extra_json, as are two forms of one key."""
    with pytest.raises(InvalidRequest) as raised:
        typed.request_body(params, stream=False)
    assert raised.value.param == param


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_are_finite(value: float) -> None:
    """JSON has no NaN and no infinity, so they are refused."""
    with pytest.raises(InvalidRequest) as raised:
        body_of(temperature=value)
    assert raised.value.param == "temperature"


def test_answer_can_be_sent_back() -> None:
    """The message of an answer is a message of the next request, with what we do not know of it."""
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": ""}, "extra_content": {"sig": "s"}}
        ],
        "reasoning_details": [1],
    }
    body = dumps({"choices": [{"index": 0, "message": message, "logprobs": None}]}).encode()
    answer = typed.completion(body, STARTED, FINISHED)
    del message["content"]
    assert body_of(messages=[answer.choices[0].message])["messages"] == [message]


def test_answer_with_odd_values_can_be_sent_back() -> None:
    """So is one with values that its fields cannot hold, which stay; nulls of a call's other kinds read as not set."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}, "custom": None}
    message = {"role": "assistant", "tool_calls": [call], "reasoning_content": ["r"], "tool_call_id": 7}
    answer = typed.completion(dumps({"choices": [{"message": message}]}).encode(), STARTED, FINISHED)
    del call["custom"]
    assert body_of(messages=[answer.choices[0].message])["messages"] == [message]


def test_unfit_member_is_kept() -> None:
    """A tool call whose function is no object is kept whole, as text."""
    call = '{"type":"function","function":"f"}'
    body = f'{{"choices":[{{"message":{{"tool_calls":[{call}]}}}}]}}'.encode()
    found = typed.completion(body, STARTED, FINISHED).choices[0].message.tool_calls[0]
    assert (found.WhichOneof("tool"), found.extra_json) == (None, call)


def test_upstream_cannot_speak_for_us() -> None:
    """What WorldRouter says of an answer cannot be changed by an upstream that uses the same names."""
    body = b'{"endpoint":"x","cost_nano_usd":1,"overhead_us":1,"create_time":1,"id":"x","model":"x","created":1}'
    found = typed.completion(body, STARTED, FINISHED)
    assert (found.endpoint, found.cost_nano_usd, found.overhead_us) == ("e", 42, 250)
    assert (found.id, found.model, found.create_time.seconds) == ("chatcmpl-1", "m", 7)
    assert json.loads(found.extra_json) == {"endpoint": "x", "cost_nano_usd": 1, "overhead_us": 1, "create_time": 1}


def test_tool_call_without_type() -> None:
    """A tool call whose upstream forgot the type is the function call that it is."""
    body = b'{"choices":[{"message":{"tool_calls":[{"id":"1","function":{"name":"f"}}]}}]}'
    call = typed.completion(body, STARTED, FINISHED).choices[0].message.tool_calls[0]
    assert (call.function.name, call.extra_json) == ("f", "")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"<html>", b'{"a":', b'{"a":"\xff"}', b'{"\xff":1}', b'{"a":' + b"[" * 100_000]
)
def test_answer_that_is_no_object(body: bytes) -> None:
    """An answer or chunk that is no JSON object in UTF-8 is the upstream's failure."""
    with pytest.raises(UpstreamFailed):
        typed.completion(body, STARTED, FINISHED)
    with pytest.raises(UpstreamFailed):
        typed.deltas([b"{}", body])


def test_every_object_has_extra_json() -> None:
    """Every message that becomes a JSON object can hold keys without a field."""
    without = {
        name for name, kind in chat.DESCRIPTOR.message_types_by_name.items() if "extra_json" not in kind.fields_by_name
    }
    assert without == {
        "CreateChatCompletionRequest",
        "StreamChatCompletionRequest",
        "StreamChatCompletionResponse",
        "CompletionDeltas",
    }


@pytest.mark.parametrize(
    ("params", "param"),
    [
        pytest.param({"messages": [{}] * typed.MAX_OBJECTS}, "messages", id="messages"),
        pytest.param({"messages": [{"content_parts": [{}] * 99}] * (typed.MAX_OBJECTS // 100)}, "messages", id="parts"),
        pytest.param({"messages": [{}], "tools": [{}] * (typed.MAX_OBJECTS - 1)}, "tools", id="tools"),
    ],
)
def test_endless_objects_are_refused(params: dict[str, Any], param: str) -> None:
    """Whatever they are; a request with one less is converted."""
    with pytest.raises(InvalidRequest, match=f"more than {typed.MAX_OBJECTS} ") as refused:
        typed.request_body(chat.ChatCompletionParams(**params), stream=False)
    assert refused.value.param == param
    params[param].pop()
    assert typed.request_body(chat.ChatCompletionParams(**params), stream=False)
