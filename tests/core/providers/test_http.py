"""The HTTP client: whole answers, and the connections that carry them."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trustme

from core.errors import RateLimited, UpstreamFailed
from core.providers.base import ConnectFailed, Head
from core.providers.http import HttpClient, HttpLimits, HttpPool, Origin
from core.providers.http_reply import HttpReply

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"6\r\ndata: \r\n3;note=x\r\n1\n\n\r\n7\r\ndata: 2\r\n2\r\n\n\n\r\n0\r\nTrailer: x\r\n\r\n"
)


def send(pool: HttpPool, body: bytes = b"{}") -> HttpReply:
    return pool.send(b"POST /v1 HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % len(body), body)


async def read_all(reply: HttpReply) -> bytes:
    pieces = []
    while piece := await reply.read():
        pieces.append(piece)
    return b"".join(pieces)


async def ask(pool: HttpPool, body: bytes = b"{}") -> tuple[Head, bytes]:
    reply = send(pool, body)
    try:
        return await reply.head(), await read_all(reply)
    finally:
        reply.close()


async def test_an_answer_comes_with_its_head_and_body(far_end: Any, client: HttpClient) -> None:
    """Status, content type and body are those of the upstream, and the request arrives as it was given."""
    head, body = await ask(client.pool(await far_end.answer(OK)), b'{"a":1}')
    assert (head, body) == (Head(200, "application/json", None), b"{}")
    assert far_end.requests == [b'POST /v1 HTTP/1.1\r\nhost: h\r\ncontent-length: 7\r\n\r\n{"a":1}']


async def test_a_connection_is_kept_for_the_next_request(far_end: Any, client: HttpClient) -> None:
    """Requests one after another share one connection."""
    pool = client.pool(await far_end.answer(OK))
    for _ in range(5):
        await ask(pool)
    assert (far_end.connection_count, len(far_end.requests)) == (1, 5)


async def test_sending_over_an_idle_connection_takes_no_task(far_end: Any, client: HttpClient) -> None:
    """With an idle connection a request is sent at once, without any task."""
    pool = client.pool(await far_end.answer(OK))
    await ask(pool)
    before = asyncio.all_tasks()
    reply = send(pool)
    assert asyncio.all_tasks() == before
    assert await read_all(reply) == b"{}"


async def test_a_chunked_answer_may_be_cut_anywhere(far_end: Any, client: HttpClient) -> None:
    """Wherever the socket splits a chunked answer, the same body comes out and the connection is kept."""
    cuts = iter(range(1, len(CHUNKED)))

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for cut in cuts:
            await far_end.request(reader)
            writer.write(CHUNKED[:cut])
            await asyncio.sleep(0.001)
            writer.write(CHUNKED[cut:])

    pool = client.pool(await far_end.serve(handle))
    for _ in range(1, len(CHUNKED)):
        head, body = await ask(pool)
        assert (head.content_type, body) == ("text/event-stream", b"data: 1\n\ndata: 2\n\n")
    assert far_end.connection_count == 1


async def test_one_read_returns_all_that_arrived(far_end: Any, client: HttpClient) -> None:
    """Chunks that one read of the socket delivered come out as one piece."""
    reply = send(client.pool(await far_end.answer(CHUNKED)))
    await reply.head()
    assert await reply.read() == b"data: 1\n\ndata: 2\n\n"
    assert await reply.read() == b""


async def test_a_body_may_last_until_the_connection_closes(far_end: Any, client: HttpClient) -> None:
    """Without a length the body ends when the upstream closes, and that is a proper end."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far_end.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nuntil ")
        await asyncio.sleep(0.01)
        writer.write(b"the end")
        writer.write_eof()
        await reader.read()

    _, body = await ask(client.pool(await far_end.serve(handle)))
    assert body == b"until the end"


async def test_answers_without_a_body_end_at_once(far_end: Any, client: HttpClient) -> None:
    """A 204, and a length of 0, have an empty body and keep the connection."""
    pool = client.pool(
        await far_end.answer(b"HTTP/1.1 204 No\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    )
    assert [(await ask(pool))[1] for _ in range(2)] == [b"", b""]
    assert far_end.connection_count == 1


async def test_informational_answers_are_skipped(far_end: Any, client: HttpClient) -> None:
    """100 and 103 before the answer are not the answer, and their headers are not its headers."""
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nRetry-After: 9\r\n\r\n"
    head, body = await ask(client.pool(await far_end.answer(early + OK)))
    assert (head, body) == (Head(200, "application/json", None), b"{}")


async def test_an_informational_answer_that_comes_alone_is_waited_past(far_end: Any, client: HttpClient) -> None:
    """The call has no head before the answer's own."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far_end.request(reader)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.05)
        writer.write(OK)
        await reader.read()

    head, _ = await ask(client.pool(await far_end.serve(handle)))
    assert head.status == 200


async def test_redirects_are_not_followed(far_end: Any, client: HttpClient) -> None:
    """A redirect is an answer like any other; nobody goes where it points."""
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    head, _ = await ask(client.pool(await far_end.answer(answer)))
    assert (head.status, len(far_end.requests)) == (302, 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        OK + b"surplus",
        OK + OK,
    ],
    ids=["close", "http-1.0", "surplus", "two-answers"],
)
async def test_a_connection_that_is_done_is_not_used_again(answer: bytes, far_end: Any, client: HttpClient) -> None:
    """After `Connection: close`, HTTP/1.0 or more bytes than asked for, the next request gets a new one."""
    pool = client.pool(await far_end.answer(answer))
    assert [(await ask(pool))[1] for _ in range(2)] == [b"{}", b"{}"]
    assert far_end.connection_count == 2


async def test_bytes_nobody_asked_for_close_an_idle_connection(far_end: Any, client: HttpClient) -> None:
    """An answer that comes without a request cannot become the answer to the next one."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far_end.request(reader)
        writer.write(OK)
        await asyncio.sleep(0.02)
        writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    pool = client.pool(await far_end.serve(handle))
    await ask(pool)
    await asyncio.sleep(0.05)
    assert far_end.open_count == 0
    assert (await ask(pool))[0].status == 200


async def test_two_hundred_requests_at_once(far_end: Any, client: HttpClient) -> None:
    """Concurrent requests each get their own answer, and as many connections as are needed."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            body = (await far_end.request(reader)).split(b"\r\n\r\n")[1]
            await asyncio.sleep(0.01)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    pool = client.pool(await far_end.serve(handle))
    for _ in range(2):
        answers = await asyncio.gather(*(ask(pool, b"%d" % i) for i in range(200)))
        assert [body for _, body in answers] == [b"%d" % i for i in range(200)]
    assert far_end.connection_count <= 200


async def test_idle_connections_are_closed_in_time(far_end: Any, complaints: list[Any]) -> None:
    """A connection that was idle for the limit is closed, and the next request opens another."""
    client = HttpClient(HttpLimits(idle_timeout_s=0.1))
    pool = client.pool(await far_end.answer(OK))
    await asyncio.gather(ask(pool), ask(pool))
    assert far_end.open_count == 2
    await asyncio.sleep(0.05)
    await ask(pool)  # so that one of them has been idle for less when the other is closed
    await asyncio.sleep(0.25)
    assert far_end.open_count == 0
    await ask(pool)
    assert far_end.connection_count == 3
    await client.close()


async def test_a_limit_of_connections_refuses_at_once(far_end: Any, complaints: list[Any]) -> None:
    """A request above the limit fails as rate limited rather than wait; one after it is served."""
    client = HttpClient()
    origin = await far_end.answer(OK)
    pool, other = client.pool(origin, 1), client.pool(origin)
    first, second = send(pool), send(pool)
    assert (await ask(other))[1] == b"{}"  # of another provider at the same place
    with pytest.raises(RateLimited) as caught:
        await second.head()
    assert caught.value.retry_after_s == 1.0
    assert await read_all(first) == b"{}"
    assert (await ask(pool))[1] == b"{}"
    await client.close()


@pytest.mark.parametrize("reached", ["while it connects", "before its answer", "within its answer"])
async def test_a_request_that_is_given_up_makes_room_at_once(far_end: Any, complaints: list[Any], reached: str) -> None:
    """The next attempt of the same request may go to the same host: it must not find its own connection in its way."""
    endless = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"
    client = HttpClient()
    pool = client.pool(await far_end.answer(endless if reached == "within its answer" else b""), 1)
    first = send(pool)
    if reached == "within its answer":
        await first.head()
    elif reached == "before its answer":
        await asyncio.sleep(0.05)
        assert far_end.open_count == 1
    first.close()
    second = send(pool)
    assert second.is_waiting
    with pytest.raises(RateLimited):
        await send(pool).head()
    second.close()
    await client.close()


async def test_a_refused_connection_is_connect_failed(client: HttpClient) -> None:
    """Nobody listens: the call fails before anything was sent, and says why to the log only."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        pool = client.pool(Origin("http", "127.0.0.1", unused.getsockname()[1]))
        with pytest.raises(ConnectFailed) as caught:
            await ask(pool)
    assert isinstance(caught.value.__cause__, OSError)
    assert "127.0.0.1" not in str(caught.value)


@contextmanager
def listener_that_answers_nobody() -> Iterator[socket.socket]:
    """Its backlog is full, so that the kernel drops whatever else arrives."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener


async def test_connecting_has_a_time_limit(complaints: list[Any]) -> None:
    """A listener that accepts nobody costs the connect timeout, no more."""
    client = HttpClient(HttpLimits(connect_timeout_s=0.2))
    with listener_that_answers_nobody() as listener:
        started = time.monotonic()
        with pytest.raises(ConnectFailed):
            await ask(client.pool(Origin("http", *listener.getsockname())))
        assert 0.15 < time.monotonic() - started < 1.5
    await client.close()


@pytest.mark.parametrize("first", ["black hole", "refused"])
async def test_an_address_that_does_not_answer_does_not_hold_up(
    far_end: Any, complaints: list[Any], first: str
) -> None:
    """Of a host with several addresses the next is tried soon beside one that is silent, at once after one that fails.

    The connection is the pool's like any other.
    """
    good = await far_end.answer(OK)
    with listener_that_answers_nobody() as black_hole, socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        bad = black_hole if first == "black hole" else refusing

        async def resolve(host: str, port: int) -> list[Any]:
            assert (host, port) == ("two.test", 80)
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 0, "", address)
                for address in (bad.getsockname(), ("127.0.0.1", good.port))
            ]

        client = HttpClient(HttpLimits(connect_timeout_s=30.0), resolve=resolve)
        pool = client.pool(Origin("http", "two.test", 80))
        started = time.monotonic()
        assert (await ask(pool))[1] == b"{}"
        assert time.monotonic() - started < 2.0
        await ask(pool)
        assert far_end.connection_count == 1
        await client.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority that only these tests trust."""
    return trustme.CA()


def server_tls(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_https_is_verified_and_kept(far_end: Any, complaints: list[Any], authority: trustme.CA) -> None:
    """Over TLS with a trusted certificate large bodies pass both ways and the connection is kept."""
    body = b"x" * 3_000_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    client = HttpClient(tls=client_tls(authority))
    pool = client.pool(await far_end.answer(answer, tls=server_tls(authority, "localhost")))
    for _ in range(2):
        assert (await ask(pool, body))[1] == body
    assert far_end.connection_count == 1
    assert far_end.requests[1].endswith(body)
    await client.close()


async def test_giving_up_as_tls_is_ready_disturbs_nobody(
    far_end: Any, complaints: list[Any], authority: trustme.CA
) -> None:
    """Wherever in the handshake a call is closed, its socket is closed once: the next one works."""

    async def resolve(host: str, port: int) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    client = HttpClient(HttpLimits(connect_timeout_s=1.0), tls=client_tls(authority), resolve=resolve)
    pool = client.pool(await far_end.answer(OK, tls=server_tls(authority, "localhost")))
    for turns in range(30):
        given_up = [send(pool) for _ in range(3)]
        for _ in range(turns):
            await asyncio.sleep(0)
        for reply in given_up:
            reply.close()
        pool.close_idle()
        assert (await ask(pool))[1] == b"{}"
    await client.close()


@pytest.mark.parametrize("fault", ["name", "issuer", "silent", "plain"])
async def test_https_that_cannot_be_trusted_is_connect_failed(
    fault: str, far_end: Any, complaints: list[Any], authority: trustme.CA
) -> None:
    """Another name, an unknown issuer, a silent server and one without TLS: nothing is sent to any of them."""
    issuer = trustme.CA() if fault == "issuer" else authority
    tls = server_tls(issuer, "elsewhere.test" if fault == "name" else "localhost")

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        await (reader.read() if fault == "silent" else asyncio.sleep(0))

    origin = await (far_end.serve(silent) if fault in ("silent", "plain") else far_end.answer(OK, tls=tls))
    client = HttpClient(HttpLimits(connect_timeout_s=0.3), tls=client_tls(authority))
    with pytest.raises(ConnectFailed):
        await ask(client.pool(Origin("https", "localhost", origin.port)))
    assert far_end.requests == []
    await client.close()


async def test_closing_the_client_ends_calls_under_way(far_end: Any, client: HttpClient) -> None:
    """After `close` every call has failed, every socket is gone, and further requests fail."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far_end.request(reader)
        writer.write(CHUNKED[:100])
        await reader.read()

    pool = client.pool(await far_end.serve(handle))
    reply = send(pool)
    await reply.head()
    dialling = send(pool)
    await client.close()
    with pytest.raises(UpstreamFailed):
        await read_all(reply)
    with pytest.raises(ConnectFailed):
        await dialling.head()
    with pytest.raises(ConnectFailed):
        await send(pool).head()


async def test_a_waiter_that_is_cancelled_loses_nothing(far_end: Any, client: HttpClient) -> None:
    """Another takes its place, before the connection is made, before the head and in mid-body."""
    go_on = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far_end.request(reader)
        for piece in (CHUNKED[:-30], CHUNKED[-30:]):
            await go_on.wait()
            go_on.clear()
            writer.write(piece)

    async def given_up(waiting: Any) -> None:
        task = asyncio.ensure_future(waiting)
        for _ in range(3):
            await asyncio.sleep(0.005)
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    reply = send(client.pool(await far_end.serve(handle)))
    early = asyncio.ensure_future(reply.head())
    await asyncio.sleep(0)
    early.cancel()
    await asyncio.gather(early, return_exceptions=True)
    await given_up(reply.head())
    go_on.set()
    assert (await reply.head()).status == (await reply.head()).status == 200
    first = await reply.read()
    await given_up(reply.read())
    go_on.set()
    assert first + await read_all(reply) == b"data: 1\n\ndata: 2\n\n"
