"""A chat request's envelope: looked at once, its values kept as the bytes they came as.

Only `model`, `stream`, `stream_options`, `n`, the output limits and the fields that would redirect a request
are touched; everything else reaches the upstream byte for byte, because no value is decoded and encoded
again (a number above 2^64 would not survive that). Of a top-level field that is given twice the last one counts,
and it alone is sent: an upstream must not read another one than was judged here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import msgspec

from core.errors import InvalidRequest

REDIRECTING_FIELDS = frozenset({"api_base", "base_url", "api_key", "extra_headers", "custom_llm_provider"})
"""Top-level fields that would redirect a request or its credentials: removed, and named to the caller."""

LIMIT_FIELDS = ("max_completion_tokens", "max_tokens")
FOREIGN_LIMIT_FIELDS = ("n_predict", "max_new_tokens")
"""Output limits of llama.cpp and of text-generation-inference, which win over OpenAI's where they are known and mean
nothing where they are not: they can raise what is held, but never lower it."""
UNLIMITED_TOKENS = 2**31
"""What a foreign limit counts as that is negative, too large, or no integer at all."""
MAX_CHOICES = 128
_MAX_LIMIT = 2**31 - 1
COUNT_FIELDS = ("n", "n_cmpl")
"""How many answers are asked for, llama.cpp's name last."""
_REMOVED_FROM_EXTRA_BODY = REDIRECTING_FIELDS | {"model", *COUNT_FIELDS, *LIMIT_FIELDS, *FOREIGN_LIMIT_FIELDS}
"""An upstream that merges `extra_body` must not find another model in it, or what nobody has held money for."""

MAX_FIELDS = 1_000
"""Of an object that is looked into: each costs time, and 10 MB have room for a million."""
_SMALL_BYTES = 16_384
"""An object with no room for so many fields that they need counting while they are read."""
MAX_PARTS = 20_000
"""Of messages and their parts together: they too are looked into one by one."""
_COUNTED_BYTES = 1 << 20
"""Messages of this size are counted while they are read; smaller ones are read sooner than that would take, and those
of text alone are not read at all."""

_Fields = dict[str, msgspec.Raw]
_decoder = msgspec.json.Decoder(_Fields)
_encoder = msgspec.json.Encoder()
_NULL, _TRUE, _FALSE = msgspec.Raw(b"null"), msgspec.Raw(b"true"), msgspec.Raw(b"false")
_MEDIA_TYPES = frozenset({"image_url", "input_audio", "file"})
"""Types of parts whose content, the field of the same name, is no text."""
_BEFORE_OBJECT = b"{ \t\r\n"
"""What may follow the bracket of an array whose first element is an object."""
_MAX_BRACKETS = 1_000
"""So many are looked at one by one; looking at more takes longer than a parse."""
_ASKING = msgspec.Raw(b'{"include_usage":true}')
_is_filled_array = re.compile(rb"\[[ \t\r\n]*[^] \t\r\n]").match
_is_object = re.compile(rb"{").match
_is_array = re.compile(rb"\[").match


# None of these is ever part of a cycle, and to a collector a million of them are work.


class _Part(msgspec.Struct, gc=False):
    type: str = ""
    image_url: msgspec.Raw = _NULL
    input_audio: msgspec.Raw = _NULL
    file: msgspec.Raw = _NULL


class _Message(msgspec.Struct, gc=False):
    content: list[_Part] | str | None = None


_places: ContextVar[Iterator[int]] = ContextVar("_places")
"""Of messages and parts that are being counted: one for each."""


def _take_place() -> None:
    """InvalidRequest when there is none left, before the others cost time."""
    if next(_places.get(), None) is None:
        raise _too_many_parts()


def _too_many_parts() -> InvalidRequest:
    return InvalidRequest(f"messages has more than {MAX_PARTS} messages and parts together.", param="messages")


class _CountedPart(_Part, gc=False):
    def __post_init__(self) -> None:
        _take_place()


class _CountedMessage(msgspec.Struct, gc=False):
    content: list[_CountedPart] | str | None = None

    def __post_init__(self) -> None:
        _take_place()


class _OddMessage(msgspec.Struct, gc=False):
    content: msgspec.Raw = _NULL

    def __post_init__(self) -> None:
        _take_place()


class _Name(str):
    """Name of a field that was counted."""


_messages_decoder = msgspec.json.Decoder(list[_Message])
_counted_decoder = msgspec.json.Decoder(list[_CountedMessage])
_odd_messages_decoder = msgspec.json.Decoder(list[_OddMessage])
_parts_decoder = msgspec.json.Decoder(list[_CountedPart])
_string_decoder = msgspec.json.Decoder(str)
_integer_decoder = msgspec.json.Decoder(int)


class Envelope(msgspec.Struct, frozen=True):
    """What the router needs to know of a chat request.

    `max_output` is the caller's output limit in tokens, None when it set none, `foreign_limit` the largest that a
    field of another dialect sets, 0 when none does. `body_bytes` is the size of it all, `text_bytes` without the
    `media` images, sounds and files: which of the fields a provider shows to its model is its own affair, so all of
    them count.
    """

    model: str
    stream: bool
    include_usage: bool
    choices: int
    max_output: int | None
    foreign_limit: int
    body_bytes: int
    text_bytes: int
    media: int
    ignored: tuple[str, ...]
    fields: _Fields
    asking_options: msgspec.Raw
    """The caller's `stream_options`, asking for usage."""

    def upstream_body(self, *, model: str, stream: bool, limit: tuple[str, int] | None) -> bytes:
        """The body for an upstream that calls the model so; `limit` is an output limit of ours: the caller's own
        are lowered to it, and where OpenAI's are not among them, this field sets it.

        A stream always asks for usage.
        """
        fields = self.fields.copy()
        if stream:
            fields["stream"] = _TRUE
            fields["stream_options"] = self.asking_options
        if limit is not None:
            _lower_limits(fields, *limit)
        return _encoder.encode({**fields, "model": model})


def read_envelope(body: bytes) -> Envelope:
    """Look at a request body once; InvalidRequest names the field at fault."""
    try:
        return _read(body)
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", code="invalid_json") from None


def _read(body: bytes) -> Envelope:
    fields = _decode(body)
    ignored = _remove_redirections(fields)
    stream = _boolean(fields, "stream")
    media_bytes, media = _media(fields)
    include_usage, asking_options = _stream_options(fields, stream)
    return Envelope(
        model=_model(fields),
        stream=stream,
        include_usage=include_usage,
        choices=_choices(fields),
        max_output=_output_limit(fields),
        foreign_limit=_foreign_limit(fields),
        body_bytes=len(body),
        text_bytes=len(body) - media_bytes,
        media=media,
        ignored=ignored,
        fields=fields,
        asking_options=asking_options,
    )


def _decode(body: bytes) -> _Fields:
    try:
        if not body.isascii():
            body.decode()
        return _read_object(body)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8 at byte {error.start}.", code="invalid_json") from None
    except msgspec.ValidationError:
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json") from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}", code="invalid_json") from None


def _read_object(text: bytes | msgspec.Raw, name: str | None = None) -> _Fields:
    """An object's fields. InvalidRequest, naming the object, when there are too many; MsgspecError if it is none."""
    count = 0

    def counted(_: type, field: Any) -> _Name:
        nonlocal count
        count += 1
        if count > MAX_FIELDS:
            raise InvalidRequest(f"{name or 'The body'} has more than {MAX_FIELDS} fields.", param=name)
        return _Name(field)

    if _size(text) <= _SMALL_BYTES:
        return _decoder.decode(text)
    fields = msgspec.json.Decoder(dict[_Name, msgspec.Raw], dec_hook=counted).decode(text)
    return {str(field): raw for field, raw in fields.items()}


def _remove_redirections(fields: _Fields) -> tuple[str, ...]:
    if REDIRECTING_FIELDS.isdisjoint(fields) and "extra_body" not in fields:
        return ()
    ignored = [name for name in fields if name in REDIRECTING_FIELDS]
    for name in ignored:
        del fields[name]
    extra = fields.get("extra_body")
    if extra is not None and _is_object(extra):
        inner = _read_object(extra, "extra_body")
        found = [name for name in inner if name in _REMOVED_FROM_EXTRA_BODY]
        if found:
            for name in found:
                del inner[name]
            fields["extra_body"] = msgspec.Raw(_encoder.encode(inner))
            ignored += [f"extra_body.{name}" for name in found]
    return tuple(ignored)


def _model(fields: _Fields) -> str:
    raw = fields.get("model")
    if raw is None:
        raise InvalidRequest("model is required.", param="model", code="missing_required_parameter")
    try:
        model = _string_decoder.decode(raw)
    except msgspec.MsgspecError:
        model = ""
    if not model:
        raise InvalidRequest("model must be a non-empty string.", param="model", code="invalid_type")
    return model


def _big_integer(raw: msgspec.Raw, name: str) -> int:
    """An integer that 64 bits do not hold is out of range, which is another error than being no integer."""
    text = bytes(raw)
    if not text.removeprefix(b"-").isdigit():
        raise InvalidRequest(f"{name} must be an integer.", param=name, code="invalid_type")
    return -1 if text.startswith(b"-") else 2**64


def _boolean(fields: _Fields, name: str) -> bool:
    raw = fields.get(name)
    if raw is None or raw in (_NULL, _FALSE):
        return False
    if raw == _TRUE:
        return True
    raise InvalidRequest(f"{name} must be a boolean.", param=name, code="invalid_type")


def _integer(fields: _Fields, name: str, *, most: int) -> int | None:
    raw = fields.get(name)
    if raw is None or raw == _NULL:
        return None
    try:
        value = _integer_decoder.decode(raw)
    except msgspec.MsgspecError:
        value = _big_integer(raw, name)
    if not 1 <= value <= most:
        raise InvalidRequest(f"{name} must be from 1 to {most}.", param=name)
    return value


def _choices(fields: _Fields) -> int:
    """How many answers are asked for: by whichever field says more."""
    return max([_integer(fields, name, most=MAX_CHOICES) or 1 for name in COUNT_FIELDS])


def _output_limit(fields: _Fields) -> int | None:
    newer, older = [_integer(fields, name, most=_MAX_LIMIT) for name in LIMIT_FIELDS]
    if newer is None or older is None:
        return older if newer is None else newer
    if newer != older:
        raise InvalidRequest("max_tokens and max_completion_tokens are both set, and differ.", param="max_tokens")
    return newer


def _foreign_limit(fields: _Fields) -> int:
    given = fields.keys() & FOREIGN_LIMIT_FIELDS
    return max([_tokens(fields[name]) for name in given]) if given else 0


def _tokens(raw: msgspec.Raw) -> int:
    """What a limit allows, 0 without one, UNLIMITED_TOKENS for what nobody knows how an upstream reads."""
    if raw == _NULL:
        return 0
    try:
        tokens = _integer_decoder.decode(raw)
    except msgspec.MsgspecError:
        return UNLIMITED_TOKENS
    return tokens if 0 <= tokens <= _MAX_LIMIT else UNLIMITED_TOKENS


def _lower_limits(fields: _Fields, name: str, tokens: int) -> None:
    """Let no limit exceed so many tokens; `name` is the field for a body that has none of OpenAI's."""
    if all(fields.get(field, _NULL) == _NULL for field in LIMIT_FIELDS):
        fields[name] = msgspec.Raw(b"%d" % tokens)
    for field in (*LIMIT_FIELDS, *FOREIGN_LIMIT_FIELDS):
        if _tokens(fields.get(field, _NULL)) > tokens:
            fields[field] = msgspec.Raw(b"%d" % tokens)


def _stream_options(fields: _Fields, stream: bool) -> tuple[bool, msgspec.Raw]:
    """Whether the caller wants the usage chunk, and its `stream_options` changed to ask for usage."""
    raw = fields.get("stream_options")
    if raw is None or raw == _NULL:
        return False, _ASKING
    if not stream:
        raise InvalidRequest("stream_options is only allowed with stream: true.", param="stream_options")
    try:
        options = _read_object(raw, "stream_options")
    except msgspec.MsgspecError:
        raise InvalidRequest("stream_options must be an object.", param="stream_options", code="invalid_type") from None
    include = options.get("include_usage", _NULL)
    if include not in (_NULL, _FALSE, _TRUE):
        name = "stream_options.include_usage"
        raise InvalidRequest(f"{name} must be a boolean.", param=name, code="invalid_type")
    options["include_usage"] = _TRUE
    return include == _TRUE, msgspec.Raw(_encoder.encode(options))  # written anew: a field given twice is so no more


def _media(fields: _Fields) -> tuple[int, int]:
    """Bytes and count of the images, sounds and files in the messages; all other bytes are text."""
    raw = fields.get("messages")
    if raw is None:
        raise InvalidRequest("messages is required.", param="messages", code="missing_required_parameter")
    if not _is_filled_array(raw):
        raise InvalidRequest("messages must be a non-empty array.", param="messages", code="invalid_type")
    parts = _media_parts(raw)
    return sum(_size(getattr(part, part.type)) for part in parts), len(parts)


def _size(raw: bytes | msgspec.Raw) -> int:
    """Length in bytes, without the copy that `bytes` would make."""
    return memoryview(raw).nbytes


def _media_parts(messages: msgspec.Raw) -> list[_Part]:
    """The images, sounds and files in the messages.

    Messages or parts of another form than we know have none: they count as text, and the upstream judges them.
    """
    text = bytes(messages)
    is_counted = len(text) >= _COUNTED_BYTES
    if not _may_have_parts(text) and not (is_counted and text.count(b"{") > MAX_PARTS):
        return []
    decoder: msgspec.json.Decoder[Any] = _messages_decoder
    if is_counted:
        _places.set(iter(range(MAX_PARTS)))
        decoder = _counted_decoder
    try:
        contents = [message.content for message in decoder.decode(text)]
    except msgspec.MsgspecError:
        return _media_among_odd(messages)
    lists = [content for content in contents if content.__class__ is list]
    if len(contents) + sum(map(len, lists)) > MAX_PARTS:
        raise _too_many_parts()
    return [part for parts in lists for part in parts if part.type in _MEDIA_TYPES]


def _media_among_odd(messages: msgspec.Raw) -> list[_Part]:
    """The same, where one of the messages or parts is of another form."""
    found: list[_Part] = []
    _places.set(iter(range(MAX_PARTS)))
    try:
        odd = _odd_messages_decoder.decode(messages)
    except msgspec.MsgspecError:
        return found
    for message in odd:
        if _is_array(message.content):
            try:
                parts = _parts_decoder.decode(message.content)
            except msgspec.MsgspecError:
                continue
            found += [part for part in parts if part.type in _MEDIA_TYPES]
    return found


def _may_have_parts(messages: bytes) -> bool:
    """Whether an array in the messages may hold objects: of text without brackets this takes a fifth of a parse."""
    at = 0
    for _ in range(_MAX_BRACKETS):
        at = messages.find(b"[", at + 1)
        if at < 0:
            return False
        if messages[at + 1] in _BEFORE_OBJECT:
            return True
    return True
