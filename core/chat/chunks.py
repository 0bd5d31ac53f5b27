"""The chunks of a streamed answer, given the caller's view: our id and model, its choice about usage.

There are three ways through. Chunks mostly differ in one string, the new text: of such a chunk the frame before
and behind that string is learned, and those of the frame that come in a row are told by it and not parsed
(`push_read`). Other chunks are parsed; they mostly begin alike (id, object, created, model), and that head is
exchanged for ours by prefix. Whatever is not recognised so (another head, a finish reason, usage, tool calls, a
missing role) is taken apart to its top-level values, which stay the bytes they were, and put together again.

The chunk that carries the last finish reason, and whatever follows it, is held back until the stream's end: it may
leave only when the charge is committed.
"""

from __future__ import annotations

import re

import msgspec
from msgspec import UNSET, Raw

from core.chat.chunk_view import Choice, Chunk, decode_chunk, read_chunk, says_role, text_bytes, texts_of
from core.chat.frame import BETWEEN_EVENTS, EVENT, EVENT_END, Frame
from core.chat.sse import EventTooLong, SseDecoder
from core.chat.tool_calls import ToolCallNumbering
from core.chat.upstream_errors import reported
from core.errors import UpstreamFailed, WorldRouterError
from core.money.usage import TokenCounts, merged_usage, parse_usage, usage_json

MAX_HELD_CHUNKS = 1_024
TEACHING_EVENTS = 3
"""Of a read, that are taken one by one while no frame is known."""

_NULL = Raw(b"null")
_NONE = Raw(b"[]")
_ZERO = Raw(b"0")
_EMPTY = (_NULL, Raw(b'""'))
_ROLE = Raw(b'"assistant"')
_role_away = re.compile(rb'"role": ?"assistant", ?|, ?"role": ?"assistant"(?=\})').subn
"""Takes it out of a delta: some upstreams have it in every chunk, and openai-python strings them together."""
_TAIL_USAGE = b',"usage":null}'
_DONE = b"[DONE]"
_OBJECT = Raw(b'"chat.completion.chunk"')
_PROBE = b"-worldrouter-probe-"
_PROBE_TEXTS = (Raw(b'"%b"' % _PROBE),)
_FIRST_LESSONS, _LESSON_COST = 4, 4
"""How often a frame may be learned at once, and how many chunks one has to have saved before the next is."""

_Object = dict[str, Raw]
_object_decoder = msgspec.json.Decoder(_Object)
_choices_decoder = msgspec.json.Decoder(list[_Object])
_encoder = msgspec.json.Encoder()


class ChunkRewriter:
    """One stream. Feed it the data of the upstream's events; it gives the chunks to pass on.

    `finish_reasons` by choice index, `usage` as last reported, `text_bytes` of what was produced,
    `counted_bytes` of what had been produced when usage was last reported.
    """

    __slots__ = (
        "_created",
        "_frame",
        "_head",
        "_held",
        "_id",
        "_include_usage",
        "_introduced",
        "_lessons",
        "_model",
        "_our_head",
        "_tool_calls",
        "_usage_chunk",
        "_usage_raw",
        "counted_bytes",
        "done",
        "finish_reasons",
        "text_bytes",
        "usage",
    )

    def __init__(self, *, completion_id: str, model: str, created_s: int, include_usage: bool) -> None:
        self._id = Raw(_encoder.encode(completion_id))
        self._model = Raw(_encoder.encode(model))
        self._created = Raw(b"%d" % created_s)
        self._include_usage = include_usage
        self._head: bytes | None = None
        self._our_head = b""
        self._frame: Frame | None = None
        self._lessons = _FIRST_LESSONS * _LESSON_COST
        self._held: list[bytes] = []
        self._introduced: set[int] = set()
        self._tool_calls = ToolCallNumbering()
        self._usage_raw: Raw | None = None
        self._usage_chunk: _Object | None = None
        self.finish_reasons: dict[int, str | None] = {}
        self.usage: TokenCounts | None = None
        self.text_bytes = self.counted_bytes = 0
        self.done = False

    @property
    def held_bytes(self) -> int:
        """How much is held back."""
        return sum(map(len, self._held))

    def take(self, read: bytes, sse: SseDecoder, out: list[bytes]) -> None:
        """Take what a read of the stream brought, nothing at its end, and append what may be passed on now.

        Its first events may teach the frame of those behind them. UpstreamFailed as for `push`, and for an event that
        is too long.
        """
        if not read:
            self.push_events(_events(sse, read), out)
        teaching = TEACHING_EVENTS
        while read:
            if sse.is_between_events and (taken := self.push_read(read, out)):
                read = read[taken:]
                continue
            end = 0
            if teaching and self._frame is None:
                teaching -= 1
                end = read.find(EVENT_END) + len(EVENT_END)
            piece = read[:end] if end >= len(EVENT_END) else read
            self.push_events(_events(sse, piece), out)
            read = read[len(piece) :]

    def push_read(self, read: bytes, out: list[bytes]) -> int:
        """Take chunks of the known frame off the beginning of a read that begins between events; how many bytes
        of it they were.
        """
        frame = self._frame
        if frame is None or self._held or self.done or not read.startswith(frame.first):
            return 0
        texts = read[len(frame.first) :].rsplit(frame.between)  # which takes half the time of split
        texts[-1], last, rest = texts[-1].partition(frame.last)
        if not last:  # cut off, or a chunk of another frame
            rest = frame.first + texts.pop()
        return len(read) - len(rest) if texts and self._push_texts(frame, texts, out) else 0

    def push_events(self, events: list[bytes], out: list[bytes]) -> None:
        """Take the data of events: by `push`, but those in a row that the known frame fits at once."""
        tried, at = None, 0
        while at < len(events):
            if self._frame is tried:
                self.push(events[at], out)
                at += 1
            else:
                tried = self._frame
                at += self._push_row(events[at:], out)

    def _push_row(self, events: list[bytes], out: list[bytes]) -> int:
        """Take chunks of the known frame off the beginning; how many there were."""
        read, before = b"".join((EVENT, BETWEEN_EVENTS.join(events), EVENT_END)), len(out)
        if read.count(b"\n") == 2 * len(events):  # none of several lines, which might look like several events
            self.push_read(read, out)
        return len(out) - before

    def _push_framed(self, data: bytes, out: list[bytes]) -> bool:
        """Take the data of one event of the known frame; False if it is any other."""
        frame = self._frame
        if frame is None or self._held or self.done:
            return False
        start, end = len(frame.start), len(data) - len(frame.end)
        if end < start or not (data.startswith(frame.start) and data.endswith(frame.end)):
            return False
        return self._push_texts(frame, [data[start:end]], out)

    def _push_texts(self, frame: Frame, texts: list[bytes], out: list[bytes]) -> bool:
        size_bytes = frame.pass_on(texts, out)
        if size_bytes is None:
            return False
        self.text_bytes += size_bytes
        self._lessons += len(texts)
        return True

    def push(self, data: bytes, out: list[bytes]) -> None:
        """Take the data of one event and append what may be passed on now.

        UpstreamFailed when it is not a chunk, or reports an error; for an error before any choice see `reported`.
        """
        if self.done or not data or self._push_framed(data, out):
            return
        if data == _DONE:
            self.done = True
            return
        if b"\n" in data:  # of several data lines; it stands between tokens, as JSON has none in its strings
            data = data.replace(b"\n", b" ")
        chunk, data = read_chunk(data)
        if chunk.error != _NULL:
            raise self._reported(data)
        if chunk.choices:
            self._push_choices(data, chunk, chunk.choices, out)
        if chunk.usage is not UNSET and chunk.usage != _NULL:
            self._note_usage(chunk.usage)
            if not chunk.choices:
                self._usage_chunk = _object_decoder.decode(data)

    def _reported(self, data: bytes) -> WorldRouterError:
        """The error of a chunk that reports one: in place of an answer it is what it would be under its status."""
        error = reported(data)
        return UpstreamFailed(f"The answer broke off: {error.message}") if self.finish_reasons else error

    def _push_choices(self, data: bytes, chunk: Chunk, choices: list[Choice], out: list[bytes]) -> None:
        plain = self._note_choices(choices)
        if self._held:
            if None in self.finish_reasons.values():  # another choice goes on: that was not the last finish
                out += self._held
                self._held = []
            elif len(self._held) > MAX_HELD_CHUNKS:
                raise UpstreamFailed("The upstream goes on after the end of its answer.")
            else:
                out, plain = self._held, False
        if plain and (passed := self._exchange_head(data, chunk)) is not None:
            out.append(passed)
            if len(self._introduced) < len(self.finish_reasons):
                self._introduced.update([choice.index or 0 for choice in choices])
            if self._lessons >= _LESSON_COST:
                self._learn_frame(data, choices)
        else:
            self._rewrite(data, choices, out)

    def _learn_frame(self, data: bytes, choices: list[Choice]) -> None:
        """Learn what is around the text of a chunk that was passed on with its head exchanged.

        It is a frame if a probe in the text's place is read as the text and as nothing else, and is passed on as
        the one thing between what stays the same.
        """
        texts = texts_of(choices)
        if len(texts) != 1 or _PROBE in data:
            return
        self._lessons -= _LESSON_COST
        start, _, end = data.partition(bytes(texts[0]))
        start, end = start + b'"', b'"' + end
        try:
            probe = decode_chunk(start + _PROBE + end)
        except msgspec.DecodeError:
            return
        if probe.choices is None or texts_of(probe.choices) != _PROBE_TEXTS:
            return
        ours = self._exchange_head(start + _PROBE + end, probe)
        if ours is not None:
            our_start, our_end = ours.split(_PROBE)
            self._frame = Frame.of(start, end, our_start, our_end)

    def finish(self, charged: TokenCounts) -> list[bytes]:
        """The last chunks: the held ones, and the usage chunk if the caller asked for it.

        `charged` is `usage`, which is shown as the upstream wrote it, or an estimate. UpstreamFailed when the stream
        was cut before every choice finished.
        """
        self.check_complete()
        if not self._include_usage:
            return self._held
        reported = self._usage_raw if charged is self.usage else None
        last = {"choices": _NONE, "usage": reported or Raw(usage_json(charged))}
        return [*self._held, _encoder.encode(self._ours(self._usage_chunk or {}) | last)]

    def check_complete(self) -> None:
        """UpstreamFailed unless every choice has finished: a finish is never made up."""
        if not self.finish_reasons or None in self.finish_reasons.values():
            raise UpstreamFailed("The upstream ended the stream before the answer was complete.")

    def reasons(self) -> tuple[str, ...]:
        """The finish reasons so far, by choice index."""
        return tuple(reason or "" for _, reason in sorted(self.finish_reasons.items()))

    def _note_usage(self, raw: Raw) -> None:
        counted = parse_usage(raw)
        if counted is None:
            raw = raw if self._usage_raw is None else merged_usage(self._usage_raw, raw)
            counted = parse_usage(raw)
        if counted is not None:
            self.counted_bytes = self.text_bytes
        elif self.usage is not None:
            return  # what was reported before is better than this
        self.usage, self._usage_raw = counted, raw

    def _note_choices(self, choices: list[Choice]) -> bool:
        """Note what the choices produced; whether they may pass without a look inside."""
        plain = True
        for choice in choices:
            index = choice.index
            if index is None or index < 0:
                choice.index, index, plain = None, 0, False
            self.finish_reasons.setdefault(index, None)
            plain = plain and choice.finish_reason is None and choice.delta is not None
            if choice.delta is None:
                continue
            self.text_bytes += text_bytes(choice.delta)
            plain = plain and choice.delta.tool_calls == _NULL
            if index not in self._introduced and (choice.delta.role != _ROLE or choice.finish_reason):
                plain = False
        return plain

    def _exchange_head(self, data: bytes, chunk: Chunk) -> bytes | None:
        """The chunk with its head exchanged; None when it takes a closer look."""
        if self._head is None or not data.startswith(self._head):
            self._learn_head(data)
            if self._head is None or not data.startswith(self._head):
                return None
        tail = data[len(self._head) :]
        if b"\\u00" in tail or b'"id"' in tail or b'"model"' in tail or b'"created"' in tail:
            return None
        if b'"role"' in tail and self._repeats_role(chunk):
            tail, found = _role_away(b"", tail)
            if found != 1 or b'"role"' in tail:
                return None
        if chunk.usage is UNSET:
            if not self._include_usage:
                return self._our_head + tail
            return self._our_head + tail[:-1] + _TAIL_USAGE if tail.endswith(b"}") else None
        if chunk.usage != _NULL:
            return None
        if self._include_usage:
            return self._our_head + tail
        if tail.endswith(_TAIL_USAGE) and tail.count(b'"usage"') == 1:
            return self._our_head + tail[: -len(_TAIL_USAGE)] + b"}"
        return None

    def _repeats_role(self, chunk: Chunk) -> bool:
        return any(says_role(choice.delta) and choice.index in self._introduced for choice in chunk.choices or ())

    def _learn_head(self, data: bytes) -> None:
        self._head = None
        end = data.find(b'"choices"')
        if end < 2 or data[end - 1 : end] != b",":
            return
        try:
            fields = _object_decoder.decode(data[: end - 1] + b"}")
        except (msgspec.DecodeError, RecursionError):
            return
        if not {"id", "object", "created", "model"} <= fields.keys() or fields.keys() & {"usage", "error"}:
            return
        self._head = data[:end]
        self._our_head = _encoder.encode(self._ours(fields))[:-1] + b","

    def _ours(self, fields: _Object) -> _Object:
        return {"object": _OBJECT} | fields | {"id": self._id, "created": self._created, "model": self._model}

    def _rewrite(self, data: bytes, views: list[Choice], out: list[bytes]) -> None:
        fields = self._ours(_object_decoder.decode(data))
        fields.pop("usage", None)
        if self._include_usage:
            fields["usage"] = _NULL
        running: list[_Object] = []
        finishing: list[_Object] = []
        for view, choice in zip(views, _choices_decoder.decode(fields["choices"]), strict=True):
            if view.index is None:
                choice = {"index": _ZERO} | choice | {"index": _ZERO}
            self._sort(view, choice, running, finishing)
        if running:
            out.append(_encoder.encode(fields | {"choices": Raw(_encoder.encode(running))}))
        if finishing:
            self._held.append(_encoder.encode(fields | {"choices": Raw(_encoder.encode(finishing))}))

    def _sort(self, view: Choice, choice: _Object, running: list[_Object], finishing: list[_Object]) -> None:
        """Mend one choice, and split it when it both says something and finishes."""
        index = view.index or 0
        delta = _object_decoder.decode(choice["delta"]) if view.delta is not None else {}
        if view.delta is not None and view.delta.tool_calls != _NULL:
            delta["tool_calls"] = self._tool_calls.number(index, delta["tool_calls"])
            if delta["tool_calls"] == _NONE:
                del delta["tool_calls"]
        says = any(name != "role" and raw not in _EMPTY for name, raw in delta.items())
        if index not in self._introduced:
            self._introduced.add(index)
            delta["role"] = _ROLE
            says = True
        elif says_role(view.delta):
            del delta["role"]
        mended = choice | {"delta": Raw(_encoder.encode(delta))}
        if not view.finish_reason:
            running.append(mended if view.finish_reason is None else mended | {"finish_reason": _NULL})
            return
        self.finish_reasons[index] = view.finish_reason
        last = choice | {"delta": Raw(b"{}")}
        if says:
            running.append(mended | {"finish_reason": _NULL})
            last |= {"logprobs": _NULL} if "logprobs" in choice else {}
        finishing.append(last)


def _events(sse: SseDecoder, read: bytes) -> list[bytes]:
    try:
        return sse.feed(read) if read else sse.finish()
    except EventTooLong:
        raise UpstreamFailed("The upstream sent an event that is too long.") from None
