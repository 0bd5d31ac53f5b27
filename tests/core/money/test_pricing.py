"""Prices times tokens, against exact fractions; and no float anywhere near money."""

import ast
import math
import random
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.money.pricing import (
    affordable_output_tokens,
    cost_nano_usd,
    hold_nano_usd,
    service_fee_nano_usd,
    usd_text,
)
from core.money.usage import TokenCounts
from storage.records import Price

ROOT = Path(__file__).parents[3]
OTHER_FLOATS = frozenset({"ending.py", "typed.py"})
"""What a line of the log says of times, and a caller's temperature."""
MOVING_TEXT = frozenset({"completion.py"})
"""How an answer is shown while it comes: times alone."""
MONEY_CODE = [
    *sorted((ROOT / "core" / "money").glob("*.py")),
    *sorted(path for path in (ROOT / "core" / "chat").glob("*.py") if path.name not in OTHER_FLOATS),
    *sorted((ROOT / "core" / "prices").glob("*.py")),
    *sorted((ROOT / "core" / "payments").glob("*.py")),
    *sorted((ROOT / "core" / "services").glob("*.py")),
    *sorted(path for path in (ROOT / "core" / "cli").glob("*.py") if path.name not in MOVING_TEXT),
    *[ROOT / "core" / "catalog.py", ROOT / "core" / "configured.py", ROOT / "edge" / "payments.py"],
    *sorted((ROOT / "storage").rglob("*.py")),
]
WITHOUT_TIME = frozenset({"pricing.py", "usage.py", "meter.py", "ratios.py", "counting.py"})
RANDOM_PRICES = 10_000
TIME_WORDS = frozenset({"clock", "jitter"})
MONEY_WORDS = ("nano", "pico", "usd", "amount", "price", "granted", "spent", "available", "shortfall", "want", "fee")

prices = st.builds(
    Price,
    id=st.just("price_1"),
    model_id=st.just("m"),
    input_pico_usd=st.integers(0, 10**9),
    output_pico_usd=st.integers(0, 10**9),
    cache_read_pico_usd=st.integers(0, 10**9),
    cache_write_pico_usd=st.integers(0, 10**9),
)
counts = st.integers(0, 10**7)
tokens = st.builds(TokenCounts, prompt=counts, completion=counts, cached=counts, cache_write=counts)


def price(**pico_usd: int) -> Price:
    """A price that is 0 but for these."""
    none = dict.fromkeys(("input", "output", "cache_read", "cache_write"), 0)
    return Price("price_1", "m", **{f"{name}_pico_usd": value for name, value in (none | pico_usd).items()})


@given(prices, tokens)
def test_a_cost_is_the_exact_sum_rounded_up_once(price: Price, used: TokenCounts) -> None:
    """Whatever the price and the tokens, the charge is the exact amount, rounded up to a whole nanodollar."""
    cached = min(used.cached, used.prompt)
    written = min(used.cache_write, used.prompt - cached)
    exact_usd = sum(
        (
            Fraction(used.prompt - cached - written) * Fraction(price.input_pico_usd, 10**12),
            Fraction(cached) * Fraction(price.cache_read_pico_usd, 10**12),
            Fraction(written) * Fraction(price.cache_write_pico_usd, 10**12),
            Fraction(used.completion) * Fraction(price.output_pico_usd, 10**12),
        ),
        start=Fraction(0),
    )
    assert cost_nano_usd(price, used) == math.ceil(exact_usd * 10**9)


def test_ten_thousand_random_prices_and_tokens() -> None:
    """Of every size, from nothing to far more than anybody asks, and mixed: exact, and rounded up once."""
    randomness = random.Random(7)

    def drawn(digits: int) -> int:
        return randomness.randrange(10 ** randomness.randint(0, digits))

    for _ in range(RANDOM_PRICES):
        names = ("input", "output", "cache_read", "cache_write")
        of = {name: drawn(13) for name in names}
        prompt, completion = drawn(9), drawn(9)
        cached = min(drawn(9), prompt)
        written = min(drawn(9), prompt - cached)
        used = TokenCounts(prompt=prompt, completion=completion, cached=cached, cache_write=written)
        counted = dict(zip(names, (prompt - cached - written, completion, cached, written), strict=True))
        # Picodollars per token are microdollars per million tokens, as prices are published.
        exact_usd = sum((Fraction(of[name], 10**6) * Fraction(counted[name], 10**6) for name in names), Fraction(0))
        assert Fraction(cost_nano_usd(price(**of), used) - 1, 10**9) < exact_usd, (of, used)
        assert exact_usd <= Fraction(cost_nano_usd(price(**of), used), 10**9), (of, used)


@given(prices, tokens)
def test_a_hold_covers_what_its_tokens_cost(price: Price, used: TokenCounts) -> None:
    """However the input divides into cached, written and other tokens, its hold is enough."""
    hold = hold_nano_usd(price, input_tokens=used.prompt, output_tokens=used.completion)
    assert hold >= cost_nano_usd(price, used)


@given(prices, st.integers(0, 10**13), counts)
def test_what_is_affordable_can_be_held(price: Price, nano_usd: int, input_tokens: int) -> None:
    """The money pays a hold of the affordable output tokens, and not of one token more."""
    output = affordable_output_tokens(price, nano_usd=nano_usd, input_tokens=input_tokens)
    assert output >= 0
    if output:
        assert hold_nano_usd(price, input_tokens=input_tokens, output_tokens=output) <= nano_usd
    if price.output_pico_usd:
        assert hold_nano_usd(price, input_tokens=input_tokens, output_tokens=output + 1) > nano_usd


@pytest.mark.parametrize(
    ("used", "nano_usd"),
    [
        (TokenCounts(), 0),
        (TokenCounts(prompt=1), 3),  # 2,500 pUSD are 2.5 nUSD
        (TokenCounts(prompt=2), 5),
        (TokenCounts(prompt=1_000_000), 2_500_000),
        (TokenCounts(completion=1_000_000), 10_000_000),
        (TokenCounts(prompt=10, cached=10), 13),
        (TokenCounts(prompt=10, cached=99), 13),
        (TokenCounts(prompt=10, cached=4, cache_write=99), 24),
    ],
)
def test_published_prices_give_published_costs(used: TokenCounts, nano_usd: int) -> None:
    """2.50 USD a million in, 10 out, 1.25 read from the cache, 3.125 written to it; parts never exceed the prompt."""
    published = price(input=2_500, output=10_000, cache_read=1_250, cache_write=3_125)
    assert cost_nano_usd(published, used) == nano_usd


def test_a_free_model_costs_nothing() -> None:
    """Explicit zeros are a price of zero, for hold and charge alike."""
    assert cost_nano_usd(price(), TokenCounts(prompt=10**8, completion=10**8)) == 0
    assert hold_nano_usd(price(), input_tokens=10**8, output_tokens=10**8) == 0


@given(st.integers(0, 10**15))
def test_the_fee_is_rounded_up(amount: int) -> None:
    """Five per cent of the amount, never a fraction less."""
    assert service_fee_nano_usd(amount, 500) == math.ceil(Fraction(amount * 5, 100))


@pytest.mark.parametrize(
    ("nano_usd", "text"),
    [
        (0, "0.000000"),
        (1, "0.000001"),
        (1_000, "0.000001"),
        (1_001, "0.000002"),
        (10_500_000_000, "10.500000"),
        (-1, "-0.000001"),
        (-2_000_000_000, "-2.000000"),
    ],
)
def test_people_see_six_decimals(nano_usd: int, text: str) -> None:
    """A cost is rounded up in size, so that it is never shown as nothing."""
    assert usd_text(nano_usd) == text


def statements(tree: ast.AST) -> Iterator[ast.stmt]:
    """Statements that hold no other statement, and the heads of those that do."""
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            yield node


def own_expressions(statement: ast.stmt) -> Iterator[ast.AST]:
    """Everything in a statement that is not inside a statement of its own."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.stmt)]


def names_in(expressions: list[ast.AST]) -> set[str]:
    """Identifiers, attributes, parameters and keywords."""
    found = set()
    for node in expressions:
        for field in ("id", "attr", "arg", "name"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                found.add(value)
    return found


def is_float(node: ast.AST) -> bool:
    """A float literal, a true division, the type's name, or what rounds floats."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, float)
    if isinstance(node, ast.BinOp | ast.AugAssign):
        return isinstance(node.op, ast.Div)
    return isinstance(node, ast.Name) and node.id in ("float", "round")


@pytest.mark.parametrize("path", MONEY_CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_float_is_near_money(path: Path) -> None:
    """In money code a float is a time in seconds (`…_s`), a clock's or a jitter, and never meets an amount."""
    for statement in statements(ast.parse(path.read_text())):
        expressions = list(own_expressions(statement))
        if not any(is_float(node) for node in expressions):
            continue
        names = names_in(expressions)
        where = f"{path.name}:{statement.lineno}"
        assert path.name not in WITHOUT_TIME, where
        assert any(name.lower().endswith("_s") or name in TIME_WORDS for name in names), where
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            assert not [name for name in names if any(word in name.lower() for word in MONEY_WORDS)], where
