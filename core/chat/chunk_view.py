"""What is looked at of an upstream's chunk.

Text stays as the bytes it came as; whatever else is in a chunk is not decoded.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Raw, UnsetType

from core.chat.halves import without_halves
from core.chat.produced import function_call_bytes, reasoning_bytes, tool_calls_bytes, transcript_bytes
from core.errors import UpstreamFailed

_NULL = Raw(b"null")
_EMPTY = (_NULL, Raw(b'""'))


class Delta(msgspec.Struct):
    """What is new in a choice."""

    role: Raw | UnsetType = UNSET
    content: Raw = _NULL
    reasoning_content: Raw = _NULL
    reasoning: Raw = _NULL
    refusal: Raw = _NULL
    tool_calls: Raw = _NULL
    function_call: Raw = _NULL
    audio: Raw = _NULL
    reasoning_details: Raw = _NULL


class Choice(msgspec.Struct):
    """One of the answers that run side by side."""

    index: int | None = None  # left out, or null
    delta: Delta | None = None
    finish_reason: str | None = ""  # left out, or empty: OpenAI has null


class Chunk(msgspec.Struct):
    """One event's JSON."""

    id: Raw = _NULL
    created: Raw = _NULL
    model: Raw = _NULL
    choices: list[Choice] | None = None
    usage: Raw | UnsetType = UNSET
    error: Raw = _NULL


decode_chunk = msgspec.json.Decoder(Chunk).decode


def read_chunk(data: bytes) -> tuple[Chunk, bytes]:
    """The chunk, and its JSON: mended where an upstream cut a character in two. UpstreamFailed if it is none."""
    try:
        chunk = _decode(data)
    except msgspec.DecodeError:
        data = without_halves(data)
        try:
            chunk = _decode(data)
        except msgspec.DecodeError:
            raise UpstreamFailed("The upstream sent a chunk that is not one.") from None
    return chunk, data


def _decode(data: bytes) -> Chunk:
    try:
        if not data.isascii():
            data.decode()
        return decode_chunk(data)
    except (RecursionError, UnicodeDecodeError):
        raise UpstreamFailed("The upstream sent a chunk that is not one.") from None


def says_role(delta: Delta | None) -> bool:
    """Whether it names a role."""
    return delta is not None and delta.role is not UNSET and delta.role not in _EMPTY


def texts_of(choices: list[Choice]) -> tuple[Raw, ...]:
    """What the deltas say, text by text."""
    deltas = [choice.delta for choice in choices if choice.delta is not None]
    return tuple(
        raw
        for delta in deltas
        for raw in (
            *(delta.content, delta.reasoning_content, delta.reasoning, delta.refusal),
            *(delta.tool_calls, delta.function_call),
        )
        if raw not in _EMPTY
    )


def text_bytes(delta: Delta) -> int:
    """Bytes of text in a delta; a token of JSON syntax more or less does not matter.

    Reasoning is under one of two names (`reasoning` with OpenRouter, Ollama, Groq, vLLM), or the same under both.
    """
    found = 0 if delta.tool_calls == _NULL else tool_calls_bytes(delta.tool_calls)
    found += 0 if delta.function_call == _NULL else function_call_bytes(delta.function_call)
    reasoning = delta.reasoning if delta.reasoning_content in _EMPTY else delta.reasoning_content
    for raw in (delta.content, reasoning, delta.refusal):
        if raw != _NULL:
            found += max(len(bytes(raw)) - 2, 0)
    return found or _other_bytes(delta)


def _other_bytes(delta: Delta) -> int:
    """Of what some models say in place of text. Reasoning that is there as text as well is text."""
    found = 0 if delta.audio == _NULL else transcript_bytes(delta.audio)
    return found + (0 if delta.reasoning_details == _NULL else reasoning_bytes(delta.reasoning_details))
