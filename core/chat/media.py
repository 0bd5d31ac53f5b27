"""The images, sounds, videos and files in a request's messages, and what they count as before a provider counts them.

An image counts as the model's `max_image_tokens`, whatever its size. A sound counts by its size; a video, a file and a
sound of which there may be an address only, by their size too where that is more than `max_image_tokens`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

import msgspec

from core.errors import InvalidRequest

MAX_PARTS = 20_000
"""Of messages and their parts together: they too are looked into one by one."""
_COUNTED_BYTES = 1 << 20
"""Messages of this size are counted while they are read; smaller ones are read sooner than that would take, and those
of text alone are not read at all."""
BYTES_PER_TOKEN = 256
"""Of the base64 of a sound or a video, about: a second of speech is 5 to 64 kB, and 10 tokens to OpenAI, 32 to Gemini
(https://ai.google.dev/gemini-api/docs/tokens); one of video is 50 to 150 kB, and 263 tokens."""
_SOUND = "input_audio"
_MEDIA_TYPES = frozenset({"image_url", _SOUND, "audio_url", "video_url", "file"})
"""Types of parts whose content, the field of the same name, is no text: OpenAI's, and those that vLLM and OpenRouter
add (https://docs.vllm.ai/en/latest/features/multimodal_inputs.html)."""
_BEFORE_OBJECT = b"{ \t\r\n"
"""What may follow the bracket of an array whose first element is an object."""
_MAX_BRACKETS = 1_000
"""So many are looked at one by one; looking at more takes longer than a parse."""
_NULL = msgspec.Raw(b"null")
_is_array = re.compile(rb"\[").match


class Medium(NamedTuple):
    """One of them: the tokens that its size stands for, 0 for an image."""

    size_tokens: int
    is_sound: bool

    def tokens(self, most_image: int) -> int:
        """What it counts as with a model whose images count as so many."""
        return self.size_tokens if self.is_sound else max(self.size_tokens, most_image)


# None of these is ever part of a cycle, and to a collector a million of them are work.


class _Part(msgspec.Struct, gc=False):
    type: str = ""
    image_url: msgspec.Raw = _NULL
    input_audio: msgspec.Raw = _NULL
    audio_url: msgspec.Raw = _NULL
    video_url: msgspec.Raw = _NULL
    file: msgspec.Raw = _NULL


class _Message(msgspec.Struct, gc=False):
    content: list[_Part] | str | None = None


_places: ContextVar[Iterator[int]] = ContextVar("_places")
"""Of messages and parts that are being counted: one for each."""


def _take_place() -> None:
    """InvalidRequest when there is none left, before the others cost time."""
    if next(_places.get(), None) is None:
        raise _too_many_parts()


def _too_many_parts() -> InvalidRequest:
    return InvalidRequest(f"messages has more than {MAX_PARTS} messages and parts together.", param="messages")


class _CountedPart(_Part, gc=False):
    def __post_init__(self) -> None:
        _take_place()


class _CountedMessage(msgspec.Struct, gc=False):
    content: list[_CountedPart] | str | None = None

    def __post_init__(self) -> None:
        _take_place()


class _OddMessage(msgspec.Struct, gc=False):
    content: msgspec.Raw = _NULL

    def __post_init__(self) -> None:
        _take_place()


_messages_decoder = msgspec.json.Decoder(list[_Message])
_counted_decoder = msgspec.json.Decoder(list[_CountedMessage])
_odd_messages_decoder = msgspec.json.Decoder(list[_OddMessage])
_parts_decoder = msgspec.json.Decoder(list[_CountedPart])


def read_media(messages: msgspec.Raw) -> tuple[tuple[Medium, ...], int]:
    """The media in an array of messages, and their size in bytes: all else is text."""
    parts = _parts_of(messages)
    if not parts:
        return (), 0
    sizes = [size_of(getattr(part, part.type)) for part in parts]
    return tuple([_medium(part.type, size) for part, size in zip(parts, sizes, strict=True)]), sum(sizes)


def _medium(kind: str, size_bytes: int) -> Medium:
    return Medium(0 if kind == "image_url" else -(-size_bytes // BYTES_PER_TOKEN), kind == _SOUND)


def size_of(raw: bytes | msgspec.Raw) -> int:
    """Length in bytes, without the copy that `bytes` would make."""
    return memoryview(raw).nbytes


def _parts_of(messages: msgspec.Raw) -> list[_Part]:
    """The parts that are no text.

    Messages or parts of another form than we know have none: they count as text, and the upstream judges them.
    """
    text = bytes(messages)
    is_counted = len(text) >= _COUNTED_BYTES
    if not _may_have_parts(text) and not (is_counted and text.count(b"{") > MAX_PARTS):
        return []
    decoder: msgspec.json.Decoder[Any] = _messages_decoder
    if is_counted:
        _places.set(iter(range(MAX_PARTS)))
        decoder = _counted_decoder
    try:
        contents = [message.content for message in decoder.decode(text)]
    except msgspec.MsgspecError:
        return _media_among_odd(messages)
    lists = [content for content in contents if content.__class__ is list]
    if len(contents) + sum(map(len, lists)) > MAX_PARTS:
        raise _too_many_parts()
    return [part for parts in lists for part in parts if part.type in _MEDIA_TYPES]


def _media_among_odd(messages: msgspec.Raw) -> list[_Part]:
    """The same, where one of the messages or parts is of another form."""
    found: list[_Part] = []
    _places.set(iter(range(MAX_PARTS)))
    try:
        odd = _odd_messages_decoder.decode(messages)
    except msgspec.MsgspecError:
        return found
    for message in odd:
        if _is_array(message.content):
            try:
                parts = _parts_decoder.decode(message.content)
            except msgspec.MsgspecError:
                continue
            found += [part for part in parts if part.type in _MEDIA_TYPES]
    return found


def _may_have_parts(messages: bytes) -> bool:
    """Whether an array in the messages may hold objects: of text without brackets this takes a fifth of a parse."""
    at = 0
    for _ in range(_MAX_BRACKETS):
        at = messages.find(b"[", at + 1)
        if at < 0:
            return False
        if messages[at + 1] in _BEFORE_OBJECT:
            return True
    return True
