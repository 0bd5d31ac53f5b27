"""Bytes of text per token, learned per model: for sizing holds and for estimating usage nobody reported."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.money.usage import TokenCounts

PER_TOKENS = 1_000_000
"""A ratio is the bytes of so many tokens: an integer, as all that sizes money is."""
_STEP = 50
"""A mean moves by one part in so many of its distance from what was seen."""
_LOWER, _RAISE = 981, 1_001
"""In thousandths: a 2 % step, 95 % of it down and 5 % of it up, so that one in twenty lies below."""
_LEAST, _MOST = 1 * PER_TOKENS, 8 * PER_TOKENS
_LEAST_MEAN, _MOST_MEAN = 5 * PER_TOKENS // 2, 6 * PER_TOKENS
"""Estimates stay within these whatever was seen: one account's odd requests must not price those of others."""
_TELLING_INPUT_BYTES, _TELLING_OUTPUT_BYTES = 1_024, 256
"""Shorter texts say more of a provider's template than of the text."""


@dataclass(slots=True)
class TextRatio:
    """Bytes of text per `PER_TOKENS` tokens of one model, learned from settled usage.

    `low` follows the 5th percentile of the prompts' (a hold must not be too small), `mean_input` and
    `mean_output` the averages (an estimated charge should be neither).
    """

    low: int = 2 * PER_TOKENS
    mean_input: int = 4 * PER_TOKENS
    mean_output: int = 4 * PER_TOKENS

    def learn(self, *, text_bytes: int, output_bytes: int, tokens: TokenCounts) -> None:
        """Take in a request whose usage the upstream reported."""
        if tokens.prompt > 0 and text_bytes >= _TELLING_INPUT_BYTES:
            seen = min(max(text_bytes * PER_TOKENS // tokens.prompt, _LEAST), _MOST)
            low = self.low * (_LOWER if seen < self.low else _RAISE) // 1_000
            self.low = min(max(low, _LEAST), _MOST)
            self.mean_input = _toward(self.mean_input, seen)
        visible = tokens.completion - tokens.reasoning
        if visible > 0 and output_bytes >= _TELLING_OUTPUT_BYTES:
            seen = min(max(output_bytes * PER_TOKENS // visible, _LEAST), _MOST)
            self.mean_output = _toward(self.mean_output, seen)


def _toward(mean: int, seen: int) -> int:
    return min(max(mean + (seen - mean) // _STEP, _LEAST_MEAN), _MOST_MEAN)


@dataclass(slots=True)
class TextRatios:
    """The ratio of each model, by its ID."""

    by_model: dict[str, TextRatio] = field(default_factory=dict)

    def of(self, model_id: str) -> TextRatio:
        """The model's ratio, a new one at first."""
        ratio = self.by_model.get(model_id)
        if ratio is None:
            ratio = self.by_model[model_id] = TextRatio()
        return ratio
