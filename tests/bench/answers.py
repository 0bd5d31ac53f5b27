"""What the upstream of the benchmark answers, and how to see that all of it arrived.

A request says in its prompt what it wants: `[[chunks=100 pause_ms=10 wait_ms=0]]`. Every text delta of a stream
carries its number, so order and completeness can be checked whatever stands between.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

import msgspec

MODEL = "bench"
UPSTREAM_MODEL = "upstream-model"
CHUNKS_MOST = 1000
CHUNKS_PER_WRITE = 16
DELTA_MARK = b'"content":"w'
"""Begins the text of every numbered delta, and of nothing else."""
DONE = b"data: [DONE]\n\n"
FRAMING_CHUNKS = 4
"""Events of a stream beside the numbered ones: the role, the finish reason, the usage, `[DONE]`."""

_TEXT = (
    "A router stands between clients and the providers of models. It checks the key, picks an endpoint, passes the "
    "request on and meters the tokens that come back. Since every request crosses it, its own cost has to be small "
    "beside the time that a model takes, and a token that has arrived must never wait in it. "
)
_WHOLE_TEXT = (_TEXT * 2).encode()
_STEERING = re.compile(rb"\[\[chunks=(\d+) pause_ms=(\d+) wait_ms=(\d+)\]\]")
_NUMBER = re.compile(rb'"content":"w(\d{6}) ')
_EVENT_HEAD = (
    b'data: {"id":"chatcmpl-upstream0000000000000001","object":"chat.completion.chunk","created":1760000000,'
    b'"model":"upstream-model","system_fingerprint":"fp_bench","choices":['
)
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"x-request-id: req_bench\r\nTransfer-Encoding: chunked\r\n\r\n"
)


def steering(chunks: int, pause_ms: int, wait_ms: int) -> str:
    """The words of a prompt that ask for `chunks` deltas (0: not a stream), so far apart, after that wait."""
    return f"[[chunks={chunks} pause_ms={pause_ms} wait_ms={wait_ms}]]"


def steered(body: bytes) -> tuple[int, int, int] | None:
    """(chunks, pause in ms, wait in ms) that a request's body asks for; None when it says nothing."""
    found = _STEERING.search(body)
    if found is None:
        return None
    chunks, pause_ms, wait_ms = found.groups()
    return min(int(chunks), CHUNKS_MOST), int(pause_ms), int(wait_ms)


@lru_cache
def unary(body_bytes: int) -> bytes:
    """The HTTP answer, ~1 kB, to a request with a body of this length, which its usage counts."""
    message: dict[str, object] = {
        "role": "assistant",
        "content": _WHOLE_TEXT.decode(),
        "refusal": None,
        "annotations": [],
    }
    content = msgspec.json.encode(
        {
            "id": "chatcmpl-upstream0000000000000001",
            "object": "chat.completion",
            "created": 1760000000,
            "model": UPSTREAM_MODEL,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": _usage(body_bytes, 128),
            "service_tier": "default",
            "system_fingerprint": "fp_bench",
        }
    )
    return simple(200, content)


def simple(status: int, content: bytes) -> bytes:
    """An HTTP answer with a JSON body."""
    head = f"HTTP/1.1 {status} Bench\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


def stream_head() -> bytes:
    """The head of a stream and its first event, the role."""
    delta = b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}\n\n'
    return _STREAM_HEAD + _http_chunk(_EVENT_HEAD + delta)


def stream_chunks() -> tuple[bytes, ...]:
    """The numbered deltas, each an event and an HTTP chunk of its own, as OpenAI sends them."""
    delta = b'{"index":0,"delta":{"content":"w%06d "},"logprobs":null,"finish_reason":null}]}\n\n'
    return tuple(_http_chunk(_EVENT_HEAD + delta % number) for number in range(CHUNKS_MOST))


def stream_tail(chunks: int, body_bytes: int, *, usage: bool) -> bytes:
    """The end of a stream: finish reason, usage if it was asked for, `[DONE]`."""
    finish = b'{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]}\n\n'
    parts = [_http_chunk(_EVENT_HEAD + finish)]
    if usage:
        parts.append(_http_chunk(_EVENT_HEAD + b'],"usage":%b}\n\n' % msgspec.json.encode(_usage(body_bytes, chunks))))
    return b"".join([*parts, _http_chunk(DONE), b"0\r\n\r\n"])


def _usage(body_bytes: int, completion: int) -> dict[str, object]:
    prompt = body_bytes // 4
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _http_chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def expected_numbers(chunks: int) -> list[bytes]:
    """What `stream_fault` compares with: the numbers of a whole stream."""
    return [b"%06d" % number for number in range(chunks)]


def unary_fault(body: bytes) -> str | None:
    """What is wrong with an answer that is not a stream; None: nothing."""
    if _WHOLE_TEXT not in body:
        return "the text is not the upstream's"
    return None if b'"total_tokens":' in body else "no usage"


def stream_fault(body: bytes, numbers: list[bytes]) -> str | None:
    """What is wrong with a whole stream that should carry these numbers; None: nothing."""
    if _NUMBER.findall(body) != numbers:
        return f"{len(_NUMBER.findall(body))} of {len(numbers)} chunks, or not in order"
    if not body.endswith(DONE):
        return "no [DONE]"
    if b'"total_tokens":' not in body:
        return "no usage"
    if body.count(b"data: ") != len(numbers) + FRAMING_CHUNKS:
        return "more or fewer events than the upstream sent"
    return None


def stream_form_fault(body: bytes) -> str | None:
    """As `stream_fault`, but slowly: every event is JSON, with the same id, creation time and model throughout."""
    events = [line.removeprefix(b"data: ") for line in body.split(b"\n") if line.startswith(b"data: ")]
    return _form_fault(events[:-1])


def _form_fault(events: Iterable[bytes]) -> str | None:
    try:
        parsed = [msgspec.json.decode(event, type=dict) for event in events]
    except msgspec.DecodeError as error:
        return f"an event is not JSON: {error}"
    heads = {(event.get("id"), event.get("object"), event.get("created"), event.get("model")) for event in parsed}
    if len(heads) != 1:
        return f"{len(heads)} different heads in one stream"
    reasons = [choice.get("finish_reason") for event in parsed for choice in event.get("choices", [])]
    return None if reasons[-1:] == ["stop"] and not any(reasons[:-1]) else "finish reasons in the wrong place"
