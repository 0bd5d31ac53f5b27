"""Protobuf frames that no generated client would send, for a request of any type."""

from __future__ import annotations

from random import Random
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from tests.hostile.bodies import body

INTEGERS = (0, 1, -1, 5, 1000, 1001, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**53 + 1, 10**10)
UNSIGNED = (0, 1, 2**32 - 1, 2**64 - 1)
FLOATS = (0.0, -0.0, 1.5, float("nan"), float("inf"), float("-inf"), 1e300, 5e-324)
TEXTS = (
    *("", "scripted", "free", "dear", "default", "house", "x" * 10_000, "\x00", "a\nb", "é\u2028", "\U0001f600", " "),
    *("key_01m80c3xwk5gc1zwqh0nes95qb", "01m80c3xwk5gc1zwqh0nes95qb", "wlrouter_x", "Bearer x", "../../etc", "%s%n"),
    *("{}", "null", "NaN", "[" * 5_000, '{"a":1,"a":2}', "1e999", "data:image/png;base64,AAAA", "WyJMaXN0TW9kZWxzIl0="),
)


def frame(random: Random, request: Descriptor) -> bytes:
    """Bytes for a request: noise, a message with absurd values, or one that is broken."""
    match random.choice(("noise", "valid", "valid", "bitten", "bitten", "wires", "lengths", "groups", "nested")):
        case "noise":
            return random.randbytes(random.choice((0, 1, 2, 10, 100, 5_000)))
        case "valid":
            return _serialised(random, request)
        case "bitten":
            return _bitten(random, _serialised(random, request))
        case "wires":
            return b"".join(_wrong_wire(random, request) for _ in range(random.randrange(1, 5)))
        case "lengths":
            number = random.choice([field.number for field in request.fields] or [1])
            return (
                _varint(number << 3 | 2) + _varint(random.choice((2**31, 2**32 - 1, 2**63, 2**64 - 1, 1_000))) + b"ab"
            )
        case "groups":
            return _varint(random.randrange(1, 20) << 3 | 3) * random.choice((1, 99, 101, 20_000))
        case _:
            return _nested(random, request)


def _serialised(random: Random, request: Descriptor) -> bytes:
    return bytes(message(random, request, depth=4).SerializeToString())


def message(random: Random, of: Descriptor, *, depth: int) -> Any:
    """A message with about half of its fields set, to anything that their types take."""
    made = GetMessageClass(of)()
    for field in of.fields:
        if random.random() < 0.5 or (field.message_type is not None and depth == 0):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        if field.is_repeated:
            values = [_value(random, field, depth) for _ in range(random.randrange(4))]
            getattr(made, field.name).extend(values)
        elif field.message_type is not None:
            getattr(made, field.name).CopyFrom(_value(random, field, depth))
        else:
            setattr(made, field.name, _value(random, field, depth))
    return made


def _value(random: Random, field: FieldDescriptor, depth: int) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_MESSAGE:
            return message(random, field.message_type, depth=depth - 1)
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return body(random.randrange(10**6), 0) if random.random() < 0.8 else random.randbytes(20)
        case FieldDescriptor.CPPTYPE_STRING:
            return random.choice(TEXTS)
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return random.choice(FLOATS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return random.random() < 0.5
        case FieldDescriptor.CPPTYPE_ENUM:
            return random.choice([*(each.number for each in field.enum_type.values), 99, -1])
        case FieldDescriptor.CPPTYPE_INT64:
            return random.choice(INTEGERS)
        case FieldDescriptor.CPPTYPE_INT32:
            return max(-(2**31), min(2**31 - 1, random.choice(INTEGERS)))
        case FieldDescriptor.CPPTYPE_UINT32:
            return min(2**32 - 1, random.choice(UNSIGNED))
        case _:
            return random.choice(UNSIGNED)


def _bitten(random: Random, raw: bytes) -> bytes:
    """The bytes with one wound."""
    at, size = random.randrange(len(raw) + 1), random.choice((1, 1, 2, 8))
    match random.choice(("flip", "cut", "insert", "end", "twice")):
        case "flip":
            changed = bytes(each ^ (1 << random.randrange(8)) for each in raw[at : at + size])
            return raw[:at] + changed + raw[at + size :]
        case "cut":
            return raw[:at] + raw[at + size :]
        case "insert":
            return raw[:at] + random.randbytes(size) + raw[at:]
        case "end":
            return raw[:at]
        case _:
            return raw + raw


def _wrong_wire(random: Random, request: Descriptor) -> bytes:
    """A field of the request, or one that it does not have, in any wire type (6 and 7 are none)."""
    number = random.choice([*(field.number for field in request.fields), 0, 1, 500, 2**29 - 1])
    wire = random.randrange(8)
    payload = {0: _varint(random.choice(UNSIGNED)), 1: b"8bytes..", 2: b"\x03\xff\xfe\x00", 5: b"4byt"}.get(wire, b"")
    return _varint(number << 3 | wire) + payload


def _nested(random: Random, request: Descriptor) -> bytes:
    """A message inside itself, as deep as no parser goes, in a field of the request."""
    number = random.choice([field.number for field in request.fields] or [1])
    inside = b""
    for _ in range(random.choice((50, 99, 101, 3_000))):
        inside = _varint(random.randrange(1, 8) << 3 | 2) + _varint(len(inside)) + inside
    return _varint(number << 3 | 2) + _varint(len(inside)) + inside


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes((*out, number))
