"""From exceptions to gRPC statuses."""

import inspect

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from worldrouter.v1.error_reason_pb2 import ErrorReason

from core import errors
from core.status import CODES, abort_details
from storage import errors as store

REQUEST_ID = "01arywr8d10123456789abcdef"
C = grpc.StatusCode

EXPECTED = {
    errors.WorldRouterError: (C.INTERNAL, "INTERNAL_ERROR", "internal_error"),
    errors.InvalidRequest: (C.INVALID_ARGUMENT, "INVALID_REQUEST", "invalid_value"),
    errors.ModelNotFound: (C.INVALID_ARGUMENT, "MODEL_NOT_FOUND", "model_not_found"),
    errors.UpstreamRejected: (C.INVALID_ARGUMENT, "UPSTREAM_REJECTED", "invalid_value"),
    errors.InvalidApiKey: (C.UNAUTHENTICATED, "INVALID_API_KEY", "invalid_api_key"),
    errors.InsufficientBalance: (C.FAILED_PRECONDITION, "INSUFFICIENT_BALANCE", "insufficient_balance"),
    errors.Forbidden: (C.PERMISSION_DENIED, "FORBIDDEN", "forbidden"),
    errors.ModelNotAllowed: (C.PERMISSION_DENIED, "MODEL_NOT_ALLOWED", "model_not_allowed"),
    errors.NotFound: (C.NOT_FOUND, "NOT_FOUND", "not_found"),
    errors.Conflict: (C.ABORTED, "CONFLICT", "conflict"),
    errors.AlreadyExists: (C.ALREADY_EXISTS, "ALREADY_EXISTS", "conflict"),
    errors.BudgetExceeded: (C.FAILED_PRECONDITION, "INSUFFICIENT_BALANCE", "budget_exceeded"),
    errors.RequestTooLarge: (C.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE", "request_too_large"),
    errors.RateLimited: (C.RESOURCE_EXHAUSTED, "RATE_LIMIT_EXCEEDED", "rate_limit_exceeded"),
    errors.ServiceUnavailable: (C.UNAVAILABLE, "SERVICE_UNAVAILABLE", "service_unavailable"),
    errors.UpstreamFailed: (C.UNAVAILABLE, "UPSTREAM_ERROR", "upstream_error"),
    errors.UpstreamRefused: (C.UNAVAILABLE, "UPSTREAM_ERROR", "upstream_error"),
    errors.UpstreamTimeout: (C.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT", "upstream_timeout"),
    errors.InternalError: (C.INTERNAL, "INTERNAL_ERROR", "internal_error"),
}


def read(error: BaseException, **options: str) -> tuple[C, str, ErrorInfo, RetryInfo | None]:
    """The status of an error: code, message and what its trailers hold."""
    code, message, trailing = abort_details(error, REQUEST_ID, str, **options)
    trailers = dict(trailing)
    assert trailers["x-request-id"] == REQUEST_ID
    status = Status.FromString(trailers["grpc-status-details-bin"])
    assert (status.code, status.message) == (code.value[0], message)
    info, retry = ErrorInfo(), None
    assert status.details[0].Unpack(info)
    if len(status.details) > 1:
        retry = RetryInfo()
        assert status.details[1].Unpack(retry)
    assert info.metadata["request_id"] == REQUEST_ID
    return code, message, info, retry


def make(kind: type[errors.WorldRouterError]) -> errors.WorldRouterError:
    if issubclass(kind, errors.InsufficientBalance):
        return kind("m", missing_nano_usd=7, affordable_tokens=8, credits_url="https://x/credits", retry_after_s=1.5)
    return kind("m", param="p", retry_after_s=1.5)


@pytest.mark.parametrize(("kind", "expected"), EXPECTED.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_every_error_has_its_status(kind: type[errors.WorldRouterError], expected: tuple[C, str, str]) -> None:
    """Each exception leaves with its code, its reason and code in an ErrorInfo of our domain, and a RetryInfo."""
    code, _, info, retry = read(make(kind))
    assert (code, info.reason, info.metadata["code"]) == expected
    assert info.domain == "worldrouter"
    assert retry is not None
    assert retry.retry_delay.ToMilliseconds() == 1500
    if issubclass(kind, errors.InsufficientBalance):
        assert info.metadata["missing_nano_usd"] == "7"
        assert info.metadata["affordable_token_count"] == "8"
        assert info.metadata["credits_url"] == "https://x/credits"
    else:
        assert info.metadata["param"] == "p"


def test_no_error_is_without_a_row() -> None:
    """Every exception class of core.errors is in the table above."""
    classes = {c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.WorldRouterError)}
    assert classes == set(EXPECTED)


def test_every_reason_has_a_code() -> None:
    """The table of codes and the proto's ErrorReason name the same reasons."""
    names = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()} - {"UNSPECIFIED"}  # noqa: SIM118
    assert set(CODES) == names


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (store.StoreUnavailable("password=hunter2"), C.UNAVAILABLE, "SERVICE_UNAVAILABLE"),
        (store.CommitUnknown("host db.internal"), C.UNAVAILABLE, "SERVICE_UNAVAILABLE"),
        (store.Missing("row 7"), C.NOT_FOUND, "NOT_FOUND"),
        (store.Duplicate("row 7"), C.ALREADY_EXISTS, "ALREADY_EXISTS"),
        (store.IdempotencyConflict("row 7"), C.ABORTED, "CONFLICT"),
        (store.StoreError("row 7"), C.INTERNAL, "INTERNAL_ERROR"),
        (RecursionError("stack"), C.INTERNAL, "INTERNAL_ERROR"),
        (ExceptionGroup("several", [ValueError("secret")]), C.INTERNAL, "INTERNAL_ERROR"),
    ],
)
def test_what_others_raise_is_translated_and_its_text_kept_in(error: Exception, code: C, reason: str) -> None:
    """Errors of the store and of anybody else have a status of ours, and their own text never leaves."""
    seen, message, info, retry = read(error)
    assert (seen, info.reason) == (code, reason)
    assert str(error) not in message
    assert (retry is not None) == (code is C.UNAVAILABLE)


def test_an_internal_error_says_whom_to_ask_and_nothing_else() -> None:
    """An internal error's text is the request id and, when configured, the support contact."""
    _, message, _, _ = read(errors.InternalError("secret"), support_contact="help@example.com")
    assert message == f"Internal error of WorldRouter, request id {REQUEST_ID}. Contact help@example.com."


def test_long_and_odd_texts_still_travel() -> None:
    """A message of any length and content is cut so that the metadata stays under 8 KiB."""
    error = errors.UpstreamRejected("ü\ud800\x00" * 100_000, param="ü" * 10_000, code="x" * 10_000)
    code, message, trailing = abort_details(error, REQUEST_ID, str)
    assert code is C.INVALID_ARGUMENT
    percent_encoded = 3 * len(message.encode())
    details = dict(trailing)["grpc-status-details-bin"]
    assert percent_encoded + len(details) * 4 / 3 < 8000


@pytest.mark.parametrize("retry_after_s", [float("inf"), float("nan"), -1.0, 1e300])
def test_absurd_retry_times_are_clamped(retry_after_s: float) -> None:
    """A retry time from an upstream that makes no sense does not break the error."""
    _, _, _, retry = read(errors.RateLimited("m", retry_after_s=retry_after_s))
    assert retry is not None
    assert 0 <= retry.retry_delay.seconds <= 86_400 * 365
