"""What an upstream's refusal becomes for the caller, and an error that it reports under status 200.

The upstream's 400 is the caller's 400, with its message. Its 401, 402, 403 and 404 are between us and the
provider: our unpaid bill must never be the caller's 402.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType

import msgspec

from core.errors import (
    RateLimited,
    RequestTooLarge,
    ServiceUnavailable,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamRejected,
    UpstreamTimeout,
    WorldRouterError,
)
from core.providers.base import Head

MAX_ERROR_BYTES = 64 << 10
MAX_MESSAGE_CHARS = 2_000
LONG_RETRY_AFTER_S = 2.0
_SECRET = re.compile(r"(?i:bearer)\s+\S+|\bsk-[\w-]{6,}|\bAIza[\w-]{20,}")
"""What looks like a credential: providers echo ours in their messages now and then."""
_BAD_KEY = "API_KEY_INVALID"
"""Gemini's reason for a 400 that is about our credential (https://cloud.google.com/apis/design/errors)."""
_tells_of_a_bad_key = re.compile("Incorrect(?: |%20)API(?: |%20)key").match
"""xAI too answers 400, and only its text says so; no caller sends a key that an upstream could mean."""
_is_status = re.compile("[45][0-9]{2}").fullmatch
_STATUSES: Mapping[str, int] = MappingProxyType(
    {
        "invalid_request_error": 400,
        "authentication_error": 401,
        "invalid_api_key": 401,
        "billing_error": 402,
        "permission_error": 403,
        "model_not_found": 404,
        "not_found_error": 404,
        "timeout_error": 408,
        "request_too_large": 413,
        "insufficient_quota": 429,
        "rate_limit_error": 429,
        "rate_limit_exceeded": 429,
    }
)
"""Of codes and types that come with these statuses, as OpenAI (https://platform.openai.com/docs/guides/error-codes)
and Anthropic (https://docs.anthropic.com/en/api/errors) list them."""


async def read_refusal(read: Callable[[], Awaitable[bytes]], head: Head) -> WorldRouterError:
    """The error for an answer that is not 200, its body read up to MAX_ERROR_BYTES.

    A body that is cut short or does not come leaves what the status says.
    """
    body = b""
    try:
        while len(body) < MAX_ERROR_BYTES and (piece := await read()):
            body += piece
    except UpstreamFailed:
        pass
    return refusal(head, body)


def refusal(head: Head, body: bytes) -> WorldRouterError:
    """The error for an upstream's status and error body. A code stays the upstream's, as a string."""
    status, retry_after_s = head.status, head.retry_after_s
    if status in (400, 422):
        return _rejection(status, _error_of(body))
    if status == 413:
        return RequestTooLarge("The request is too large for the upstream.")
    if status in (401, 402, 403, 404):
        return _refused(status)
    if status == 408:
        return UpstreamTimeout("The upstream timed out.")
    if status == 429:
        return RateLimited("The upstream is rate limited.", retry_after_s=retry_after_s or 1.0)
    if status == 503 and retry_after_s is not None and retry_after_s > LONG_RETRY_AFTER_S:
        return ServiceUnavailable("The upstream is not available.", retry_after_s=retry_after_s)
    return UpstreamFailed(f"The upstream failed (status {status}).")


def reported(body: bytes) -> WorldRouterError:
    """The error for one that an upstream reports in place of an answer, under status 200: what it would be under the
    status that its code or type stands for (OpenRouter's code is one, https://openrouter.ai/docs/errors), and where
    there is none, or the upstream itself failed, UpstreamFailed with its message.
    """
    error = _error_of(body)
    status = next(filter(None, map(_status_of, map(error.get, ("code", "status_code", "type")))), 500)
    if status < 500:
        return refusal(Head(status, "", None), body)
    text = _shown(_text(error))
    return UpstreamFailed(f"The upstream failed: {text}" if text else "The upstream failed.")


def _rejection(status: int, error: Mapping[str, object]) -> WorldRouterError:
    details, text = error.get("details"), _text(error)
    reasons = [each.get("reason") for each in details if isinstance(each, dict)] if isinstance(details, list) else []
    if _BAD_KEY in reasons or _tells_of_a_bad_key(text):
        return _refused(status)
    param, code = error.get("param"), error.get("code")
    return UpstreamRejected(
        _shown(text) or "The upstream refused the request.",
        param=param if isinstance(param, str) else None,
        code=str(code) if isinstance(code, str | int) else None,
    )


def _shown(text: str) -> str:
    """An upstream's words as the caller may read them."""
    return _SECRET.sub("[secret]", text)[:MAX_MESSAGE_CHARS]


def _status_of(said: object) -> int | None:
    """The status that a code or type stands for."""
    if not isinstance(said, str | int):
        return None
    name = str(said)
    return int(name) if _is_status(name) else _STATUSES.get(name)


def _refused(status: int) -> UpstreamRefused:
    return UpstreamRefused(f"The upstream refused WorldRouter's own access (status {status}).")


def _error_of(body: bytes) -> Mapping[str, object]:
    """The error object, OpenAI's or one of those that others send in its place; Gemini's is in an array."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return {}
    if isinstance(found, list) and found:
        found = found[0]
    if not isinstance(found, dict):
        return {}
    error = found.get("error")
    if isinstance(error, str):
        return {**found, "message": error}
    return error if isinstance(error, dict) else found


def _text(said: object) -> str:
    """What an error says: as text, or in the lists of complaints, each with the place of a field, that FastAPI
    (https://fastapi.tiangolo.com/tutorial/handling-errors/) has in `detail`, and Mistral in `message` too.
    """
    if isinstance(said, str):
        return said
    if isinstance(said, list):
        return "; ".join(filter(None, map(_text, said)))
    if not isinstance(said, dict):
        return ""
    text = next(filter(None, map(_text, map(said.get, ("message", "detail", "msg")))), "")
    place = said.get("loc")
    if not text or not isinstance(place, list):
        return text
    return f"{'.'.join(str(part) for part in place if part != 'body')}: {text}".removeprefix(": ")
