"""The fast path of the chunks gives what taking everything apart gives."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.chat.chunks import ChunkRewriter
from core.chat.sse import SseDecoder
from core.money.usage import TokenCounts

ESTIMATE = TokenCounts(prompt=3, completion=4, total=7, estimated=True)
OURS = {"id": "chatcmpl-ours", "model": "our/model", "created": 1_800_000_000}


class Number(str):
    """A number as it is written: 1 is not 1.0."""


def exact(data: bytes) -> Any:
    """JSON with its numbers as they are written."""
    return json.loads(data, parse_int=Number, parse_float=Number)


def rewriter(*, include_usage: bool = False) -> ChunkRewriter:
    return ChunkRewriter(
        completion_id=OURS["id"], model=OURS["model"], created_s=OURS["created"], include_usage=include_usage
    )


# The reference: everything taken apart, nothing learned


class Reference:
    """What must come out, by plain JSON. `calls` says which tool call each fragment belongs to."""

    def __init__(self, include_usage: bool) -> None:
        self.include_usage = include_usage
        self.held: list[Any] = []
        self.reasons: dict[str, str | None] = {}
        self.introduced: set[str] = set()
        self.named: set[tuple[str, str]] = set()

    def push(self, data: bytes, calls: list[str]) -> list[Any]:
        found = exact(data)
        choices = found.get("choices")
        if not choices:
            return []
        head = {
            "object": "chat.completion.chunk",
            **found,
            "id": OURS["id"],
            "model": OURS["model"],
            "created": Number(OURS["created"]),
        }
        head.pop("usage", None)
        if self.include_usage:
            head["usage"] = None
        for choice in choices:
            self.reasons.setdefault(choice.get("index", Number(0)), None)
        released, self.held = (self.held, []) if None in self.reasons.values() else ([], self.held)
        running, finishing = self.sort(choices, list(calls))
        now = [{**head, "choices": running}] if running else []
        out = [] if self.held else released + now
        self.held += (now if self.held else []) + ([{**head, "choices": finishing}] if finishing else [])
        return out

    def sort(self, choices: list[Any], calls: list[str]) -> tuple[list[Any], list[Any]]:
        running, finishing = [], []
        for choice in choices:
            choice.setdefault("index", Number(0))
            index, reason = choice["index"], choice.get("finish_reason")
            delta = dict(choice.get("delta") or {})
            if delta.get("tool_calls"):
                delta["tool_calls"] = [self.call(index, call, calls.pop(0)) for call in delta["tool_calls"]]
            elif delta.get("tool_calls") == []:
                del delta["tool_calls"]
            says = any(name != "role" and value not in (None, "") for name, value in delta.items())
            if index not in self.introduced:
                self.introduced.add(index)
                says = True
                delta["role"] = "assistant"
            elif delta.get("role"):
                del delta["role"]
            if not reason:
                running.append({**choice, "delta": delta, "finish_reason": None})
                continue
            self.reasons[index] = reason
            if says:
                running.append({**choice, "delta": delta, "finish_reason": None})
            no_logprobs = {"logprobs": None} if says and "logprobs" in choice else {}
            finishing.append({**choice, "delta": {}, **no_logprobs})
        return running, finishing

    def call(self, choice: str, call: Any, number: str) -> Any:
        call = {**call, "index": Number(number)}
        if (choice, number) in self.named:
            call.pop("id", None)
            call.pop("type", None)
            if "function" in call:
                call["function"] = {name: value for name, value in call["function"].items() if name != "name"}
        self.named.add((choice, number))
        return call


# Streams as upstreams send them

HUGE = "é\U0001f600" * 10_000
TEXTS = (
    "",
    "a",
    '"finish_reason":"stop"',
    ',"usage":null}',
    '"choices"',
    '"id"',
    "\\u00e9",
    "é\U0001f600\n\t",
    "[DONE]",
)
EXTRA_NAMES = ("system_fingerprint", "service_tier", "provider", "obfuscation", "usage_x")
EXTRA_VALUES = (None, "x", 1, 1.5, -0.0, 2**70, {"usage": 1}, {"id": "n", "model": [1]}, ["choices"], "é")
TOOL_FORMS = ("index", "index and id", "id", "first id", "one index")


class Upstream:
    """Makes one complete stream, by a seed: chunks, and the numbers of the tool calls in each."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.tool_form = self.random.choice(TOOL_FORMS)
        self.count = self.random.choice([1, 1, 2, 3])
        self.calls: list[list[int]] = [[] for _ in range(self.count)]
        self.head = {"id": "up-1", "object": "chat.completion.chunk", "created": 17, "model": "up", **self.extra()}

    def extra(self) -> dict[str, Any]:
        names = self.random.sample(EXTRA_NAMES, self.random.choice([0, 0, 1, 2]))
        return {name: self.random.choice(EXTRA_VALUES) for name in names}

    def stream(self) -> list[tuple[dict[str, Any], list[str]]]:
        running = list(range(self.count))
        found = []
        while running:
            choice, numbers = self.choice(self.random.choice(running))
            if choice.get("finish_reason"):
                running.remove(choice.get("index", 0))
            found.append(self.chunk([choice], numbers))
        for _ in range(self.random.choice([0, 0, 1, 2])):
            late = [{"index": 0, "delta": {}, "finish_reason": None}]
            found.append(self.chunk(self.random.choice([[], [], late]), []))
        return found

    def chunk(self, choices: list[Any], numbers: list[str]) -> tuple[dict[str, Any], list[str]]:
        if self.random.random() < 0.1:
            self.head = {**self.head, "created": self.head["created"] + 1}
        found = {**self.head, "choices": choices, **self.extra()}
        usage = {"prompt_tokens": self.random.randrange(99), "completion_tokens": self.random.randrange(99)}
        kind = self.random.random()
        return (found if kind < 0.4 else {**found, "usage": None if kind < 0.8 else usage}), numbers

    def choice(self, index: int) -> tuple[dict[str, Any], list[str]]:
        delta, numbers = self.delta(index)
        choice: dict[str, Any] = {"index": index, "delta": delta}
        reason = self.random.choice([None, None, None, None, "", "stop", "length", "absent"])
        if reason != "absent":
            choice["finish_reason"] = reason
        if self.random.random() < 0.3:
            choice["logprobs"] = self.random.choice([None, {"content": [{"token": "x", "logprob": -0.5}]}])
        if self.count == 1 and self.random.random() < 0.3:
            del choice["index"]
        if delta is None and self.random.random() < 0.5:
            del choice["delta"]
        return choice, numbers

    def delta(self, index: int) -> tuple[dict[str, Any] | None, list[str]]:
        if self.random.random() < 0.3:
            return self.tool_delta(self.calls[index])
        text = HUGE if self.random.random() < 0.002 else self.random.choice(TEXTS)
        plain: list[dict[str, Any] | None] = [
            {"content": text},
            {"content": text},
            {"reasoning_content": text},
            {"content": text, "refusal": None, "x_new": {"deep": [text]}},
            {"role": "assistant", "content": ""},
            {"role": "assistant"},
            {"content": None, "tool_calls": None},
            {"tool_calls": []},
            {},
            None,
        ]
        return self.random.choice(plain), []

    def tool_delta(self, calls: list[int]) -> tuple[dict[str, Any], list[str]]:
        """Fragments of tool calls in this upstream's form."""
        fragments, numbers = [], []
        for _ in range(self.random.choice([1, 1, 2])):
            new = not calls or self.random.random() < 0.4
            if new:
                calls.append(len(calls))
            interleaved = self.tool_form in ("index", "index and id", "id")
            number = calls[-1] if new or not interleaved else self.random.choice(calls)
            fragments.append(self.fragment(number, new))
            numbers.append(str(number))
        return {"tool_calls": fragments}, numbers

    def fragment(self, number: int, new: bool) -> dict[str, Any]:
        function = {"arguments": self.random.choice(["", "{", '"a":1', "}"])}
        fragment: dict[str, Any] = {"function": function}
        if self.tool_form in ("index", "index and id"):
            fragment["index"] = number
        if self.tool_form == "one index":
            fragment["index"] = 0
        if new or self.tool_form in ("index and id", "id"):
            fragment |= {"id": f"call_{number}", "type": "function"}
            function["name"] = f"f{number}"
        elif self.random.random() < 0.5:
            fragment["id"] = None
        return fragment


def written(value: Any, style: Random, spaced: bool) -> str:
    """JSON in somebody's handwriting: spaces, line ends, escapes of characters that need none."""
    space = style.choice(["", " ", "\n"]) if spaced else ""
    if isinstance(value, dict):
        members = (
            f"{written(name, style, spaced)}{space}:{written(each, style, spaced)}" for name, each in value.items()
        )
        return "{" + space + f"{space},".join(members) + space + "}"
    if isinstance(value, list):
        return "[" + space + f",{space}".join(written(each, style, spaced) for each in value) + space + "]"
    text = json.dumps(value, ensure_ascii=style.random() < 0.5)
    if isinstance(value, str) and value and value[0].isascii() and value[0].isalpha() and style.random() < 0.02:
        text = f'"\\u{ord(value[0]):04x}{text[2:]}'
    return text


def shuffled(found: dict[str, Any], style: Random) -> dict[str, Any]:
    return dict(style.sample(list(found.items()), len(found)))


def sent(data: bytes, style: Random) -> bytes:
    """The chunk as an event: as one is mostly sent, or as the standard allows."""
    end = style.choice([b"\n"] * 6 + [b"\r\n", b"\r"])
    before = style.choice([b""] * 8 + [b": ping" + end + end, b"event: x" + end, end])
    return (
        before + end.join(style.choice([b"data: ", b"data: ", b"data:"]) + line for line in data.split(b"\n")) + 2 * end
    )


def read_in_pieces(one: ChunkRewriter, stream: bytes, style: Random) -> list[Any]:
    """What comes of the same stream however its reads are cut, in the middle of characters too."""
    sse, out, longest = SseDecoder(), list[bytes](), style.choice([40, 700, 1 << 20])
    while stream:
        size = style.randrange(1, longest)
        one.take(stream[:size], sse, out)
        stream = stream[size:]
    return [exact(each) for each in out]


@pytest.mark.slow
@given(st.integers(0, 2**32), st.booleans(), st.sampled_from(["compact", "compact", "spaced", "shuffled"]))
@settings(max_examples=700, deadline=None)
def test_the_fast_path_gives_what_plain_json_gives(seed: int, include_usage: bool, style_name: str) -> None:
    """Any order of keys, spaces, escapes, changing heads, usage anywhere, several choices, all forms of tool call; in
    reads that end anywhere."""
    style = Random(seed)
    stream, passed, other = b"", list[Any](), rewriter(include_usage=include_usage)
    one, reference = rewriter(include_usage=include_usage), Reference(include_usage)
    last_usage: Any = None
    for found, calls in Upstream(seed).stream():
        if style_name == "shuffled":
            found = shuffled(found, style)
        data = written(found, style, style_name == "spaced").encode()
        out: list[bytes] = []
        one.push(data, out)
        passed += (wanted := reference.push(data, calls))
        assert [exact(each) for each in out] == wanted
        stream += sent(data, style)
        assert all(b"\n" not in each for each in out)
        last_usage = found.get("usage") or last_usage
    one.push(b"[DONE]", out)
    assert read_in_pieces(other, stream + b"data: [DONE]\n\n", style) == passed
    assert other.finish(other.usage or ESTIMATE) == one.finish(one.usage or ESTIMATE)
    last = [exact(each) for each in one.finish(one.usage or ESTIMATE)]
    assert last[: len(reference.held)] == reference.held
    assert one.reasons() == tuple(reason for _, reason in sorted(reference.reasons.items()))
    if not include_usage:
        assert len(last) == len(reference.held)
        return
    assert len(last) == len(reference.held) + 1
    assert {**last[-1], **OURS, "created": Number(OURS["created"])} == last[-1]
    assert last[-1]["choices"] == []
    assert last[-1]["object"] == "chat.completion.chunk"
    shown = {name: int(value) for name, value in last[-1]["usage"].items() if isinstance(value, Number)}
    wanted = last_usage or {"prompt_tokens": 3, "completion_tokens": 4}
    assert {name: shown[name] for name in wanted} == wanted
    assert ("estimated" in last[-1]["usage"]) is (last_usage is None)
