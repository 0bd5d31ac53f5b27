"""Tool-call deltas in the shape that OpenAI's clients put together again.

Each carries an `index`, stable per call; `id`, `type` and the name stand only on the first of an index
(https://platform.openai.com/docs/api-reference/chat-streaming). Some upstreams leave the index out, give every
call the same one, begin with 1, leave out the type, or repeat id and name on every fragment: clients then see calls
melted together, none at all, or a name doubled.

Without ids, calls of one index are told apart by this: a name behind arguments that are whole begins another call,
as long as there are arguments with it, or it is another name. So do clients that know such upstreams
(https://github.com/unslothai/unsloth/pull/9909), for all that comes behind a whole JSON document; a name is asked for
here, so that what merely trails a call stays with it.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import Raw

_Object = dict[str, Raw]
_calls_decoder = msgspec.json.Decoder(list[_Object])
_object_decoder = msgspec.json.Decoder(_Object)
_index_decoder = msgspec.json.Decoder(int)
_text_decoder = msgspec.json.Decoder(str)
_encoder = msgspec.json.Encoder()
_BODIES = ("function", "custom")
_NULL = Raw(b"null")
_marks = re.compile(r'\\.?|["{}]', re.DOTALL).findall
"""Of JSON what tells where an object ends: an escape is one, cut in two perhaps."""


class _Nameless:
    """A call that came without an id: its function's name, and whether its arguments are a whole object by now."""

    __slots__ = ("_cut", "_depth", "_in_string", "is_whole", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_whole = False
        self._depth = 0
        self._in_string = False
        self._cut = ""

    def add(self, arguments: str) -> None:
        """Take a fragment, each character once: how many there are is the upstream's to choose."""
        marks = _marks(self._cut + arguments)
        self._cut = "\\" if marks and marks[-1] == "\\" else ""
        for mark in marks:
            if mark == '"':
                self._in_string = not self._in_string
            elif not self._in_string and mark in "{}":
                self._depth += 1 if mark == "{" else -1
                self.is_whole = self._depth == 0


class ToolCallNumbering:
    """The tool calls of one stream, per choice."""

    __slots__ = ("_ids", "_latest", "_nameless")

    def __init__(self) -> None:
        self._ids: dict[tuple[int, int], str] = {}
        self._nameless: dict[tuple[int, int], _Nameless] = {}
        self._latest: dict[tuple[int, int], int] = {}  # by the upstream's index: ours of the call it stands for now

    def number(self, choice: int, raw: Raw) -> Raw:
        """The tool calls of one delta, mended; as they are when they are not a list of objects."""
        try:
            calls = _calls_decoder.decode(raw)
        except msgspec.ValidationError:
            return raw
        return Raw(_encoder.encode([self._mend(choice, call) for call in calls]))

    def _mend(self, choice: int, call: _Object) -> _Object:
        call_id = _said(call.get("id"))
        index = self._index(choice, call, call_id)
        call = {"index": Raw(b"%d" % index)} | call | {"index": Raw(b"%d" % index)}
        is_new = (choice, index) not in self._ids
        if is_new:
            self._ids[choice, index] = call_id
            if not call_id:
                self._nameless[choice, index] = _Nameless(_name_of(call))
        if (nameless := self._nameless.get((choice, index))) is not None:
            nameless.add(_arguments_of(call))
        if is_new:
            return with_type(call)
        call.pop("id", None)
        call.pop("type", None)
        for name in _BODIES:
            if name in call:
                call[name] = _without_name(call[name])
        return call

    def _index(self, choice: int, call: _Object, call_id: str) -> int:
        """Which call of the choice this is: the same number for all fragments of one call."""
        theirs = _number_of(call.get("index"))
        if theirs is None:
            return self._index_by_id(choice, call, call_id)
        ours = self._latest.get((choice, theirs))
        if ours is None:
            ours = self._next(choice)
        elif call_id and call_id != self._ids[choice, ours] and _is_named(call):
            ours = self._index_by_id(choice, call, call_id)
        elif not call_id and self._begins_another(choice, ours, call):
            ours = self._next(choice)
        self._latest[choice, theirs] = ours
        return ours

    def _begins_another(self, choice: int, index: int, call: _Object) -> bool:
        """Whether a fragment without an id is of another call than the one of this index, which has none either."""
        nameless = self._nameless.get((choice, index))
        if nameless is None or not nameless.is_whole:
            return False
        name = _name_of(call)
        return bool(name) and (name != nameless.name or bool(_arguments_of(call).strip()))

    def _index_by_id(self, choice: int, call: _Object, call_id: str) -> int:
        known = [index for of_choice, index in self._ids if of_choice == choice]
        if call_id:
            return next((index for index in known if self._ids[choice, index] == call_id), self._next(choice))
        return self._next(choice) if not known or _is_named(call) else known[-1]

    def _next(self, choice: int) -> int:
        return max((index + 1 for of_choice, index in self._ids if of_choice == choice), default=0)


def with_type(call: _Object) -> _Object:
    """The call with its `type`, which Mistral leaves out; as it is when it has one, or nothing in it has a name."""
    if call.get("type", _NULL) != _NULL or not _is_named(call):
        return call
    body = next(name for name in _BODIES if name in call)
    return call | {"type": Raw(b'"%b"' % body.encode())}


def with_types(raw: Raw) -> Raw:
    """The tool calls of a message, each with its type; as they are when they have it, or are no list of objects."""
    try:
        calls = _calls_decoder.decode(raw)
    except msgspec.ValidationError:
        return raw
    typed = [with_type(call) for call in calls]
    return raw if typed == calls else Raw(_encoder.encode(typed))


def _said(raw: Raw | None) -> str:
    """The text of a value; nothing for one that is absent or no string."""
    try:
        return "" if raw is None else _text_decoder.decode(raw)
    except msgspec.ValidationError:
        return ""


def _number_of(raw: Raw | None) -> int | None:
    try:
        return None if raw is None else _index_decoder.decode(raw)
    except msgspec.ValidationError:
        return None


def _name_of(call: _Object) -> str:
    """The name of its function."""
    return _said(_fields(call.get("function", _NULL)).get("name"))


def _arguments_of(call: _Object) -> str:
    """The arguments of its function, or the fragment of them that this is; some upstreams send an object."""
    raw = _fields(call.get("function", _NULL)).get("arguments", _NULL)
    return _said(raw) if raw == _NULL or bytes(raw).startswith(b'"') else bytes(raw).decode()


def _is_named(call: _Object) -> bool:
    return any(_said(_fields(call[name]).get("name")) for name in _BODIES if name in call)


def _without_name(raw: Raw) -> Raw:
    fields = _fields(raw)
    return raw if fields.pop("name", None) is None else Raw(_encoder.encode(fields))


def _fields(raw: Raw) -> _Object:
    try:
        return _object_decoder.decode(raw)
    except msgspec.ValidationError:
        return {}
