"""What an upstream may do to us, and what the caller gets: of a whole answer, and of a stream."""

# ruff: noqa: E501 - a row of these tables is a line
from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass

from tests.hostile.far_end import (
    GOOD_EVENTS,
    SECRET,
    STOP,
    STREAM_HEAD,
    WHOLE,
    WORDS,
    Play,
    chunk,
    event,
    http_chunk,
    json_answer,
    stream_answer,
)

FAILED, LATE = (502, "upstream_error"), (504, "upstream_timeout")
OK = (200, "")
CUT, CUT_LATE = (200, "upstream_error"), (200, "upstream_timeout")
"""A stream that had begun, and ends in an error event."""
Outcome = tuple[int, str]


@dataclass(frozen=True)
class Scene:
    """`play` is what the upstream does; `whole` and `stream` are the status and the error's code that callers see.

    A scene without one of them is played for the other alone.
    """

    name: str
    play: Play
    whole: Outcome | None
    stream: Outcome | None


def says(data: bytes, *, close: bool = False) -> Play:
    """Send this, whatever was asked."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        if close:
            await writer.drain()
            writer.close()

    return play


def goes_on(start: bytes, piece: bytes, pause_s: float = 0.0) -> Play:
    """Send the start, then the piece until nobody takes it any more."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return play


def both(name: str, data: bytes, outcome: Outcome, *, close: bool = False) -> Scene:
    """The same bytes for both kinds of request."""
    return Scene(name, says(data, close=close), outcome, outcome)


def streamed(name: str, events: bytes, outcome: Outcome) -> Scene:
    """Events of a stream."""
    return Scene(name, says(stream_answer(events)), None, outcome)


def broken(name: str, event_: bytes, at_first: Outcome = FAILED) -> tuple[Scene, Scene]:
    """An event that breaks the stream: as its first, and when the caller has seen one."""

    async def later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + http_chunk(event(chunk())))
        await asyncio.sleep(0.05)
        writer.write(http_chunk(event_ + event(b"[DONE]")) + b"0\r\n\r\n")

    return streamed(name, event_ + GOOD_EVENTS, at_first), Scene(f"{name}, later", later, None, CUT)


def whole(name: str, body: bytes, outcome: Outcome) -> Scene:
    """The body of a whole answer."""
    return Scene(name, says(json_answer(body)), outcome, None)


def usage(name: str, text: bytes) -> tuple[Scene, Scene]:
    """An answer that claims to have used this."""
    at = WHOLE.index(b'"usage":') + len(b'"usage":')
    events = event(chunk()) + event(chunk(b"", b'"stop"', b',"usage":' + text)) + event(b"[DONE]")
    return (whole(f"usage: {name}", WHOLE[:at] + text + b"}", OK), streamed(f"usage: {name}", events, OK))


def refusal(status: int, headers: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 %d No\r\n%bcontent-length: %d\r\n\r\n%b" % (status, headers, len(body), body)


async def answers_unread(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer at once, and never read the request's large body."""
    writer.write(json_answer(WHOLE))
    await writer.drain()
    await asyncio.sleep(0.5)
    writer.transport.abort()


async def leaves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def says_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(-1)


MEGABYTE = b"x" * (1 << 20)
GIGABYTE_CHUNK = b"40000000\r\n"
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
DEEP = b"[" * 200_000
TO_ELSEWHERE = b"location: http://169.254.169.254/latest/meta-data\r\n"
NEVER = event(chunk(b"on and on "))

HTTP_SCENES = (
    Scene("a chunk of 1 GB", goes_on(STREAM_HEAD + GIGABYTE_CHUNK, MEGABYTE), FAILED, FAILED),
    Scene("an event of 1 GB", goes_on(STREAM_HEAD + GIGABYTE_CHUNK + b'data: {"x":"', MEGABYTE), None, FAILED),
    Scene("a body of 1 GB", goes_on(JSON_HEAD + b"content-length: 1073741824\r\n\r\n" + WHOLE[:-1], b" " * (1 << 20)), FAILED, None),
    Scene("an error of 1 GB", goes_on(b"HTTP/1.1 500 No\r\ncontent-length: 1073741824\r\n\r\n", MEGABYTE), FAILED, FAILED),
    Scene("headers without end", goes_on(b"HTTP/1.1 200 OK\r\n", b"x-more: of this\r\n" * 100), FAILED, FAILED),
    Scene("a header without end", goes_on(b"HTTP/1.1 200 OK\r\nx: ", b"y" * 10_000), FAILED, FAILED),
    Scene("a status line without end", goes_on(b"HTTP/1.1 200 ", b"y" * 10_000), FAILED, FAILED),
    Scene("interim answers without end", goes_on(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 100), FAILED, FAILED),
    Scene("an extension without end", goes_on(STREAM_HEAD + b"5;", b"y" * 10_000), FAILED, FAILED),
    Scene("trailers without end", goes_on(STREAM_HEAD + http_chunk(event(chunk())) + b"0\r\n", b"x: y\r\n" * 100), None, CUT),
    Scene("headers, one a second", goes_on(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n", 0.3), LATE, LATE),
    Scene("a few interim answers", says(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 3 + stream_answer(GOOD_EVENTS)), None, OK),
    both("101", b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n" + WORDS, FAILED),
    both("not HTTP", b"SSH-2.0-OpenSSH_9.6\r\n", FAILED),
    both("a status in words", b"HTTP/1.1 two hundred\r\n\r\n", FAILED, close=True),
    both("status 99", b"HTTP/1.1 99 Low\r\ncontent-length: 0\r\n\r\n", FAILED, close=True),
    both("status 204", b"HTTP/1.1 204 No Content\r\n\r\n", FAILED),
    both("status 700", refusal(700, b"", b""), FAILED),
    *(both(f"status {status}", refusal(status, TO_ELSEWHERE, b"{}"), FAILED) for status in (301, 302, 303, 307, 308)),
    both("length and chunked", JSON_HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", FAILED),
    both("two lengths", JSON_HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nabcdef", FAILED),
    both("a negative length", JSON_HEAD + b"content-length: -5\r\n\r\n", FAILED),
    both("a broken chunk", STREAM_HEAD + b"zz\r\n", FAILED),
    both("an unknown coding", JSON_HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n" + http_chunk(WHOLE) + b"0\r\n\r\n", FAILED),
    both("gzip unasked", JSON_HEAD + b"content-encoding: gzip\r\ncontent-length: 99999\r\n\r\n" + gzip.compress(b"0" * 10**8)[:99999], FAILED),
    both("gzip unsaid", json_answer(gzip.compress(WHOLE)), FAILED),
    Scene("close at once", leaves, FAILED, FAILED),
    Scene("silence", says_nothing, LATE, LATE),
    both("half a head", b"HTTP/1.1 200 OK\r\ncontent-ty", FAILED, close=True),
    both("half a body", json_answer(WHOLE)[:-9], FAILED, close=True),
    both("HTML", json_answer(b"<html>Bad gateway</html>").replace(b"application/json", b"text/html"), FAILED),
    both("an empty body", json_answer(b""), FAILED),
    Scene("another content type", says(json_answer(WHOLE).replace(b"application/json", b"text/plain")), OK, None),
    Scene("another content type", says(stream_answer(GOOD_EVENTS).replace(b"text/event-stream", b"image/png")), None, OK),
    Scene("HTTP/1.0", says(b"HTTP/1.0 200 OK\r\n\r\n" + WHOLE, close=True), OK, None),
    Scene("HTTP/1.0", says(b"HTTP/1.0 200 OK\r\n\r\n" + GOOD_EVENTS, close=True), None, OK),
    Scene("until the end", says(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + WHOLE, close=True), OK, None),
    Scene("trailers", says(JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n" + http_chunk(WHOLE) + b"0\r\nx: y\r\n\r\n"), OK, None),
    Scene("trailers", says(STREAM_HEAD + http_chunk(GOOD_EVENTS) + b"0\r\nx: y\r\n\r\n"), None, OK),
    Scene("garbage behind", says(json_answer(WHOLE) + b"\x00garbage"), OK, None),
    Scene("garbage behind", says(stream_answer(GOOD_EVENTS) + b"\x00garbage"), None, OK),
    Scene("two answers", says(json_answer(WHOLE) * 2), OK, None),
    Scene("two answers", says(stream_answer(GOOD_EVENTS) * 2), None, OK),
    Scene("an answer before the request is read", answers_unread, OK, None),
    both("429 for ever", refusal(429, b"retry-after: 1e999\r\n", b"{}"), (429, "rate_limit_exceeded")),
    both("429 since yesterday", refusal(429, b"retry-after: -5\r\n", b"{}"), (429, "rate_limit_exceeded")),
    both("400 with our key", refusal(400, b"", b'{"error":{"message":"bad key %b"}}' % SECRET.encode()), (400, "invalid_value")),
    both("400 in depth", refusal(400, b"", DEEP), (400, "invalid_value")),
)  # fmt: skip

BODY_SCENES = (
    whole("bad UTF-8", WHOLE.replace(WORDS, b"\xff\xfe"), FAILED),
    whole("half a surrogate in UTF-8", WHOLE.replace(WORDS, b"\xed\xa0\x80"), FAILED),
    whole("half a surrogate", WHOLE.replace(WORDS, rb"\ud83d"), OK),
    whole("NUL", WHOLE.replace(WORDS, b"\x00"), FAILED),
    whole("depth", WHOLE.replace(b'"stop"', DEEP), FAILED),
    whole("an error with status 200", b'{"error":{"message":"no","code":"x"}}', FAILED),
    whole("no choices", WHOLE[: WHOLE.index(b'"choices"')] + b'"choices":[]}', FAILED),
    whole("choices of words", WHOLE[: WHOLE.index(b'"choices"')] + b'"choices":["x"]}', FAILED),
    whole("no finish", WHOLE.replace(b'"stop"', b"null"), FAILED),
    whole("a list", b"[" + WHOLE + b"]", FAILED),
    whole("half of it", WHOLE[:-20], FAILED),
    whole("two of it", WHOLE + WHOLE, FAILED),
    whole("a million blanks before", b" " * 10**6 + WHOLE, OK),
    *broken("bad UTF-8", event(chunk(b"\xff\xfe"))),
    streamed("half a surrogate", event(chunk(rb"\ud83d")) + GOOD_EVENTS, OK),
    *broken("no JSON", event(b"{nonsense")),
    *broken("depth", event(b'{"choices":' + DEEP)),
    *broken("an error", event(b'{"error":{"message":"no","code":429}}'), (429, "rate_limit_exceeded")),
    *broken("an error of words", event(b'{"error":"no"}')),
    *broken("an error beside choices", event(chunk(b"", b"null", b',"error":{"message":"no"}'))),
    *broken("choices of a number", event(b'{"choices":7}')),
    streamed("[DONE] twice", GOOD_EVENTS + event(b"[DONE]"), OK),
    streamed("[DONE], and on", GOOD_EVENTS + event(chunk()), OK),
    streamed("[DONE] alone", event(b"[DONE]"), FAILED),
    streamed("[DONE] without a finish", event(chunk()) + event(b"[DONE]"), CUT),
    streamed("no [DONE]", event(chunk()) + event(STOP), OK),
    streamed("an empty stream", b"", FAILED),
    streamed("comments alone", b": nothing\n\n" * 1000, FAILED),
    streamed("half an event", event(chunk()) + b'data: {"choices":[{"ind', CUT),
    streamed("half an event, in HTTP", event(chunk()) + event(STOP)[:-9], CUT),
    streamed("the last event without its blank line", GOOD_EVENTS[:-2], OK),
    streamed("lines ended by CR", GOOD_EVENTS.replace(b"\n", b"\r"), OK),
    streamed("lines ended by CRLF", GOOD_EVENTS.replace(b"\n", b"\r\n"), OK),
    streamed("lines ended by any", event(chunk()).replace(b"\n", b"\r") + event(STOP).replace(b"\n", b"\r\n") + event(b"[DONE]"), OK),
    streamed("several data lines", event(chunk()).replace(b',"choices"', b'\ndata: ,"choices"') + GOOD_EVENTS, OK),
    streamed("other fields", b"retry: 1\nid: 7\nevent: error\n" + GOOD_EVENTS, OK),
    streamed("a byte order mark", b"\xef\xbb\xbf" + GOOD_EVENTS, OK),
    streamed("choices of null", event(chunk()) + event(b'{"choices":null}') + event(STOP), OK),
    streamed("an index of 10^30", event(chunk().replace(b'"index":0', b'"index":1' + b"0" * 30)) + event(STOP), CUT),
    streamed("an index below 0", event(chunk().replace(b'"index":0', b'"index":-1')) + event(STOP) + event(b"[DONE]"), OK),
    streamed("on after the finish", event(chunk()) + event(STOP) + NEVER * 5_000, CUT),
    streamed("a finish of every choice but one", event(chunk().replace(b'"index":0', b'"index":1')) + event(STOP) + event(b"[DONE]"), CUT),
    streamed("a line of 1 MB", event(chunk(b"x" * (1 << 20))) + GOOD_EVENTS, OK),
    Scene("never-ending", goes_on(STREAM_HEAD, http_chunk(NEVER), 0.05), None, CUT_LATE),
    Scene("never-ending, at full speed", goes_on(STREAM_HEAD, http_chunk(NEVER * 50), 0.001), None, CUT_LATE),
    Scene("never-ending comments", goes_on(STREAM_HEAD, http_chunk(b": wait\n\n"), 0.05), None, LATE),
    Scene("never-ending blanks", goes_on(JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n", http_chunk(b" "), 0.05), LATE, None),
    Scene("a byte at a time, and silence", says(STREAM_HEAD + http_chunk(event(chunk()))), None, CUT_LATE),
    *usage("10^30", b'{"prompt_tokens":1%b,"completion_tokens":1%b,"total_tokens":1}' % (b"0" * 30, b"0" * 30)),
    *usage("10^15", b'{"prompt_tokens":1000000000000000,"completion_tokens":1000000000000000}'),
    *usage("below 0", b'{"prompt_tokens":-5,"completion_tokens":-1000000,"total_tokens":-1000005}'),
    *usage("fractions", b'{"prompt_tokens":1.5,"completion_tokens":1e300,"total_tokens":2e-5}'),
    *usage("words", b'{"prompt_tokens":"many","completion_tokens":"4","total_tokens":true}'),
    *usage("null", b'{"prompt_tokens":null,"completion_tokens":null,"total_tokens":null}'),
    *usage("more cached than there is", b'{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":999999}}'),
    *usage("cached below 0", b'{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":-999999}}'),
    *usage("a list", b"[1,2,3]"),
    *usage("a number", b"7"),
    *usage("in depth", b'{"prompt_tokens":3,"completion_tokens":4,"details":%b%b}' % (b"[" * 400, b"]" * 400)),
)  # fmt: skip

SCENES = HTTP_SCENES + BODY_SCENES
