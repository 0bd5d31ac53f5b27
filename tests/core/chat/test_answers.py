"""A whole answer, given the caller's view."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.chat.answers import read_answer
from core.errors import UpstreamFailed, UpstreamRejected
from core.money.usage import TokenCounts

ESTIMATE = TokenCounts(prompt=3, completion=4, total=7, estimated=True)
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def answer(*choices: Any, **fields: Any) -> dict[str, Any]:
    """An upstream's answer."""
    return {
        "id": "up-1",
        "object": "chat.completion",
        "created": 17,
        "model": "up",
        "choices": list(choices) or [choice()],
        "usage": USAGE,
        **fields,
    }


def choice(content: Any = "Hi", index: int = 0, finish: Any = "stop", **message: Any) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": content, **message},
        "finish_reason": finish,
    }


def shown(found: Any) -> dict[str, Any]:
    """What the caller gets for an upstream's answer."""
    body = found if isinstance(found, bytes) else json.dumps(found).encode()
    given = read_answer(body).body(completion_id="chatcmpl-ours", model="our", created_s=99, estimate=ESTIMATE)
    return json.loads(given)


def test_the_caller_sees_our_id_and_model() -> None:
    """The rest is the upstream's, fields unknown to us too."""
    sent = answer(system_fingerprint="fp", service_tier="default", x={"deep": [1]})
    assert shown(sent) == sent | {
        "id": "chatcmpl-ours",
        "model": "our",
        "created": 99,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "refusal": None},
                "finish_reason": "stop",
                "logprobs": None,
            }
        ],
    }


def test_logprobs_and_refusal_are_always_there() -> None:
    """Null where the upstream leaves them out, untouched where it does not."""
    full = choice(refusal="no") | {"logprobs": {"content": []}}
    found = shown(answer(full, choice(index=1)))["choices"]
    assert found[0] == full
    assert found[1]["logprobs"] is None
    assert found[1]["message"]["refusal"] is None


def test_what_the_schema_requires_of_a_choice_is_added() -> None:
    """The index by its place, where it is left out or null, and of the message its role and content."""
    found = shown({"choices": [{"index": None, "message": {}, "finish_reason": "stop"}] * 2})["choices"]
    assert found == shown({"choices": [{"message": {}, "finish_reason": "stop"}] * 2})["choices"]
    message = {"role": "assistant", "content": None, "refusal": None}
    assert found == [{"index": at, "message": message, "logprobs": None, "finish_reason": "stop"} for at in (0, 1)]


def test_tool_calls_have_a_type() -> None:
    """Mistral leaves it out, and clients that look for functions see none; what is no call that we know stays."""
    calls = [{"id": "a", "function": {"name": "f", "arguments": "{}"}}, {"type": "custom", "custom": {"name": "g"}}, {}]
    whole = {"logprobs": None} | choice(None, finish="tool_calls", refusal=None, tool_calls=calls)
    assert shown(answer(whole))["choices"][0]["message"]["tool_calls"] == [calls[0] | {"type": "function"}, *calls[1:]]
    odd = {"logprobs": None} | choice(refusal=None, tool_calls=[7])
    assert shown(answer(odd))["choices"] == [odd]


def test_numbers_keep_their_digits() -> None:
    """Values that are not ours to change stay the bytes they were."""
    body = (
        b'{"choices":[{"index":0,"message":{"content":"x","n":1.0},"finish_reason":"stop","z":-0.0}],'
        b'"big":18446744073709551621,"usage":{"prompt_tokens":1,"completion_tokens":2,"cost":1e2}}'
    )
    given = read_answer(body).body(completion_id="c", model="m", created_s=1, estimate=ESTIMATE)
    for raw in (b'"n":1.0', b'"z":-0.0', b'"big":18446744073709551621', b'"cost":1e2'):
        assert raw in given


def test_what_is_missing_is_added() -> None:
    """An answer without id, object, created or model is completed."""
    found = shown({"choices": [choice()], "usage": USAGE})
    assert (found["id"], found["object"], found["created"], found["model"]) == (
        "chatcmpl-ours",
        "chat.completion",
        99,
        "our",
    )


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": 1}, {"prompt_tokens": -1, "completion_tokens": 1}, "x", [], 7]
)
def test_usage_that_nobody_counted_is_estimated_and_marked(usage: Any) -> None:
    """The caller sees the estimate that it is charged by."""
    sent = answer(usage=usage)
    assert read_answer(json.dumps(sent).encode()).usage is None
    assert shown(sent)["usage"]["estimated"] is True
    assert shown(sent)["usage"]["completion_tokens"] == 4


def test_usage_passes_unchanged() -> None:
    """The upstream's numbers, zeros too, and whatever stands beside them."""
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 9}, "x": 1}
    sent = answer(usage=usage)
    assert read_answer(json.dumps(sent).encode()).usage == TokenCounts()
    assert shown(sent)["usage"] == usage


def test_finish_reasons_stand_by_index() -> None:
    """One for each choice, whatever their order in the answer."""
    sent = answer(choice(index=1, finish="length"), choice(index=0, finish="stop"))
    assert read_answer(json.dumps(sent).encode()).finish_reasons == ("stop", "length")


def test_what_was_produced_is_measured() -> None:
    """Text, visible reasoning, refusals and tool calls count."""
    sent = answer(
        choice("x" * 10, reasoning_content="y" * 5, refusal="z" * 3), choice(None, index=1, tool_calls=["w" * 7])
    )
    assert read_answer(json.dumps(sent).encode()).text_bytes == 10 + 5 + 3 + 9
    sent = answer(choice(None, function_call={"name": "f" * 4, "arguments": "x" * 7}), choice("y", function_call=None))
    assert read_answer(json.dumps(sent).encode()).text_bytes == 4 + 7 + 1


@pytest.mark.parametrize(
    "other", [{}, {"reasoning_content": None}, {"reasoning_content": ""}, {"reasoning_content": "y"}]
)
def test_reasoning_is_measured_once_under_either_name(other: Any) -> None:
    """Many upstreams call it `reasoning`, some send it under both names."""
    thoughts = {name: text and text * 5 for name, text in other.items()}
    assert read_answer(json.dumps(answer(choice("", reasoning="y" * 5, **thoughts))).encode()).text_bytes == 5


def test_what_is_said_in_place_of_text_is_measured() -> None:
    """Spoken words, and reasoning that stands in its details alone."""
    details = [{"type": "reasoning.text", "text": "y" * 7}]
    said = choice("Hi", audio={"data": "A" * 99, "transcript": "z" * 5}, reasoning_details=details)
    assert read_answer(json.dumps(answer(said)).encode()).text_bytes == 2 + 5 + 7
    twice = choice("Hi", reasoning="y" * 7, reasoning_details=details)
    assert read_answer(json.dumps(answer(twice)).encode()).text_bytes == 2 + 7


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not JSON",
        b"[]",
        b"null",
        b"{}",
        b'{"choices":null}',
        b'{"choices":{}}',
        b'{"choices":[]}',
        b'{"choices":[7]}',
        b'{"choices":[{}]}',
        b'{"error":{"message":"overloaded"}}',
        json.dumps(answer()).encode()[:-20],
        json.dumps(answer()).encode() + b"}",
        json.dumps(answer(choice(finish=None))).encode(),
        json.dumps(answer(choice(finish=""))).encode(),
        json.dumps(answer(choice(finish=1))).encode(),
        json.dumps(answer(choice(), choice(index=1, finish=None))).encode(),
        json.dumps(answer({"index": 0, "finish_reason": "stop"})).encode(),
        json.dumps(answer({"index": 0, "message": None, "finish_reason": "stop"})).encode(),
        json.dumps(answer({"index": 0, "message": "x", "finish_reason": "stop"})).encode(),
        json.dumps(answer({"index": "0", "message": {}, "finish_reason": "stop"})).encode(),
        json.dumps(answer()).encode().replace(b"Hi", b"\xff"),
        b'{"choices":' + b"[" * 200_000,
        b'{"x":' * 200_000,
    ],
)
def test_what_is_no_complete_answer_fails(body: bytes) -> None:
    """Bad JSON, bad UTF-8, an error object, a choice without its finish: never passed on, never charged as one."""
    with pytest.raises(UpstreamFailed):
        read_answer(body)


@pytest.mark.parametrize("fields", [{}, {"choices": []}, {"choices": None}])
def test_an_error_in_place_of_an_answer_is_not_lost(fields: dict[str, Any]) -> None:
    """OpenRouter reports failures so, under status 200."""
    with pytest.raises(UpstreamRejected, match="too long"):
        read_answer(json.dumps({"error": {"message": "too long", "code": 400}, **fields}).encode())


@given(st.binary(max_size=60), st.sampled_from([b"%s", b'{"choices":%s}', b'{"choices":[{"message":%s}]}']))
def test_no_bytes_break_it(data: bytes, frame: bytes) -> None:
    """Whatever an upstream sends, it is an answer or it is UpstreamFailed."""
    with contextlib.suppress(UpstreamFailed):
        shown(frame % data)


def test_what_is_half_characters_is_no_answer() -> None:
    """Each takes time to replace, and megabytes have room for a million."""
    message = b'{"choices":[{"message":{"content":"%b"},"finish_reason":"stop"}]}'
    read_answer(message % (rb"\ud83d" * 1_000))
    with pytest.raises(UpstreamFailed):
        read_answer(message % (rb"\ud83d" * 1_001))


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (rb"a\ud83d", "a\ufffd"),
        (rb"\ud83d b \ude00", "\ufffd b \ufffd"),
        (rb"\ud83d\ude00\\ud83d", "\U0001f600\\ud83d"),
    ],
)
def test_half_a_character_is_replaced(escaped: bytes, text: str) -> None:
    """As in a stream: it costs nobody the answer, whichever field it is in; whole pairs stay."""
    sent = json.dumps(answer(choice("X"), x="X")).encode().replace(b"X", escaped)
    found = shown(sent)
    assert (found["choices"][0]["message"]["content"], found["x"]) == (text, text)
