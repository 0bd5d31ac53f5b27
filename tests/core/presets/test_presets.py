"""The presets are data that the settings loader can trust."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import core.presets

FILES = sorted(Path(core.presets.__path__[0]).glob("*.toml"))
MODEL_FIELDS = {"id", "display_name", "owned_by", "max_output_tokens", "context_tokens", "price", "endpoints"}
PRICE_FIELDS = {"input", "output", "cache_read", "cache_write"}


def load(file: Path) -> dict[str, Any]:
    """One file, parsed."""
    return tomllib.loads(file.read_text(encoding="utf-8"))


def test_there_is_one_for_each_key() -> None:
    """OpenAI, Anthropic and Gemini, and no others."""
    keys = {provider["api_key"] for file in FILES for provider in load(file)["providers"].values()}
    assert keys == {"env:OPENAI_API_KEY", "env:ANTHROPIC_API_KEY", "env:GEMINI_API_KEY"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_provider_is_reached_over_tls(file: Path) -> None:
    """A key never travels in plain text."""
    ((name, provider),) = load(file)["providers"].items()
    assert (name, provider["kind"]) == (file.stem, "openai")
    assert urlsplit(provider["base_url"]).scheme == "https"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_model_is_complete(file: Path) -> None:
    """All fields are there, and every model's only endpoint is the file's provider."""
    models = load(file)["models"]
    assert 6 <= len(models) <= 12
    for model in models:
        assert set(model) == MODEL_FIELDS
        assert set(model["price"]) == PRICE_FIELDS
        assert model["endpoints"] == [{"provider": file.stem, "model": model["id"]}]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_numbers_are_whole_and_plausible(file: Path) -> None:
    """No float near money; an answer is dearer than a question, a cached one cheaper than a new one."""
    for model in load(file)["models"]:
        price = model["price"]
        assert all(type(amount) is int for amount in price.values())
        assert 0 < price["cache_read"] <= price["input"] < price["output"]
        assert price["cache_write"] >= price["input"]
        assert min(model["max_output_tokens"], model["context_tokens"]) > 0


def test_ids_are_unique() -> None:
    """All three may be offered at once."""
    ids = [model["id"] for file in FILES for model in load(file)["models"]]
    assert len(ids) == len(set(ids))
