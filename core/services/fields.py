"""Fields of requests and answers: checked on the way in, converted on the way out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from core.errors import InvalidRequest, NotFound

DISPLAY_NAME_MAX_LENGTH = 100

_ID = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_REQUEST_ID = re.compile(r"[0-9a-z]{26}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_TIMESTAMP_MAX_S = 253_402_300_799

MAX_ALLOWED_MODELS = 100
_ALLOWED_MODEL = re.compile(r"[\x21-\x29\x2b-\x7e]{1,199}\*?|\*")

Found = TypeVar("Found")


def display_name(value: str, *, param: str = "display_name") -> str:
    """A name for people, 1 to 100 characters, on one line, not blank. Raises InvalidRequest."""
    if not value.strip() or len(value) > DISPLAY_NAME_MAX_LENGTH:
        raise InvalidRequest(f"{param} must have 1 to {DISPLAY_NAME_MAX_LENGTH} characters.", param=param)
    if _CONTROL.search(value):
        raise InvalidRequest(f"{param} must not hold control characters.", param=param)
    return value


def resource_id(value: str, *, param: str) -> str:
    """An id that may exist; whatever has not the form of one does not. Raises InvalidRequest when empty, NotFound."""
    if not value:
        raise InvalidRequest(f"{param} is required.", param=param)
    if not _ID.fullmatch(value):
        raise not_found(param, value)
    return value


def request_id(value: str, *, param: str) -> str:
    """A request id that may exist. Raises InvalidRequest when empty, NotFound."""
    if not value:
        raise InvalidRequest(f"{param} is required.", param=param)
    if not _REQUEST_ID.fullmatch(value):
        raise not_found(param, value)
    return value


def allowed_models(values: Sequence[str], *, param: str = "allowed_models") -> tuple[str, ...]:
    """IDs of models, or beginnings of IDs with a `*` after them; each once, as they came. Raises InvalidRequest."""
    if len(values) > MAX_ALLOWED_MODELS or not all(map(_ALLOWED_MODEL.fullmatch, values)):
        raise InvalidRequest(
            f"{param} must be at most {MAX_ALLOWED_MODELS} IDs of models, of 1 to 200 printable characters each; "
            'a "*" may stand at the end only.',
            param=param,
        )
    return tuple(dict.fromkeys(values))


def masked(mask: FieldMask, mutable: frozenset[str]) -> frozenset[str]:
    """The fields that a mask names, at least one and mutable ones alone. Raises InvalidRequest."""
    paths = frozenset(mask.paths)
    if not paths or not paths <= mutable:
        named = ", ".join(f'"{name}"' for name in sorted(mutable))
        raise InvalidRequest(f"update_mask may name {named}, and must name one.", param="update_mask")
    return paths


def found(resource: Found | None, *, param: str, value: str) -> Found:
    """The resource; NotFound when there is none."""
    if resource is None:
        raise not_found(param, value)
    return resource


def not_found(param: str, value: str) -> NotFound:
    """What to raise for an id that does not exist, or that is another account's."""
    return NotFound(f"There is nothing with {param} {value[:100]!r}.", param=param)


def future_us(value: Timestamp, *, now_us: int, param: str) -> int:
    """A time to come, in microseconds since the Unix epoch. Raises InvalidRequest."""
    if not 0 <= value.nanos <= 999_999_999 or not 0 <= value.seconds <= _TIMESTAMP_MAX_S:
        raise InvalidRequest(f"{param} is not a valid time.", param=param)
    us = value.seconds * 1_000_000 + value.nanos // 1000
    if us <= now_us:
        raise InvalidRequest(f"{param} must be in the future.", param=param)
    return us


def duration_us(value: Duration, *, max_s: int, param: str) -> int:
    """A length of time in microseconds, 0 to `max_s` seconds. Raises InvalidRequest."""
    us = value.seconds * 1_000_000 + value.nanos // 1000
    if value.seconds < 0 or value.nanos < 0 or value.nanos > 999_999_999 or us > max_s * 1_000_000:
        raise InvalidRequest(f"{param} must be 0 to {max_s} seconds.", param=param)
    return us


def timestamp(us: int | None) -> Timestamp | None:
    """Microseconds since the Unix epoch as protobuf has them; None stays absent."""
    if us is None:
        return None
    seconds, rest_us = divmod(us, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest_us * 1000)
