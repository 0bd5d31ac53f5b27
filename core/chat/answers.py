"""A whole answer, given the caller's view: our id and model, and the fields that clients rely on.

Values that are not ours to change stay the bytes they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

import msgspec
from msgspec import UNSET, Raw, UnsetType

from core.chat.halves import without_halves
from core.chat.produced import function_call_bytes, reasoning_bytes, tool_calls_bytes, transcript_bytes
from core.chat.tool_calls import with_types
from core.chat.upstream_errors import reported
from core.errors import UpstreamFailed, WorldRouterError
from core.money.usage import TokenCounts, parse_usage, usage_json

_NULL = Raw(b"null")
_EMPTY = (_NULL, Raw(b'""'))
_Object = dict[str, Raw]
_REQUIRED: Mapping[str, Raw] = MappingProxyType({"role": Raw(b'"assistant"'), "content": _NULL, "refusal": _NULL})
"""Of a message (OpenAI's ChatCompletionResponseMessage)."""


class _Message(msgspec.Struct):
    role: Raw | UnsetType = UNSET
    content: Raw | UnsetType = UNSET
    reasoning_content: Raw = _NULL
    reasoning: Raw = _NULL
    refusal: Raw | UnsetType = UNSET
    tool_calls: Raw = _NULL
    function_call: Raw = _NULL
    audio: Raw | UnsetType = UNSET
    reasoning_details: Raw | UnsetType = UNSET


class _Choice(msgspec.Struct):
    index: int | None = None  # left out, or null
    message: _Message | None = None
    finish_reason: str | None = None
    logprobs: Raw | UnsetType = UNSET


class _Answer(msgspec.Struct):
    choices: list[_Choice]
    usage: Raw = _NULL


_answer_decoder = msgspec.json.Decoder(_Answer)
_object_decoder = msgspec.json.Decoder(_Object)
_choices_decoder = msgspec.json.Decoder(list[_Object])
_encoder = msgspec.json.Encoder()


class Answer(msgspec.Struct):
    """A whole answer. `usage` is None when the upstream reported none; `text_bytes` were produced."""

    fields: dict[str, object]
    finish_reasons: tuple[str, ...]
    usage: TokenCounts | None
    text_bytes: int

    def body(self, *, completion_id: str, model: str, created_s: int, estimate: TokenCounts) -> bytes:
        """The JSON for the caller; `estimate` stands in for usage that the upstream did not report."""
        fields: dict[str, object] = {**self.fields, "id": completion_id, "created": created_s, "model": model}
        fields.setdefault("object", "chat.completion")
        if self.usage is None:
            fields["usage"] = Raw(usage_json(estimate))
        return _encoder.encode(fields)


def read_answer(body: bytes) -> Answer:
    """Look at an upstream's answer once; UpstreamFailed when it is not a complete one, or see `reported`."""
    try:
        if not body.isascii():
            body.decode()
        try:
            view = _answer_decoder.decode(body)
        except msgspec.DecodeError:
            body = without_halves(body)
            view = _answer_decoder.decode(body)
        values = _object_decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise _failure(body, "The upstream's answer is not a chat completion.") from None
    if not view.choices:
        raise _failure(body, "The upstream's answer is not complete.")
    fields = cast("dict[str, object]", values)  # no copy: what is mended is of another type
    text_bytes, whole = 0, True
    for choice in view.choices:
        message = choice.message
        if message is None or not choice.finish_reason:
            raise UpstreamFailed("The upstream's answer is not complete.")
        text_bytes += _text_bytes(message)
        whole = whole and UNSET not in (choice.logprobs, message.role, message.content, message.refusal)
        whole = whole and choice.index is not None
        whole = whole and (message.tool_calls == _NULL or with_types(message.tool_calls) is message.tool_calls)
    if not whole:
        fields["choices"] = [_mended(at, each) for at, each in enumerate(_choices_decoder.decode(values["choices"]))]
    return Answer(
        fields=fields,
        finish_reasons=_finish_reasons(view.choices),
        usage=parse_usage(view.usage) if view.usage != _NULL else None,
        text_bytes=text_bytes,
    )


def _failure(body: bytes, message: str) -> WorldRouterError:
    """The error for what is no answer: its own, if it is one."""
    return reported(body) if b'"error"' in body else UpstreamFailed(message)


def _finish_reasons(choices: list[_Choice]) -> tuple[str, ...]:
    """By the choices' index."""
    if len(choices) > 1:
        choices = sorted(choices, key=lambda choice: choice.index or 0)
    return tuple([choice.finish_reason or "" for choice in choices])


def _mended(at: int, choice: _Object) -> dict[str, object]:
    """What OpenAI's schema requires is always there, `logprobs`, `refusal` and `content` as null; calls have a type."""
    mended: dict[str, object] = {"index": at, "logprobs": _NULL, **choice}
    if mended["index"] == _NULL:
        mended["index"] = at
    message = _object_decoder.decode(choice["message"])
    if "tool_calls" in message:
        message["tool_calls"] = with_types(message["tool_calls"])
    mended["message"] = {**_REQUIRED, **message}
    return mended


def _text_bytes(message: _Message) -> int:
    found = 0 if message.tool_calls == _NULL else tool_calls_bytes(message.tool_calls)
    found += 0 if message.function_call == _NULL else function_call_bytes(message.function_call)
    reasoning = message.reasoning if message.reasoning_content in _EMPTY else message.reasoning_content
    if message.audio is not UNSET:
        found += transcript_bytes(message.audio)
    if message.reasoning_details is not UNSET and reasoning in _EMPTY:
        found += reasoning_bytes(message.reasoning_details)
    for raw in (message.content, reasoning, message.refusal):
        if raw is not UNSET and raw != _NULL:
            found += max(memoryview(raw).nbytes - 2, 0)
    return found
