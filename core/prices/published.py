"""What genai-prices knows of a model's price, in this router's units. Needs the package (`worldrouter[prices]`)."""

from __future__ import annotations

import datetime
from decimal import ROUND_HALF_UP, Decimal

import msgspec
from genai_prices.data_snapshot import DataSnapshot, get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, Provider, StartDateConstraint, TieredPrices


class PublishedPrice(msgspec.Struct, frozen=True, kw_only=True):
    """Picodollars per token of text at the standard service tier; None where nothing is published.

    Where long prompts cost more it is the price of short ones, of at most `prompt_tokens`; None: of all.
    """

    input: int
    output: int
    cache_read: int | None
    cache_write: int | None
    prompt_tokens: int | None


def published_price(model: ModelInfo, now: datetime.datetime) -> PublishedPrice | None:
    """The price of a model; None when that is not a plain number per token, now and until it is published anew."""
    found = _in_force(model, now)
    if found is None or getattr(found, "requests_kcount", None) is not None:
        return None
    raw = [getattr(found, f"{name}_mtok", None) for name in ("input", "output", "cache_read", "cache_write")]
    input_, output, cache_read, cache_write = map(_pico_usd, raw)
    if input_ is None or output is None:
        return None
    starts = [tier.start for value in raw if isinstance(value, TieredPrices) for tier in value.tiers]
    return PublishedPrice(
        input=input_,
        output=output,
        cache_read=cache_read,
        cache_write=cache_write,
        prompt_tokens=min(starts, default=None),
    )


class PriceBook:
    """The prices of all providers, as the installed version of genai-prices has them; never from the network."""

    def __init__(self, now: datetime.datetime) -> None:
        """`now` is the moment of the prices: some are known to change."""
        self._now = now
        self._snapshot: DataSnapshot = get_snapshot()

    def price(self, provider: str, base_url: str, model: str) -> PublishedPrice | str:
        """The price of a provider's model, or why there is none. The provider is known by its URL, else by its name."""
        source = self._provider(None, base_url) or self._provider(provider, None)
        if source is None:
            return f"genai-prices does not know the provider {provider!r}"
        found = source.find_model(model, all_providers=self._snapshot.providers)
        if found is None:
            return f"genai-prices does not know {model!r} of {source.name}"
        return published_price(found, self._now) or f"{source.name} publishes no plain price per token of {model!r}"

    def _provider(self, name: str | None, base_url: str | None) -> Provider | None:
        try:
            return self._snapshot.find_provider(None, name, base_url)
        except LookupError:
            return None


def _in_force(model: ModelInfo, now: datetime.datetime) -> ModelPrice | None:
    """None for a price that depends on the time of day, or that is known to change."""
    for each in model.prices if isinstance(model.prices, list) else []:
        if each.constraint is not None and not isinstance(each.constraint, StartDateConstraint):
            return None
        if each.constraint is not None and not each.constraint.active(now):
            return None
    return model.get_prices(now)


def _pico_usd(price: Decimal | TieredPrices | None) -> int | None:
    """µUSD per million tokens of the lowest tier, the nearest: some are published as floats, or thirds. None for 0."""
    if price is None:
        return None
    amount = (price.base if isinstance(price, TieredPrices) else price) * 1_000_000
    return max(int(amount.to_integral_value(ROUND_HALF_UP)), 0) or None
