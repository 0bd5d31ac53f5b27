"""The decoder of server-sent events: the same events however a stream is cut into reads."""

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.chat import sse
from core.chat.sse import EventTooLong, SseDecoder

LINE_ENDS = (b"\n", b"\r\n", b"\r")


def reference(stream: bytes) -> list[bytes]:
    """The standard's algorithm over the whole stream, line by line; its last event needs no blank line."""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events: list[bytes] = []
    data: list[bytes] = []
    for line in [*text.split(b"\n"), b""]:
        if not line:
            if data:
                events.append(b"\n".join(data))
            data = []
        elif line == b"data":
            data.append(b"")
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
    return events


def decoded(pieces: list[bytes]) -> list[bytes]:
    """What the decoder makes of these reads."""
    decoder = SseDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)] + decoder.finish()


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The stream in the reads that end at these places."""
    ends = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    return [stream[start:end] for start, end in itertools.pairwise(ends)]


words = st.binary(max_size=6).map(lambda text: text.replace(b"\r", b"x").replace(b"\n", b"y"))
lines = st.one_of(
    st.just(b""),
    st.just(b""),
    words.map(lambda word: b"data: " + word),
    words.map(lambda word: b"data:" + word),
    words.map(lambda word: b":" + word),
    words,
    st.sampled_from([b"data", b"id: 1", b"event: error", b"retry: 10", b"data: [DONE]", b"\xef\xbb\xbf"]),
)
streams = st.lists(st.tuples(lines, st.sampled_from(LINE_ENDS)), max_size=12).map(
    lambda found: b"".join(line + end for line, end in found)
)


@given(st.sampled_from([b"", b"\xef\xbb\xbf"]), streams, words, st.lists(st.integers(0, 10_000), max_size=12))
@example(b"\xef\xbb\xbf", b"data: a\r\n\r\n", b"data: b", [1, 2])
@example(b"", b"data: a\r\r", b"data: b", [9])
@example(b"", b"data: a\r\n\r\ndata: b\r\n\r\n", b"", [10, 11])
def test_any_cut_of_a_stream_gives_the_same_events(bom: bytes, body: bytes, rest: bytes, places: list[int]) -> None:
    """LF, CRLF and CR mixed, comments, other fields, several data lines, a BOM, no last blank line: cut anywhere."""
    stream = bom + body + rest
    assert decoded(cut(stream, places)) == reference(stream)
    assert decoded([stream]) == reference(stream)


@given(streams)
def test_byte_by_byte_gives_the_same_events(stream: bytes) -> None:
    """The finest cut there is."""
    assert decoded([stream[at : at + 1] for at in range(len(stream))]) == reference(stream)


def test_an_event_is_out_with_the_read_that_completes_it() -> None:
    """Nothing waits for more than its own blank line."""
    decoder = SseDecoder()
    assert decoder.feed(b"data: 1\n\ndata: 2\n\ndata: ") == [b"1", b"2"]
    assert decoder.feed(b"3\n") == []
    assert decoder.feed(b"\n") == [b"3"]
    assert decoder.feed(b"data: 4\n\n") == [b"4"]
    assert decoder.finish() == []


def test_crlf_and_cr_events_are_out_at_once_too() -> None:
    """The CR that may be half of a line end holds nothing back that is complete."""
    decoder = SseDecoder()
    assert decoder.feed(b"data: 1\r\n\r\n") == [b"1"]
    assert decoder.feed(b"data: 2\r\n\r") == [b"2"]
    assert decoder.feed(b"\ndata: 3\r\r") == [b"3"]
    assert decoder.feed(b"\r") == []
    assert decoder.feed(b"data: 4\r\r") == [b"4"]
    assert decoder.finish() == []


def test_comments_and_other_fields_are_no_events() -> None:
    """Keep-alives, ids, names and retry times say nothing."""
    assert decoded([b": ping\n\nid: 7\nevent: message\nretry: 100\n\ndata: x\nid: 8\n\n"]) == [b"x"]


def test_a_line_of_megabytes_is_one_event() -> None:
    """Lines of any length up to the limit, in reads of any size."""
    line = b"x" * (3 << 20)
    stream = b"data: " + line + b"\n\n"
    assert decoded([stream[at : at + 65_536] for at in range(0, len(stream), 65_536)]) == [line]


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 1_024, b"data: x\n" * 128, b": " + b"x" * 1_022 + b"\n"])
def test_an_event_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch, piece: bytes) -> None:
    """A stream that never ends an event cannot fill the memory."""
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 16 << 10)
    decoder = SseDecoder()
    for _ in range((16 << 10) // len(piece)):
        decoder.feed(piece)
    with pytest.raises(EventTooLong):
        decoder.feed(piece)


def test_many_small_events_in_one_read_are_no_long_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is on an event, not on a read."""
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1_024)
    decoder = SseDecoder()
    assert len(decoder.feed(b"data: x\n\n" * 1_000 + b"data: y")) == 1_000
    assert len(decoder.feed(b"\n\n" + b"data: x\r\n\r\n" * 1_000)) == 1_001
