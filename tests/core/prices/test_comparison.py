"""Configured prices beside published ones, and the file with the published ones in it."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices.types import ClauseEquals, ModelInfo, ModelPrice, Tier, TieredPrices

from core.prices.comparison import Change, compare, rewritten
from core.prices.published import PriceBook, PublishedPrice, published_price
from core.settings import BadSettings, convert

NOW = datetime(2026, 11, 1, tzinfo=UTC)
FILE = """\
# Ours.
version = 7   # grows

[providers.there]
kind = "openai"
base_url = "https://there.example/v1"

[[models]]
id = "cheap"  # for now
max_output_tokens = 100
price = { input = 1_000, output = 2_000, cache_read = 500 }  # of May
endpoints = [{ provider = "there", model = "up" }]

[[models]]
id = "new"
max_output_tokens = 100
[[models.endpoints]]
provider = "there"
model = "up"

[[models]]
id = "gift"
max_output_tokens = 100
price = { input = 0, output = 0 }
endpoints = [{ provider = "there", model = "up" }]

[[models]]
id = "own"
max_output_tokens = 100
price = { input = 5, output = 6 }
endpoints = [{ provider = "there", model = "unheard-of" }]

[edge]
port = 0  # any
"""


def find(provider: str, base_url: str, model: str) -> PublishedPrice | str:
    """Prices of a provider that publishes one."""
    assert (provider, base_url) == ("there", "https://there.example/v1")
    if model != "up":
        return f"nobody knows {model}"
    return PublishedPrice(input=1_000, output=2_500, cache_read=500, cache_write=None, prompt_tokens=None)


def test_every_model_is_judged() -> None:
    """What differs, what has no price yet, what is free, and what nobody publishes, which is named with the reason."""
    cheap, new, gift, own = compare(FILE, find)
    assert (cheap.status, cheap.changes) == ("differs", {"output": Change(2_000, 2_500)})
    assert (new.status, new.priced, set(new.changes)) == ("differs", False, {"input", "output", "cache_read"})
    assert (gift.status, gift.changes) == ("free", {})
    assert (own.status, own.changes, own.note) == ("unpublished", {}, "nobody knows unheard-of")


def test_only_prices_and_the_version_change() -> None:
    """Comments, order and everything else stay; the file is complete then, and as published."""
    changed = rewritten(FILE, compare(FILE, find))
    expected = FILE.replace("version = 7 ", "version = 8 ").replace("output = 2_000", "output = 2_500")
    added = "price = {input = 1_000, output = 2_500, cache_read = 500}\n"
    assert changed.replace(added, "", 1) == expected
    assert convert(tomllib.loads(changed)).version == 8
    assert {each.status for each in compare(changed, find)} == {"same", "free", "unpublished"}


def test_a_file_without_a_version_stays_without() -> None:
    """To give it one is the operator's decision: other cores would be refused then."""
    unversioned = FILE.replace("version = 7   # grows\n", "")
    assert "version" not in tomllib.loads(rewritten(unversioned, compare(unversioned, find)))


def test_what_is_no_configuration_is_refused() -> None:
    """With the place of what is wrong."""
    with pytest.raises(BadSettings, match=r"models\[0\].price.input"):
        compare(FILE.replace("input = 1_000", "input = 0.1"), find)
    with pytest.raises(BadSettings, match="key/value pair"):
        compare("nonsense", find)


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        ({"input_mtok": Decimal("0.15"), "output_mtok": Decimal("0.6")}, (150_000, 600_000, None)),
        (
            {"input_mtok": TieredPrices(base=Decimal(2), tiers=[Tier(200, Decimal(4))]), "output_mtok": Decimal(9)},
            (2_000_000, 9_000_000, 200),
        ),
        ({"input_mtok": Decimal("0.18000000000000002"), "output_mtok": Decimal(1) / 3}, (180_000, 333_333, None)),
        ({"input_mtok": Decimal("0.0000001"), "output_mtok": Decimal(1)}, None),
        ({"input_mtok": Decimal(1), "output_mtok": Decimal(1), "requests_kcount": Decimal(5)}, None),
        ({"input_mtok": Decimal(1)}, None),
    ],
)
def test_published_prices_are_whole_numbers(
    price: dict[str, Decimal | TieredPrices], expected: tuple[int, int, int | None] | None
) -> None:
    """Of picodollars per token, of short prompts; what is not so simple is no price."""
    model = ModelInfo(id="m", match=ClauseEquals("m"), prices=ModelPrice(**price))
    found = published_price(model, NOW)
    assert (found and (found.input, found.output, found.prompt_tokens)) == expected


def test_providers_are_known_by_url_or_name() -> None:
    """The URL first: whoever calls a proxy "openai" has OpenAI's prices, but OpenRouter is OpenRouter."""
    book = PriceBook(NOW)
    known = book.price("mine", "https://api.openai.com/v1", "gpt-4o-mini-2024-07-18")
    assert isinstance(known, PublishedPrice)
    assert (known.input, known.output) == (150_000, 600_000)
    assert book.price("openai", "http://127.0.0.1:1/v1", "gpt-4o-mini") == known
    assert "does not know the provider 'mine'" in str(book.price("mine", "http://127.0.0.1:1/v1", "gpt-4o-mini"))
    assert "does not know 'gpt-none'" in str(book.price("openai", "", "gpt-none"))
