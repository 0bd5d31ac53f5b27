"""What an upstream's refusal becomes for the caller.

The upstream's 400 is the caller's 400, with its message. Its 401, 402, 403 and 404 are between us and the
provider: our unpaid bill must never be the caller's 402.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable

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


class _Error(msgspec.Struct):
    message: str | None = None
    param: object = None
    code: object = None


class _Body(msgspec.Struct):
    error: _Error | str | None = None
    message: str | None = None
    param: object = None
    code: object = None


_decoder = msgspec.json.Decoder(_Body)


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
        said = _said(body)
        return UpstreamRejected(
            _SECRET.sub("[secret]", said.message or "The upstream refused the request.")[:MAX_MESSAGE_CHARS],
            param=said.param if isinstance(said.param, str) else None,
            code=str(said.code) if isinstance(said.code, str | int) else None,
        )
    if status == 413:
        return RequestTooLarge("The request is too large for the upstream.")
    if status in (401, 402, 403, 404):
        return UpstreamRefused(f"The upstream refused WorldRouter's own access (status {status}).")
    if status == 408:
        return UpstreamTimeout("The upstream timed out.")
    if status == 429:
        return RateLimited("The upstream is rate limited.", retry_after_s=retry_after_s or 1.0)
    if status == 503 and retry_after_s is not None and retry_after_s > LONG_RETRY_AFTER_S:
        return ServiceUnavailable("The upstream is not available.", retry_after_s=retry_after_s)
    return UpstreamFailed(f"The upstream failed (status {status}).")


def _said(body: bytes) -> _Error:
    """The error object, OpenAI's or one of those that others send in its place."""
    try:
        found = _decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return _Error()
    if isinstance(found.error, str):
        return _Error(message=found.error)
    return found.error or _Error(message=found.message, param=found.param, code=found.code)
