"""The chunks of a stream, given the caller's view."""

import contextlib
import json
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.chat.chunks import MAX_HELD_CHUNKS, ChunkRewriter
from core.errors import UpstreamFailed
from core.money.usage import TokenCounts

ESTIMATE = TokenCounts(prompt=3, completion=4, total=7, estimated=True)
OURS = {"id": "chatcmpl-ours", "model": "our/model", "created": 1_800_000_000}


class Number(str):
    """A number as it is written: 1 is not 1.0."""


def exact(data: bytes) -> Any:
    """JSON with its numbers as they are written."""
    return json.loads(data, parse_int=Number, parse_float=Number)


def rewriter(*, include_usage: bool = False) -> ChunkRewriter:
    return ChunkRewriter(
        completion_id=OURS["id"], model=OURS["model"], created_s=OURS["created"], include_usage=include_usage
    )


def passed(chunks: list[Any], *, include_usage: bool = False) -> tuple[list[Any], list[Any]]:
    """What goes out while the stream runs, and what at its end."""
    one = rewriter(include_usage=include_usage)
    out: list[bytes] = []
    for chunk in chunks:
        one.push(chunk if isinstance(chunk, bytes) else json.dumps(chunk, separators=(",", ":")).encode(), out)
    last = one.finish(one.usage or ESTIMATE)
    return [json.loads(chunk) for chunk in out], [json.loads(chunk) for chunk in last]


def chunk(delta: Any = None, finish: str | None = None, index: int = 0, **fields: Any) -> dict[str, Any]:
    """A chunk as OpenAI sends it."""
    head = {
        "id": "chatcmpl-up",
        "object": "chat.completion.chunk",
        "created": 17,
        "model": "up",
        "system_fingerprint": 1,
    }
    return {**head, "choices": [{"index": index, "delta": delta or {}, "finish_reason": finish}], **fields}


ROLE = chunk({"role": "assistant", "content": ""})
STOP = chunk({}, "stop")


def test_a_plain_stream_is_passed_on_under_our_name() -> None:
    """Same id, created and model on every chunk, ours; the role first, the finish and nothing else at the end."""
    out, last = passed([ROLE, chunk({"content": "Hi"}), STOP, chunk(choices=[], usage={"prompt_tokens": 1}), b"[DONE]"])
    assert [each["choices"][0]["delta"] for each in out] == [{"role": "assistant", "content": ""}, {"content": "Hi"}]
    assert [each["choices"][0]["finish_reason"] for each in last] == ["stop"]
    for each in out + last:
        assert OURS.items() <= each.items()
        assert "usage" not in each
        assert each["system_fingerprint"] == 1


def test_an_empty_list_of_tool_calls_is_left_out() -> None:
    """OpenAI sends none, and some clients take it for the beginning of a call."""
    out, _ = passed([ROLE, chunk({"content": "Hi", "tool_calls": []}), STOP])
    assert out[1]["choices"][0]["delta"] == {"content": "Hi"}


def test_no_chunk_leaves_in_several_lines() -> None:
    """The data of an event may; each of ours is a line of its own."""
    one, out = rewriter(), list[bytes]()
    for each in (ROLE, chunk({"content": "Hi"}), chunk({"content": "Ho"}), chunk({"content": "!"}, index=1)):
        one.push(json.dumps(each, separators=(",", ":")).encode().replace(b'"delta":', b'\n"delta":\n'), out)
    assert len(out) == 4
    assert not [each for each in out if b"\n" in each]


def test_usage_is_null_on_every_chunk_but_its_own() -> None:
    """With `include_usage` the last chunk has it and no choices; without it no chunk speaks of usage."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "cost": 0.25}
    stream = [ROLE, chunk({"content": "Hi"}, usage=None), STOP, chunk(choices=[], usage=usage, x=1), b"[DONE]"]
    out, last = passed(stream, include_usage=True)
    assert [each["usage"] for each in out + last] == [None, None, None, usage]
    assert [each["choices"] for each in last][-1] == []
    assert last[-1]["x"] == 1
    out, last = passed(stream)
    assert ["usage" in each for each in out + last] == [False, False, False]


def test_usage_without_a_choices_key_makes_a_whole_chunk() -> None:
    """The usage chunk always has `choices: []`, or the SDKs' models break."""
    sent = chunk(usage={"prompt_tokens": 1, "completion_tokens": 2})
    for form in ({**sent, "choices": None}, {name: value for name, value in sent.items() if name != "choices"}):
        _, last = passed([ROLE, STOP, form], include_usage=True)
        assert last[-1]["choices"] == []


@pytest.mark.parametrize(
    ("reports", "prompt", "completion"),
    [
        ([{"prompt_tokens": 1, "completion_tokens": 2}, {"prompt_tokens": 5, "completion_tokens": 6}], 5, 6),
        ([{"prompt_tokens": 5, "completion_tokens": 6}, None], 5, 6),
        ([{"prompt_tokens": 5, "completion_tokens": 6}, {"prompt_tokens": -1, "completion_tokens": 1}], 5, 6),
        ([{"prompt_tokens": 5, "completion_tokens": 6}, {}], 5, 6),
        ([{"prompt_tokens": 5, "completion_tokens": 6}, {"prompt_tokens": 0, "completion_tokens": 0}], 0, 0),
        ([{"prompt_tokens": 5}, {"completion_tokens": 6}], 5, 6),
        ([{"prompt_tokens": 5, "completion_tokens": 1}, {"completion_tokens": 6}], 5, 6),
    ],
)
def test_the_last_usage_wins(reports: list[Any], prompt: int, completion: int) -> None:
    """On any chunk, more than once, in two parts; what is no count does not take its place."""
    one = rewriter(include_usage=True)
    out: list[bytes] = []
    for report in reports:
        one.push(json.dumps(chunk({"content": "x"}, usage=report)).encode(), out)
    assert one.usage is not None
    assert (one.usage.prompt, one.usage.completion) == (prompt, completion)
    one.push(json.dumps(STOP).encode(), out)
    shown = json.loads(one.finish(one.usage or ESTIMATE)[-1])["usage"]
    assert (shown["prompt_tokens"], shown["completion_tokens"]) == (prompt, completion)


@pytest.mark.parametrize("report", [None, {}, {"prompt_tokens": -1, "completion_tokens": 5}, {"prompt_tokens": 5}])
def test_usage_that_nobody_counted_is_estimated_and_marked(report: Any) -> None:
    """The caller who asked for usage gets the estimate that it is charged by."""
    one = rewriter(include_usage=True)
    for each in (ROLE, STOP, chunk(choices=[], usage=report)):
        one.push(json.dumps(each).encode(), [])
    assert one.usage is None
    shown = json.loads(one.finish(one.usage or ESTIMATE)[-1])["usage"]
    assert (shown["prompt_tokens"], shown["completion_tokens"], shown["estimated"]) == (3, 4, True)


def test_an_estimate_on_top_of_stale_usage_is_what_the_caller_sees() -> None:
    """Usage that was reported before the end does not say what is charged."""
    one = rewriter(include_usage=True)
    for each in (
        chunk({"content": "x"}, usage={"prompt_tokens": 1, "completion_tokens": 1}),
        chunk({"content": "y"}),
        STOP,
    ):
        one.push(json.dumps(each).encode(), [])
    shown = json.loads(one.finish(ESTIMATE)[-1])["usage"]
    assert (shown["completion_tokens"], shown["estimated"]) == (4, True)


def test_the_bytes_that_usage_covers_are_known() -> None:
    """Text after the last report can be estimated on top of it."""
    one = rewriter()
    one.push(json.dumps(chunk({"content": "x" * 10}, usage={"prompt_tokens": 1, "completion_tokens": 2})).encode(), [])
    one.push(json.dumps(chunk({"content": "y" * 5, "reasoning_content": "z" * 4, "refusal": "r"})).encode(), [])
    assert (one.counted_bytes, one.text_bytes) == (10, 20)
    one.push(json.dumps(chunk({"function_call": {"name": "f" * 3, "arguments": "a" * 4}})).encode(), [])
    assert (one.counted_bytes, one.text_bytes) == (10, 27)
    one.push(json.dumps(chunk({"content": None, "audio": {"data": "A" * 99, "transcript": "t" * 5}})).encode(), [])
    assert one.text_bytes == 32
    details = [{"type": "reasoning.text", "text": "d" * 6}]
    one.push(json.dumps(chunk({"content": "", "reasoning_details": details})).encode(), [])
    assert one.text_bytes == 38
    one.push(json.dumps(chunk({"reasoning": "d" * 6, "reasoning_details": details})).encode(), [])
    assert one.text_bytes == 44


@pytest.mark.parametrize("other", [None, "", "yyyyy"])
def test_reasoning_counts_once_under_either_name(other: str | None) -> None:
    """Whoever goes away while a model thinks pays for its thoughts, which many upstreams call `reasoning`."""
    one = rewriter()
    for delta in ({"reasoning": "yyyyy"}, {"content": "", "reasoning": "yyyyy", "reasoning_content": other}):
        for _ in range(3):
            one.push(json.dumps(chunk(delta)).encode(), [])
    assert one.text_bytes == 6 * 5


def test_the_last_finish_is_held_back_and_all_that_follows() -> None:
    """Nothing that could pass for the end leaves before the charge is committed."""
    one = rewriter()
    out: list[bytes] = []
    for each in (ROLE, STOP, chunk({}), chunk({"content": "late"})):
        one.push(json.dumps(each).encode(), out)
    assert len(out) == 1
    last = [json.loads(each)["choices"][0] for each in one.finish(one.usage or ESTIMATE)]
    assert [(each["finish_reason"], each["delta"]) for each in last] == [
        ("stop", {}),
        (None, {}),
        (None, {"content": "late"}),
    ]


def test_a_finish_of_one_choice_leaves_when_another_goes_on() -> None:
    """Only the last finish of several choices is held."""
    one = rewriter()
    out: list[bytes] = []
    for index in (0, 1):
        one.push(json.dumps(chunk({"role": "assistant"}, index=index)).encode(), out)
    one.push(json.dumps(chunk({}, "stop", 0)).encode(), out)
    assert len(out) == 2
    one.push(json.dumps(chunk({"content": "x"}, index=1)).encode(), out)
    assert [json.loads(each)["choices"][0]["finish_reason"] for each in out] == [None, None, "stop", None]
    one.push(json.dumps(chunk({}, "length", 1)).encode(), out)
    assert len(out) == 4
    assert one.reasons() == ("stop", "length")


def test_an_upstream_that_never_stops_after_its_end_is_given_up() -> None:
    """What is held back is bounded."""
    one = rewriter()
    one.push(json.dumps(STOP).encode(), [])
    more = json.dumps(chunk({"content": "x"})).encode()
    for _ in range(MAX_HELD_CHUNKS):
        one.push(more, [])
    with pytest.raises(UpstreamFailed):
        one.push(more, [])


@pytest.mark.parametrize(
    "first",
    [
        chunk({"content": "Hi"}),
        chunk({"role": "model", "content": "Hi"}),
        chunk({"role": None, "content": "Hi"}),
        chunk({"content": "Hi"}, "stop"),
        chunk({"role": "assistant", "content": "Hi"}, "stop"),
    ],
)
def test_the_first_chunk_of_a_choice_carries_the_role(first: Any) -> None:
    """Whether or not the upstream sends it, and also when the whole answer is one chunk."""
    out, last = passed([first] if first["choices"][0]["finish_reason"] else [first, STOP])
    assert out[0]["choices"][0]["delta"] == {"role": "assistant", "content": "Hi"}
    assert out[0]["choices"][0]["finish_reason"] is None
    assert last[-1]["choices"][0]["delta"] == {}


@pytest.mark.parametrize(
    "said",
    [
        {"role": "assistant", "content": "x"},
        {"content": "x", "role": "assistant"},
        {"content": "x", "role": "model"},
        {"content": '"role":"assistant",', "role": "assistant", "other": 1},
        {"role": "assistant"},
    ],
)
def test_the_role_stands_on_the_first_chunk_of_a_choice_alone(said: Any) -> None:
    """Upstreams that repeat it make "assistantassistant" of it in openai-python; other roles are not the delta's."""
    several = [chunk(said, index=index, x={"role": "assistant"}) for index in (0, 1, 0, 0, 1)]
    both = chunk(choices=[{"index": index, "delta": said, "finish_reason": None} for index in (0, 1)])
    out, _ = passed([*several, both, STOP, chunk(said, "stop", index=1)])
    deltas = [each["delta"] for one in out for each in one["choices"]]
    rest = {name: value for name, value in said.items() if name != "role"}
    assert deltas == [rest | {"role": "assistant"}] * 2 + [rest] * 5 + [{}] + [rest] * bool(rest)
    assert [one["x"] for one in out[:5]] == [{"role": "assistant"}] * 5


@pytest.mark.parametrize("delta", [{}, {"content": ""}, {"role": "assistant", "content": ""}, None])
def test_an_empty_answer_has_a_role_and_a_finish(delta: Any) -> None:
    """All tokens may have gone into hidden reasoning: `length`, without a word."""
    one = chunk(finish="length")
    one["choices"][0]["delta"] = delta
    out, last = passed([one])
    assert [each["choices"][0]["delta"]["role"] for each in out] == ["assistant"]
    assert [each["choices"][0] for each in last] == [{"index": 0, "delta": {}, "finish_reason": "length"}]


def test_what_the_schema_requires_is_added_to_every_chunk() -> None:
    """Without object, index and finish reason, and without id, created and model: clients look at all of them."""
    deltas = [
        {"delta": {"content": "a"}},
        {"index": None, "delta": {"content": "b"}},
        {"index": -1, "delta": {"content": "c"}},
    ]
    out, last = passed([{"choices": [each]} for each in deltas] + [STOP])
    required = {**OURS, "object": "chat.completion.chunk"}
    assert [{name: each[name] for name in required} for each in out] == [required] * 3
    assert [each["choices"] for each in out] == [
        [{"index": 0, "delta": {"role": "assistant", "content": "a"}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "b"}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "c"}, "finish_reason": None}],
    ]
    assert last[-1]["choices"][0]["finish_reason"] == "stop"


def test_logprobs_go_with_the_text_they_belong_to() -> None:
    """When a chunk says something and finishes, the finish has none."""
    one = chunk({"content": "x"}, "stop")
    one["choices"][0]["logprobs"] = {"content": [{"token": "x", "logprob": -0.5}]}
    out, last = passed([ROLE, one])
    assert out[-1]["choices"][0]["logprobs"] == one["choices"][0]["logprobs"]
    assert last[-1]["choices"][0]["logprobs"] is None


ROLE_CHOICE = b'"choices":[{"index":0,"delta":{"role":"assistant"},"finish_reason":null}]'


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize(
    "data",
    [
        b'{"id":"a","object":"o","created":1,"model":"m",%s,"id":"b"}',
        b'{"id":"a","object":"o","created":1,"model":"m",%s,"model":"n"}',
        b'{"id":"a","object":"o","created":1,"model":"m",%s,"created":2}',
        b'{"id":"a","object":"o","created":1,"model":"m",%s,"\\u0069d":"b"}',
        b'{"id":"a","object":"o","created":1,"model":"m",%s,"usage":{"prompt_tokens":1,"completion_tokens":1},"usage":null}',
        b'{"id":"a","object":"o","created":1,"model":"m",%s,"x":{"y":1,"usage":null}}',
        b'{"id":"a","object":"o","created":1,"model":"m","usage":null,%s}',
        b'{"id":"a","object":"o","created":1,"model":"m","x":{"a":1,"choices":2},%s}',
        b'{"id":"a","object":"o","created":1,"model":"m","x":["choices"],%s}',
        b'{"object":"choices","id":"a","created":1,"model":"m",%s}',
        b'{"object":"x",%s}',
        b"{%s}",
        b' {"id":"a","object":"o","created":1,"model":"m",%s} ',
        b'{"id":"a","object":"o","created":1,"model":"m", %s}\n',
    ],
)
def test_odd_chunks_are_made_whole_too(data: bytes, include_usage: bool) -> None:
    """Names twice or in disguise, nested look-alikes, a head that lacks something, spaces: never guessed at."""
    one = rewriter(include_usage=include_usage)
    out: list[bytes] = []
    for _ in range(2):
        one.push(data % ROLE_CHOICE, out)
    for each in out:
        pairs: list[tuple[str, Any]] = json.loads(each, object_pairs_hook=list)
        names = [name for name, _ in pairs]
        assert all(names.count(name) == 1 for name in OURS)
        assert OURS.items() <= dict(pairs).items()
        assert dict(pairs).get("usage") is None
        assert ("usage" in names) is include_usage


def test_nesting_is_passed_on_or_refused() -> None:
    """However deep, in front of the choices too: it is nobody's RecursionError."""
    for depth in range(sys.getrecursionlimit() - 150, sys.getrecursionlimit()):
        head = b'{"id":"a","object":"o","created":1,"model":"m","x":%b%b,' % (b"[" * depth, b"]" * depth)
        with contextlib.suppress(UpstreamFailed):
            rewriter().push(head + ROLE_CHOICE + b"}", [])


def test_numbers_keep_their_digits() -> None:
    """In fields that we know nothing of, on both paths."""
    wild = b'"x":18446744073709551621,"y":1.0,"z":-0.0,"e":1e2}'
    head = b'{"id":"a","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant"}}],'
    one = rewriter()
    out: list[bytes] = []
    one.push(head + wild, out)
    one.push(head + b'"usage":null,' + wild, out)
    for each in out:
        assert exact(each) | {
            "x": Number(2**64 + 5),
            "y": Number("1.0"),
            "z": Number("-0.0"),
            "e": Number("1e2"),
        } == exact(each)


def test_nothing_counts_after_done() -> None:
    """A second [DONE], and whatever follows the first, is nothing."""
    out, last = passed([ROLE, STOP, b"[DONE]", b"[DONE]", chunk({"content": "late"}), b"not JSON"])
    assert len(out) == len(last) == 1


def test_an_empty_event_is_no_chunk() -> None:
    """Some upstreams keep the line alive with `data:`."""
    out, _ = passed([b"", ROLE, b"", STOP])
    assert len(out) == 1


def test_chunks_without_choices_are_not_passed_on() -> None:
    """A loop over `chunk.choices[0]` must not fail: only who asked for usage gets a chunk without choices."""
    filtered = chunk(choices=[], prompt_filter_results=[])
    assert len(passed([filtered, ROLE, STOP])[0]) == 1
    assert len(passed([filtered, ROLE, STOP], include_usage=True)[0]) == 1


@pytest.mark.parametrize(
    "stream",
    [
        [],
        [ROLE],
        [ROLE, chunk({"content": "x"}), b"[DONE]"],
        [ROLE, chunk({}, ""), b"[DONE]"],
        [ROLE, chunk({"role": "assistant"}, index=1), STOP, b"[DONE]"],
        [chunk(choices=[], usage={"prompt_tokens": 1, "completion_tokens": 1}), b"[DONE]"],
    ],
)
def test_a_stream_without_its_finish_is_cut(stream: list[Any]) -> None:
    """A finish reason is never made up: not for [DONE], not for one choice of two, not for an empty one."""
    with pytest.raises(UpstreamFailed):
        passed(stream)


@pytest.mark.parametrize(
    "data",
    [
        b"not JSON",
        b"[]",
        b"7",
        b'"text"',
        b"null",
        b'{"choices":[}',
        b'{"choices":{}}',
        b'{"choices":[7]}',
        b'{"choices":[{"delta":"x"}]}',
        b'{"choices":[{"index":"0"}]}',
        b'{"choices":[{"finish_reason":1}]}',
        b'{"choices":[{"delta":{"content":NaN}}]}',
        b'{"choices":[{"delta":{"content":"\xff"}}]}',
        b'{"x":"\xed\xa0\x80","choices":[]}',
        b'{"choices":' + b"[" * 100_000,
        b'{"usage":' + b'{"a":' * 100_000,
        b'{"error":{"message":"overloaded"}}',
        b'{"error":"overloaded","choices":[]}',
        b'{"id":"x","choices":[{"index":0,"delta":{"content":"x"}}],"error":{"code":500}}',
    ],
)
@pytest.mark.parametrize("learned", [False, True])
def test_what_is_no_chunk_fails_the_answer(data: bytes, learned: bool) -> None:
    """Bad JSON, bad UTF-8, other types, an error object in any chunk: one error, whatever came before."""
    one = rewriter()
    if learned:
        one.push(json.dumps(ROLE).encode(), [])
    with pytest.raises(UpstreamFailed):
        one.push(data, [])


@pytest.mark.parametrize(
    ("escaped", "shown"),
    [
        (rb"\ud83d", "\ufffd"),
        (rb"\ude00x", "\ufffdx"),
        (rb"a\uD83D\ud83d\ude00", "a\ufffd\U0001f600"),
        (rb"\\ud83d \ud83d", "\\ud83d \ufffd"),
        (rb"\ud83d\n", "\ufffd\n"),
    ],
)
def test_half_a_character_is_replaced(escaped: bytes, shown: str) -> None:
    """Some upstreams cut an emoji between two chunks: that must not end the answer."""
    data = json.dumps(chunk({"role": "assistant", "content": "X"})).encode().replace(b"X", escaped)
    out: list[bytes] = []
    rewriter().push(data, out)
    assert json.loads(out[0])["choices"][0]["delta"]["content"] == shown


@given(st.binary(max_size=60), st.sampled_from([b"%s", b'{"choices":[{"delta":{"content":%s}}]}', b'{"choices":%s}']))
@example(b'[{"delta":{"tool_calls":[{"index":1.5,"function":7}]}}]', b'{"choices":%s}')
@example(b'[{"delta":{"tool_calls":[{"function":[]},{"index":null}]},"finish_reason":"x"}]', b'{"choices":%s}')
def test_no_bytes_break_it(data: bytes, frame: bytes) -> None:
    """Whatever an upstream sends, it is a chunk or it is UpstreamFailed."""
    one = rewriter(include_usage=True)
    out: list[bytes] = []
    try:
        one.push(frame % data, out)
        one.push(frame % data, out)
        one.finish(one.usage or ESTIMATE)
    except UpstreamFailed:
        pass
    for each in out:
        json.loads(each)


@pytest.mark.parametrize("half", [r"\ud83d", r"\ude00", r"\ud83d\ud83d", r"\ude00\ud83d"])
def test_half_a_character_is_no_broken_stream(half: str) -> None:
    """Upstreams cut an emoji in two; what cannot be decoded becomes U+FFFD, whole pairs stay."""
    rewriter, out = ChunkRewriter(completion_id="c", model="m", created_s=1, include_usage=False), []
    text = r"\\ud83d " + half + r" \ud83d\ude00"
    chunk = '{"id":"x","created":1,"model":"u","choices":[{"index":0,"delta":{"role":"assistant","content":"%s"}}]}'
    rewriter.push((chunk % text).encode(), out)
    content = json.loads(out[0])["choices"][0]["delta"]["content"]
    assert content == "\\ud83d " + "\ufffd" * (len(half) // 6) + " \U0001f600"
