"""From exceptions to gRPC statuses: the only place that knows both.

Every error leaves with `google.rpc.Status` in the trailer `grpc-status-details-bin` (grpc.aio has no
`abort_with_status`, so the trailer is made here), holding one ErrorInfo and, where trying again makes sense,
a RetryInfo; and with the request id in the trailer `x-request-id`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from core.errors import (
    AlreadyExists,
    Conflict,
    InternalError,
    NotFound,
    ServiceUnavailable,
    WorldRouterError,
)
from storage.errors import Duplicate, IdempotencyConflict, Missing, NotPayer, StoreUnavailable

DOMAIN = "worldrouter"
"""`ErrorInfo.domain` of every error of ours."""
REQUEST_ID_KEY = "x-request-id"
"""Metadata key of the request id, in initial metadata and in trailers."""
DETAILS_KEY = "grpc-status-details-bin"

CODES: Mapping[str, grpc.StatusCode] = MappingProxyType(
    {
        "INVALID_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
        "MODEL_NOT_FOUND": grpc.StatusCode.INVALID_ARGUMENT,
        "UPSTREAM_REJECTED": grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_API_KEY": grpc.StatusCode.UNAUTHENTICATED,
        "INSUFFICIENT_BALANCE": grpc.StatusCode.FAILED_PRECONDITION,
        "FORBIDDEN": grpc.StatusCode.PERMISSION_DENIED,
        "MODEL_NOT_ALLOWED": grpc.StatusCode.PERMISSION_DENIED,
        "NOT_FOUND": grpc.StatusCode.NOT_FOUND,
        "CONFLICT": grpc.StatusCode.ABORTED,
        "ALREADY_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
        "REQUEST_TOO_LARGE": grpc.StatusCode.RESOURCE_EXHAUSTED,
        "RATE_LIMIT_EXCEEDED": grpc.StatusCode.RESOURCE_EXHAUSTED,
        "INTERNAL_ERROR": grpc.StatusCode.INTERNAL,
        "UPSTREAM_ERROR": grpc.StatusCode.UNAVAILABLE,
        "UPSTREAM_TIMEOUT": grpc.StatusCode.DEADLINE_EXCEEDED,
        "SERVICE_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
    }
)
"""The status of each `ErrorReason`, by its name without prefix."""

# Metadata above 8 KiB may be refused on the way (grpc.max_metadata_size), and the message travels twice:
# percent-encoded (up to 3 bytes for one) and in base64.
_MESSAGE_MAX_BYTES = 1024
_VALUE_MAX_BYTES = 256
_STORE_RETRY_S = 1.0
# An upstream's Retry-After is anything; a Duration ends at 10,000 years.
_RETRY_MAX_S = 86_400.0 * 365


class AbortDetails(NamedTuple):
    """What `context.abort` takes. `message` is fit for the caller."""

    code: grpc.StatusCode
    message: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def public_error(error: BaseException) -> WorldRouterError:
    """The error that a caller may see: one of ours as it is, a store's as ours, any other as InternalError."""
    match error:
        case WorldRouterError():
            return error
        case StoreUnavailable():
            return ServiceUnavailable("The database cannot be reached.", retry_after_s=_STORE_RETRY_S)
        case Missing():
            return NotFound("There is no such resource.")
        case NotPayer():
            message = f"This account has no money of its own: the account {error.payer_id!r} pays for it."
            return Conflict(message, param="account_id")
        case Duplicate():
            return AlreadyExists("A resource of this id exists.")
        case IdempotencyConflict():
            return Conflict("This idempotency key was used with another request.", param="idempotency_key")
        case _:
            return InternalError("Internal error.")


def abort_details(
    error: BaseException, request_id: str, redact: Callable[[str], str], *, support_contact: str = ""
) -> AbortDetails:
    """The status of an error. Its texts go through `redact`: they may quote a caller, or an upstream that quotes us.

    An internal one says nothing but the request id and whom to ask, if configured.
    """
    shown = public_error(error)
    code = CODES[shown.reason]
    if code is grpc.StatusCode.INTERNAL:
        message = _bland(request_id, support_contact)
    else:
        message = _cut(redact(shown.message), _MESSAGE_MAX_BYTES)
    status = Status(code=code.value[0], message=message)
    status.details.add().Pack(_error_info(shown, request_id, redact))
    if shown.retry_after_s is not None:
        status.details.add().Pack(RetryInfo(retry_delay=_duration(shown.retry_after_s)))
    trailing = ((REQUEST_ID_KEY, request_id), *shown.headers(), (DETAILS_KEY, status.SerializeToString()))
    return AbortDetails(code, message, trailing)


def _bland(request_id: str, support_contact: str) -> str:
    contact = f" Contact {support_contact}." if support_contact else ""
    return f"Internal error of WorldRouter, request id {request_id}.{contact}"


def _error_info(error: WorldRouterError, request_id: str, redact: Callable[[str], str]) -> ErrorInfo:
    metadata = error.details() | {"request_id": request_id, "code": error.code or error.reason.lower()}
    if error.param is not None:
        metadata["param"] = error.param
    cut = {key: _cut(redact(value), _VALUE_MAX_BYTES) for key, value in metadata.items()}
    return ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=cut)


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(max(0.0, min(_RETRY_MAX_S, seconds)) * 1_000_000_000))
    return duration


def _cut(text: str, max_bytes: int) -> str:
    """Text that protobuf takes (an upstream's message may hold lone surrogates), cut to so many bytes."""
    return text.encode("utf-8", "replace")[:max_bytes].decode("utf-8", "ignore")
