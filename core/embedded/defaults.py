"""What `serve` adds to the settings by itself: the embedded model, and providers whose key is in the environment."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import msgspec

from core.embedded.model import CONTEXT_TOKENS, DISPLAY_NAME, MAX_OUTPUT_TOKENS, MODEL_ID, OWNED_BY
from core.settings import Settings, convert

PROVIDER_NAME = "embedded"
_PRESETS = "core.presets"


def wants_embedded_model(settings: Settings) -> bool:
    """By default yes, unless models are configured."""
    return not settings.models if settings.embedded.enabled is None else settings.embedded.enabled


def with_presets(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """The settings plus every preset provider whose key is in the environment, and its models.

    What the settings say of a provider or a model of the same name stands. Models of a preset do not count as
    configured: the embedded one stays beside them.
    """
    embedded = msgspec.structs.replace(settings.embedded, enabled=wants_embedded_model(settings))
    settings = msgspec.structs.replace(settings, embedded=embedded)
    for file in sorted(files(_PRESETS).iterdir(), key=lambda file: file.name):
        if not file.name.endswith(".toml"):
            continue
        preset = convert(tomllib.loads(file.read_text()))
        wanted = [each.api_key.removeprefix("env:") for each in preset.providers.values()]
        if all(environment.get(variable) for variable in wanted):
            settings = _merged(settings, preset)
    return settings


def with_embedded_model(settings: Settings, base_url: str) -> Settings:
    """The settings plus the embedded model, which answers at `base_url`."""
    table: dict[str, Any] = {
        "providers": {PROVIDER_NAME: {"kind": "openai", "base_url": base_url}},
        "models": [
            {
                "id": MODEL_ID,
                "display_name": DISPLAY_NAME,
                "owned_by": OWNED_BY,
                "max_output_tokens": MAX_OUTPUT_TOKENS,
                "context_tokens": CONTEXT_TOKENS,
                "price": {"input": 50_000, "output": 100_000, "cache_read": 25_000},
                "endpoints": [{"provider": PROVIDER_NAME, "model": MODEL_ID}],
            }
        ],
    }
    return _merged(settings, convert(table))


def _merged(settings: Settings, added: Settings) -> Settings:
    known = {model.id for model in settings.models}
    return msgspec.structs.replace(
        settings,
        providers={**added.providers, **settings.providers},
        models=[*settings.models, *(model for model in added.models if model.id not in known)],
    )
