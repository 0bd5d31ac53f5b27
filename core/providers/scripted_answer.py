"""What the scripted provider's imaginary model says, and the bytes that say it. No clock, no socket."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from core.providers.script import Fault, Script, ScriptedRequest, ScriptedToolCall

ARGUMENTS_PIECE_CHARS = 12
DONE = b"[DONE]"


class Stop(Enum):
    """A step of the body that is not a piece of it."""

    CUT = "cut"
    SILENCE = "silence"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says; each piece of reasoning and text is one token, each piece of a tool call too."""

    head: dict[str, Any]  # of every object: id, created, model
    choice_count: int
    reasoning: list[str]
    text: list[str]
    tool_calls: list[dict[str, Any]]
    finish_reason: str
    usage: dict[str, Any]
    usage_asked: bool


def compose(request: ScriptedRequest, script: Script) -> Answer:
    """The answer to the request, within its output limit."""
    reasoning, text = _tokens(script.reasoning or ""), _text(request, script)
    limits = [limit for limit in (request.max_tokens, request.max_completion_tokens) if limit is not None]
    limit = min(limits, default=len(reasoning) + len(text))
    is_cut = len(reasoning) + len(text) > limit
    reasoning, text = reasoning[:limit], text[: max(0, limit - len(reasoning))]
    calls = [] if is_cut else [_tool_call(at, call) for at, call in enumerate(script.tool_calls)]
    choice_count = script.n or request.n or 1
    options = request.stream_options
    return Answer(
        head={"id": "chatcmpl-scripted", "created": 1_700_000_000, "model": request.model, **script.extra},
        choice_count=choice_count,
        reasoning=reasoning,
        text=text,
        tool_calls=calls,
        finish_reason=script.finish_reason or ("length" if is_cut else "tool_calls" if calls else "stop"),
        usage=script.usage
        if script.usage is not None
        else _usage(request, script, choice_count, len(reasoning), len(text), calls),
        usage_asked=options is not None and options.include_usage is True,
    )


def _usage(
    request: ScriptedRequest,
    script: Script,
    choice_count: int,
    reasoning_count: int,
    text_count: int,
    calls: list[dict[str, Any]],
) -> dict[str, Any]:
    prompt = max(1, sum(len(message.text().split()) for message in request.messages))
    per_choice = reasoning_count + text_count + sum(1 + len(_argument_pieces(call)) for call in calls)
    completion, reasoning = choice_count * per_choice, choice_count * reasoning_count
    if script.usage_mode == "zero":
        prompt = completion = reasoning = 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def _text(request: ScriptedRequest, script: Script) -> list[str]:
    if script.text is not None:
        return _tokens(script.text)
    asked = next((message.text() for message in reversed(request.messages) if message.role == "user"), "")
    if script.token_count is not None:
        words = itertools.islice(itertools.cycle(asked.split() or ["word"]), script.token_count)
        return _tokens(" ".join(words))
    return [] if script.tool_calls else _tokens(asked)


def _tokens(text: str | list[str]) -> list[str]:
    """Words with the space before them; their concatenation is the text."""
    return text if isinstance(text, list) else re.findall(r"\s*\S+|\s+$", text)


def _tool_call(at: int, call: ScriptedToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id or f"call_scripted_{at}", "type": "function", "function": function}


def _argument_pieces(call: dict[str, Any]) -> list[str]:
    text = call["function"]["arguments"]
    return [text[at : at + ARGUMENTS_PIECE_CHARS] for at in range(0, len(text), ARGUMENTS_PIECE_CHARS)]


def unary_steps(answer: Answer, script: Script) -> Iterator[bytes | Stop]:
    """The body of a unary answer, or as much of it as the fault leaves."""
    body = _unary_body(answer, script)
    half = len(body) // 2
    if script.fault is Fault.ERROR:
        yield error_body(script, "scripted error", "scripted_error")
    elif script.fault is Fault.BAD_JSON:
        yield body[:half]
    elif script.fault in (Fault.CUT, Fault.SILENCE):
        yield body[:half]
        yield Stop(script.fault.value)
    else:
        yield body


def _unary_body(answer: Answer, script: Script) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(answer.text)}
    if answer.reasoning:
        message["reasoning_content"] = "".join(answer.reasoning)
    if answer.tool_calls:
        message |= {"content": message["content"] or None, "tool_calls": answer.tool_calls}
    message |= script.delta_extra
    choices = [
        {"index": at, "message": message, **script.choice_extra, "finish_reason": answer.finish_reason}
        for at in range(answer.choice_count)
    ]
    whole = {**answer.head, "object": "chat.completion", "choices": choices}
    return msgspec.json.encode(whole if script.usage_mode == "missing" else whole | {"usage": answer.usage})


def stream_steps(answer: Answer, script: Script) -> Iterator[bytes | Stop]:
    """The events in their frames, with the fault where it belongs."""
    end = b"\r\n\r\n" if script.crlf else b"\n\n"
    start = b": scripted" + end + b"data: " if script.comments else b"data: "
    done_count = 0 if script.fault is Fault.NO_DONE else 2 if script.fault is Fault.DOUBLE_DONE else 1
    for at, event in enumerate(itertools.chain(_events(answer, script), [DONE] * done_count)):
        if at == script.fault_after:
            match script.fault:
                case Fault.CUT | Fault.SILENCE:
                    yield Stop(script.fault.value)
                    return
                case Fault.NO_FINISH:
                    return
                case Fault.ERROR:
                    yield start + error_body(script, "scripted error", "scripted_error") + end
                    return
                case Fault.BAD_JSON:
                    yield start + b'{"id": "chatcmpl-scripted", "choices": [' + end
        yield start + event + end


def _events(answer: Answer, script: Script) -> Iterator[bytes]:
    """The JSON of every chunk, the usage chunk at the end."""
    mode, usage = script.usage_mode, answer.usage
    head = {**answer.head, "object": "chat.completion.chunk"}
    for at, choice in enumerate(_choices(answer, script)):
        event = {**head, "choices": [choice]}
        if mode == "every_chunk":
            event["usage"] = usage
        elif mode == "split":
            wanted = {"prompt_tokens"} if at == 0 else {"completion_tokens"} if choice["finish_reason"] else ()
            event |= {"usage": {name: usage[name] for name in wanted if name in usage}} if wanted else {}
        elif answer.usage_asked and mode != "missing":
            event["usage"] = None
        yield msgspec.json.encode(event)
    if mode == "always" or (answer.usage_asked and mode in ("asked", "zero")):
        yield msgspec.json.encode({**head, "choices": [], "usage": usage})


def _choices(answer: Answer, script: Script) -> Iterator[dict[str, Any]]:
    """The one choice of each chunk; several choices take turns, delta by delta."""
    for delta in _deltas(answer, script):
        for at in range(answer.choice_count):
            yield {"index": at, "delta": delta, **script.choice_extra, "finish_reason": None}
    for at in range(answer.choice_count):
        yield {"index": at, "delta": {}, **script.choice_extra, "finish_reason": answer.finish_reason}


def _deltas(answer: Answer, script: Script) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": "", **script.delta_extra}
    for piece in answer.reasoning:
        yield {"reasoning_content": piece}
    for piece in answer.text:
        yield {"content": piece}
    for at, call in enumerate(answer.tool_calls):
        function = {"name": call["function"]["name"], "arguments": ""}
        yield {"tool_calls": [{"index": at, **call, "function": function}]}
        for piece in _argument_pieces(call):
            yield {"tool_calls": [{"index": at, "function": {"arguments": piece}}]}


def error_body(script: Script, message: str, kind: str) -> bytes:
    """The script's error object as an answer, or one of this message and type."""
    error = {"message": message, "type": kind, "param": None, "code": None}
    return msgspec.json.encode({"error": error if script.error is None else script.error})


def resized(steps: Iterator[bytes | Stop], script: Script) -> Iterator[bytes | Stop]:
    """The same bytes in the reads that the script asks for."""
    while True:
        batch = list(itertools.islice(steps, script.chunks_per_read))
        pieces = b"".join(step for step in batch if isinstance(step, bytes))
        size = script.bytes_per_read or max(1, len(pieces))
        for at in range(0, len(pieces), size):
            yield pieces[at : at + size]
        stop = next((step for step in batch if isinstance(step, Stop)), None)
        if stop is not None:
            yield stop
        if stop is not None or not batch:
            return
