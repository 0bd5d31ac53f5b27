"""The text of an API key."""

import math
import zlib
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.access.apikeys import Peppers, UnknownPepper, key_id_of, make_key, shown_prefix, shown_suffix

KEY_ID = "key_01arywr8d10123456789abcdef"
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def checksum(body: str) -> int:
    value = 0
    for character in body:
        value = value * 62 + BASE62.index(character)
    return value


def test_a_key_leads_to_its_id() -> None:
    """A key begins with its prefix and the id part of its record, and leads back to that id."""
    key = make_key(KEY_ID)
    assert key.startswith("wlrouter_01arywr8d10123456789abcdef")
    assert key_id_of(key) == KEY_ID
    assert make_key(KEY_ID) != key


def test_a_key_ends_in_the_crc32_of_the_rest() -> None:
    """The last six characters are the CRC-32 of everything before them, in base62."""
    key = make_key(KEY_ID)
    assert checksum(key[-6:]) == zlib.crc32(key[:-6].encode())


def test_the_secret_is_long_enough_even_with_what_is_shown_of_it() -> None:
    """The secret part has 190 bits left for somebody who knows the shown prefix and suffix."""
    key = make_key(KEY_ID)
    secret_length = len(key) - len("wlrouter_") - 26 - 6
    assert (secret_length - len(shown_suffix(key))) * math.log2(62) >= 190
    assert key.startswith(shown_prefix(key))
    assert len(shown_prefix(key)) <= len("wlrouter_") + 26
    assert key.endswith(shown_suffix(key))


@given(st.integers(min_value=0), st.characters())
def test_one_mistyped_character_is_noticed(position: int, character: str) -> None:
    """A key with any one character changed is not a key."""
    key = make_key(KEY_ID)
    position %= len(key)
    changed = key[:position] + character + key[position + 1 :]
    assert changed == key or key_id_of(changed) is None


@given(st.text(max_size=200))
def test_garbage_is_not_a_key(text: str) -> None:
    """No text is a key, whatever is in it, with the prefix or without."""
    assert key_id_of(text) is None
    assert key_id_of("wlrouter_" + text) is None


def test_a_hash_is_under_the_current_pepper_and_old_ones_still_match() -> None:
    """New hashes take the current pepper; a hash under an older one matches as long as that is there."""
    key = make_key(KEY_ID)
    old = Peppers(1, {1: b"1" * 32})
    new = Peppers(2, {1: b"1" * 32, 2: b"2" * 32})
    assert new.hash(key).pepper_version == 2
    assert new.matches(key, old.hash(key))
    assert new.matches(key, new.hash(key))
    assert not new.matches(make_key(KEY_ID), new.hash(key))
    with pytest.raises(UnknownPepper):
        old.matches(key, new.hash(key))


def test_bad_peppers_are_refused() -> None:
    """A short pepper, or a current version that is not there, is refused when the peppers are loaded."""
    with pytest.raises(ValueError, match="32 bytes"):
        Peppers(1, {1: b"short"})
    with pytest.raises(ValueError, match="version 3"):
        Peppers(3, {1: b"1" * 32})
    with pytest.raises(FrozenInstanceError):
        Peppers(1, {1: b"1" * 32}).current = 2  # type: ignore[misc]
