"""The words in which a request tells the scripted provider how to answer it."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any, Literal

import msgspec

Count = Annotated[int, msgspec.Meta(ge=0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
ChoiceCount = Annotated[int, msgspec.Meta(ge=1, le=128)]
Milliseconds = Annotated[float, msgspec.Meta(ge=0)]


class Fault(Enum):
    """What goes wrong. Those of the body happen after `fault_after` events, in a unary answer half way."""

    CONNECT_FAILED = "connect_failed"  # no connection
    HEAD_CUT = "head_cut"  # the connection breaks before status and headers are complete
    NO_HEAD = "no_head"  # connected, then silence
    CUT = "cut"  # the connection breaks in the middle of the body
    SILENCE = "silence"  # nothing more, and no end
    NO_FINISH = "no_finish"  # a proper end, but no finish reason and no [DONE]
    ERROR = "error"  # an error object, then the end; unary: as the whole body, with status 200
    BAD_JSON = "bad_json"  # an event that is no JSON, then on as if nothing had been
    NO_DONE = "no_done"  # the end without [DONE]
    DOUBLE_DONE = "double_done"  # [DONE] twice


class ScriptedToolCall(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A tool call of the answer. `arguments` is JSON text, or what a model takes for it; streamed in pieces."""

    name: str
    arguments: str = "{}"
    id: str | None = None


class Script(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True, omit_defaults=True):
    """How to answer one request. Without any field: the words of the last user message, one token each.

    content: `text`, as one string or as the texts of the chunks; or `token_count` words, those of the last user
    message over and over. `reasoning` goes before it, into `reasoning_content`; `tool_calls` after it.
    `finish_reason` replaces the one that follows. `n` choices, instead of the request's. `extra`,
    `choice_extra` and `delta_extra` are further fields of each object, of each choice (`logprobs`) and of the
    message, in a stream of the first deltas (`refusal`); their JSON is passed on as it is written.

    usage: `usage`, exactly; or a `usage_mode`: "asked" as OpenAI, in a stream on request only; "always";
    "missing"; "zero"; "every_chunk"; "split": prompt on the first chunk, completion on the last.

    time, in milliseconds: `head_delay_ms` before status and headers, `first_delay_ms` before the first read of
    the body, `chunk_delay_ms` between two reads.

    pieces: `chunks_per_read` events per read, cut into reads of at most `bytes_per_read`; `crlf` line ends;
    `comments` before each event.

    trouble: another `status`, with this `error` object and `retry_after_s`; a `fault` after `fault_after`
    events, counting the role's.

    verbatim: `raw`, the reads of the body as text, or `raw_base64` where they are no text; `raw_body`, the
    whole body in one read; `content_type`. A cut or silence comes after all of it.
    """

    text: str | list[str] | None = None
    token_count: Count | None = None
    reasoning: str | list[str] | None = None
    tool_calls: list[ScriptedToolCall] = []
    finish_reason: str | None = None
    n: ChoiceCount | None = None
    extra: dict[str, msgspec.Raw] = {}
    choice_extra: dict[str, msgspec.Raw] = {}
    delta_extra: dict[str, msgspec.Raw] = {}
    usage: dict[str, msgspec.Raw] | None = None
    usage_mode: Literal["asked", "always", "missing", "zero", "every_chunk", "split"] = "asked"
    head_delay_ms: Milliseconds = 0.0
    first_delay_ms: Milliseconds = 0.0
    chunk_delay_ms: Milliseconds = 0.0
    chunks_per_read: Positive = 1
    bytes_per_read: Positive | None = None
    crlf: bool = False
    comments: bool = False
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 200
    error: dict[str, msgspec.Raw] | None = None
    retry_after_s: float | None = None
    fault: Fault | None = None
    fault_after: Count = 0
    raw: list[str] | None = None
    raw_base64: list[bytes] | None = None
    raw_body: str | None = None
    content_type: str | None = None


class ScriptedMessage(msgspec.Struct):
    """A message of the request, as far as it is looked at."""

    role: str = ""
    content: Any = None

    def text(self) -> str:
        """Its words: the content, or the text of its parts."""
        if isinstance(self.content, str):
            return self.content
        parts = self.content if isinstance(self.content, list) else []
        return " ".join(str(part["text"]) for part in parts if isinstance(part, dict) and "text" in part)


class StreamOptions(msgspec.Struct):
    """The request's `stream_options`, as far as they are looked at."""

    include_usage: bool | None = None


class ScriptedRequest(msgspec.Struct):
    """The request, as far as it is looked at; `script` is merged into the provider's defaults first."""

    model: str
    messages: list[ScriptedMessage]
    stream_options: StreamOptions | None = None
    n: ChoiceCount | None = None
    max_tokens: Count | None = None
    max_completion_tokens: Count | None = None
    script: dict[str, msgspec.Raw] | None = None
