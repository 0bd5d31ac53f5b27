"""Prices times tokens, in integers.

A price is picodollars per token, a charge nanodollars; the one division rounds up, once per request.
"""

from __future__ import annotations

from core.money.usage import TokenCounts
from storage.records import Price

NANO_USD_PER_USD = 1_000_000_000
PICO_USD_PER_NANO_USD = 1_000


def cost_nano_usd(price: Price, tokens: TokenCounts) -> int:
    """What these tokens cost at this price: ceil(sum of tokens x price / 1000), 0 or more.

    Cached and cache-write tokens are parts of the prompt, each at a price of its own; together they are
    clamped to the prompt.
    """
    cached = min(tokens.cached, tokens.prompt)
    cache_write = min(tokens.cache_write, tokens.prompt - cached)
    pico_usd = (
        (tokens.prompt - cached - cache_write) * price.input_pico_usd
        + cached * price.cache_read_pico_usd
        + cache_write * price.cache_write_pico_usd
        + tokens.completion * price.output_pico_usd
    )
    return -(-pico_usd // PICO_USD_PER_NANO_USD)


def hold_nano_usd(price: Price, *, input_tokens: int, output_tokens: int) -> int:
    """The most that a request of these sizes can cost: input at the dearest of its three prices."""
    input_price = max(price.input_pico_usd, price.cache_read_pico_usd, price.cache_write_pico_usd)
    pico_usd = input_tokens * input_price + output_tokens * price.output_pico_usd
    return -(-pico_usd // PICO_USD_PER_NANO_USD)


def affordable_output_tokens(price: Price, *, nano_usd: int, input_tokens: int) -> int:
    """Output tokens that this money buys after the input, 0 or more."""
    left_pico_usd = nano_usd * PICO_USD_PER_NANO_USD - input_tokens * max(
        price.input_pico_usd, price.cache_read_pico_usd, price.cache_write_pico_usd
    )
    if left_pico_usd <= 0 or price.output_pico_usd == 0:
        return 0
    return left_pico_usd // price.output_pico_usd


def service_fee_nano_usd(amount_nano_usd: int, fee_basis_points: int) -> int:
    """The fee on a top-up, rounded up."""
    return -(-amount_nano_usd * fee_basis_points // 10_000)


def usd_text(nano_usd: int) -> str:
    """For people: USD with 6 decimals, rounded up in size so that a cost is never shown as nothing."""
    micro_usd = -(-abs(nano_usd) // 1_000)
    sign = "-" if nano_usd < 0 else ""
    return f"{sign}{micro_usd // 1_000_000}.{micro_usd % 1_000_000:06d}"
