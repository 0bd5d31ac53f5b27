"""Messages without an array of objects are not parsed for images; the count is that of a parse all the same."""

import json
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.chat.envelope import read_envelope

PARTS: tuple[Any, ...] = (
    {"type": "text", "text": '[{"type":"image_url","image_url":"x"}]'},
    {"type": "image_url", "image_url": {"url": "x" * 50}},
    {"type": "input_audio", "input_audio": {"data": "y"}},
    {"type": "file", "file": {"file_id": "f"}},
    {"type": "video_url", "video_url": {"url": "x" * 50}},
    {"type": "image_url"},
    {"type": 1},
    "text",
    None,
    [],
)
CONTENTS: tuple[Any, ...] = (
    "",
    "text",
    "a [link](x) [ ] [[n=1]]",
    '[{"type":"file"}]',
    "\\[{",
    [],
    None,
    5,
    {"type": "file"},
)


def expected(messages: list[Any]) -> int:
    """By plain JSON: what is no list of objects with types in text has no images."""
    found = 0
    for message in messages:
        content = message.get("content")
        if isinstance(content, list) and all(
            isinstance(p, dict) and isinstance(p.get("type", ""), str) for p in content
        ):
            found += sum(part.get("type") in ("image_url", "input_audio", "file", "video_url") for part in content)
    return found


@given(st.integers(0, 2**32))
def test_no_image_is_overlooked(seed: int) -> None:
    """Text full of brackets, arrays with and without blanks, keys and types with escapes."""
    random = Random(seed)
    messages = []
    for _ in range(random.choice([1, 1, 3])):
        parts = random.choices(PARTS[: random.choice([5, 10])], k=random.choice([1, 2, 5]))
        messages.append({"role": "user", "content": parts if random.random() < 0.5 else random.choice(CONTENTS)})
    indent, separators = random.choice([(None, (",", ":")), (None, None), (1, None), ("\t", (",", " : "))])
    text = json.dumps({"model": "m", "messages": messages}, indent=indent, separators=separators)
    if random.random() < 0.3:
        text = text.replace("content", r"c\u006fntent").replace("image_url", r"image\u005furl")
    assert len(read_envelope(text.encode()).media) == expected(messages)


@pytest.mark.parametrize("count", [999, 1_000, 1_001, 5_000])
def test_many_brackets_hide_no_image(count: int) -> None:
    """However much text comes before it."""
    messages = [{"role": "user", "content": "[x" * count}, {"role": "user", "content": [PARTS[1]]}]
    body = json.dumps({"model": "m", "messages": messages}, separators=(",", ":")).encode()
    assert len(read_envelope(body).media) == 1


@pytest.mark.parametrize(
    ("part", "tokens"),
    [
        ({"type": "image_url", "image_url": {"url": "A" * 2_000_000}}, 1_000),
        ({"type": "input_audio", "input_audio": {"data": "A" * 25_600, "format": "mp3"}}, 101),
        ({"type": "input_audio", "input_audio": {"data": "A" * 512_000, "format": "wav"}}, 2_001),
        ({"type": "audio_url", "audio_url": {"url": "https://example.com/a.mp3"}}, 1_000),
        ({"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}, 1_000),
        ({"type": "video_url", "video_url": {"url": "A" * 512_000}}, 2_001),
        ({"type": "file", "file": {"file_id": "file-1"}}, 1_000),
        ({"type": "file", "file": {"file_data": "A" * 512_000}}, 2_001),
    ],
)
def test_media_count_as_what_they_are(part: dict[str, Any], tokens: int) -> None:
    """An image as one; a sound by its size; what else there is by its size too, where that is more than an image's."""
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": [part]}]}).encode()
    assert read_envelope(body).media_tokens(1_000) == tokens
