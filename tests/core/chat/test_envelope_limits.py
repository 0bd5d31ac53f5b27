"""The request's output limits and its number of answers: what they count as, and what the upstream is sent."""

import time
from collections.abc import Callable

import msgspec
import pytest

from core.chat.envelope import FOREIGN_LIMIT_FIELDS, MAX_FIELDS, UNLIMITED_TOKENS, Envelope, read_envelope
from core.chat.media import MAX_PARTS
from core.errors import InvalidRequest

HELLO = b'"model":"m","messages":[{"role":"user","content":"Hello"}]'


def read(rest: bytes = b"") -> Envelope:
    """The envelope of a plain request with further fields."""
    return read_envelope(b"{" + HELLO + (b"," + rest if rest else b"") + b"}")


def raw_fields(body: bytes) -> dict[str, bytes]:
    """The top-level values as bytes."""
    return {name: bytes(value) for name, value in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items()}


def sent(rest: bytes = b"", *, limit: tuple[str, int] | None = None) -> dict[str, bytes]:
    """The values that an upstream is sent for a plain request with further fields."""
    return raw_fields(read(rest).upstream_body(model="up", stream=False, limit=limit))


@pytest.mark.parametrize(
    ("rest", "limit"),
    [
        (b'"x":1', None),
        (b'"max_tokens":null', None),
        (b'"max_tokens":7', 7),
        (b'"max_completion_tokens":7', 7),
        (b'"max_tokens":7,"max_completion_tokens":7', 7),
        (b'"max_tokens":7,"max_completion_tokens":null', 7),
        (b'"max_tokens":2147483647', 2**31 - 1),
    ],
)
def test_both_output_limits_are_understood(rest: bytes, limit: int | None) -> None:
    """Either name, or both when they agree; both reach the upstream as they were."""
    assert read(rest).max_output == limit
    assert sent(rest) == sent() | raw_fields(b"{" + rest + b"}")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_lowered_limit_is_set_in_the_field_that_the_upstream_reads(name: str) -> None:
    """It replaces what stands there."""
    assert sent(limit=(name, 1_500))[name] == b"1500"
    assert sent(b'"%s":null' % name.encode(), limit=(name, 1_500))[name] == b"1500"


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        (b"null", 0),
        (b"0", 0),
        (b"70", 70),
        (b"-1", UNLIMITED_TOKENS),
        (b"2147483648", UNLIMITED_TOKENS),
        (b"9" * 5_000, UNLIMITED_TOKENS),
        (b"70.5", UNLIMITED_TOKENS),
        (b'"70"', UNLIMITED_TOKENS),
        (b"[]", UNLIMITED_TOKENS),
    ],
)
@pytest.mark.parametrize("name", FOREIGN_LIMIT_FIELDS)
def test_a_foreign_output_limit_counts_and_passes(name: str, value: bytes, tokens: int) -> None:
    """What is no limit in any dialect counts as none at all; the bytes are those of the caller."""
    envelope = read(b'"max_tokens":50,"%s":%b' % (name.encode(), value))
    assert (envelope.max_output, envelope.foreign_limit, envelope.ignored) == (50, tokens, ())
    assert raw_fields(envelope.upstream_body(model="up", stream=False, limit=None))[name] == value


@pytest.mark.parametrize(
    ("rest", "lowered"),
    [
        (b'"n_predict":-1', {"max_tokens": b"60", "n_predict": b"60"}),
        (b'"n_predict":50', {"max_tokens": b"60", "n_predict": b"50"}),
        (b'"max_tokens":50,"n_predict":70', {"max_tokens": b"50", "n_predict": b"60"}),
        (b'"max_completion_tokens":70,"n_predict":0', {"max_completion_tokens": b"60", "n_predict": b"0"}),
        (b'"max_tokens":70,"max_new_tokens":"70"', {"max_tokens": b"60", "max_new_tokens": b"60"}),
        (b'"max_tokens":null,"max_new_tokens":null', {"max_tokens": b"60", "max_new_tokens": b"null"}),
    ],
)
def test_every_limit_is_lowered_and_none_raised(rest: bytes, lowered: dict[str, bytes]) -> None:
    """An upstream may heed any of them."""
    assert sent(rest, limit=("max_tokens", 60)) == sent() | lowered


@pytest.mark.parametrize(
    ("rest", "choices"),
    [
        (b'"x":1', 1),
        (b'"n":null', 1),
        (b'"n":1', 1),
        (b'"n":128', 128),
        (b'"n_cmpl":4', 4),
        (b'"n":2,"n_cmpl":4', 4),
    ],
)
def test_n_counts_the_choices(rest: bytes, choices: int) -> None:
    """Absent or null is one; llama.cpp's name for it counts too."""
    assert read(rest).choices == choices


@pytest.mark.parametrize(
    "name", ["max_tokens", "max_completion_tokens", "n_predict", "max_new_tokens", "n", "n_cmpl", "model"]
)
def test_nothing_that_costs_hides_in_extra_body(name: str) -> None:
    """To an upstream that merges the two it would be a limit, a count or a model that nothing was held for."""
    envelope = read(b'"max_tokens":5,"extra_body":{"%s":900,"seed":1}' % name.encode())
    assert envelope.ignored == (f"extra_body.{name}",)
    assert raw_fields(envelope.upstream_body(model="up", stream=False, limit=None))["extra_body"] == b'{"seed":1}'


@pytest.mark.parametrize("where", [None, "extra_body", "stream_options"])
def test_endless_fields_are_refused_before_they_cost_time(where: str | None) -> None:
    """As many as are allowed reach the upstream, of any size; one more names the object that has them."""

    def holding(count: int) -> bytes:
        fields = b",".join([b'"field %d":"%s"' % (number, b"x" * 20) for number in range(count)])
        return fields if where is None else b'"stream":true,"%b":{%b}' % (where.encode(), fields)

    most = MAX_FIELDS - (2 if where is None else 0)
    assert len(sent(holding(most))) >= 3
    with pytest.raises(InvalidRequest) as refused:
        read(holding(most + 1))
    assert refused.value.param == where
    assert str(MAX_FIELDS) in str(refused.value)


IMAGE = b'{"type":"image_url"}'


def joined(one: bytes, count: int) -> bytes:
    return b",".join([one] * count)


@pytest.mark.parametrize(
    "holding",
    [
        pytest.param(lambda count: b'[{"content":[%b]}]' % joined(IMAGE, count - 1), id="parts"),
        pytest.param(lambda count: b'[{"content":[%b]},%b]' % (IMAGE, joined(b"{}", count - 2)), id="messages"),
        pytest.param(lambda count: b"[%b]" % joined(b'{"content":[{}]}', count // 2 + 1), id="both"),
        pytest.param(lambda count: b'[{"content":7},{"content":[%b]}]' % joined(IMAGE, count - 2), id="odd, parts"),
        pytest.param(lambda count: b'[{"content":[%b,7]}]' % joined(IMAGE, count - 1), id="parts, odd"),
        pytest.param(lambda count: b"[%b]" % joined(b'{"content":[{},7]}', count // 2 + 1), id="all odd"),
    ],
)
def test_endless_parts_are_refused_before_they_cost_time(holding: Callable[[int], bytes]) -> None:
    """Messages and parts are counted together: about as many as are allowed are read, more are refused."""

    def envelope(count: int) -> Envelope:
        return read_envelope(b'{"model":"m","messages":%b}' % holding(count))

    envelope(MAX_PARTS - 2)
    for count in (MAX_PARTS + 1, 25 * MAX_PARTS):
        began_s = time.process_time()
        with pytest.raises(InvalidRequest, match=f"more than {MAX_PARTS} messages and parts") as refused:
            envelope(count)
        assert refused.value.param == "messages"
    assert time.process_time() - began_s < 0.2  # without a limit it takes a second


def test_parts_that_come_to_nothing_cost_no_time_either() -> None:
    """Of a field given twice the last one counts; those before it were read all the same."""
    with pytest.raises(InvalidRequest, match="messages and parts"):
        read_envelope(b'{"model":"m","messages":[{%b}]}' % joined(b'"content":[{}]', 25 * MAX_PARTS))


def test_endless_messages_of_text_are_refused_too() -> None:
    """Whoever reads them behind us would be held up; braces within a text are no messages."""
    with pytest.raises(InvalidRequest, match="messages and parts"):
        read_envelope(b'{"model":"m","messages":[%b]}' % joined(b'{"content":"a"}', 5 * MAX_PARTS))
    text = b'{"content":"%b"}' % (b"{} " * 25 * MAX_PARTS)
    assert not read_envelope(b'{"model":"m","messages":[%b]}' % text).media


def test_as_many_images_as_are_allowed_are_seen() -> None:
    """Those of the last place too."""
    for odd, media in ((b"", MAX_PARTS - 1), (b'{"content":7},', MAX_PARTS - 2)):
        body = b'{"model":"m","messages":[%b{"content":[%b]}]}' % (odd, joined(IMAGE, media))
        assert len(read_envelope(body).media) == media
