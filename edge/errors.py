"""What the edge answers when something fails: one table from the core's reasons to HTTP.

The core's errors carry a `google.rpc.ErrorInfo`, whose reason decides; errors without one were made by the
gRPC library. The edge's own refusals (no such route, body too large, …) never reached the core.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import grpc
import msgspec
from aiohttp import web
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

_LOGGER = logging.getLogger(__name__)

DOMAIN = "worldrouter"
DETAILS_KEY = "grpc-status-details-bin"
REQUEST_ID = "x-request-id"
RATE_LIMIT_PREFIX = "x-ratelimit-"
RETRIED = frozenset({429, 503})
"""Statuses that always say after how long to try again: 1 s when nobody knows better."""
_CALLER, _SERVER = "invalid_request_error", "server_error"

REASONS: Mapping[str, tuple[int, str, str]] = {
    "INVALID_REQUEST": (400, _CALLER, "invalid_value"),
    "MODEL_NOT_FOUND": (400, _CALLER, "model_not_found"),
    "UPSTREAM_REJECTED": (400, _CALLER, "invalid_value"),
    "INVALID_API_KEY": (401, "authentication_error", "invalid_api_key"),
    "INSUFFICIENT_BALANCE": (402, "insufficient_balance", "insufficient_balance"),
    "FORBIDDEN": (403, "permission_error", "forbidden"),
    "MODEL_NOT_ALLOWED": (403, "permission_error", "model_not_allowed"),
    "NOT_FOUND": (404, _CALLER, "not_found"),
    "CONFLICT": (409, _CALLER, "conflict"),
    "ALREADY_EXISTS": (409, _CALLER, "conflict"),
    "REQUEST_TOO_LARGE": (413, _CALLER, "request_too_large"),
    "RATE_LIMIT_EXCEEDED": (429, "rate_limit_error", "rate_limit_exceeded"),
    "INTERNAL_ERROR": (500, _SERVER, "internal_error"),
    "UPSTREAM_ERROR": (502, _SERVER, "upstream_error"),
    "SERVICE_UNAVAILABLE": (503, _SERVER, "service_unavailable"),
    "UPSTREAM_TIMEOUT": (504, _SERVER, "upstream_timeout"),
}
"""Reason of `worldrouter.v1.ErrorReason`: HTTP status, OpenAI's `type`, `code` when the core names none."""

_NEWER_REASONS: Mapping[grpc.StatusCode, str] = {
    grpc.StatusCode.INVALID_ARGUMENT: "INVALID_REQUEST",
    grpc.StatusCode.UNAUTHENTICATED: "INVALID_API_KEY",
    grpc.StatusCode.PERMISSION_DENIED: "FORBIDDEN",
    grpc.StatusCode.NOT_FOUND: "NOT_FOUND",
    grpc.StatusCode.ABORTED: "CONFLICT",
    grpc.StatusCode.ALREADY_EXISTS: "ALREADY_EXISTS",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "RATE_LIMIT_EXCEEDED",
    grpc.StatusCode.UNAVAILABLE: "SERVICE_UNAVAILABLE",
    grpc.StatusCode.DEADLINE_EXCEEDED: "UPSTREAM_TIMEOUT",
}
"""For a reason of a newer core, which this table does not know."""

_LIBRARY_REASONS: Mapping[grpc.StatusCode, str] = {
    grpc.StatusCode.UNAVAILABLE: "SERVICE_UNAVAILABLE",  # no core reachable
    grpc.StatusCode.CANCELLED: "SERVICE_UNAVAILABLE",  # the core went away under the call
    grpc.StatusCode.RESOURCE_EXHAUSTED: "SERVICE_UNAVAILABLE",  # too many calls at once
    grpc.StatusCode.DEADLINE_EXCEEDED: "UPSTREAM_TIMEOUT",
}
"""For errors without ErrorInfo. All others are INTERNAL_ERROR; none may become a 401."""

OWN: Mapping[int, tuple[str, str, str]] = {
    400: (_CALLER, "malformed_request", "The request is not valid HTTP."),
    404: (_CALLER, "not_found", "There is no such route. The API is under /v1."),
    405: (_CALLER, "method_not_allowed", "This route does not take this method; see the Allow header."),
    408: (_CALLER, "request_timeout", "The request body did not arrive in time."),
    413: (_CALLER, "request_too_large", "The request is too large."),
    415: (_CALLER, "unsupported_encoding", "Send the body without Content-Encoding."),
    417: (_CALLER, "expectation_failed", "The only expectation supported is 100-continue."),
    500: (_SERVER, "internal_error", "Something went wrong on our side."),
    503: (_SERVER, "service_unavailable", "WorldRouter cannot serve this request now. Try again shortly."),
    504: (_SERVER, "upstream_timeout", "No answer came in time."),
}
"""What the edge says by itself, by HTTP status: OpenAI's `type`, `code`, message."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A failure as the client sees it: an HTTP status and an OpenAI error object."""

    status: int
    type: str
    code: str
    message: str
    request_id: str
    param: str | None = None
    retry_after_s: int | None = None
    extra: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    """Headers that say what is left of rate limits."""

    def body(self) -> bytes:
        """The JSON object `{"error": …}`."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
            "request_id": self.request_id,
        }
        return msgspec.json.encode({"error": {**self.extra, **error}})

    def headers(self) -> dict[str, str]:
        """The headers of the HTTP answer."""
        headers = {"Content-Type": "application/json", REQUEST_ID: self.request_id, **self.limits}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        if self.status in (502, 504):
            headers["x-should-retry"] = "false"  # the core has made its attempts already
        return headers

    def response(self) -> web.Response:
        """The whole HTTP answer."""
        return web.Response(status=self.status, body=self.body(), headers=self.headers())


class Problems:
    """Makes problems. `mint_id` makes the id of a request that the core never saw; 500s name `contact`."""

    def __init__(self, mint_id: Callable[[], str], contact: str | None) -> None:
        self.mint_id = mint_id
        self._contact = contact

    def of(self, failure: BaseException, request_id: str = "") -> Problem:
        """What a failure means to the client: of a call to the core, a refusal of the edge itself, or a bug.

        `request_id` is the id that the client knows already, if it does.
        """
        if isinstance(failure, grpc.aio.AioRpcError):
            return self._of_call(failure, request_id)
        if isinstance(failure, web.HTTPException):
            return self.own(failure.status, request_id)
        problem = self.own(500, request_id)
        fields = {"request_id": problem.request_id}
        _LOGGER.error("request %s failed", problem.request_id, exc_info=failure, extra=fields)
        return problem

    def own(self, status: int, request_id: str = "") -> Problem:
        """A refusal of the edge itself; any status outside `OWN` is a 500."""
        status = status if status in OWN else 500
        kind, code, message = OWN[status]
        request_id = request_id or self.mint_id()
        if status == 500:
            message = self._bland(request_id)
        return Problem(status, kind, code, message, request_id, retry_after_s=1 if status in RETRIED else None)

    def _of_call(self, error: grpc.aio.AioRpcError, request_id: str) -> Problem:
        info, retry_after_s = _details(error)
        status, kind, code = REASONS[_reason(error, info)]
        extra = dict(info.metadata) if info is not None else {}
        named_id = extra.pop("request_id", "")
        request_id = request_id or named_id or _request_id(error) or self.mint_id()
        message = error.details() if info is not None else OWN[status][2]
        if status == 500:
            message = self._bland(request_id)
        if info is None:
            fields = {"request_id": request_id, "status": status, "grpc": error.code().name}
            _LOGGER.warning("call of request %s failed: %s", request_id, error.details(), extra=fields)
        if retry_after_s is None and status in RETRIED:
            retry_after_s = 1
        code, param = extra.pop("code", "") or code, extra.pop("param", "") or None
        limits = _rate_limits(error)
        return Problem(status, kind, code, message or code, request_id, param, retry_after_s, extra, limits)

    def _bland(self, request_id: str) -> str:
        ask = f"write to {self._contact} and name" if self._contact else "if it stays, report"
        return f"{OWN[500][2]} Try again; {ask} request {request_id}."


def _reason(error: grpc.aio.AioRpcError, info: error_details_pb2.ErrorInfo | None) -> str:
    """The row of REASONS."""
    if info is not None:
        return info.reason if info.reason in REASONS else _NEWER_REASONS.get(error.code(), "INTERNAL_ERROR")
    text = error.details() or ""
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        # Said of what we received it is an answer too large for us, which is no fault of the client.
        return "INTERNAL_ERROR" if "CLIENT: Received" in text else "REQUEST_TOO_LARGE"
    return _LIBRARY_REASONS.get(error.code(), "INTERNAL_ERROR")


def _details(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo | None, int | None]:
    """Our ErrorInfo, if any, and the whole seconds of a RetryInfo, rounded up."""
    info, retry_after_s = None, None
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            try:
                status.ParseFromString(value)
            except DecodeError:
                return None, None
    for detail in status.details:
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo.FromString(detail.value)
            retry_after_s = retry.retry_delay.seconds + (1 if retry.retry_delay.nanos else 0)
        elif detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            candidate = error_details_pb2.ErrorInfo.FromString(detail.value)
            info = candidate if candidate.domain == DOMAIN else info
    return info, retry_after_s


def _rate_limits(error: grpc.aio.AioRpcError) -> dict[str, str]:
    return {key: str(value) for key, value in error.trailing_metadata() or () if key.startswith(RATE_LIMIT_PREFIX)}


def _request_id(error: grpc.aio.AioRpcError) -> str:
    for metadata in (error.trailing_metadata(), error.initial_metadata()):
        for key, value in metadata or ():
            if key == REQUEST_ID:
                return str(value)
    return ""
