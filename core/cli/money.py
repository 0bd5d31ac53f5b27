"""Dollars as people and scripts write them, to and from integer nanodollars. Exact: no floats."""

from __future__ import annotations

import re
from decimal import Context, Decimal, Inexact, localcontext

import click

NANO_PER_USD = 10**9
MAX_NANO_USD = 2**63 - 1
"""Largest amount that the API's 64-bit integers hold, about 9.2 billion USD."""

_PLAIN_DECIMAL = re.compile(r"[0-9]+(?:\.([0-9]+))?")


def parse_usd(text: str) -> int:
    """Nanodollars of a plain decimal such as "10" or "0.000000001"; no sign, exponent or separator.

    Raises ValueError, also for more than 9 decimals and for amounts above MAX_NANO_USD.
    """
    plain = _PLAIN_DECIMAL.fullmatch(text)
    if plain is None:
        raise ValueError(f"{text!r} is not an amount in USD such as 10 or 12.50")
    if len(plain[1] or "") > 9:
        raise ValueError(f"{text} has more than 9 decimals")
    with localcontext(Context(prec=28, traps=[Inexact])):
        amount_usd = Decimal(text)
        if amount_usd > Decimal(MAX_NANO_USD).scaleb(-9):
            raise ValueError(f"{text} USD is more than can be booked")
        return int(amount_usd * NANO_PER_USD)


def exact_usd(amount_nano_usd: int) -> str:
    """An amount as a decimal string with all 9 decimals, for JSON: 12345 is "0.000012345"."""
    return _fixed(amount_nano_usd, 9)


def shown_usd(amount_nano_usd: int) -> str:
    """An amount with 6 decimals, for people; half a microdollar is rounded away from zero."""
    magnitude_micro_usd = (abs(amount_nano_usd) + 500) // 1000
    return _fixed(magnitude_micro_usd if amount_nano_usd >= 0 else -magnitude_micro_usd, 6)


def exact_price(price_pico_usd_per_token: int) -> str:
    """A price in USD per million tokens: 2,500,000 picodollars per token is "2.500000"."""
    # One picodollar per token is one microdollar per million tokens.
    return _fixed(price_pico_usd_per_token, 6)


def _fixed(amount: int, decimals: int) -> str:
    whole, fraction = divmod(abs(amount), 10**decimals)
    return f"{'-' if amount < 0 else ''}{whole}.{fraction:0{decimals}d}"


class UsdType(click.ParamType[int]):
    """A command line value in USD, handed to the command as integer nanodollars."""

    name = "usd"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse the value; a usage error when it is not an amount."""
        try:
            return parse_usd(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
