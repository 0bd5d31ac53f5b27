"""A whole answer, given the caller's view: our id and model, and the fields that clients rely on.

Values that are not ours to change stay the bytes they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import msgspec
from msgspec import Raw

from core.errors import UpstreamFailed
from core.money.usage import TokenCounts, parse_usage, usage_json

_NULL = Raw(b"null")
_Object = dict[str, Raw]
_REQUIRED: Mapping[str, Raw] = MappingProxyType({"role": Raw(b'"assistant"'), "content": _NULL, "refusal": _NULL})
"""Of a message (OpenAI's ChatCompletionResponseMessage)."""


class _Message(msgspec.Struct):
    content: Raw = _NULL
    reasoning_content: Raw = _NULL
    refusal: Raw = _NULL
    tool_calls: Raw = _NULL


class _Choice(msgspec.Struct):
    index: int = 0
    message: _Message | None = None
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice]
    usage: Raw = _NULL


_answer_decoder = msgspec.json.Decoder(_Answer)
_object_decoder = msgspec.json.Decoder(_Object)
_choices_decoder = msgspec.json.Decoder(list[_Object])
_encoder = msgspec.json.Encoder()


@dataclass(slots=True)
class Answer:
    """A whole answer. `usage` is None when the upstream reported none; `text_bytes` were produced."""

    fields: _Object
    finish_reasons: tuple[str, ...]
    usage: TokenCounts | None
    text_bytes: int

    def body(self, *, completion_id: str, model: str, created_s: int, estimate: TokenCounts) -> bytes:
        """The JSON for the caller; `estimate` stands in for usage that the upstream did not report."""
        fields = self.fields | {
            "id": Raw(_encoder.encode(completion_id)),
            "created": Raw(b"%d" % created_s),
            "model": Raw(_encoder.encode(model)),
        }
        fields.setdefault("object", Raw(b'"chat.completion"'))
        if self.usage is None:
            fields["usage"] = Raw(usage_json(estimate))
        return _encoder.encode(fields)


def read_answer(body: bytes) -> Answer:
    """Look at an upstream's answer once; UpstreamFailed when it is not a complete one."""
    try:
        if not body.isascii():
            body.decode()
        view = _answer_decoder.decode(body)
        fields = _object_decoder.decode(body)
        choices = _choices_decoder.decode(fields["choices"])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise UpstreamFailed("The upstream's answer is not a chat completion.") from None
    if not choices or not all(choice.finish_reason and choice.message for choice in view.choices):
        raise UpstreamFailed("The upstream's answer is not complete.")
    fields["choices"] = Raw(_encoder.encode([_mended(at, choice) for at, choice in enumerate(choices)]))
    return Answer(
        fields=fields,
        finish_reasons=tuple(
            choice.finish_reason or "" for choice in sorted(view.choices, key=lambda choice: choice.index)
        ),
        usage=parse_usage(view.usage) if view.usage != _NULL else None,
        text_bytes=sum(_text_bytes(choice.message) for choice in view.choices if choice.message),
    )


def _mended(at: int, choice: _Object) -> _Object:
    """What OpenAI's schema requires is always there, `logprobs`, `refusal` and `content` as null."""
    message = _object_decoder.decode(choice["message"])
    if not _REQUIRED.keys() <= message.keys():
        choice["message"] = Raw(_encoder.encode({**_REQUIRED, **message}))
    return {"index": Raw(b"%d" % at), "logprobs": _NULL} | choice


def _text_bytes(message: _Message) -> int:
    texts = (message.content, message.reasoning_content, message.refusal, message.tool_calls)
    return sum(max(len(bytes(raw)) - 2, 0) for raw in texts if raw != _NULL)
