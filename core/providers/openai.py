"""Upstreams that speak OpenAI's own dialect: OpenAI itself, and everything compatible with it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from core.providers.http import HttpClient, Origin
from core.providers.http_reply import HttpReply

# What the transport decides, and what describes the body: not for an operator to set.
RESERVED_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "transfer-encoding",
        "upgrade",
    }
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, 5.1: a token
_VISIBLE = re.compile(r"[\x21-\x7e]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")


class OpenAIProvider:
    """`POST {base_url}/chat/completions` at one base URL with one credential (a `Provider`).

    The body goes out as it is given, so `stream` only says what to accept. Whatever the upstream answers, an
    error too, is for the caller to read.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        client: HttpClient,
        extra_headers: Mapping[str, str] | None = None,
        *,
        max_connections: int | None = None,
    ) -> None:
        """`base_url` as OpenAI's SDKs take it, with `/v1`. `extra_headers` go out with every request. For
        `max_connections` see `HttpPool`.

        ValueError, which never repeats a secret, when one of them cannot be sent.
        """
        origin = Origin.of(base_url)
        self._base_url = base_url.rstrip("/")
        self._pool = client.pool(origin, max_connections)
        head = _constant_head(origin, self._base_url, api_key, extra_headers or {})
        self._unary_head = head % b"application/json"
        self._stream_head = head % b"text/event-stream"

    def __repr__(self) -> str:
        return f"OpenAIProvider({self._base_url!r})"

    def send(self, body: bytes, *, stream: bool) -> HttpReply:
        """See `Provider.send`."""
        head = self._stream_head if stream else self._unary_head
        return self._pool.send(head + b"%d\r\n\r\n" % len(body), body)

    async def close(self) -> None:
        """Close the idle connections; calls under way end as they would. The client itself stays usable."""
        self._pool.close_idle()


def _constant_head(origin: Origin, base_url: str, api_key: str | None, extra: Mapping[str, str]) -> bytes:
    """The request's head up to the length of the body, with a `%b` where the wanted media type goes."""
    path = urlsplit(base_url).path + "/chat/completions"
    if not _VISIBLE.fullmatch(path):
        raise ValueError("the path of a base URL must be printable ASCII without spaces")
    headers = {"user-agent": "worldrouter"} | _checked(extra)
    if api_key is not None:
        if not _VISIBLE.fullmatch(api_key):
            raise ValueError("an API key must be printable ASCII without spaces")
        if "authorization" in headers:
            raise ValueError("give an API key or an Authorization header, not both")
        headers["authorization"] = f"Bearer {api_key}"
    lines = [f"POST {path} HTTP/1.1", f"host: {origin.authority}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += ["content-type: application/json", "accept-encoding: identity"]
    fixed = "\r\n".join(lines).encode("ascii").replace(b"%", b"%%")
    return fixed + b"\r\naccept: %b\r\ncontent-length: "


def _checked(extra: Mapping[str, str]) -> dict[str, str]:
    """The operator's headers, names in lower case; ValueError for what would break or bend the request."""
    for name, value in extra.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"the extra header {name!r} must be one line of printable ASCII")
        if name.lower() in RESERVED_HEADERS:
            raise ValueError(f"the extra header {name!r} is set by WorldRouter itself")
    return {name.lower(): value for name, value in extra.items()}
