"""Bytes of text per token, learned per model: for sizing holds and for estimating usage nobody reported."""

from __future__ import annotations

from dataclasses import dataclass, field

from core.money.usage import TokenCounts

_STEP = 0.02
_PERCENTILE = 0.05
_LEAST, _MOST = 1.0, 8.0
_LEAST_MEAN, _MOST_MEAN = 2.5, 6.0
"""Estimates stay within these whatever was seen: one account's odd requests must not price those of others."""
_TELLING_INPUT_BYTES, _TELLING_OUTPUT_BYTES = 1_024, 256
"""Shorter texts say more of a provider's template than of the text."""


@dataclass(slots=True)
class TextRatio:
    """Bytes of text per token of one model, learned from settled usage.

    `low` follows the 5th percentile of the prompts' (a hold must not be too small), `mean_input` and
    `mean_output` the averages (an estimated charge should be neither).
    """

    low: float = 2.0
    mean_input: float = 4.0
    mean_output: float = 4.0

    def learn(self, *, text_bytes: int, output_bytes: int, tokens: TokenCounts) -> None:
        """Take in a request whose usage the upstream reported."""
        if tokens.prompt > 0 and text_bytes >= _TELLING_INPUT_BYTES:
            seen = min(max(text_bytes / tokens.prompt, _LEAST), _MOST)
            below = seen < self.low
            self.low *= 1 - _STEP * (1 - _PERCENTILE) if below else 1 + _STEP * _PERCENTILE
            self.low = min(max(self.low, _LEAST), _MOST)
            self.mean_input = _toward(self.mean_input, seen)
        visible = tokens.completion - tokens.reasoning
        if visible > 0 and output_bytes >= _TELLING_OUTPUT_BYTES:
            seen = min(max(output_bytes / visible, _LEAST), _MOST)
            self.mean_output = _toward(self.mean_output, seen)


def _toward(mean: float, seen: float) -> float:
    return min(max(mean + _STEP * (seen - mean), _LEAST_MEAN), _MOST_MEAN)


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
