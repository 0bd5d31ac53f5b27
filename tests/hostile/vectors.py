"""HTTP as bytes: what RFC 9112 and RFC 9110 forbid, what they allow, and what is to be answered.

`<key>` in a vector becomes an API key. MARKER stands wherever a client could wish to see its words again.
"""

# ruff: noqa: E501 - a row of these tables is a line
from __future__ import annotations

import gzip
from dataclasses import dataclass

MARKER = b"MaRkEr77"
BODY = b'{"model":"scripted","messages":[{"role":"user","content":"one two"}]}'
STREAM = BODY[:-1] + b',"stream":true}'
ME = b"Authorization: Bearer <key>\r\n"
ALIVE = b"GET /healthz HTTP/1.1\r\nHost: e\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@dataclass(frozen=True)
class Vector:
    """Bytes, sent in one write each, and the statuses that they must be answered with, in this order.

    `rule` is the section that decides. `stays`: the connection serves further requests; otherwise it must close.
    `lingers`: before that it takes in the rest of the body for a while.
    """

    name: str
    rule: str
    sent: tuple[bytes, ...]
    answers: tuple[int, ...]
    stays: bool = False
    lingers: bool = False


def chat(more: bytes = b"", body: bytes = BODY, *, line: bytes = b"", length: bool = True, host: bytes = b"e") -> bytes:
    """A chat request with these further header lines."""
    sized = b"Content-Length: %d\r\n" % len(body) if length else b""
    line = line or b"POST /v1/chat/completions HTTP/1.1"
    return b"%b\r\nHost: %b\r\n%b%b%b\r\n%b" % (line, host, ME, more, sized, body)


def get(more: bytes = b"", *, line: bytes = b"GET /healthz HTTP/1.1", host: bytes = b"Host: e\r\n") -> bytes:
    """A request without a body, with these further header lines."""
    return b"%b\r\n%b%b\r\n" % (line, host, more)


def pieces(body: bytes = BODY, size: int = 40, more: bytes = b"") -> bytes:
    """A body as HTTP chunks, with `more` behind each of their sizes."""
    cut = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x%b\r\n%b\r\n" % (len(each), more, each) for each in cut) + b"0\r\n\r\n"


def chunked(framed: bytes, more: bytes = CHUNKED) -> bytes:
    return chat(more, framed, length=False)


def bad(name: str, rule: str, *sent: bytes, status: int = 400) -> Vector:
    """What HTTP forbids: an error, and the end."""
    return Vector(name, rule, sent, (status,))


def refused(name: str, rule: str, *sent: bytes, status: int) -> Vector:
    """What HTTP allows and we do not do: an error, and on."""
    return Vector(name, rule, sent, (status,), stays=True)


def served(name: str, rule: str, *sent: bytes, times: int = 1) -> Vector:
    """What HTTP allows: 200, and on."""
    return Vector(name, rule, sent, (200,) * times, stays=True)


def last(name: str, rule: str, *sent: bytes, answers: tuple[int, ...] = (200,)) -> Vector:
    """What HTTP allows, and then wants the connection closed."""
    return Vector(name, rule, sent, answers)


def wrong_length(name: str, *lines: bytes) -> Vector:
    return bad(name, "9112 6.3", chat(b"".join(b"Content-Length: %b\r\n" % each for each in lines), length=False))


def wrong_coding(name: str, *lines: bytes) -> Vector:
    more = b"".join(b"Transfer-Encoding:%b\r\n" % each for each in lines)
    return bad(name, "9112 6.1", chunked(pieces() + MARKER, more))


def wrong_chunks(name: str, framed: bytes) -> tuple[Vector, Vector]:
    """Broken framing of a body, at once with its head and after it."""
    begun = b"5\r\n" + BODY[:5] + b"\r\n"
    return (
        bad(name, "9112 7.1", chunked(begun + framed)),
        bad(f"{name}, later", "9112 7.1", chunked(begun), framed),
    )


FRAMING = (
    bad("length and chunked", "9112 6.3", chat(CHUNKED, pieces() + MARKER)),
    bad("chunked and length", "9112 6.3", chat(b"Content-Length: 4\r\n" + CHUNKED, pieces(), length=False)),
    wrong_length("one length twice", b"%d" % len(BODY), b"%d" % len(BODY)),
    wrong_length("two lengths", b"%d" % len(BODY), b"3"),
    wrong_length("a list of one length", b"%d, %d" % (len(BODY), len(BODY))),
    wrong_length("a list of lengths", b"3, %d" % len(BODY)),
    wrong_length("a negative length", b"-1"),
    wrong_length("a length with a plus", b"+%d" % len(BODY)),
    wrong_length("a hexadecimal length", b"0x45"),
    wrong_length("an empty length", b""),
    wrong_length("a length in words", MARKER),
    wrong_length("a length of two numbers", b"6 9"),
    wrong_length("a length above 2^64", b"1" + b"0" * 20),
    Vector("a length above the limit", "9110 15.5.14", (chat(b"Content-Length: 10485761\r\n", MARKER, length=False),), (413,), lingers=True),
    wrong_coding("chunked twice", b" chunked, chunked"),
    wrong_coding("chunked on two lines", b" chunked", b" chunked"),
    wrong_coding("identity", b" identity"),
    wrong_coding("chunked, then identity", b" chunked, identity"),
    wrong_coding("identity, then chunked", b" identity, chunked"),
    wrong_coding("gzip, then chunked", b" gzip, chunked"),
    wrong_coding("nearly chunked", b" xchunked"),
    wrong_coding("chunked behind a control character", b" \x0bchunked"),
    wrong_coding("chunked in quotes", b' "chunked"'),
    wrong_coding("chunked, with a parameter", b" chunked;q=1"),
    wrong_coding("an empty coding", b""),
    wrong_coding("chunked on a folded line", b"\r\n chunked"),
    bad("space before the colon of a coding", "9112 5.1", chunked(pieces(), b"Transfer-Encoding : chunked\r\n")),
    bad("a coding on HTTP/1.0", "9112 6.1", chat(CHUNKED, pieces(), length=False, line=b"POST /v1/chat/completions HTTP/1.0")),
    served("chunked", "9112 7.1", chunked(pieces())),
    served("Chunked, with blanks around", "9112 7", chunked(pieces(), b"Transfer-Encoding: \t Chunked \r\n")),
    served("chunks of one byte", "9112 7.1", chunked(pieces(size=1))),
    served("sizes with zeros before", "9112 7.1", chunked(b"0000000000000%b" % pieces(size=99))),
    served("chunk extensions", "9112 7.1.1", chunked(pieces(more=b";a;b=c;d=\"e f\""))),
    served("trailers", "9112 7.1.2", chunked(pieces()[:-2] + b"X-Sum: 1\r\nExpires: never\r\n\r\n")),
    *wrong_chunks("a negative chunk", b"-5\r\n" + MARKER),
    *wrong_chunks("a hexadecimal prefix", b"0x5\r\n" + MARKER),
    *wrong_chunks("a chunk above 2^64", b"1" + b"0" * 16 + b"\r\n" + MARKER),
    *wrong_chunks("a chunk without a size", b"\r\n" + MARKER),
    *wrong_chunks("a chunk of words", MARKER + b"\r\n"),
    *wrong_chunks("a blank before the size", b" 5\r\nabcde\r\n"),
    *wrong_chunks("a chunk longer than said", b"3\r\nabcdef\r\n"),
    *wrong_chunks("a chunk without its end", b"3\r\nabc0\r\n\r\n"),
    *wrong_chunks("a size ended by LF", b"3\nabc\r\n"),
    *wrong_chunks("a size ended by CR", b"3\rabc\r\n"),
    *wrong_chunks("a chunk ended by LF", b"3\r\nabc\n0\r\n\r\n"),
    *wrong_chunks("a control character in an extension", b"3;\x00\r\nabc\r\n"),
    *wrong_chunks("a trailer without a colon", b"0\r\n" + MARKER + b"\r\n\r\n"),
    *wrong_chunks("200 trailers", b"0\r\n" + b"X: 1\r\n" * 200 + b"\r\n"),
    *wrong_chunks("broken, and much more of it", b"x\r\n" + MARKER * 400_000),
)  # fmt: skip

HOSTS = (
    bad("no Host", "9112 3.2", get(b"X-M: %b\r\n" % MARKER, host=b"")),
    bad("no Host, chat", "9112 3.2", chat().replace(b"Host: e\r\n", b"")),
    bad("two Hosts", "9112 3.2", get(b"Host: %b\r\n" % MARKER)),
    bad("one Host twice", "9112 3.2", get(b"Host: e\r\n")),
    *(
        bad(f"Host {host!r}", "9112 3.2", request)
        for host in (b"a b", b"a/" + MARKER, b"u@e", b"e:80:80", b"e:http", b"[::1", b"<e>", b"e\\f", b"e?f", b"\xc3\xa9")
        for request in (get(host=b"Host: %b\r\n" % host), chat(host=host))
    ),
    *(
        served(f"Host {host!r}", "9110 7.2", get(host=b"Host:%b\r\n" % host), chat(host=host), times=2)
        for host in (b"", b" e:8080", b" [::1]:80", b" 127.0.0.1", b" \tX-Y_z.example \t", b" a%20b", b" e:", b" a,b")
    ),
    last("no Host on HTTP/1.0", "9112 3.2", chat(line=b"POST /v1/chat/completions HTTP/1.0").replace(b"Host: e\r\n", b"")),
)  # fmt: skip

SYNTAX = (
    bad("bare LF", "9112 2.2", chat().replace(b"\r\n", b"\n")),
    bad("bare LF after a header", "9112 2.2", get(b"X-M: %b\n" % MARKER)),
    bad("bare LF at the end of the head", "9112 2.2", get()[:-2] + b"\n"),
    bad("bare CR in a value", "9112 2.2", get(b"X-M: a\rb%b\r\n" % MARKER)),
    bad("bare CR for a line end", "9112 2.2", get(b"X-M: a\rX-N: b\r\n")),
    bad("a folded line", "9112 5.2", get(b"X-M: a\r\n %b\r\n" % MARKER)),
    bad("a folded line, with a tab", "9112 5.2", chat(b"X-M: a\r\n\t%b\r\n" % MARKER)),
    bad("a blank before the first header", "9112 2.2", b"GET /healthz HTTP/1.1\r\n Host: e\r\n\r\n"),
    bad("a blank before the colon", "9112 5.1", get(b"X-M : %b\r\n" % MARKER)),
    bad("a header without a colon", "9112 5", get(b"%b\r\n" % MARKER)),
    bad("a header without a name", "9112 5", get(b": %b\r\n" % MARKER)),
    bad("a name that is no token", "9110 5.1", get(b"X(M): %b\r\n" % MARKER)),
    bad("a name that is no ASCII", "9110 5.1", get(b"X-\xc3\xa9: %b\r\n" % MARKER)),
    bad("a name with NUL", "9110 5.1", get(b"X\x00: %b\r\n" % MARKER)),
    *(bad(f"{char!r} in a value", "9110 5.5", get(b"X-M: a%bb%b\r\n" % (char, MARKER))) for char in (b"\x00", b"\x01", b"\x0b", b"\x1b", b"\x7f")),
    served("obsolete text in a value", "9110 5.5", get(b"X-M: \xe9\xff\r\n")),
    served("a tab in a value", "9110 5.5", get(b"X-M: a\tb\r\n")),
    served("an empty value", "9110 5.5", get(b"X-M:\r\n")),
    served("100 headers", "9110 5.4", get(b"X-M: 1\r\n" * 100)),
    bad("200 headers", "9110 5.4", get(b"X-M: %b\r\n" % MARKER * 200)),
    bad("a header of 9 kB", "9110 5.4", get(b"X-M: %b\r\n" % (MARKER * 1_125))),
    bad("a name of 9 kB", "9110 5.4", get(b"%b: 1\r\n" % (MARKER * 1_125))),
    bad("a request line of 9 kB", "9112 3", get(line=b"GET /%b HTTP/1.1" % (MARKER * 1_125))),
    bad("a request line of 5 MB", "9112 3", get(line=b"GET /%b HTTP/1.1" % (MARKER * 650_000))),
    served("empty lines before", "9112 2.2", b"\r\n\r\n" + get()),
    served("empty lines between", "9112 2.2", get() + b"\r\n\r\n" + chat(), times=2),
    bad("garbage before", "9112 3", MARKER + b"\r\n" + get()),
    bad("garbage behind", "9112 3", b"\x00\x01" + MARKER + b"\r\n\r\n"),
    bad("a TLS hello", "9112 3", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + MARKER),
    bad("a SOCKS hello", "9112 3", b"\x05\x01\x00"),
    bad("a head of many small lines", "9112 3", *[b"GET /" + MARKER, b" HTTP/1.1\r\n", b"Host: e\r\n", b"X : 1\r\n"]),
    served("a head in pieces", "9112 2.2", *[b"GET /hea", b"lthz HTTP/1.1\r", b"\nHost", b": e\r\n\r", b"\n"]),
)  # fmt: skip

REQUEST_LINES = (
    bad("no version", "9112 3", b"GET /%b\r\n\r\n" % MARKER),
    bad("HTTP/0.9", "9112 2.3", get(line=b"GET /healthz HTTP/0.9")),
    bad("HTTP/0.9, chat", "9112 2.3", chat(line=b"POST /v1/chat/completions HTTP/0.9")),
    bad("HTTP/2.0", "9112 2.3", get(line=b"GET /healthz HTTP/2.0")),
    bad("HTTP/2.0, chat", "9112 2.3", chat(line=b"POST /v1/chat/completions HTTP/2.0")),
    bad("the preface of HTTP/2", "9113 3.4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
    bad("HTTP/1.2", "9112 2.3", get(line=b"GET /healthz HTTP/1.2")),
    bad("HTTP/1.10", "9112 2.3", get(line=b"GET /healthz HTTP/1.10")),
    bad("HTTP/11", "9112 2.3", get(line=b"GET /healthz HTTP/11")),
    bad("http/1.1", "9112 2.3", get(line=b"GET /healthz http/1.1")),
    bad("HTTPS/1.1", "9112 2.3", get(line=b"GET /healthz HTTPS/1.1")),
    served("two blanks", "9112 3", get(line=b"GET /healthz  HTTP/1.1")),
    bad("a tab", "9112 3", get(line=b"GET\t/healthz HTTP/1.1")),
    bad("a blank at the end", "9112 3", get(line=b"GET /healthz HTTP/1.1 ")),
    bad("a blank in the path", "9112 3.2", get(line=b"GET /a %b HTTP/1.1" % MARKER)),
    bad("no path", "9112 3.2", get(line=b"GET HTTP/1.1")),
    bad("a path without a slash", "9112 3.2", get(line=b"GET %b HTTP/1.1" % MARKER)),
    bad("NUL in the path", "9112 3.2", get(line=b"GET /a\x00%b HTTP/1.1" % MARKER)),
    bad("no ASCII in the path", "9112 3.2", get(line=b"GET /\xff%b HTTP/1.1" % MARKER)),
    bad("a lower-case method", "9110 9.1", get(line=b"get /healthz HTTP/1.1")),
    bad("an unknown method", "9110 9.1", get(line=b"%b /healthz HTTP/1.1" % MARKER)),
    bad("a method with a control character", "9110 9.1", get(line=b"G\x01T /healthz HTTP/1.1")),
    refused("a method of WebDAV", "9110 15.5.6", get(line=b"PROPFIND /v1/models HTTP/1.1"), status=405),
    refused("TRACE", "9110 9.3.8", get(b"X-M: %b\r\n" % MARKER, line=b"TRACE /v1/models HTTP/1.1"), status=405),
    refused("DELETE of a chat", "9110 15.5.6", get(line=b"DELETE /v1/chat/completions HTTP/1.1"), status=405),
    refused("OPTIONS *", "9112 3.2.4", get(line=b"OPTIONS * HTTP/1.1"), status=404),
    bad("GET *", "9112 3.2.4", get(line=b"GET * HTTP/1.1")),
    bad("CONNECT", "9110 9.3.6", get(line=b"CONNECT %b.example:443 HTTP/1.1" % MARKER)),
    bad("CONNECT, and what follows", "9110 9.3.6", get(line=b"CONNECT e:443 HTTP/1.1") + ALIVE),
    bad("CONNECT to a path", "9112 3.2.3", get(line=b"CONNECT /%b HTTP/1.1" % MARKER)),
    bad("GET of an authority", "9112 3.2.3", get(line=b"GET e:80 HTTP/1.1")),
    served("absolute form", "9112 3.2.2", chat(line=b"POST http://e/v1/chat/completions HTTP/1.1"), get(line=b"GET HTTPS://other:99/healthz HTTP/1.1"), times=2),
    bad("absolute form without a host", "9110 4.2.1", get(line=b"GET http:///healthz HTTP/1.1")),
    served("a query", "9112 3.2.1", chat(line=b"POST /v1/chat/completions?api-version=1&x=%b HTTP/1.1" % MARKER)),
    served("percent-encoded letters", "3986 6.2.2.2", chat(line=b"POST /v1/ch%61t/completions HTTP/1.1")),
    refused("an encoded slash", "3986 2.2", chat(line=b"POST /v1/chat%2Fcompletions HTTP/1.1"), status=404),
    refused("an encoded NUL", "3986 7.3", get(line=b"GET /%b%%00 HTTP/1.1" % MARKER), status=404),
    refused("half a percent-encoding", "3986 2.1", get(line=b"GET /%b%%4 HTTP/1.1" % MARKER), status=404),
    refused("percent-encoded bytes", "3986 2.5", get(line=b"GET /%FF%FE HTTP/1.1"), status=404),
    refused("a dotted path", "3986 6.2.2.3", chat(line=b"POST /v1/./chat/completions HTTP/1.1"), status=404),
    refused("a path of two slashes", "3986 3.3", chat(line=b"POST //v1/chat/completions HTTP/1.1"), status=404),
    refused("a way up", "3986 6.2.2.3", get(line=b"GET /v1/../../etc/passwd HTTP/1.1"), status=404),
)  # fmt: skip

UPGRADE = b"Connection: Upgrade\r\nUpgrade: %b\r\n"
CONNECTIONS = (
    last("Connection: close", "9112 9.6", chat(b"Connection: close\r\n")),
    last("Connection: close, then more", "9112 9.6", chat(b"Connection: close\r\n"), ALIVE),
    last("Connection: close, and an empty line", "9112 9.6", chat(b"Connection: close\r\n") + b"\r\n"),
    bad("Connection: close, and more", "9112 9.6", chat(b"Connection: close\r\n") + ALIVE),
    last("Connection: keep-alive, CLOSE", "9112 9.6", get(b"Connection: keep-alive, CLOSE\r\n")),
    last("HTTP/1.0", "9112 9.3", chat(line=b"POST /v1/chat/completions HTTP/1.0")),
    last("HTTP/1.0, a stream", "9112 9.3", chat(body=STREAM, line=b"POST /v1/chat/completions HTTP/1.0")),
    last("HTTP/1.0, a stream, to be kept", "9112 9.3", chat(b"Connection: keep-alive\r\n", STREAM, line=b"POST /v1/chat/completions HTTP/1.0"), ALIVE),
    served("HTTP/1.0, to be kept", "9112 9.3", chat(b"Connection: keep-alive\r\n", line=b"POST /v1/chat/completions HTTP/1.0")),
    served("an upgrade to WebSocket", "9110 7.8", get(UPGRADE % b"websocket") + ALIVE + ALIVE, times=3),
    served("an upgrade in pieces", "9110 7.8", get(UPGRADE % b"websocket"), ALIVE[:20], ALIVE[20:], times=2),
    served("an upgrade of a chat", "9110 7.8", chat(UPGRADE % b"websocket") + chat() + ALIVE, times=3),
    served("an upgrade of a stream", "9110 7.8", chat(UPGRADE % b"websocket", STREAM) + chat(body=STREAM), times=2),
    served("upgrades, one behind another", "9110 7.8", chat(UPGRADE % b"websocket") * 3 + ALIVE, times=4),
    served("an upgrade of a chunked chat", "9110 7.8", chunked(pieces(), CHUNKED + UPGRADE % b"websocket") + ALIVE, times=2),
    last("an upgrade to h2c", "9110 7.8", get(UPGRADE % b"h2c") + ALIVE),
    last("an upgrade to h2c, and half a request", "9110 7.8", get(UPGRADE % b"h2c") + chat(), ALIVE),
    last("a chat upgraded to h2c", "9110 7.8", chat(UPGRADE % b"h2c") + chat() + ALIVE),
    last("an upgrade to what nobody knows", "9110 7.8", chat(UPGRADE % MARKER) + ALIVE),
    Vector("an upgrade, and no HTTP behind it", "9110 7.8", (chat(UPGRADE % b"websocket") + b"\x81\x05" + MARKER,), (200, 400)),
    served("two chats at once", "9112 9.3.2", chat() + chat(body=STREAM), times=2),
    served("40 chats at once", "9112 9.3.2", chat() * 40, times=40),
    Vector("a chat, and no HTTP behind it", "9112 9.3.2", (chat(), MARKER + b" x\r\n\r\n"), (200, 400)),
    Vector("chats, the second one broken", "9112 9.3.2", (chat() + chunked(b"1\r\nx\r\n"), MARKER + b"\r\n"), (200, 400)),
)  # fmt: skip

EXPECTING = b"Expect: 100-continue\r\n"
CONTENT = (
    served("100-continue, the body with it", "9110 10.1.1", chat(EXPECTING)),
    served("100-continue, the body later", "9110 10.1.1", chat(EXPECTING)[: -len(BODY)], BODY),
    served("100-continue, by the query", "9110 10.1.1", chat(EXPECTING, line=b"POST /v1/chat/completions?x HTTP/1.1")[: -len(BODY)], BODY),
    served("100-continue, in capitals", "9110 10.1.1", chat(b"Expect: 100-Continue\r\n")[: -len(BODY)], BODY),
    served("100-continue without a body", "9110 10.1.1", get(EXPECTING)),
    last("100-continue on HTTP/1.0", "9110 10.1.1", chat(EXPECTING, line=b"POST /v1/chat/completions HTTP/1.0")),
    refused("another expectation", "9110 10.1.1", chat(b"Expect: %b\r\n" % MARKER), status=417),
    last("another expectation, the body later", "9110 10.1.1", chat(b"Expect: %b\r\n" % MARKER)[: -len(BODY)], answers=(417,)),
    refused("another expectation, no body", "9110 10.1.1", get(b"Expect: %b\r\n" % MARKER), status=417),
    last("an expectation, and too large", "9110 10.1.1", chat(EXPECTING + b"Content-Length: 99999999\r\n", b"", length=False), answers=(413,)),
    last("an expectation, and encoded", "9110 10.1.1", chat(EXPECTING + b"Content-Encoding: gzip\r\n")[: -len(BODY)], answers=(415,)),
    *(
        refused(f"encoded: {coding.decode()}", "9110 8.4", chat(b"Content-Encoding: %b\r\n" % coding, body), status=415)
        for coding, body in (
            (b"gzip", b"\x1f\x8b" + MARKER),
            (b"gzip", gzip.compress(b"0" * 10_000_000)),
            (b"gzip, gzip", gzip.compress(gzip.compress(BODY))),
            (b"deflate", MARKER),
            (b"br", MARKER),
            (b"zstd", MARKER),
            (b"x-unknown", BODY),
            (b"identity", BODY),
        )
    ),
    refused("no body", "9110 8.6", chat(body=b"", length=False), status=400),
    refused("an empty body", "9110 8.6", chat(body=b""), status=400),
    refused("an empty chunked body", "9112 7.1", chunked(b"0\r\n\r\n"), status=400),
    served("a body where none belongs", "9110 9.3.1", get(b"Content-Length: 8\r\n") + MARKER),
    served("a chunked body where none belongs", "9110 9.3.1", get(CHUNKED) + pieces()),
    bad("a broken body where none belongs", "9112 7.1", get(CHUNKED) + b"x\r\n" + MARKER),
    last("a body where none belongs, broken later", "9112 7.1", get(CHUNKED) + b"1\r\nx\r\n", b"x\r\n" + MARKER),
)  # fmt: skip

VECTORS = FRAMING + HOSTS + SYNTAX + REQUEST_LINES + CONNECTIONS + CONTENT
