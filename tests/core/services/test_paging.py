"""Pages and the tokens between them."""

import base64
import zlib
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InvalidRequest
from core.services.paging import Number, Pager, Word


def pager(token: str = "", *, size: int = 0, scope: tuple[str, ...] = ("List", "acct_a")) -> Pager[tuple[int, str]]:
    return Pager(scope, tuple[Number, Word], size, token)


def token_of(position: tuple[int, str]) -> str:
    return pager(size=1).page([position, (0, "next")], lambda item: item).next_page_token


@pytest.mark.parametrize(("size", "limit"), [(0, 101), (1, 2), (1000, 1001), (1001, 1001), (2**31 - 1, 1001)])
def test_page_sizes_follow_the_protos(size: int, limit: int) -> None:
    """No page size is 100, more than 1000 is 1000; one more item than that is fetched."""
    assert pager(size=size).limit == limit


def test_a_negative_page_size_is_refused() -> None:
    """A negative page size is an invalid request that names the field."""
    with pytest.raises(InvalidRequest) as caught:
        pager(size=-1)
    assert caught.value.param == "page_size"


def test_the_last_page_has_no_token() -> None:
    """A page has a token if and only if there is something behind it."""
    items = [(3, "c"), (2, "b"), (1, "a")]
    assert pager(size=3).page(items, lambda item: item).next_page_token == ""
    page = pager(size=2).page(items, lambda item: item)
    assert list(page.items) == items[:2]
    assert pager(page.next_page_token, size=2).after == (2, "b")


@given(st.integers(0, 2**63 - 1), st.text(st.characters(exclude_categories=["Cs"]), max_size=100))
def test_a_position_survives_its_token(number: int, word: str) -> None:
    """What a token was made of comes out of it again."""
    assert pager(token_of((number, word))).after == (number, word)


@given(st.integers(min_value=0), st.characters())
def test_a_tampered_token_is_refused(at: int, character: str) -> None:
    """A token with a character changed is refused, or is still the same position; never another one, never a crash."""
    position = (1_800_000_000_000_000, "key_01arywr8d10123456789abcdef")
    token = token_of(position)
    at %= len(token)
    after: object = position
    with suppress(InvalidRequest):
        after = pager(token[:at] + character + token[at + 1 :]).after
    assert after == position


@given(st.text(min_size=1, max_size=100))
def test_a_made_up_token_is_refused(token: str) -> None:
    """Text that never was a token is an invalid request."""
    with pytest.raises(InvalidRequest):
        pager(token)


def test_a_token_of_another_list_is_refused() -> None:
    """A token is good for the list that made it alone: not for another RPC's, nor for another account's."""
    token = token_of((1, "a"))
    for scope in (("List", "acct_b"), ("Other", "acct_a"), ("List",)):
        with pytest.raises(InvalidRequest):
            pager(token, scope=scope)


@pytest.mark.parametrize("content", [[2**63, "a"], [-1, "a"], [1], ["a", 1], {}, [1, "a" * 600], None])
def test_a_forged_position_never_reaches_the_database(content: object) -> None:
    """A token whose checksum is right but whose position could not be ours is refused."""
    encoded = msgspec.json.encode(content)
    checksum = zlib.crc32(b"List\nacct_a\0" + encoded).to_bytes(4, "big")
    with pytest.raises(InvalidRequest):
        pager(base64.urlsafe_b64encode(checksum + encoded).decode())
