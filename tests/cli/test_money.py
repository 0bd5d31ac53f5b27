"""Money on the command line: decimal strings to nanodollars and back, exactly."""

from __future__ import annotations

import decimal
from fractions import Fraction

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.cli.money import MAX_NANO_USD, UsdType, exact_price, exact_usd, parse_usd, shown_usd

INT64 = st.integers(min_value=-(2**63), max_value=MAX_NANO_USD)


@given(
    whole=st.integers(min_value=0, max_value=9_223_372_035),
    fraction=st.text("0123456789", max_size=9),
    zeros=st.integers(0, 40),
)
def test_parsing_is_exact(whole: int, fraction: str, zeros: int) -> None:
    """What is parsed is the fraction that was written, leading zeros or not."""
    text = "0" * zeros + str(whole) + (f".{fraction}" if fraction else "")
    assert Fraction(parse_usd(text), 10**9) == Fraction(text)


@given(whole=st.integers(min_value=0), fraction=st.text("0123456789", min_size=10))
def test_more_than_nine_decimals_are_refused(whole: int, fraction: str) -> None:
    """A tenth decimal is refused even when it is a zero: nothing is rounded in silence."""
    with pytest.raises(ValueError, match="more than 9 decimals"):
        parse_usd(f"{whole}.{fraction}")


@given(amount_nano_usd=st.integers(min_value=0, max_value=MAX_NANO_USD))
def test_exact_strings_read_back(amount_nano_usd: int) -> None:
    """An exact string has nine decimals and parses to the amount it was made of."""
    text = exact_usd(amount_nano_usd)
    assert len(text.partition(".")[2]) == 9
    assert parse_usd(text) == amount_nano_usd


@given(amount_nano_usd=INT64)
def test_exact_strings_are_the_amount(amount_nano_usd: int) -> None:
    """Negative or not, the exact string is the amount, as a fraction."""
    assert Fraction(exact_usd(amount_nano_usd)) == Fraction(amount_nano_usd, 10**9)


@given(amount_nano_usd=INT64)
def test_shown_amounts_are_off_by_half_a_microdollar_at_most(amount_nano_usd: int) -> None:
    """People see six decimals, the nearest there are."""
    text = shown_usd(amount_nano_usd)
    assert len(text.partition(".")[2]) == 6
    assert abs(Fraction(text) - Fraction(amount_nano_usd, 10**9)) <= Fraction(1, 2 * 10**6)


@given(price=st.integers(min_value=0, max_value=MAX_NANO_USD))
def test_prices_are_exact(price: int) -> None:
    """A price in picodollars per token is shown in USD per million tokens without rounding."""
    assert Fraction(exact_price(price)) == Fraction(price, 10**12) * 10**6


@given(text=st.text(max_size=12))
def test_nothing_but_plain_decimals_is_an_amount(text: str) -> None:
    """Whatever parses consists of ASCII digits and at most one point."""
    try:
        parse_usd(text)
    except ValueError:
        return
    assert set(text) <= set("0123456789.")
    assert text.count(".") <= 1


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1e3", "1_000", "1,50", ".5", "5.", " 1", "1\n", "NaN", "Infinity", "٣", "$10"]
)
def test_other_ways_of_writing_are_refused(text: str) -> None:
    """Signs, exponents, separators and foreign digits are refused rather than guessed at."""
    with pytest.raises(ValueError, match="is not an amount in USD"):
        parse_usd(text)


def test_the_largest_amount_is_that_of_the_api() -> None:
    """The last amount that 64 bits hold parses; the next one is refused."""
    assert parse_usd("9223372036.854775807") == MAX_NANO_USD
    with pytest.raises(ValueError, match="more than can be booked"):
        parse_usd("9223372036.854775808")


def test_the_ambient_decimal_context_does_not_matter() -> None:
    """An amount of 19 digits stays exact where the context holds six."""
    with decimal.localcontext(prec=6):
        assert parse_usd("9223372036.854775807") == MAX_NANO_USD


def test_the_command_line_type_is_a_usage_error() -> None:
    """click turns a bad amount into exit status 2."""
    with pytest.raises(click.BadParameter, match="more than 9 decimals"):
        UsdType().convert("0.0000000001", None, None)
    assert UsdType().convert("12.5", None, None) == 12_500_000_000
