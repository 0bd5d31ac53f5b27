"""The head of an answer that the edge writes itself, in one piece with its body."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import grpc

from edge.errors import RATE_LIMIT_PREFIX, REQUEST_ID

_STATUS_LINES: Mapping[int, str] = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus
}
FOR_CLIENTS = ("x-worldrouter-", RATE_LIMIT_PREFIX)

ANSWER_HEADERS: Mapping[str, tuple[str, str]] = {
    REQUEST_ID: ("string", "Id of the request, on every answer. Name it when you ask for help."),
    "x-worldrouter-overhead-ms": ("number", "Milliseconds that the answer spent in the router, not at the provider."),
    "x-worldrouter-ignored": ("string", "Fields of the request that were not passed on, comma-separated."),
    "x-worldrouter-max-tokens": (
        "integer",
        "The output limit that the balance allowed, lower than what was asked for.",
    ),
    "x-ratelimit-limit-requests": ("integer", "Requests per minute of the tightest limit; not sent without one."),
    "x-ratelimit-remaining-requests": ("integer", "Requests that this limit has room for now."),
    "x-ratelimit-reset-requests": ("string", "How long until all of it is free again, such as `12ms` or `1m0s`."),
    "x-ratelimit-limit-tokens": ("integer", "Tokens per minute of the tightest limit; not sent without one."),
    "x-ratelimit-remaining-tokens": ("integer", "Tokens that this limit has room for now."),
    "x-ratelimit-reset-tokens": ("string", "How long until all of it is free again, such as `12ms` or `1m0s`."),
    "Retry-After": ("integer", "Seconds after which to try again."),
    "x-should-retry": ("string", "`false`: the router has made its attempts already."),
    "WWW-Authenticate": ("string", "The scheme of the key: `Bearer`."),
    "Allow": ("string", "The methods that the route takes."),
}
"""What an answer may carry for the client, beside what HTTP itself needs: JSON Schema's type, and what it means."""

EXPOSED_HEADERS = tuple(ANSWER_HEADERS)
"""What pages of other origins may read of an answer: no browser takes a pattern here."""


class Sent:
    """Stands for an answer that is written already: what aiohttp's protocol still asks of it."""

    __slots__ = ("keep_alive", "status")

    def __init__(self, status: int, *, keep_alive: bool) -> None:
        self.status = status
        self.keep_alive = keep_alive

    async def prepare(self, request: object) -> None:
        """Nothing: it is prepared."""

    async def write_eof(self) -> None:
        """Nothing: it is written."""


def answer_headers(base: Mapping[str, str], metadata: grpc.aio.Metadata, overhead_us: int | None) -> dict[str, str]:
    """Headers of a completion: `base`, what the core's initial metadata has for the client, its overhead."""
    headers = dict(base)
    for key, value in metadata:
        if key == REQUEST_ID or key.startswith(FOR_CLIENTS):
            headers[key] = str(value)
    if overhead_us is not None:
        headers["x-worldrouter-overhead-ms"] = f"{overhead_us // 1000}.{overhead_us % 1000:03d}"
    return headers


def head(status: int, headers: Mapping[str, str], *, date: str, length: int | None, connection: str | None) -> bytes:
    """Status line and headers. `length` None: the body comes as HTTP chunks, or lasts until the connection's end."""
    lines = [_STATUS_LINES[status]]
    lines += [f"{name}: {value}\r\n" for name, value in headers.items()]
    if length is not None:
        lines.append(f"Content-Length: {length}\r\n")
    if connection is not None:
        lines.append(f"Connection: {connection}\r\n")
    lines.append(f"Date: {date}\r\nServer: worldrouter\r\n\r\n")
    return "".join(lines).encode("latin-1", "replace")
