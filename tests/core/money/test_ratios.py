"""Bytes of text per token, learned from settled usage."""

import random

from core.money.ratios import PER_TOKENS, TextRatio, TextRatios
from core.money.usage import TokenCounts


def test_a_new_model_starts_low() -> None:
    """Before anything was seen a hold counts a token for every two bytes."""
    assert TextRatio().low == 2 * PER_TOKENS


def test_the_low_ratio_follows_a_low_percentile() -> None:
    """Most prompts have more bytes per token than the ratio says, so most holds are large enough."""
    randomness = random.Random(7)
    ratio = TextRatio()
    seen = []
    for _ in range(5_000):
        bytes_per_token = randomness.uniform(3.0, 5.0)
        seen.append(bytes_per_token)
        ratio.learn(text_bytes=int(1_000 * bytes_per_token), output_bytes=0, tokens=TokenCounts(prompt=1_000))
    below = sum(each * PER_TOKENS < ratio.low for each in seen) / len(seen)
    assert below < 0.2
    assert 3 * PER_TOKENS <= ratio.low < ratio.mean_input < 4.5 * PER_TOKENS


def test_one_absurd_prompt_moves_the_ratio_little() -> None:
    """A wrong count of an upstream cannot spoil a model's ratio."""
    ratio = TextRatio()
    ratio.learn(text_bytes=10**9, output_bytes=10**9, tokens=TokenCounts(prompt=1, completion=1))
    ratio.learn(text_bytes=1, output_bytes=1, tokens=TokenCounts(prompt=10**8, completion=10**8))
    assert 1.9 * PER_TOKENS < ratio.low < 2.1 * PER_TOKENS
    assert 3 * PER_TOKENS < ratio.mean_input < 5 * PER_TOKENS
    assert 3 * PER_TOKENS < ratio.mean_output < 5 * PER_TOKENS


def test_it_never_leaves_its_bounds() -> None:
    """However long it learns nonsense, a byte is at most four tokens and a token at most eight bytes of a hold."""
    small, large = TextRatio(), TextRatio()
    for _ in range(2_000):
        small.learn(text_bytes=1, output_bytes=1, tokens=TokenCounts(prompt=10**6, completion=10**6))
        large.learn(text_bytes=10**9, output_bytes=10**9, tokens=TokenCounts(prompt=1, completion=1))
    assert small.low >= PER_TOKENS
    assert large.low <= 8 * PER_TOKENS


def test_nothing_is_learned_from_nothing() -> None:
    """Prompts without text (images) and answers that were all hidden reasoning say nothing about bytes."""
    ratio = TextRatio()
    ratio.learn(text_bytes=0, output_bytes=50, tokens=TokenCounts(prompt=500, completion=9, reasoning=9))
    assert ratio == TextRatio()


def test_models_have_ratios_of_their_own() -> None:
    """A model's ratio is made at first and kept."""
    ratios = TextRatios()
    assert ratios.of("a") is ratios.of("a")
    assert ratios.of("a") is not ratios.of("b")
