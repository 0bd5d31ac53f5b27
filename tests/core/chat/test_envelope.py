"""The request's envelope: what is looked at, and that everything else stays the bytes it was."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.chat.envelope import (
    FOREIGN_LIMIT_FIELDS,
    MAX_CHOICES,
    REDIRECTING_FIELDS,
    Envelope,
    read_envelope,
)
from core.errors import InvalidRequest

HELLO = b'"model":"m","messages":[{"role":"user","content":"Hello"}]'
LOOKED_AT = {"model", "messages", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "extra_body"}
LOOKED_AT |= {*FOREIGN_LIMIT_FIELDS, "n_cmpl"}


def read(rest: bytes = b"") -> Envelope:
    """The envelope of a plain request with further fields."""
    return read_envelope(b"{" + HELLO + (b"," + rest if rest else b"") + b"}")


def raw_fields(body: bytes) -> dict[str, bytes]:
    """The top-level values as bytes."""
    return {name: bytes(value) for name, value in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items()}


def sent(rest: bytes = b"", *, stream: bool = False, limit: tuple[str, int] | None = None) -> dict[str, bytes]:
    """The values that an upstream is sent for a plain request with further fields."""
    return raw_fields(read(rest).upstream_body(model="up", stream=stream, limit=limit))


def refusal(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read_envelope(body)
    return caught.value


# What stays

numbers = st.one_of(
    st.integers(-(10**40), 10**40).map(str),
    st.sampled_from(["-0", "1.0", "1e2", "1E+2", "0.1e-7", "1e999", "9007199254740993", "18446744073709551621"]),
    st.decimals(allow_nan=False, allow_infinity=False, places=30).map(lambda number: f"{number:f}"),
).map(str.encode)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).flatmap(
    lambda text: st.booleans().map(lambda escaped: json.dumps(text, ensure_ascii=escaped).encode())
)
spaces = st.sampled_from([b"", b" ", b"\n", b"\t \r\n"])
keys = st.one_of(texts, st.sampled_from([b'"api_key"', b'"base_url"', b'"model"', b'"same"', b'"same"']))


def arrays(items: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    inside = st.lists(st.tuples(spaces, items, spaces).map(b"".join), max_size=4).map(b",".join)
    return st.tuples(st.just(b"["), spaces, inside, st.just(b"]")).map(b"".join)


def objects(items: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    member = st.tuples(spaces, keys, spaces, st.just(b":"), spaces, items, spaces).map(b"".join)
    inside = st.lists(member, max_size=4).map(b",".join)
    return st.tuples(st.just(b"{"), spaces, inside, st.just(b"}")).map(b"".join)


values = st.recursive(
    st.one_of(numbers, texts, st.sampled_from([b"null", b"true", b"false"])),
    lambda items: st.one_of(arrays(items), objects(items)),
    max_leaves=8,
)
names = st.one_of(
    st.sampled_from(["temperature", "seed", "tools", "response_format", "metadata", "user", "logit_bias"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
).filter(lambda name: name not in LOOKED_AT | REDIRECTING_FIELDS)


@given(st.dictionaries(names, values, max_size=5), spaces, spaces, st.booleans())
def test_untouched_fields_arrive_byte_for_byte(
    fields: dict[str, bytes], before: bytes, after: bytes, stream: bool
) -> None:
    """Any JSON in any other field reaches the upstream exactly as it was written, and nothing is added."""
    members = [HELLO] + [json.dumps(name).encode() + before + b":" + after + value for name, value in fields.items()]
    body = before + b"{" + after + (before + b"," + after).join(members) + before + b"}" + after
    found = raw_fields(read_envelope(body).upstream_body(model="up", stream=stream, limit=None))
    ours = {"model": b'"up"', "messages": b'[{"role":"user","content":"Hello"}]'}
    if stream:
        ours |= {"stream": b"true", "stream_options": b'{"include_usage":true}'}
    assert found == fields | ours


@pytest.mark.parametrize(
    "value",
    [
        b"9007199254740993",
        b"18446744073709551621",
        b"1.0",
        b"1",
        b"1e2",
        b"-0",
        b"0.1000000000000000055511151231257827021181583404541015625",
        b'{"a":1,"a":2}',
        b'[{"type":"function","function":{"parameters":{"properties":{"api_key":{"type":"string"}}}}}]',
        b'"\\u00e9\\/"',
        '"é\U0001f600"'.encode(),
        b"[ 1 ,\n 2 ]",
    ],
)
@pytest.mark.parametrize("name", ["seed", "tools", "response_format", "metadata", "never_heard_of"])
def test_a_value_is_never_written_anew(name: str, value: bytes) -> None:
    """Integers stay integers of any size, decimals keep their digits, duplicates and spaces stay."""
    assert sent(b'"%s":%s' % (name.encode(), value))[name] == value


def test_messages_are_not_touched() -> None:
    """Redirecting names inside messages are only words there."""
    messages = b'[{"role":"user","content":"x","api_key":"y","base_url":1.0}]'
    envelope = read_envelope(b'{"model":"m","messages":' + messages + b"}")
    assert envelope.ignored == ()
    assert raw_fields(envelope.upstream_body(model="up", stream=False, limit=None))["messages"] == messages


def test_the_upstream_is_sent_its_own_name_for_the_model() -> None:
    """The model's name is exchanged, whatever characters it has."""
    assert sent()["model"] == b'"up"'
    body = read().upstream_body(model='q"\u00e9', stream=False, limit=None)
    assert json.loads(body)["model"] == 'q"\u00e9'


def test_one_envelope_serves_several_endpoints() -> None:
    """A body for one endpoint leaves no trace in the body for the next."""
    envelope = read()
    envelope.upstream_body(model="a", stream=True, limit=("max_tokens", 5))
    assert raw_fields(envelope.upstream_body(model="b", stream=False, limit=None)) == sent() | {"model": b'"b"'}


# What goes


@pytest.mark.parametrize("name", sorted(REDIRECTING_FIELDS))
def test_fields_that_redirect_are_removed_and_named(name: str) -> None:
    """A caller cannot send its request, or our credentials, somewhere else."""
    envelope = read(b'"%s":{"a":1},"kept":1' % name.encode())
    assert envelope.ignored == (name,)
    assert set(raw_fields(envelope.upstream_body(model="up", stream=False, limit=None))) == {
        "model",
        "messages",
        "kept",
    }


def test_fields_that_redirect_are_removed_from_extra_body() -> None:
    """There too, and only at its top level; its other values stay the bytes they were."""
    envelope = read(b'"api_base":"x","extra_body":{"api_key":"k","deep":{"api_key":1.0},"seed":1e2,"base_url":null}')
    assert envelope.ignored == ("api_base", "extra_body.api_key", "extra_body.base_url")
    found = raw_fields(envelope.upstream_body(model="up", stream=False, limit=None))
    assert found["extra_body"] == b'{"deep":{"api_key":1.0},"seed":1e2}'


@pytest.mark.parametrize("extra", [b'{"a": 1}', b"{ }", b"null", b"[1]", b'"text"', b"7"])
def test_an_extra_body_without_them_is_not_touched(extra: bytes) -> None:
    """Whatever it is: the upstream judges it."""
    envelope = read(b'"extra_body":' + extra)
    assert envelope.ignored == ()
    assert raw_fields(envelope.upstream_body(model="up", stream=False, limit=None))["extra_body"] == extra


def test_of_a_field_given_twice_the_last_one_is_judged_and_sent() -> None:
    """The upstream cannot read another one than we did; inside of values all stay."""
    envelope = read(b'"max_tokens":900,"seed":1,"x":{"a":1,"a":2},"m\\u0061x_tokens":5,"seed":2')
    assert envelope.max_output == 5
    body = envelope.upstream_body(model="up", stream=False, limit=None)
    assert body.endswith(b'"max_tokens":5,"seed":2,"x":{"a":1,"a":2}}')


def test_a_redirecting_name_in_disguise_is_the_same_name() -> None:
    """Escapes in a name change nothing."""
    assert read(b'"api\\u005fkey":"x"').ignored == ("api_key",)


# Streams


@pytest.mark.parametrize(
    ("given_options", "asked"),
    [
        (b"", b'{"include_usage":true}'),
        (b',"stream_options":null', b'{"include_usage":true}'),
        (b',"stream_options":{}', b'{"include_usage":true}'),
        (b',"stream_options":{"include_usage":false}', b'{"include_usage":true}'),
        (b',"stream_options":{"include_usage":null,"x":1.0}', b'{"include_usage":true,"x":1.0}'),
        (b',"stream_options":{"include_usage":true ,"x":1.0}', b'{"include_usage":true,"x":1.0}'),
        (b',"stream_options":{"include_usage":false,"include_usage":true}', b'{"include_usage":true}'),
        (b',"stream_options":{"include_obfuscation":false}', b'{"include_obfuscation":false,"include_usage":true}'),
    ],
)
def test_a_stream_always_asks_for_usage(given_options: bytes, asked: bytes) -> None:
    """Whether or not the caller wants the usage chunk; its other options stay."""
    assert sent(b'"stream":true' + given_options, stream=True)["stream_options"] == asked


@pytest.mark.parametrize(
    ("options", "wanted"),
    [(b"null", False), (b"{}", False), (b'{"include_usage":false}', False), (b'{"include_usage": true}', True)],
)
def test_the_usage_chunk_is_for_who_asked(options: bytes, wanted: bool) -> None:
    """Only an explicit `include_usage` asks for it."""
    assert read(b'"stream":true,"stream_options":' + options).include_usage is wanted


@pytest.mark.parametrize("stream", [b"", b'"stream":false', b'"stream":null', b'"stream":true'])
def test_a_streaming_call_streams_whatever_the_body_says(stream: bytes) -> None:
    """The call decides: the upstream is told to stream."""
    assert sent(stream, stream=True)["stream"] == b"true"


@pytest.mark.parametrize(
    ("rest", "param", "code"),
    [
        (b'"stream":"yes"', "stream", "invalid_type"),
        (b'"stream":1', "stream", "invalid_type"),
        (b'"stream":{}', "stream", "invalid_type"),
        (b'"stream_options":{"include_usage":true}', "stream_options", "invalid_value"),
        (b'"stream":false,"stream_options":{}', "stream_options", "invalid_value"),
        (b'"stream":true,"stream_options":[]', "stream_options", "invalid_type"),
        (b'"stream":true,"stream_options":true', "stream_options", "invalid_type"),
        (b'"stream":true,"stream_options":{"include_usage":1}', "stream_options.include_usage", "invalid_type"),
        (b'"n":0', "n", "invalid_value"),
        (b'"n":-1', "n", "invalid_value"),
        (b'"n":%d' % (MAX_CHOICES + 1), "n", "invalid_value"),
        (b'"n":1.0', "n", "invalid_type"),
        (b'"n":"2"', "n", "invalid_type"),
        (b'"n":true', "n", "invalid_type"),
        (b'"n":[2]', "n", "invalid_type"),
        (b'"n":' + b"9" * 5_000, "n", "invalid_value"),
        (b'"n":-' + b"9" * 5_000, "n", "invalid_value"),
        (b'"max_tokens":0', "max_tokens", "invalid_value"),
        (b'"max_tokens":-5', "max_tokens", "invalid_value"),
        (b'"max_tokens":1e2', "max_tokens", "invalid_type"),
        (b'"max_tokens":"10"', "max_tokens", "invalid_type"),
        (b'"max_tokens":18446744073709551621', "max_tokens", "invalid_value"),
        (b'"max_completion_tokens":0', "max_completion_tokens", "invalid_value"),
        (b'"max_completion_tokens":{}', "max_completion_tokens", "invalid_type"),
        (b'"max_tokens":5,"max_completion_tokens":6', "max_tokens", "invalid_value"),
    ],
)
def test_what_the_router_needs_is_judged(rest: bytes, param: str, code: str) -> None:
    """The types of stream, stream_options, n and the output limits; the error names the field."""
    error = refusal(b"{" + HELLO + b"," + rest + b"}")
    assert (error.param, error.code) == (param, code)


# What is no request


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b'{"messages":[{}]}', "model", "missing_required_parameter"),
        (b'{"model":null,"messages":[{}]}', "model", "invalid_type"),
        (b'{"model":"","messages":[{}]}', "model", "invalid_type"),
        (b'{"model":7,"messages":[{}]}', "model", "invalid_type"),
        (b'{"model":["m"],"messages":[{}]}', "model", "invalid_type"),
        (b'{"model":"m"}', "messages", "missing_required_parameter"),
        (b'{"model":"m","messages":null}', "messages", "invalid_type"),
        (b'{"model":"m","messages":[]}', "messages", "invalid_type"),
        (b'{"model":"m","messages":[ \n\t ]}', "messages", "invalid_type"),
        (b'{"model":"m","messages":{}}', "messages", "invalid_type"),
        (b'{"model":"m","messages":"Hello"}', "messages", "invalid_type"),
    ],
)
def test_model_and_messages_are_required(body: bytes, param: str, code: str) -> None:
    """A model's name, and at least one message."""
    error = refusal(body)
    assert (error.param, error.code) == (param, code)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \r\n\t",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b"{",
        b"{" + HELLO,
        b"{" + HELLO + b",}",
        b"{" + HELLO + b"} x",
        b"{" + HELLO + b"}{}",
        b"{" + HELLO + b',"x":NaN}',
        b"{" + HELLO + b',"x":[Infinity]}',
        b"{" + HELLO + b',"x":-Infinity}',
        b"{" + HELLO + b',"x":01}',
        b"{" + HELLO + b',"x":1.}',
        b"{" + HELLO + b',"x":.5}',
        b"{" + HELLO + b',"x":{"a":tru}}',
        b"{" + HELLO + b',"x":[1,]}',
        b"{" + HELLO + b",'x':1}",
        b"{" + HELLO + b',"x":"\n"}',
        b"{" + HELLO + b',"x":"\\q"}',
        b"{" + HELLO + b',"x":"\x00"}',
        b"{" + HELLO + b',"x":"\\ud800"}',
        b"{" + HELLO + b',"\\ud800":1}',
        b"{" + HELLO + b',"x":"\xff"}',
        b"{" + HELLO + b',"\xff":1}',
        b"{" + HELLO + b',"x":"\xed\xa0\x80"}',
        b"{" + HELLO + b',"x":"\xc0\x80"}',
        b"\xef\xbb\xbf{" + HELLO + b"}",
        ("{" + HELLO.decode() + "}").encode("utf-16"),
        b"[" * 200_000,
        b'{"a":' * 200_000,
        b"{" + HELLO + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    """JSON as its standard has it, in UTF-8 without a BOM, and not deeper than can be read."""
    error = refusal(body)
    assert (error.code, error.param) == ("invalid_json", None)
    assert len(error.message) < 200


@pytest.mark.parametrize(
    "place",
    [
        b'"x":%s',
        b'"n":%s',
        b'"max_tokens":%s',
        b'"stream":%s',
        b'"extra_body":{"x":%s}',
        b'"stream":true,"stream_options":{"x":%s}',
        b'"messages":[{"content":[{"type":%s}]}]',
        b'"messages":[{"content":[{"image_url":%s}]}]',
        b'"model":%s',
    ],
)
def test_no_depth_gets_half_way(place: bytes) -> None:
    """A depth is either read everywhere or refused: also when a body for the upstream is made later and deeper down."""

    def deeper(frames: int, envelope: Envelope) -> bytes:
        if frames:
            return deeper(frames - 1, envelope)
        return envelope.upstream_body(model="up", stream=True, limit=("max_tokens", 1))

    outcomes = set()
    for depth in range(780, 1_000, 1):
        body = b"{" + HELLO + b"," + place % (b"[" * depth + b"]" * depth) + b"}"
        try:
            deeper(30, read_envelope(body))
            outcomes.add("read")
        except InvalidRequest as error:
            outcomes.add(error.code)
    assert "invalid_json" in outcomes
    assert outcomes <= {"read", "invalid_json", "invalid_type"}


# How much of it there is


def measured(messages: Any, **rest: Any) -> tuple[int, int]:
    """Bytes of text and count of media of a request."""
    body = json.dumps({"model": "m", "messages": messages, **rest}, separators=(",", ":")).encode()
    envelope = read_envelope(body)
    return envelope.text_bytes, len(envelope.media)


def test_text_counts() -> None:
    """All that a model may be shown: messages, tools, the schema of the answer, fields that we do not know."""
    bare, _ = measured([{"role": "user", "content": ""}])
    for rest in (
        {"tools": ["x" * 1_000]},
        {"response_format": "x" * 1_000},
        {"functions": ["x" * 1_000]},
        {"unknown": "x" * 1_000},
    ):
        found, media = measured([{"role": "user", "content": "y" * 500}], **rest)
        assert 1_500 <= found - bare <= 1_530
        assert media == 0


@pytest.mark.parametrize("content", [None, "", "text", [], [{"type": "text", "text": "text"}], 7, {"a": 1}])
def test_every_form_of_content_is_accepted(content: Any) -> None:
    """A string, parts, null; what is wrong is the upstream's to judge."""
    found, media = measured([{"role": "assistant", "content": content, "tool_calls": []}])
    assert 0 < found < 150
    assert media == 0


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 50_000, "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "A" * 50_000, "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": "data:audio/mpeg;base64," + "A" * 50_000}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64," + "A" * 50_000}},
        {"type": "file", "file": {"file_data": "A" * 50_000, "filename": "a.pdf"}},
    ],
)
def test_base64_payloads_are_no_text(part: dict[str, Any]) -> None:
    """An image, a sound, a video or a file is no text; the text beside it is measured."""
    text = {"type": "text", "text": "y" * 500}
    found, media = measured([{"role": "user", "content": [text, part, part]}, {"role": "user", "content": [part]}])
    assert 500 <= found < 750
    assert media == 3


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": "y" * 5_000},
        {"type": "refusal", "refusal": "y" * 5_000},
        {"type": "text", "text": "", "image_url": "y" * 5_000},
        {"type": "never_heard_of", "words": "y" * 5_000},
        {"words": "y" * 5_000},
        {"type": 7, "words": "y" * 5_000},
        ["y" * 5_000],
        "y" * 5_000,
    ],
)
def test_whatever_is_not_known_to_be_media_is_text(part: Any) -> None:
    """Text cannot hide from its hold in a part of another form."""
    found, media = measured([{"role": "user", "content": [part]}])
    assert 5_000 <= found < 5_100
    assert media == 0


@pytest.mark.parametrize("message", ["y" * 5_000, ["y" * 5_000], {"content": [{"type": "text"}], "x": "y" * 5_000}])
def test_messages_of_another_form_are_text(message: Any) -> None:
    """They reach the upstream, and are paid for, as they are."""
    found, _ = measured([message, {"role": "user", "content": "x"}])
    assert 5_000 <= found < 5_100
