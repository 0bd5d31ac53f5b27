"""Identifiers."""

import os

from core.ids import ENTROPY_BYTES, IdSource, new_id

ALPHABET = set("0123456789abcdefghjkmnpqrstvwxyz")


def test_an_id_is_a_ulid_in_lower_case() -> None:
    """An id has 26 characters of lower-case Crockford base32, the first ten those of its millisecond."""
    made = new_id(1_469_918_176_385_000, bytes(ENTROPY_BYTES))
    assert made == "01aryz6s41" + "0" * 16  # the specification's own example, in lower case
    assert set(new_id(0, os.urandom(ENTROPY_BYTES))) <= ALPHABET


def test_ids_sort_by_their_time() -> None:
    """An id made a millisecond later sorts after every earlier one."""
    ids = [new_id(ms * 1000, os.urandom(ENTROPY_BYTES)) for ms in range(1_700_000_000_000, 1_700_000_001_000)]
    assert ids == sorted(ids)


def test_a_source_never_repeats_itself() -> None:
    """Ids of one millisecond differ, over the refilling of the source's random bytes too."""
    source = IdSource(lambda: 1_700_000_000_000_000, os.urandom)
    made = [source.new() for _ in range(5_000)]
    assert len(set(made)) == len(made)
    assert all(len(one) == 26 and set(one) <= ALPHABET for one in made)


def test_a_source_follows_its_clock() -> None:
    """A source's ids begin with the time part of the moment at which they were made."""
    now_us = 1_700_000_000_000_000
    source = IdSource(lambda: now_us, os.urandom)
    first = source.new()
    now_us += 1_000
    assert first[:10] == new_id(1_700_000_000_000_000, bytes(16))[:10]
    assert source.new()[:10] == new_id(now_us, bytes(16))[:10] != first[:10]


def test_every_character_is_as_likely() -> None:
    """The random part uses the whole alphabet evenly: each character within 10 % of its share."""
    text = "".join(new_id(0, os.urandom(ENTROPY_BYTES))[10:] for _ in range(20_000))
    share = len(text) / 32
    assert all(abs(text.count(character) - share) < share / 10 for character in ALPHABET)
