"""The HTTP client: upstreams that break off, say nonsense or say too much, and callers who give up."""

from __future__ import annotations

import asyncio
import os
import socket
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from core.errors import UpstreamFailed, UpstreamTimeout
from core.providers.base import ConnectFailed
from core.providers.http import HttpClient, HttpPool, Origin
from core.providers.http_connection import MAX_UNREAD_BYTES, retry_after_s
from core.providers.http_reply import HttpReply

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nten bytes."
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def send(pool: HttpPool, body: bytes = b"{}") -> HttpReply:
    return pool.send(b"POST /v1 HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % len(body), body)


async def read_all(reply: HttpReply) -> bytes:
    pieces = []
    while piece := await reply.read():
        pieces.append(piece)
    return b"".join(pieces)


async def ask(pool: HttpPool) -> bytes:
    reply = send(pool)
    try:
        return await read_all(reply)
    finally:
        reply.close()


async def answer_once(far_end: Any, answer: bytes) -> Origin:
    """A server that closes every connection after one answer, or part of one."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far_end.request(reader)
        writer.write(answer)
        await writer.drain()
        writer.write_eof()
        await reader.read()

    return await far_end.serve(handle)


# connections that close


async def test_a_stale_connection_is_replaced_unnoticed(far_end: Any, client: HttpClient) -> None:
    """An upstream that closes a kept connection on the next request is asked again on a fresh one."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far_end.request(reader)
        writer.write(OK)
        await far_end.request(reader)

    pool = client.pool(await far_end.serve(handle))
    for _ in range(4):
        assert await ask(pool) == b"{}"
    assert far_end.connection_count == 4
    assert len(far_end.requests) == 7


async def test_a_stale_connection_is_retried_only_once(far_end: Any, client: HttpClient) -> None:
    """When the fresh connection closes without a word as well, the call fails as never answered."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far_end.request(reader)
        if far_end.connection_count == 1:
            writer.write(OK)
            await far_end.request(reader)

    pool = client.pool(await far_end.serve(handle))
    await ask(pool)
    with pytest.raises(ConnectFailed):
        await ask(pool)
    assert (far_end.connection_count, len(far_end.requests)) == (2, 3)


async def test_a_connection_closed_while_idle_is_forgotten(far_end: Any, client: HttpClient) -> None:
    """A close that was noticed in time costs no retry."""
    pool = client.pool(await answer_once(far_end, OK))
    for _ in range(3):
        await ask(pool)
        await asyncio.sleep(0.02)
    assert (far_end.connection_count, len(far_end.requests)) == (3, 3)


async def test_an_answer_broken_off_in_its_head_is_not_asked_for_again(far_end: Any, client: HttpClient) -> None:
    """Once a byte of the answer came the request may have been served: it fails, on a kept connection too."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far_end.request(reader)
        writer.write(OK)
        await far_end.request(reader)
        writer.write(b"HTTP/1.1 2")

    pool = client.pool(await far_end.serve(handle))
    await ask(pool)
    with pytest.raises(UpstreamFailed) as caught:
        await send(pool).head()
    assert not isinstance(caught.value, ConnectFailed)
    assert len(far_end.requests) == 2


@pytest.mark.parametrize("answer", [LONG, CHUNKED + b"a\r\nten bytes.\r\n", CHUNKED + b"20\r\nten bytes."])
async def test_a_body_cut_short_is_an_error_after_what_came(answer: bytes, far_end: Any, client: HttpClient) -> None:
    """What arrived before the cut is read first; then the cut is raised, and raised again."""
    reply = send(client.pool(await answer_once(far_end, answer)))
    assert await reply.read() == b"ten bytes."
    for _ in range(2):
        with pytest.raises(UpstreamFailed, match="in the middle"):
            await reply.read()


async def test_a_reset_ends_no_body_properly(far_end: Any, client: HttpClient) -> None:
    """A body that lasts until the connection closes is cut, not complete, when the connection is reset."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far_end.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nsome")
        await asyncio.sleep(0.02)
        linger = b"\x01\0\0\0\0\0\0\0"  # close with a reset
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    reply = send(client.pool(await far_end.serve(handle)))
    assert await reply.read() == b"some"
    with pytest.raises(UpstreamFailed):
        await reply.read()


# answers that are refused


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        CHUNKED + b"zz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\t\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000 + b"\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"Content-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 103 Early\r\nX: y\r\n\r\n" * 200 + OK,
        CHUNKED + b"1;" + b"x" * 70_000,
        CHUNKED + b"0\r\nX: " + b"x" * 70_000,
    ],
    ids=[
        "ssh",
        "length-and-chunks",
        "two-lengths",
        "negative-length",
        "upgrade",
        "bad-chunk",
        "unknown-coding",
        "chunked-and-a-tab",
        "compressed",
        "endless-header",
        "long-header",
        "many-headers",
        "many-informational",
        "chunk-extension",
        "trailer",
    ],
)
async def test_an_answer_that_is_no_good_fails_the_call(answer: bytes, far_end: Any, client: HttpClient) -> None:
    """Whatever is not plain, limited HTTP/1.1 is an upstream failure, and its connection is closed at once."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far_end.request(reader)
        writer.write(answer)
        await reader.read()

    with pytest.raises(UpstreamFailed) as caught:
        await ask(client.pool(await far_end.serve(handle)))
    assert not isinstance(caught.value, ConnectFailed)
    await until(lambda: far_end.open_count == 0)


@pytest.mark.parametrize(
    "header",
    [b"Content-Encoding: identity", b"Content-Encoding: none", b"Content-Encoding:", b"Content-Encoding: Identity \t"],
)
async def test_an_explicit_identity_encoding_is_accepted(header: bytes, far_end: Any, client: HttpClient) -> None:
    """A Content-Encoding that names no compression says nothing, and is no reason to fail."""
    answer = b"HTTP/1.1 200 OK\r\n%b\r\nContent-Length: 2\r\n\r\n{}" % header
    assert await ask(client.pool(await far_end.answer(answer))) == b"{}"


async def test_blanks_behind_a_value_are_none_of_it(far_end: Any, client: HttpClient) -> None:
    """A chunked answer is one however many blanks stand behind the word (RFC 9110, 5.5)."""
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked  \r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    pool = client.pool(await far_end.answer(answer))
    assert [await ask(pool), await ask(pool)] == [b"{}", b"{}"]
    assert far_end.connection_count == 1


# backpressure


async def test_a_slow_reader_holds_the_upstream_back(far_end: Any, client: HttpClient) -> None:
    """While nobody reads, little more than the limit is held, and all of it arrives in the end."""
    size = 48 * 1024 * 1024
    written = 0

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await far_end.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while written < size:
            writer.write(bytes(65536))
            await writer.drain()
            written += 65536
        await reader.read()

    reply = send(client.pool(await far_end.serve(handle)))
    await reply.head()
    await asyncio.sleep(0.2)
    assert sum(map(len, reply.pieces)) <= MAX_UNREAD_BYTES + 256_000  # one read of uvloop's
    assert written < size
    assert len(await read_all(reply)) == size


async def test_a_slower_reader_of_a_stream_holds_the_upstream_back(far_end: Any, client: HttpClient) -> None:
    """What it takes piece by piece makes room only when little is left."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far_end.request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    reply = send(client.pool(await far_end.serve(handle)))
    for _ in range(20):
        assert len(await reply.read()) <= MAX_UNREAD_BYTES
        await asyncio.sleep(0.005)
        assert sum(map(len, reply.pieces)) <= MAX_UNREAD_BYTES + 256 * 1024  # one read of asyncio's
    reply.close()


async def test_a_large_request_waits_for_a_slow_upstream(far_end: Any, client: HttpClient) -> None:
    """A body that the upstream takes its time to read arrives whole, and is not copied while it waits."""
    body = os.urandom(1024) * 16_384

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        assert (await far_end.request(reader)).endswith(body)
        writer.write(OK)
        await reader.read()

    pool = client.pool(await far_end.serve(handle))
    tracemalloc.start()
    reply = send(pool, body)
    await asyncio.sleep(0.05)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 2 * 1024 * 1024
    assert await read_all(reply) == b"{}"


async def test_an_early_answer_ends_a_large_request(far_end: Any, client: HttpClient) -> None:
    """An upstream that answers before it has read the body is heard, and its connection is not kept."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too large\r\nContent-Length: 2\r\n\r\n{}")
        await asyncio.sleep(60)

    pool = client.pool(await far_end.serve(handle))
    async with asyncio.timeout(3):
        for _ in range(2):
            reply = send(pool, bytes(32 * 1024 * 1024))
            assert (await reply.head()).status == 413
            assert await read_all(reply) == b"{}"
    assert far_end.connection_count == 2


async def test_an_end_in_the_middle_of_a_large_request_is_heard(far_end: Any, client: HttpClient) -> None:
    """Of an upstream that hears no more and does not close, at once."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write_eof()
        await asyncio.sleep(60)

    pool = client.pool(await far_end.serve(handle))
    async with asyncio.timeout(3):
        with pytest.raises(ConnectFailed):
            await send(pool, bytes(32 * 1024 * 1024)).head()


# callers who give up


async def until(condition: Callable[[], bool], within_s: float = 1.0) -> None:
    """Wait until this is so; fail when it is not in time."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - of a socket's end no event tells
            await asyncio.sleep(0.005)


def descriptor_count() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("phase", ["dialling", "sent", "headed", "body"])
@pytest.mark.parametrize("how", ["close", "fail"])
async def test_giving_up_closes_the_socket_in_any_phase(phase: str, how: str, far_end: Any, client: HttpClient) -> None:
    """However far a call is, giving up wakes whoever waits, closes the socket at once and leaves nothing."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far_end.request(reader)
        writer.write({"sent": b"", "headed": CHUNKED, "body": CHUNKED + b"2\r\nhi\r\n"}[phase])
        await reader.read()

    pool = client.pool(await far_end.serve(handle))
    before = descriptor_count()
    for _ in range(20):
        reply = send(pool)
        if phase == "body":
            assert await reply.read() == b"hi"
        elif phase == "headed":
            await reply.head()
        elif phase == "sent":
            await until(lambda: far_end.open_count > 0)
        waiting = asyncio.ensure_future(reply.read())
        await asyncio.sleep(0)
        if how == "close":
            reply.close()
        else:
            reply.fail(UpstreamTimeout("too late"))
        with pytest.raises(UpstreamFailed if how == "close" else UpstreamTimeout):
            await waiting
        reply.close()
        await until(lambda: far_end.open_count == 0)
    await until(lambda: descriptor_count() <= before)


async def test_giving_up_at_any_turn_of_the_loop_leaves_nothing(far_end: Any, client: HttpClient) -> None:
    """Wherever between connecting and answering a call is closed, its socket is closed as well."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far_end.request(reader)
        writer.write(CHUNKED)
        await reader.read()

    pool = client.pool(await far_end.serve(handle))
    before = descriptor_count()
    for turns in list(range(20)) * 3:
        reply = send(pool)
        for _ in range(turns):
            await asyncio.sleep(0)
        reply.close()
    await until(lambda: far_end.open_count == 0)
    await until(lambda: descriptor_count() <= before)


async def test_closing_at_any_turn_of_the_loop_leaves_nothing(far_end: Any, complaints: list[Any]) -> None:
    """The client's end waits for no call, wherever between connecting and being idle again it is."""
    origin = await far_end.answer(OK)
    for turns in range(20):
        client = HttpClient()
        reply = send(client.pool(origin))
        for _ in range(turns):
            await asyncio.sleep(0)
        async with asyncio.timeout(2):
            await client.close()
        reply.close()
    await until(lambda: far_end.open_count == 0)


async def test_giving_up_on_a_tls_handshake_leaves_nothing(far_end: Any, client: HttpClient) -> None:
    """A call closed while TLS is being negotiated closes its socket."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            pass

    origin = await far_end.serve(handle)
    pool = client.pool(Origin("https", "127.0.0.1", origin.port))
    before = descriptor_count()
    for _ in range(5):
        reply = send(pool)
        await until(lambda: far_end.open_count > 0)
        reply.close()
        await until(lambda: far_end.open_count == 0)
    await until(lambda: descriptor_count() <= before)


async def test_a_failure_comes_before_what_was_not_read(far_end: Any, client: HttpClient) -> None:
    """`fail` makes the next read raise, although there is more to read."""
    reply = send(client.pool(await far_end.answer(LONG)))
    await reply.head()
    reply.fail(UpstreamTimeout("too late"))
    with pytest.raises(UpstreamTimeout):
        await reply.read()


async def test_closing_a_complete_answer_keeps_its_connection(far_end: Any, client: HttpClient) -> None:
    """Once the answer is complete, closing the call twice does no harm to the connection it came by."""
    pool = client.pool(await far_end.answer(OK))
    for _ in range(3):
        reply = send(pool)
        await read_all(reply)
        reply.close()
        reply.close()
    assert far_end.connection_count == 1


async def test_a_cancelled_reader_may_still_close(far_end: Any, client: HttpClient) -> None:
    """Cancelling the task that reads leaves the call to be closed by its owner, and then nothing is left."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far_end.request(reader)
        await reader.read()

    reply = send(client.pool(await far_end.serve(handle)))
    reading = asyncio.ensure_future(reply.head())
    await until(lambda: far_end.requests != [])
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert far_end.open_count == 1
    reply.close()
    await until(lambda: far_end.open_count == 0)


# Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tue, 14 Nov 2000 22:13:50 GMT", 0.0),
        ("soon", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("nan", None),
        ("inf", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    """Both forms of RFC 9110 are read, the past is now, and nonsense is no wish at all."""
    assert retry_after_s(value, lambda: 1_700_000_000.0) == seconds


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (b"Retry-After: 12", 12.0),
        (b"Retry-After: Tue, 14 Nov 2023 22:13:25 GMT", 5.0),
        (b"Retry-After: 12\r\nretry-after-ms: 1500", 1.5),
        (b"X: y", None),
    ],
)
async def test_the_head_carries_retry_after(
    header: bytes, seconds: float | None, far_end: Any, client: HttpClient
) -> None:
    """A refusal says after how many seconds the upstream wants to be asked again."""
    answer = b"HTTP/1.1 429 Slow down\r\n%b\r\nContent-Length: 2\r\n\r\n{}" % header
    reply = send(client.pool(await far_end.answer(answer)))
    head = await reply.head()
    assert (head.status, head.retry_after_s) == (429, seconds)
