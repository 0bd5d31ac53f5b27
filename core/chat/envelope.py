"""A chat request's envelope: looked at once, its values kept as the bytes they came as.

Only `model`, `stream`, `stream_options`, `n`, the output limits and the fields that would redirect a request
are touched; everything else reaches the upstream byte for byte, because no value is decoded and encoded
again (a number above 2^64 would not survive that). Of a top-level field that is given twice the last one counts,
and it alone is sent: an upstream must not read another one than was judged here.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from core.chat.media import Medium, read_media, size_of
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

_Fields = dict[str, msgspec.Raw]
_decoder = msgspec.json.Decoder(_Fields)
_encoder = msgspec.json.Encoder()
_NULL, _TRUE, _FALSE = msgspec.Raw(b"null"), msgspec.Raw(b"true"), msgspec.Raw(b"false")
_ASKING = msgspec.Raw(b'{"include_usage":true}')
_is_filled_array = re.compile(rb"\[[ \t\r\n]*[^] \t\r\n]").match
_is_object = re.compile(rb"{").match


class _Name(str):
    """Name of a field that was counted."""


_string_decoder = msgspec.json.Decoder(str)
_integer_decoder = msgspec.json.Decoder(int)


class Envelope(msgspec.Struct, frozen=True):
    """What the router needs to know of a chat request.

    `max_output` is the caller's output limit in tokens, None when it set none, `foreign_limit` the largest that a
    field of another dialect sets, 0 when none does. `body_bytes` is the size of it all, `text_bytes` without the
    `media`: which of the fields a provider shows to its model is its own affair, so all of them count.
    """

    model: str
    stream: bool
    include_usage: bool
    choices: int
    max_output: int | None
    foreign_limit: int
    body_bytes: int
    text_bytes: int
    media: tuple[Medium, ...]
    ignored: tuple[str, ...]
    fields: _Fields
    asking_options: msgspec.Raw
    """The caller's `stream_options`, asking for usage."""

    def media_tokens(self, most_image: int) -> int:
        """What its media count as with a model whose images count as so many tokens at most."""
        return sum([medium.tokens(most_image) for medium in self.media]) if self.media else 0

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
    media, media_bytes = read_media(_messages(fields))
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

    if size_of(text) <= _SMALL_BYTES:
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
    """One out of range for an integer that 64 bits do not hold, which is another error than being no integer."""
    text = bytes(raw)
    if not text.removeprefix(b"-").isdigit():
        raise InvalidRequest(f"{name} must be an integer.", param=name, code="invalid_type")
    return -1


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


def _messages(fields: _Fields) -> msgspec.Raw:
    raw = fields.get("messages")
    if raw is None:
        raise InvalidRequest("messages is required.", param="messages", code="missing_required_parameter")
    if not _is_filled_array(raw):
        raise InvalidRequest("messages must be a non-empty array.", param="messages", code="invalid_type")
    return raw
