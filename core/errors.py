"""What can go wrong, as exceptions. `core.status` alone turns them into gRPC statuses.

WorldRouterError
├── the caller's fault
│   ├── InvalidRequest
│   │   ├── ModelNotFound
│   │   └── UpstreamRejected
│   ├── InvalidApiKey
│   ├── InsufficientBalance
│   │   └── BudgetExceeded
│   ├── Forbidden
│   │   └── ModelNotAllowed
│   ├── NotFound
│   ├── Conflict
│   │   └── AlreadyExists
│   ├── RequestTooLarge
│   └── RateLimited
└── ours, or of those behind us
    ├── ServiceUnavailable
    ├── UpstreamFailed
    │   ├── UpstreamTimeout
    │   └── UpstreamRefused
    └── InternalError
"""

from __future__ import annotations

from typing import ClassVar


class WorldRouterError(Exception):
    """Base of all: a message fit for the caller, and what `google.rpc.ErrorInfo` needs.

    `reason` is a name of `worldrouter.v1.ErrorReason` without its prefix, `code` OpenAI's error code,
    `param` the field at fault, `retry_after_s` the seconds after which trying again makes sense.
    """

    reason: ClassVar[str] = "INTERNAL_ERROR"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code
        self.retry_after_s = retry_after_s

    def details(self) -> dict[str, str]:
        """Further metadata of the ErrorInfo, besides request id, param and code."""
        return {}

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Trailing metadata that goes to the caller of an HTTP edge as headers."""
        return ()


class InvalidRequest(WorldRouterError):
    """The request is malformed; `param` names the field."""

    reason = "INVALID_REQUEST"
    code = "invalid_value"


class ModelNotFound(InvalidRequest):
    """No model of this ID that the caller may see."""

    reason = "MODEL_NOT_FOUND"
    code = "model_not_found"


class UpstreamRejected(InvalidRequest):
    """The upstream refused the request as malformed; message, param and code are its own."""

    reason = "UPSTREAM_REJECTED"


class InvalidApiKey(WorldRouterError):
    """The credential is missing, malformed, wrong, revoked or expired."""

    reason = "INVALID_API_KEY"
    code = "invalid_api_key"


class InsufficientBalance(WorldRouterError):
    """The balance cannot cover the hold.

    `missing_nano_usd` is what the hold lacks, `affordable_tokens` the output tokens that the balance
    would buy, `credits_url` where to top up.
    """

    reason = "INSUFFICIENT_BALANCE"
    code = "insufficient_balance"

    def __init__(
        self,
        message: str,
        *,
        missing_nano_usd: int,
        affordable_tokens: int,
        credits_url: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.missing_nano_usd = missing_nano_usd
        self.affordable_tokens = affordable_tokens
        self.credits_url = credits_url

    def details(self) -> dict[str, str]:
        found = {
            "missing_nano_usd": str(self.missing_nano_usd),
            "affordable_token_count": str(self.affordable_tokens),
        }
        return found | ({"credits_url": self.credits_url} if self.credits_url else {})


class BudgetExceeded(InsufficientBalance):
    """A limit on spend cannot cover the hold."""

    code = "budget_exceeded"


class Forbidden(WorldRouterError):
    """The credential is valid but may not do this."""

    reason = "FORBIDDEN"
    code = "forbidden"


class ModelNotAllowed(Forbidden):
    """The key may not use this model."""

    reason = "MODEL_NOT_ALLOWED"
    code = "model_not_allowed"


class NotFound(WorldRouterError):
    """No such resource, or one of another account."""

    reason = "NOT_FOUND"
    code = "not_found"


class Conflict(WorldRouterError):
    """The idempotency key came with another body, or the resource's state forbids the change."""

    reason = "CONFLICT"
    code = "conflict"


class AlreadyExists(Conflict):
    """The resource exists."""

    reason = "ALREADY_EXISTS"


class RequestTooLarge(WorldRouterError):
    """The request is over a size limit, ours or the upstream's, or takes more tokens than a minute has room for."""

    reason = "REQUEST_TOO_LARGE"
    code = "request_too_large"


class RateLimited(WorldRouterError):
    """A rate or concurrency limit, ours or that of every upstream of the model; `left` says what is left of ours."""

    reason = "RATE_LIMIT_EXCEEDED"
    code = "rate_limit_exceeded"
    left: tuple[tuple[str, str], ...] = ()

    def headers(self) -> tuple[tuple[str, str], ...]:
        return self.left


class ServiceUnavailable(WorldRouterError):
    """WorldRouter cannot serve now: draining, overloaded, or its database is down."""

    reason = "SERVICE_UNAVAILABLE"
    code = "service_unavailable"


class UpstreamFailed(WorldRouterError):
    """The upstreams failed, or cut the answer before it was complete."""

    reason = "UPSTREAM_ERROR"
    code = "upstream_error"


class UpstreamTimeout(UpstreamFailed):
    """The upstreams did not answer in time."""

    reason = "UPSTREAM_TIMEOUT"
    code = "upstream_timeout"


class UpstreamRefused(UpstreamFailed):
    """The upstream refused our credential or does not know our model: another try changes nothing."""


class InternalError(WorldRouterError):
    """A bug of ours; the message says nothing, the log has the trace."""
