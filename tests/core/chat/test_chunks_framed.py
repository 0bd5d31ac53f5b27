"""Chunks told by their frame: what comes of them is what the full parse gives, whatever stands in a frame."""

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.chat.chunks import ChunkRewriter
from core.chat.sse import SseDecoder
from core.errors import UpstreamFailed
from core.money.usage import TokenCounts

ESTIMATE = TokenCounts(prompt=3, completion=4, total=7, estimated=True)
HEAD = b'{"id":"up-1","object":"chat.completion.chunk","created":17,"model":"up","system_fingerprint":"fp",'
START = HEAD + b'"choices":[{"index":0,"delta":{"content":"'
END = b'"},"logprobs":null,"finish_reason":null}]}'
ROLE = HEAD + b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}'
STOP = HEAD + b'"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'


class Number(str):
    """A number as it is written."""


def exact(chunks: list[bytes]) -> list[Any]:
    return [json.loads(each, parse_int=Number, parse_float=Number) for each in chunks]


class Watched(ChunkRewriter):
    """Counts the events that come one by one, and the reads that are nothing but chunks of the frame."""

    single = framed = 0

    def push_read(self, read: bytes, out: list[bytes]) -> int:
        taken = super().push_read(read, out)
        self.framed += taken == len(read)
        return taken

    def push(self, data: bytes, out: list[bytes]) -> None:
        self.single += 1
        super().push(data, out)


class Parsing(Watched):
    """Knows no frames: every chunk is parsed."""

    def _push_texts(self, *_: Any) -> bool:
        return False


def driven(kind: type[Watched], reads: list[bytes], *, include_usage: bool = False) -> dict[str, Any]:
    """All that can be seen of a stream that comes in these reads."""
    one = kind(completion_id="chatcmpl-ours", model="our/model", created_s=1_800_000_000, include_usage=include_usage)
    sse = SseDecoder()
    out: list[bytes] = []
    failed, last = False, []
    try:
        for read in filter(None, reads):
            one.take(read, sse, out)
        last = one.finish(one.usage or ESTIMATE)
    except UpstreamFailed:
        failed = True
    counts = (one.text_bytes, one.counted_bytes, one.usage, one.done, one.finish_reasons)
    return {
        "out": exact(out),
        "last": exact(last),
        "failed": failed,
        "counts": counts,
        "framed": one.framed,
        "single": one.single,
    }


def same(reads: list[bytes], **options: Any) -> dict[str, Any]:
    """What both give, which must be the same."""
    found, wanted = driven(Watched, reads, **options), driven(Parsing, reads, **options)
    assert found | {"framed": 0, "single": 0} == wanted | {"framed": 0, "single": 0}
    return found


def event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def framed(text: bytes) -> bytes:
    return event(START + text + END)


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("usage", [b"", b',"usage":null'])
@pytest.mark.parametrize("field", [b"content", b"reasoning_content", b"reasoning"])
def test_reads_of_plain_chunks_are_not_parsed(field: bytes, usage: bytes, include_usage: bool) -> None:
    """One chunk teaches the frame; from then on whole reads pass, of one chunk or of many."""
    start, end = START.replace(b"content", field), END[:-1] + usage + b"}"
    plain = [event(start + text + end) for text in (b"a", b" the", b"\xc3\xa9", rb"\n\"quoted\"\\", b"", b"id")]
    reads = [event(ROLE), event(start + b"first" + end), *plain, b"".join(plain), event(STOP) + event(b"[DONE]")]
    found = same(reads, include_usage=include_usage)
    assert (found["failed"], found["framed"]) == (False, len(plain) + 1)
    assert len(found["out"]) == 2 + 2 * len(plain)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (START.replace(b'{"content', b'{"role":"assistant","content'), END),
        (START, END.replace(b'"}', b'","role":"assistant"}')),
    ],
)
def test_a_role_in_every_chunk_goes_without_a_parse(start: bytes, end: bytes) -> None:
    """The frame knows that only the first one stays."""
    found = same([event(start + text + end) for text in (b"a", b" the", b"\xc3\xa9", b"role")] + [event(STOP)])
    deltas = [each["choices"][0]["delta"] for each in found["out"]]
    assert [delta.pop("role", None) for delta in deltas] == ["assistant", None, None, None]
    assert [delta["content"] for delta in deltas] == ["a", " the", "é", "role"]
    assert found["framed"] == 3


def test_chunks_in_a_row_are_taken_at_once_wherever_a_read_ends() -> None:
    """All in one read, in reads that end in the middle of chunks, with another chunk in front or behind."""
    plain, end = [framed(b"%d" % number) for number in range(50)], event(STOP) + event(b"[DONE]")
    stream = b"".join([event(ROLE), *plain, end])
    assert same([stream])["single"] == 2 + 2  # the role, and what teaches the frame
    assert same([stream[:2_000], stream[2_000:5_000], stream[5_000:]])["single"] == 2 + 2
    assert same([event(ROLE), plain[0], b"".join(plain[1:]) + end])["single"] == 2 + 2
    assert same([event(ROLE), plain[0], event(b"") + b"".join(plain[1:]), end])["single"] == 2 + 2 + len(plain)
    two = framed(b"1").replace(b"}]}", b"}]}\ndata: \ndata: data: ") + framed(b"2")  # two events are not three
    assert same([event(ROLE), plain[0], two + b": \n\n", end])["failed"]


def test_a_frame_that_changes_is_learned_anew() -> None:
    """Reasoning, then the answer; an upstream that changes it with every chunk costs no lesson for each."""
    reasoning = START.replace(b"content", b"reasoning_content")
    first = [event(reasoning + b"%d" % number + END) for number in range(20)]
    second = [framed(b"%d" % number) for number in range(20)]
    assert same([event(ROLE), *first, *second, event(STOP)])["framed"] == 38
    changing = [event((START + b"x" + END).replace(b"17", b"%d" % number)) for number in range(100)]
    assert same([event(ROLE), *changing, event(STOP)])["framed"] == 0


@pytest.mark.parametrize("odd", [START + END[1:], START[:-1] + END, START, END, START + b"\x0c" + END])
def test_what_only_looks_framed_is_refused(odd: bytes) -> None:
    """A frame with its two halves laid over one another, one without the other, a bare control character."""
    assert same([event(ROLE), framed(b"first"), event(odd)])["failed"]


def test_nothing_passes_behind_the_end() -> None:
    """What follows [DONE] is not looked at; what follows the last finish reason is held back."""
    assert len(same([event(ROLE), framed(b"first"), event(b"[DONE]"), framed(b"late")])["out"]) == 2
    found = same([event(ROLE), framed(b"first"), event(STOP), framed(b"late"), event(b"[DONE]")])
    assert (len(found["out"]), len(found["last"])) == (2, 2)


PROBE = b"-worldrouter-probe-"
PLAIN = (b"", b"plain", b" the", "é\U0001f600\u2028".encode(), rb"\n", rb"\"", rb"\\", b"id", b"fp", b"17", b"\x7f")
NASTY = (
    b"\xc3",
    b"\xa9",
    b"\xed\xa0\x80",
    b"\\",
    rb"\u00e9",
    rb"\ud83d",
    rb"\ud83d\ude00",
    rb"\x",
    b'"',
    b"\x01",
    b"\t",
    b"\n",
    b"\r",
    b"\x0c",
    b"\x1f",
    b"\n\n",
    b"\n\ndata: ",
    END,
    START,
    END + b"\n\ndata: " + START,
    END + b"\n\n" + START,
    b'","content":"twice',
    b'"},"finish_reason":"stop","delta":{"content":"x',
    b'"}}],"usage":{"prompt_tokens":1,"completion_tokens":2},"choices":[{"delta":{"content":"',
    b'x","tool_calls":[{"index":0,"id":"c","function":{"name":"f","arguments":""}}],"y":"',
    b"model",
    b"up",
    PROBE,
)
FRAMES = (
    (START, END),
    (START, END),
    (START, END),
    (START, END[:-1] + b',"usage":null}'),
    (START, END[:-1] + b',"usage" : null }'),
    (START, END[:-1] + b',"usage":{"prompt_tokens":1,"completion_tokens":2}}'),
    (START, END[:-1] + b',"obfuscation":"Xy"}'),
    (START, END[:-1] + b',"model":"other"}'),
    (START, END[:-1] + b',"choices":[]}'),
    (START, END[:-1] + b',"error":null}'),
    (START, END.replace(b"null}]", b'"length"}]')),
    (START, END.replace(b"null}]", b'""}]')),
    (START, b'","tool_calls":null},"finish_reason":null}]}'),
    (START, b'","refusal":"no"},"finish_reason":null}]}'),
    (START, b'","content":"the last one counts"},"finish_reason":null}]}'),
    (START, b'"},"delta":{},"finish_reason":null}]}'),
    (START.replace(b"content", b"reasoning_content"), END),
    (START.replace(b"content", b"reasoning"), END),
    (START.replace(b'{"content', b'{"reasoning_content":"a","reasoning'), END),
    (START.replace(b"content", b"x_new"), END),
    (START.replace(b'{"content', b'{"role":"assistant","content'), END),
    (START, END.replace(b'"}', b'", "role": "assistant"}')),
    (START, END.replace(b'"}', b'","role":"model"}')),
    (START, END.replace(b'"}', b'","x":{"role":"assistant"}}')),
    (START.replace(b'"content":"', b'"content":"first","content":"'), END),
    (START.replace(b'"content":"', b'"content" : "'), b'" } } ] }'),
    (START.replace(b"content", rb"cont\u0065nt"), END),
    (START.replace(b'"index":0', b'"index":1'), END),
    (START.replace(b'"index":0,', b""), END),
    (START.replace(b'"fp"', b'"' + PROBE + b'"'), END),
    (START.replace(b"up-1", PROBE), END),
    (START.replace(b'"fp"', b'"plain"'), END),
    (START.replace(b"up-1", b"plain"), END),
    (b'{"choices":[{"index":0,"delta":{"content":"', END[:-1] + b',"id":"up-1","created":17,"model":"up"}'),
    (b'{"x":"', b'",' + START[1:] + b"plain" + END),
)


def reads_of(random: Random) -> list[bytes]:
    """A stream of few frames and many texts, some of it not even JSON, in reads that heed events or do not."""
    frames = random.sample(FRAMES, random.choice([1, 1, 2, 3]))
    nasty = random.choice([0.0, 0.02, 0.1])
    events = [event(ROLE)] if random.random() < 0.8 else []
    for _ in range(random.choice([3, 10, 30])):
        start, end = random.choice(frames)
        texts = [random.choice(NASTY if random.random() < nasty else PLAIN) for _ in range(random.choice([1, 1, 2]))]
        events.append(event(start + b"".join(texts) + end))
        if random.random() < 0.03:
            events.append(random.choice([b": ping\n\n", b"\n", event(b""), event(STOP), b"event: x\n" + framed(b"y")]))
    events += [event(STOP), event(b"[DONE]")] if random.random() < 0.8 else []
    if random.random() < 0.1:
        return [each.replace(b"\n", b"\r\n") for each in events]
    stream, reads = b"".join(events), []
    if random.random() < 0.3:
        while stream:
            size = random.randrange(1, 400)
            reads, stream = [*reads, stream[:size]], stream[size:]
        return reads
    while events:
        count = random.choice([1, 1, 2, 16])
        reads, events = [*reads, b"".join(events[:count])], events[count:]
    return reads


@pytest.mark.slow
@given(st.integers(0, 2**32), st.booleans())
@settings(max_examples=700, deadline=None)
def test_frames_give_what_the_full_parse_gives(seed: int, include_usage: bool) -> None:
    """Texts that look like frames, that are cut, escaped or no UTF-8; frames that look alike; reads cut anywhere."""
    same(reads_of(Random(seed)), include_usage=include_usage)
