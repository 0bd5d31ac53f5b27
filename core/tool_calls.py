"""Tool-call deltas in the shape that OpenAI's clients put together again.

Each carries an `index`, stable per call; `id`, `type` and `function.name` stand only on the first of an index
(https://platform.openai.com/docs/api-reference/chat-streaming). Some upstreams leave the index out, or repeat
the id on every fragment: clients then see several calls, or a name doubled.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

_Object = dict[str, Raw]
_calls_decoder = msgspec.json.Decoder(list[_Object])
_object_decoder = msgspec.json.Decoder(_Object)
_index_decoder = msgspec.json.Decoder(int)
_encoder = msgspec.json.Encoder()
_NAMING = ("id", "type")


class ToolCallNumbering:
    """The tool calls of one stream, per choice."""

    __slots__ = ("_ids",)

    def __init__(self) -> None:
        self._ids: dict[tuple[int, int], bytes] = {}

    def number(self, choice: int, raw: Raw) -> Raw:
        """The tool calls of one delta, mended; as they are when they are not a list of objects."""
        try:
            calls = _calls_decoder.decode(raw)
        except msgspec.ValidationError:
            return raw
        return Raw(_encoder.encode([self._mend(choice, call) for call in calls]))

    def _mend(self, choice: int, call: _Object) -> _Object:
        call_id = bytes(call["id"]) if "id" in call else b""
        index = self._index(choice, call, call_id)
        call = {"index": Raw(b"%d" % index)} | call | {"index": Raw(b"%d" % index)}
        if (choice, index) not in self._ids:
            self._ids[choice, index] = call_id
            return call
        for name in _NAMING:
            call.pop(name, None)
        if "function" in call:
            call["function"] = _without_name(call["function"])
        return call

    def _index(self, choice: int, call: _Object, call_id: bytes) -> int:
        if "index" in call:
            try:
                return _index_decoder.decode(call["index"])
            except msgspec.ValidationError:
                pass
        known = [index for of_choice, index in self._ids if of_choice == choice]
        for index in known:
            if call_id and self._ids[choice, index] == call_id:
                return index
        if not call_id and known:
            return known[-1]
        return len(known)


def _without_name(raw: Raw) -> Raw:
    try:
        function = _object_decoder.decode(raw)
    except msgspec.ValidationError:
        return raw
    function.pop("name", None)
    return Raw(_encoder.encode(function))
