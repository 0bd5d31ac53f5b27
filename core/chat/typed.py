"""Typed chat messages to OpenAI's JSON and back: the only place that converts.

The rules stand in chat.proto, at ChatService, and are followed from the descriptors, so a field added there is
converted without a line here: a field becomes the key of its name; `…_json` holds JSON text, inserted digit for
digit; `extra_json` holds the keys that have no field; a message with a oneof is an object with a `type`. In an
answer null reads as absent, and a value that its field cannot hold goes to `extra_json` rather than getting lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import GenericAlias, MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from worldrouter.v1.chat_pb2 import (
    ChatCompletion,
    ChatCompletionParams,
    CompletionDeltas,
)
from worldrouter.v1.types_pb2 import CompletionFinished, CompletionStarted

from core.errors import InvalidRequest, UpstreamFailed

_T = TypeVar("_T")
_Object: TypeAlias = dict[str, msgspec.Raw]
_Read: TypeAlias = Callable[[Any, msgspec.Raw], None]

# Fields whose JSON key is not their name: the second form of a key that has two, and names that protobuf style
# or Python would not have.
_KEYS: Final = MappingProxyType(
    {
        "content_parts": "content",
        "custom_voice": "voice",
        "specific_tool_choice": "tool_choice",
        "expire_time": "expires_at",
        "token_bytes": "bytes",
    }
)
# Fields of an answer that are WorldRouter's own. An upstream's key of the same name is an unknown one.
_OURS: Final = MappingProxyType(
    {
        "worldrouter.v1.ChatCompletion": frozenset(
            ("id", "model", "create_time", "usage", "cost_nano_usd", "endpoint", "overhead_us")
        )
    }
)
# Keys of an answer and of each chunk that the started event, or the type, says already.
_SAID: Final = ("id", "object", "created", "model")
# Keys of a request that the RPC decides.
_DECIDED: Final = frozenset(("stream", "stream_options"))

MAX_OBJECTS: Final = 10_000
"""Messages, parts, tools and whatever else is an object, together: each costs microseconds, and there is room for
millions."""
_EXTRA: Final = "extra_json"
_TIMESTAMP: Final = "google.protobuf.Timestamp"
_SCALARS: Final = MappingProxyType(
    {
        FieldDescriptor.CPPTYPE_STRING: str,
        FieldDescriptor.CPPTYPE_BOOL: bool,
        FieldDescriptor.CPPTYPE_DOUBLE: float,
        FieldDescriptor.CPPTYPE_INT32: int,
        FieldDescriptor.CPPTYPE_INT64: int,
    }
)


def request_body(params: ChatCompletionParams, *, stream: bool, include_obfuscation: bool | None = None) -> bytes:
    """OpenAI's JSON body for these parameters.

    Raises InvalidRequest, whose `param` is the path of the field, for JSON text that is not JSON, a key of
    `extra_json` that has a field which can hold it, two forms of one key, numbers that are not finite, and more than
    MAX_OBJECTS. Everything else is for the pipeline and the upstream to judge.
    """
    body = _to_object(params, "", iter(range(MAX_OBJECTS)), _DECIDED)
    if stream:
        body["stream"] = True
    if stream and include_obfuscation is not None:
        body["stream_options"] = {"include_obfuscation": include_obfuscation}
    return msgspec.json.encode(body)


def completion(body: bytes, started: CompletionStarted, finished: CompletionFinished) -> ChatCompletion:
    """The typed answer for a whole JSON answer. Raises UpstreamFailed when it is not a JSON object."""
    answer = ChatCompletion(
        id=started.id,
        model=started.model,
        create_time=started.create_time,
        usage=finished.usage,
        cost_nano_usd=finished.cost_nano_usd,
        endpoint=started.endpoint,
        overhead_us=started.overhead_us,
    )
    merge(_answer(body), answer)
    return answer


def deltas(chunks: Iterable[bytes]) -> CompletionDeltas:
    """The typed chunks for JSON chunks, one for one. Raises UpstreamFailed when one is not a JSON object."""
    typed = CompletionDeltas()
    for chunk in chunks:
        merge(_answer(chunk), typed.chunks.add())
    return typed


def _answer(body: bytes) -> _Object:
    try:
        body.decode()  # msgspec.Raw does not look at what is inside strings
        fields = msgspec.json.decode(body, type=_Object)
    except (ValueError, RecursionError) as error:
        raise UpstreamFailed(f"the upstream's answer is not a JSON object: {error}") from None
    for key in _SAID:
        fields.pop(key, None)
    return fields


def merge(fields: _Object, message: Message) -> None:
    """Set the fields of a message from a JSON object, and its `extra_json` to what they cannot hold."""
    plan = _plan(message.DESCRIPTOR)
    extra: _Object = {}
    for key, value in plan.take_member(fields, message).items():
        readers = plan.fields.get(key, ())
        if readers and bytes(value) == b"null":
            continue
        if not any(_fits(read, message, value) for read in readers):
            extra[key] = value
    if extra:
        setattr(message, _EXTRA, msgspec.json.encode(extra).decode())


def _fits(read: _Read, message: Message, value: msgspec.Raw) -> bool:
    try:
        read(message, value)
    except ValueError:  # msgspec's errors are ValueErrors, as is protobuf's for an integer out of range
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Plan:
    """How a message is read: by JSON key the fields that may hold it, and the members of its oneof by `type`. `plain`
    are the keys all of whose fields hold one value each rather than messages."""

    fields: Mapping[str, Sequence[_Read]]
    plain: frozenset[str]
    oneof: str | None
    members: Mapping[str, _Read]

    def take_member(self, fields: _Object, message: Message) -> _Object:
        """Set the member that `type` names (without a type: the only one there is); the fields that remain."""
        tag = next((key for key in fields if key in self.members), None)
        if "type" in fields and self.members:
            tag = _text(fields["type"])
        if tag is None or tag not in self.members or tag not in fields:
            return fields
        if not _fits(self.members[tag], message, fields[tag]):
            return fields
        absent = {key for key in self.members if bytes(fields.get(key, b"")) == b"null"}
        return {key: value for key, value in fields.items() if key not in ("type", tag, *absent)}

    def has_room(self, key: str, value: msgspec.Raw, message: Message) -> bool:
        """Whether a field could hold this; one that holds messages is not tried, as it may take long."""
        if key not in self.plain or bytes(value) == b"null":
            return True
        return any(_fits(read, message, value) for read in self.fields[key])


def _text(value: msgspec.Raw) -> str | None:
    found = msgspec.json.decode(value)
    return found if isinstance(found, str) else None


@cache
def _plan(descriptor: Any) -> _Plan:  # Any: protobuf's types know two kinds of Descriptor, Python's and C's
    # The compiler makes a oneof of one for every `optional` field; protobuf reserves the "_" for those.
    oneof = next((one for one in descriptor.oneofs if not one.name.startswith("_")), None)
    members = {field.name: _reader(field) for field in oneof.fields} if oneof else {}
    fields: dict[str, list[_Read]] = {}
    for field in descriptor.fields:
        if field.name not in (_EXTRA, *members, *_OURS.get(descriptor.full_name, ())):
            fields.setdefault(_key(field), []).append(_reader(field))
    nested = {_key(field) for field in descriptor.fields if field.message_type is not None}
    return _Plan(fields, frozenset(fields.keys() - nested), oneof.name if oneof else None, members)


def _key(field: FieldDescriptor) -> str:
    return _KEYS.get(field.name) or field.name.removesuffix("_json")


def _reader(field: FieldDescriptor) -> _Read:
    """What sets this field from a JSON value; it raises ValueError, and sets nothing, when that does not fit."""
    name, of = field.name, field.message_type
    if of is None:
        return _scalar_reader(field)
    if of.GetOptions().map_entry:
        kind = GenericAlias(dict, (str, _SCALARS[of.fields_by_name["value"].cpp_type]))
        return lambda message, value: getattr(message, name).update(msgspec.json.decode(value, type=kind))
    if of.full_name == _TIMESTAMP:
        return lambda message, value: getattr(message, name).FromSeconds(msgspec.json.decode(value, type=int))

    def read_one(message: Message, value: msgspec.Raw) -> None:
        fields = msgspec.json.decode(value, type=_Object)
        getattr(message, name).SetInParent()
        merge(fields, getattr(message, name))

    def read_all(message: Message, value: msgspec.Raw) -> None:
        for fields in msgspec.json.decode(value, type=list[_Object]):
            merge(fields, getattr(message, name).add())

    return read_all if field.is_repeated else read_one


def _scalar_reader(field: FieldDescriptor) -> _Read:
    name = field.name
    if name.endswith("_json"):
        return lambda message, value: setattr(message, name, bytes(value).decode())
    if field.type == FieldDescriptor.TYPE_BYTES:
        return lambda message, value: setattr(message, name, bytes(msgspec.json.decode(value, type=list[int])))
    kind = _SCALARS[field.cpp_type]
    if field.is_repeated:
        many = GenericAlias(list, (kind,))
        return lambda message, value: getattr(message, name).extend(msgspec.json.decode(value, type=many))
    return lambda message, value: setattr(message, name, msgspec.json.decode(value, type=kind))


def _to_object(
    message: Message, path: str, places: Iterator[int], decided: frozenset[str] = frozenset()
) -> dict[str, object]:
    """The JSON object for what is set in a message, which takes one of the `places`. `path` ends in "." or is empty,
    `decided` are further keys that `extra_json` may not have."""
    if next(places, None) is None:
        where = path.partition("[")[0]
        raise InvalidRequest(f"{where} makes it more than {MAX_OBJECTS} messages, parts, tools and so on", param=where)
    found: dict[str, object] = {}
    for field, value in message.ListFields():
        if field.name == _EXTRA:
            continue
        key = _key(field)
        if key in found:
            raise InvalidRequest(f"{path}{key} is set in two forms", param=f"{path}{field.name}")
        found[key] = _to_value(field, value, f"{path}{field.name}", places)
    plan = _plan(message.DESCRIPTOR)
    taken = {*plan.fields, *decided}
    if plan.oneof and (tag := message.WhichOneof(plan.oneof)):
        found["type"] = tag
        taken |= {"type", *plan.members}
    if not getattr(message, _EXTRA):
        return found
    extra = _parse(getattr(message, _EXTRA), _Object, f"{path}{_EXTRA}")
    for key in sorted(taken & extra.keys()):
        if key in found or plan.has_room(key, extra[key], type(message)()):
            path += _EXTRA
            raise InvalidRequest(f"{path} may not hold {key!r}: it has a field of its own", param=path)
    return found | extra


def _to_value(field: FieldDescriptor, value: Any, path: str, places: Iterator[int]) -> object:
    of = field.message_type
    if field.name.endswith("_json"):
        return _parse(value, msgspec.Raw, path)
    if isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(f"{path} must be a finite number", param=path)
    if of is None:
        return list(value) if field.is_repeated else value
    if of.GetOptions().map_entry:
        return dict(value)
    if of.full_name == _TIMESTAMP:
        return value.seconds
    if field.is_repeated:
        return [_to_object(item, f"{path}[{index}].", places) for index, item in enumerate(value)]
    return _to_object(value, f"{path}.", places)


def _parse(text: str, kind: type[_T], path: str) -> _T:
    try:
        return msgspec.json.decode(text, type=kind)
    except (ValueError, RecursionError) as error:
        wanted = "JSON" if kind is msgspec.Raw else "a JSON object"
        raise InvalidRequest(f"{path} must be {wanted}: {error}", param=path) from None
