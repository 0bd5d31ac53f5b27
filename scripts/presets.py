"""Write one TOML per provider with its models and their published prices; `scripts/presets` runs it.

Which models, and how long their answers may be, is decided here; genai-prices does not know the latter. Where a
model's documentation is not at hand, the limit is that of its elder sibling.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import sys
from pathlib import Path
from typing import NamedTuple

from genai_prices.data import providers
from genai_prices.types import ModelInfo

from core.prices.published import published_price


class Preset(NamedTuple):
    """One file: the provider's name in it and in genai-prices; the longest answers of its models, in tokens."""

    name: str
    source: str
    base_url: str
    key_variable: str
    max_output_tokens: dict[str, int]
    output_limit_field: str = "max_tokens"


PRESETS = (
    Preset(
        name="openai",
        source="openai",
        base_url="https://api.openai.com/v1",
        key_variable="OPENAI_API_KEY",
        max_output_tokens={
            "gpt-6.1-sol": 128_000,
            "gpt-6.1-terra": 128_000,
            "gpt-6-luna": 128_000,
            "gpt-5.5": 128_000,
            "gpt-5.4-mini": 128_000,
            "gpt-5": 128_000,
            "gpt-5-mini": 128_000,
            "gpt-5-nano": 128_000,
            "gpt-4.1": 32_768,
            "gpt-4.1-mini": 32_768,
            "gpt-4o": 16_384,
            "gpt-4o-mini": 16_384,
        },
        output_limit_field="max_completion_tokens",  # its reasoning models refuse the other one
    ),
    Preset(
        name="anthropic",
        source="anthropic",
        base_url="https://api.anthropic.com/v1",
        key_variable="ANTHROPIC_API_KEY",
        max_output_tokens={
            "claude-fable-5-2": 128_000,
            "claude-opus-5-5": 128_000,
            "claude-opus-5": 128_000,
            "claude-opus-4-5": 64_000,
            "claude-sonnet-5-5": 128_000,
            "claude-sonnet-5": 128_000,
            "claude-sonnet-4-5": 64_000,
            "claude-haiku-5-5": 128_000,
            "claude-haiku-4-5": 64_000,
        },
    ),
    Preset(
        name="gemini",
        source="google",
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        key_variable="GEMINI_API_KEY",
        max_output_tokens={
            "gemini-3.1-pro-preview": 65_536,
            "gemini-3.5-flash-lite": 65_536,
            "gemini-3.1-flash-lite": 65_536,
            "gemini-2.5-pro": 65_536,
            "gemini-2.5-flash": 65_536,
            "gemini-2.5-flash-lite": 65_536,
        },
    ),
)
CONTEXT_TOKENS = {"gemini-2.5-pro": 1_048_576, "gemini-3.1-pro-preview": 1_048_576}
"""Where genai-prices states none."""

HEADER = """\
# Models of {name} with their published prices, offered when {key_variable} is set. Written by scripts/presets.
# Prices: genai-prices {version}, as of {today}, in µUSD per million tokens (the same number in pUSD per token).
# They are those of text at the standard service tier. Where long prompts cost more, the price is the one of short
# prompts, and context_tokens ends where that price does.

[providers.{name}]
kind = "openai"
base_url = "{base_url}"
api_key = "env:{key_variable}"
output_limit_field = "{output_limit_field}"
"""
MODEL = """
[[models]]
id = "{id}"
display_name = "{display_name}"
owned_by = "{owned_by}"
max_output_tokens = {max_output_tokens}
context_tokens = {context_tokens}{context_comment}
price = {{ {price} }}
endpoints = [{{ provider = "{provider}", model = "{id}" }}]
"""


def model_entry(preset: Preset, model: ModelInfo, now: datetime.datetime) -> str | None:
    """The model's part of the file; None when its price is not a plain number per token."""
    price = published_price(model, now)
    context = model.context_window or CONTEXT_TOKENS.get(model.id)
    if price is None or context is None:
        return None
    base_context = min(context, price.prompt_tokens or context)
    amounts = {
        "input": price.input,
        "output": price.output,
        "cache_read": price.cache_read or price.input,
        "cache_write": price.cache_write or price.input,
    }
    return MODEL.format(
        id=model.id,
        display_name=(model.name or model.id).replace("gpt ", "GPT-"),
        owned_by=preset.source,
        max_output_tokens=preset.max_output_tokens[model.id],
        context_tokens=base_context,
        context_comment=f"  # of {context}: longer prompts cost more" if base_context < context else "",
        price=", ".join(f"{name} = {amount}" for name, amount in amounts.items()),
        provider=preset.name,
    )


def preset_file(preset: Preset, now: datetime.datetime) -> str:
    """The whole file; models that genai-prices does not price are left out, with a word about it."""
    (source,) = (provider for provider in providers if provider.id == preset.source)
    models = {model.id: model for model in source.models}
    parts = [
        HEADER.format(
            **preset._asdict(), version=importlib.metadata.version("genai-prices"), today=now.date().isoformat()
        )
    ]
    for model_id in preset.max_output_tokens:
        entry = model_entry(preset, models[model_id], now) if model_id in models else None
        if entry is None:
            print(f"{preset.name}: {model_id} is left out: no plain price per token", file=sys.stderr)
        else:
            parts.append(entry)
    return "".join(parts)


def main() -> None:
    """Write the files into the folder given."""
    now = datetime.datetime.now(datetime.UTC)
    for preset in PRESETS:
        path = Path(sys.argv[1]) / f"{preset.name}.toml"
        path.write_text(preset_file(preset, now), encoding="utf-8")


if __name__ == "__main__":
    main()
