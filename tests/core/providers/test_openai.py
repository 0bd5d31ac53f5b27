"""The OpenAI-speaking provider: what reaches the upstream, and what never leaves us."""

from __future__ import annotations

from typing import Any

import pytest

from core.errors import UpstreamFailed
from core.providers.base import Head
from core.providers.http import HttpClient, Origin
from core.providers.openai import OpenAIProvider

SECRET = "sk-secret-1234567890"
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def base_url(origin: Origin, path: str = "/v1") -> str:
    return f"http://{origin.host}:{origin.port}{path}"


async def exchange(provider: OpenAIProvider, body: bytes = b"{}", *, stream: bool = False) -> tuple[Head, bytes]:
    reply = provider.send(body, stream=stream)
    head = await reply.head()
    pieces = []
    while piece := await reply.read():
        pieces.append(piece)
    reply.close()
    return head, b"".join(pieces)


def headers_of(request: bytes) -> dict[str, str]:
    lines = request.split(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}


async def test_a_request_is_what_openai_expects(far_end: Any, client: HttpClient) -> None:
    """The body goes unchanged to the chat completions below the base URL, with the key and the media types."""
    origin = await far_end.answer(OK)
    provider = OpenAIProvider(base_url(origin), SECRET, client)
    assert await exchange(provider, b'{"seed": 1e2}') == (Head(200, "application/json", None), b"{}")
    request = far_end.requests[0]
    assert request.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert request.endswith(b'\r\n\r\n{"seed": 1e2}')
    assert headers_of(request) == {
        "host": f"127.0.0.1:{origin.port}",
        "user-agent": "worldrouter",
        "authorization": f"Bearer {SECRET}",
        "content-type": "application/json",
        "accept": "application/json",
        "accept-encoding": "identity",
        "content-length": "13",
    }


async def test_a_stream_asks_for_events(far_end: Any, client: HttpClient) -> None:
    """Only a streaming request accepts an event stream."""
    provider = OpenAIProvider(base_url(await far_end.answer(OK)), None, client)
    await exchange(provider, stream=True)
    assert headers_of(far_end.requests[0])["accept"] == "text/event-stream"


async def test_without_a_key_there_is_no_authorization(far_end: Any, client: HttpClient) -> None:
    """A local upstream needs no credential and gets none."""
    await exchange(OpenAIProvider(base_url(await far_end.answer(OK)), None, client))
    assert "authorization" not in headers_of(far_end.requests[0])


async def test_extra_headers_go_along(far_end: Any, client: HttpClient) -> None:
    """Headers of the configuration reach the upstream as they are, percent signs too; the agent may be changed."""
    extra = {"OpenAI-Organization": "org 100%", "User-Agent": "ours/1", "api-key": SECRET}
    provider = OpenAIProvider(base_url(await far_end.answer(OK)), None, client, extra)
    await exchange(provider)
    found = headers_of(far_end.requests[0])
    assert (found["openai-organization"], found["user-agent"], found["api-key"]) == ("org 100%", "ours/1", SECRET)


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("", b"/chat/completions"),
        ("/", b"/chat/completions"),
        ("/v1/", b"/v1/chat/completions"),
        ("/a%20b/v1", b"/a%20b/v1/chat/completions"),
    ],
)
async def test_the_path_of_the_base_url_is_kept(path: str, target: bytes, far_end: Any, client: HttpClient) -> None:
    """With or without a slash at its end, and with escapes."""
    await exchange(OpenAIProvider(base_url(await far_end.answer(OK), path), None, client))
    assert far_end.requests[0].split(b" ")[1] == target


async def test_an_error_is_passed_on_unread(far_end: Any, client: HttpClient) -> None:
    """A refusal is an answer: its status, Retry-After and body are for the caller to judge."""
    answer = b'HTTP/1.1 429 No\r\nRetry-After: 3\r\nContent-Length: 12\r\n\r\n{"error":{}}'
    provider = OpenAIProvider(base_url(await far_end.answer(answer)), SECRET, client)
    assert await exchange(provider) == (Head(429, "", 3.0), b'{"error":{}}')


async def test_closing_a_provider_closes_idle_connections_only(far_end: Any, client: HttpClient) -> None:
    """Others that share the client, and calls under way, are not disturbed."""
    provider = OpenAIProvider(base_url(await far_end.answer(OK)), SECRET, client)
    await exchange(provider)
    reply = provider.send(b"{}", stream=False)
    await provider.close()
    assert await reply.read() == b"{}"
    await provider.close()
    await exchange(provider)
    assert far_end.connection_count == 2


async def test_the_secret_shows_nowhere(far_end: Any, client: HttpClient) -> None:
    """Neither the provider, nor its replies, nor an error of the upstream shows the key."""
    provider = OpenAIProvider(base_url(await far_end.answer(b"nonsense\r\n\r\n")), SECRET, client)
    reply = provider.send(b"{}", stream=False)
    with pytest.raises(UpstreamFailed) as caught:
        await reply.head()
    shown = f"{provider!r} {reply!r} {caught.value!r} {caught.value.__cause__!r} {vars(caught.value)}"
    assert SECRET not in shown
    assert "127.0.0.1" in repr(provider)


@pytest.mark.parametrize(
    ("url", "key", "extra"),
    [
        ("ftp://host/v1", None, {}),
        ("host/v1", None, {}),
        ("https:///v1", None, {}),
        ("https://user:secret@host/v1", None, {}),
        ("https://host/v1?key=secret", None, {}),
        ("https://höst/v1", None, {}),
        ("https://host/v 1", None, {}),
        ("https://host/v1", "secret\r\nX: y", {}),
        ("https://host/v1", "", {}),
        ("https://host/v1", None, {"X": "secret\r\nY: z"}),
        ("https://host/v1", None, {"X Y": "secret"}),
        ("https://host/v1", None, {"Content-Length": "1"}),
        ("https://host/v1", None, {"Transfer-Encoding": "chunked"}),
        ("https://host/v1", "secret", {"Authorization": "secret"}),
    ],
)
async def test_what_cannot_be_sent_is_refused_at_once(
    url: str, key: str | None, extra: dict[str, str], client: HttpClient
) -> None:
    """A bad base URL, key or header is refused when the provider is made, without repeating any secret."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message differs, the absence of the secret counts
        OpenAIProvider(url, key, client, extra)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "authority", "port"),
    [
        ("https://API.example.com/v1", "api.example.com", 443),
        ("http://example.com", "example.com", 80),
        ("http://example.com:443", "example.com:443", 443),
        ("https://[::1]:8443/v1", "[::1]:8443", 8443),
    ],
)
def test_an_origin_knows_its_port_and_authority(url: str, authority: str, port: int) -> None:
    """The Host header leaves out the scheme's own port and brackets an IPv6 address."""
    origin = Origin.of(url)
    assert (origin.authority, origin.port) == (authority, port)
