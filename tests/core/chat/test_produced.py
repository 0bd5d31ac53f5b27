"""How much text there is in what a model produced."""

import json
from typing import Any

import msgspec
import pytest

from core.chat.produced import reasoning_bytes, tool_calls_bytes, transcript_bytes


def part(arguments: str = "", name: str | None = None, **fields: Any) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": name} if name is not None else {})
    return {"function": function} | fields


@pytest.mark.parametrize(
    ("calls", "size"),
    [
        ([part('{"a":"é"}', "get", id="call_a", type="function", index=0)], 10 + 3),
        ([part("{", index=0), part('"x', None, index=1)], 1 + 2),
        ([{"index": 0, "function": {"name": None, "arguments": "{}"}}], 2),
        ([{"custom": {"name": "c", "input": "x\n"}}], 1 + 2),
        ([{"function": {"name": "f", "arguments": {"a": 1}}}], 1 + len('{"a": 1}')),
        ([{"function": 7}, {}], 0),
        (["w" * 7], 9),
    ],
)
def test_what_a_model_wrote_is_measured(calls: list[Any], size: int) -> None:
    """Names and arguments: not ids, not the JSON that a stream repeats with every fragment."""
    assert tool_calls_bytes(msgspec.Raw(json.dumps(calls).encode())) == size


def test_pieces_weigh_what_the_whole_does() -> None:
    """An estimate of a call is the same, streamed by the character or not."""
    text = '{"city": "Z\u00fcrich", "days": 3}'
    whole = tool_calls_bytes(msgspec.Raw(json.dumps([part(text, "get_weather", id="a")]).encode()))
    pieces = [part("", "get_weather", index=0, id="a"), *(part(each, index=0) for each in text)]
    assert sum(tool_calls_bytes(msgspec.Raw(json.dumps([piece]).encode())) for piece in pieces) == whole


@pytest.mark.parametrize(
    ("audio", "size"),
    [
        ({"id": "a", "data": "A" * 9_000, "transcript": "Grüße"}, 7),
        ({"data": "A" * 9_000}, 0),
        ({"transcript": None}, 0),
        (None, 0),
        (7, 0),
    ],
)
def test_words_that_are_spoken_are_measured(audio: Any, size: int) -> None:
    """Not the sound."""
    assert transcript_bytes(msgspec.Raw(json.dumps(audio).encode())) == size


@pytest.mark.parametrize(
    ("details", "size"),
    [
        ([{"type": "reasoning.text", "text": "abc", "signature": "s" * 99}, {"type": "reasoning.summary"}], 3),
        ([{"type": "reasoning.summary", "summary": "abc"}, {"text": None, "summary": "d"}], 4),
        ([{"type": "reasoning.encrypted", "data": "A" * 99}], 0),
        ([7], 0),
        ({"text": "abc"}, 0),
        (None, 0),
    ],
)
def test_reasoning_that_can_be_read_is_measured(details: Any, size: int) -> None:
    """Not what is encrypted."""
    assert reasoning_bytes(msgspec.Raw(json.dumps(details).encode())) == size
