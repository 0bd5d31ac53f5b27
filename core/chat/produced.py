"""How much text there is in what a model produced, in bytes: estimates go by it where a provider reports no usage.

Text, tool calls without the JSON around them, reasoning that can be read, and the words of spoken answers count. Sound
itself does not, nor reasoning that is encrypted: what they took, their size does not say.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

_Object = dict[str, Raw]
_object_decoder = msgspec.json.Decoder(_Object)
_objects_decoder = msgspec.json.Decoder(list[_Object])
_text_decoder = msgspec.json.Decoder(str)
_NULL = Raw(b"null")
_BODIES = ("function", "custom")
_WRITTEN = ("name", "arguments", "input")


def tool_calls_bytes(raw: Raw) -> int:
    """Of the tool calls of a delta or a message: their names and what the model hands over, without the JSON around
    them, which a stream repeats with every fragment. Of what is no list of objects, all.
    """
    try:
        calls = _objects_decoder.decode(raw)
    except msgspec.ValidationError:
        return max(len(bytes(raw)) - 2, 0)
    bodies = [_fields(call[name]) for call in calls for name in _BODIES if name in call]
    return sum(_text_size(body[name]) for body in bodies for name in _WRITTEN if name in body)


def function_call_bytes(raw: Raw) -> int:
    """Of a `function_call`, which there was before tool calls."""
    return tool_calls_bytes(Raw(b'[{"function":%b}]' % bytes(raw)))


def transcript_bytes(audio: Raw) -> int:
    """Of the `audio` of a delta or a message: its words
    (https://platform.openai.com/docs/api-reference/chat/object)."""
    return _text_size(_fields(audio).get("transcript", _NULL))


def reasoning_bytes(details: Raw) -> int:
    """Of OpenRouter's `reasoning_details`: texts and summaries
    (https://openrouter.ai/docs/use-cases/reasoning-tokens)."""
    try:
        found = _objects_decoder.decode(details)
    except msgspec.ValidationError:
        return 0
    return sum(_text_size(each[name]) for each in found for name in ("text", "summary") if name in each)


def _text_size(raw: Raw) -> int:
    try:
        return 0 if raw == _NULL else len(_text_decoder.decode(raw).encode())
    except msgspec.ValidationError:  # some upstreams send arguments as an object
        return len(bytes(raw))


def _fields(raw: Raw) -> _Object:
    try:
        return _object_decoder.decode(raw)
    except msgspec.ValidationError:
        return {}
