"""Bodies that no client should send, made from numbers: body `index` of a `seed` is always the same.

`python -m tests.hostile.bodies SEED INDEX` writes one to standard output, to be sent again with curl.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

HEAVY_EVERY = 250
"""One body in so many is a heavy one."""


class Object(list[tuple[bytes, Any]]):
    """A JSON object: pairs of a name, as JSON text, and a value."""


NASTY = (
    *rb"""
    NaN Infinity -Infinity 1e999 -1e999 -0 -0.0 1.0 1e2 01 +1 .5 1. - 9007199254740993 18446744073709551616
    -9223372036854775809 2147483648 null true false True None undefined [] {} [[]] "" "x" "unclosed 'single' /**/1
    "\ud800" "\udc00" "\udc00\ud800" "\ud83d\ude00" "\u0000" "\uZZZZ" "\x" "\u12" [1,] {"a":1,} {"a"} {1:2} }{ ][
    {"a":1,"a":2} {"":{"":{"":null}}} [{"type":"text"}] [{"type":"image_url"}] [{"type":7}]
    {"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}
    """.split(),
    *(b"", b"[1 2]", b'{"a":1 "b":2}', b"9" * 400, b"-" + b"9" * 5_000, b"0." + b"3" * 300, b"1" + b"0" * 100_000),
    *(b'"\x00"', b'"\n"', b'"\x7f"', b'"\xff\xfe"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xf4\x90\x80\x80"'),
    *(b'"\xef\xbb\xbf"', b"1e" + b"9" * 40, b'"' + b"A" * 70_000 + b'"', b"[" * 100 + b"]" * 100),
)
"""JSON values, and what is nearly one."""

NAMES = (
    *rb"""
    "model" "messages" "stream" "stream_options" "n" "max_tokens" "max_completion_tokens" "n_predict" "max_new_tokens"
    "n_cmpl" "extra_body" "api_key" "base_url" "extra_headers" "tools" "tool_choice" "response_format" "metadata"
    "content" "role" "type" "function" "__proto__" "constructor" "" "\u006d\u006f\u0064\u0065\u006c" "\ud800" 7 "
    """.split(),
    b'"\xff"',
)

BYTES = (
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\x1b",
    *(bytes([each]) for each in b'"\\{}[],: '),
)

TEMPLATES: Sequence[dict[str, Any]] = (
    {"model": "scripted", "messages": [{"role": "user", "content": "one two three"}]},
    {
        "model": "scripted",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one two three"}],
        "max_tokens": 20,
        "temperature": 0.7,
        "stop": ["\n"],
    },
    {
        "model": "scripted",
        "n": 2,
        "seed": 2**53 + 1,
        "max_completion_tokens": 50,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "one two"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "7"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "f", "parameters": {"type": "object", "properties": {"api_key": {}}}},
            }
        ],
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}},
        "metadata": {"a": "b"},
        "extra_body": {"top_k": 5, "api_key": "x"},
        "n_predict": -1,
    },
)


def body(seed: int, index: int) -> bytes:
    """The body of this number."""
    random = Random(f"{seed}:{index}")
    if index % HEAVY_EVERY == HEAVY_EVERY - 1:
        return HEAVY[index // HEAVY_EVERY % len(HEAVY)]()
    tree = _tree(random.choice(TEMPLATES))
    kind = random.random()
    for _ in range(random.choice((1, 1, 1, 2, 3, 6)) if kind < 0.8 else 0):
        _mutate(tree, random)
    text = written(tree, random)
    for _ in range(random.choice((1, 1, 2, 4)) if kind >= 0.6 else 0):
        text = _bitten(text, random)
    return text


def written(node: Any, random: Random) -> bytes:
    """The JSON text of a tree, with white space here and there."""
    space = b" " if random.random() < 0.1 else b""
    if isinstance(node, Object):
        return b"{%b%b}" % (space, b",".join(b"%b:%b%b" % (name, space, written(v, random)) for name, v in node))
    if isinstance(node, list):
        return b"[%b%b]" % (b",".join(written(each, random) for each in node), space)
    assert isinstance(node, bytes)
    return node


def _tree(value: Any) -> Any:
    if isinstance(value, dict):
        return Object((json.dumps(name).encode(), _tree(each)) for name, each in value.items())
    if isinstance(value, list):
        return [_tree(each) for each in value]
    return json.dumps(value).encode()


def _mutate(tree: Any, random: Random) -> None:
    """Change one place of the tree: a value, a name, one thing more, less or twice."""
    place = random.choice(_places(tree, []))
    at = random.randrange(len(place)) if place else 0
    named = isinstance(place, Object)
    kind = random.choice(("value", "value", "value", "insert", "name", "delete", "twice", "wrap"))
    if kind == "insert" or not place:
        value = random.choice(NASTY)
        place.insert(at, (random.choice(NAMES), value) if named else value)
    elif kind == "delete":
        del place[at]
    elif kind == "twice":
        place.insert(random.randrange(len(place) + 1), place[at])
    elif kind == "name" and named:
        place[at] = (random.choice(NAMES), place[at][1])
    else:
        old = place[at][1] if named else place[at]
        value = [old] if kind == "wrap" else random.choice(NASTY)
        place[at] = (place[at][0], value) if named else value


def _places(node: Any, found: list[Any]) -> list[Any]:
    """All arrays and objects of a tree."""
    if isinstance(node, list):
        found.append(node)
        for each in node:
            _places(each[1] if isinstance(node, Object) else each, found)
    return found


def _bitten(text: bytes, random: Random) -> bytes:
    """The text with one wound: bytes changed, put in, cut out, doubled, or the end gone."""
    at = random.randrange(len(text) + 1)
    size = random.choice((1, 1, 2, 8, 64))
    match random.choice(("flip", "insert", "insert", "delete", "double", "end", "front")):
        case "flip":
            return (
                text[:at]
                + bytes(each ^ (1 << random.randrange(8)) for each in text[at : at + size])
                + text[at + size :]
            )
        case "insert":
            return text[:at] + random.choice(BYTES) * size + text[at:]
        case "delete":
            return text[:at] + text[at + size :]
        case "double":
            return text[:at] + text[at : at + size] * 2 + text[at + size :]
        case "end":
            return text[:at]
        case _:
            return random.choice(BYTES) + text


def _whole(rest: bytes, messages: bytes = b'[{"role":"user","content":"one two"}]') -> bytes:
    return b'{"model":"scripted","messages":%b%b}' % (messages, b"," + rest if rest else b"")


def _many(count: int) -> bytes:
    return b",".join(b'"%x":1' % number for number in range(count))


DEPTH = 200_000
KEYS = 1_000_000
HEAVY: Sequence[Callable[[], bytes]] = (
    lambda: _whole(_many(KEYS)),
    lambda: b"[" * DEPTH,
    lambda: b"[" * DEPTH + b"]" * DEPTH,
    lambda: b'{"a":' * DEPTH,
    lambda: _whole(b'"x":' + b"[" * DEPTH + b"]" * DEPTH),
    lambda: _whole(b'"metadata":{%b}' % _many(KEYS - 10)),
    lambda: _whole(b'"x":' + b'{"a":' * DEPTH + b"1" + b"}" * DEPTH),
    lambda: _whole(b'"stream":true,"stream_options":' + b'{"a":' * DEPTH + b"1" + b"}" * DEPTH),
    lambda: _whole(b'"extra_body":{"a":' + b"[" * DEPTH + b"]" * DEPTH + b"}"),
    lambda: _whole(b'"extra_body":{%b}' % _many(KEYS - 10)),
    lambda: _whole(b"", b"[" * DEPTH + b"]" * DEPTH),
    lambda: _whole(b"", b'[{"role":"user","content":%b}]' % (b"[" * DEPTH + b"]" * DEPTH)),
    lambda: _whole(b'"stream":true,"stream_options":{%b}' % _many(KEYS - 10)),
    lambda: _whole(b"", b"[" + b",".join([b"{}"] * KEYS) + b"]"),
    lambda: _whole(b"", b'[{"role":"user","content":[%b]}]' % b",".join([b'{"type":"file"}'] * (KEYS // 2))),
    lambda: _whole(b"", b"[" + b",".join([b'{"content":[{},7]}'] * (KEYS // 2)) + b"]"),
    lambda: _whole(b"", b'[{"content":7},{"content":[%b]}]' % b",".join([b"{}"] * KEYS)),
    lambda: _whole(b'"n":' + b"9" * KEYS),
    lambda: _whole(b'"max_tokens":1' + b"0" * KEYS),
    lambda: _whole(b'"n_predict":' + b"9" * KEYS),
    lambda: _whole(b'"seed":' + b"9" * KEYS),
    lambda: b'{"model":"%b","messages":[{}]}' % (b"m" * KEYS),
    lambda: _whole(b'"x":"%b"' % (rb"\ud83d\ude00" * (KEYS // 2))),
    lambda: _whole(b",".join([b'"x":1'] * KEYS)),
    lambda: b" " * KEYS,
    lambda: b"\x00" * KEYS,
    lambda: b"\xef\xbb\xbf" + _whole(b""),
    lambda: _whole(b"").decode().encode("utf-16"),
    lambda: b"",
    lambda: b"A" * (10 << 20),
    lambda: b"A" * ((10 << 20) + 1),
    lambda: _whole(b'"x":"%b"' % (b"A" * (9 << 20))),
)  # fmt: skip


if __name__ == "__main__":
    sys.stdout.buffer.write(body(int(sys.argv[1]), int(sys.argv[2])))
