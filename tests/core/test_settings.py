"""Settings: a bad one is refused at start, naming key, value and what is wanted; and what they are made into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core import configured
from core.providers.openai import OpenAIProvider
from core.providers.scripted import ScriptedProvider
from core.settings import BadSettings, Settings, convert, load, secret

WHOLE = """
[core]
grpc_port = 6000
credits_url = "https://router.example/credits"

[timeouts]
first_token_s = 12

[money]
chunk_nano_usd = 7

[edge]
anything = { goes = [1] }

[providers.up]
kind = "openai"
base_url = "https://up.example/v1"
api_key = "env:UP_KEY"
output_limit_field = "max_completion_tokens"

[providers.play]
kind = "scripted"
script = { text = "hi" }

[[models]]
id = "b"
max_output_tokens = 100
price = { input = 37_500, output = 150_000, cache_read = 9_000 }
endpoints = [{ provider = "up", model = "up-b" }, { provider = "play", model = "x", name = "spare" }]

[[models]]
id = "a"
max_output_tokens = 100
public = false
first_token_timeout_s = 300
price = { input = 0, output = 0 }
endpoints = [{ provider = "play", model = "x" }]
"""


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "worldrouter.toml"
    file.write_text(text, "utf-8")
    return file


def refused(tables: dict[str, Any]) -> str:
    with pytest.raises(BadSettings) as caught:
        convert(tables)
    return str(caught.value)


MODEL = {"id": "m", "max_output_tokens": 1, "price": {"input": 1, "output": 1}, "endpoints": []}


def test_everything_has_a_default() -> None:
    """Without a file, an environment or options there are settings all the same."""
    settings = load(None, {}, {})
    assert settings == Settings()
    assert (settings.core.host, settings.core.grpc_port) == ("127.0.0.1", 50051)
    assert settings.timeouts.total_s == 900.0
    money = settings.money
    assert (money.min_top_up_nano_usd, money.fee_basis_points) == (10 * 10**9, 500)
    assert money.starting_balance_nano_usd == 5 * 10**9


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    """Sections, providers, models; the edge's part is left to the edge."""
    settings = load(written(tmp_path, WHOLE), {}, {})
    assert settings.core.grpc_port == 6000
    assert settings.timeouts.first_token_s == 12
    assert settings.edge == {"anything": {"goes": [1]}}
    assert [model.id for model in settings.models] == ["b", "a"]
    assert settings.providers["up"].output_limit_field == "max_completion_tokens"


def test_environment_goes_over_the_file_and_options_over_both(tmp_path: Path) -> None:
    """`WORLDROUTER_<SECTION>_<KEY>`, in the type of the key."""
    file = written(tmp_path, WHOLE)
    environment = {
        "WORLDROUTER_CORE_GRPC_PORT": "7000",
        "WORLDROUTER_CORE_HOST": "::1",
        "WORLDROUTER_TIMEOUTS_DRAIN_S": "1.5",
        "WORLDROUTER_EMBEDDED_ENABLED": "false",
        "WORLDROUTER_DATABASE_URL": "postgresql+asyncpg://u@h/d",
        "WORLDROUTER_HOME": "/somewhere",
    }
    settings = load(file, environment, {})
    assert (settings.core.grpc_port, settings.core.host) == (7000, "::1")
    assert settings.core.credits_url == "https://router.example/credits"
    assert settings.timeouts.drain_s == 1.5
    assert settings.embedded.enabled is False
    assert settings.database.url == "postgresql+asyncpg://u@h/d"
    assert load(file, environment, {"grpc_port": 0}).core.grpc_port == 0


def test_settings_do_not_change() -> None:
    """One immutable object."""
    with pytest.raises(AttributeError):
        Settings().core.host = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("tables", "parts"),
    [
        ({"core": {"grpc_port": "abc"}}, ("core.grpc_port", "`int`", "'abc'")),
        ({"core": {"grpc_port": 65_536}}, ("core.grpc_port", "<= 65535", "65536")),
        ({"core": {"admin_port": -1}}, ("core.admin_port", ">= 0", "-1")),
        ({"core": {"host": 7}}, ("core.host", "`str`", "7")),
        ({"core": {"max_body_bytes": 0}}, ("core.max_body_bytes", ">= 1024", "0")),
        ({"core": 5}, ("core", "`object`", "5")),
        ({"core": {"prot": 1}}, ("core", "unknown field `prot`")),
        ({"cor": {}}, ("unknown field `cor`; there are version, core, tls, database, ",)),
        ({"timeouts": {"settle_s": 0}}, ("timeouts.settle_s", "> 0", "0")),
        ({"timeouts": {"drain_s": True}}, ("timeouts.drain_s", "`float`", "True")),
        ({"money": {"chunk_nano_usd": 1.5}}, ("money.chunk_nano_usd", "`int`", "1.5")),
        ({"money": {"fee_basis_points": 10_001}}, ("money.fee_basis_points", "<= 10000", "10001")),
        ({"providers": {"up": {"kind": "magic"}}}, ("providers.up.kind", "'openai', 'scripted'", "'magic'")),
        ({"providers": {"up": {}}}, ("providers.up", "missing required field `kind`")),
        ({"providers": {"up": {"kind": "openai", "headers": {"a": 1}}}}, ("providers.up.headers", "`str`")),
        ({"providers": {"up": {"kind": "openai", "max_connections": 0}}}, ("up.max_connections", ">= 1", "0")),
        ({"providers": {"up": 3}}, ("providers.up", "`object`", "3")),
        ({"providers": []}, ("providers", "`object`", "[]")),
        ({"models": {}}, ("models", "`array`")),
        ({"models": [MODEL | {"price": {"input": 1}}]}, ("models[0].price", "missing required field `output`")),
        ({"models": [MODEL | {"price": {"input": -1, "output": 1}}]}, ("models[0].price.input", ">= 0", "-1")),
        ({"models": [MODEL | {"price": {"input": 0.5, "output": 1}}]}, ("models[0].price.input", "`int`", "0.5")),
        ({"models": [MODEL, MODEL | {"max_output_tokens": 0}]}, ("models[1].max_output_tokens", ">= 1", "0")),
        ({"models": [MODEL | {"id": ""}]}, ("models[0].id", "length >= 1", "''")),
        ({"models": [{"id": "m", "max_output_tokens": 1, "endpoints": []}]}, ("models[0]", "field `price`")),
        ({"models": [MODEL | {"endpoints": [{"provider": 1}]}]}, ("models[0].endpoints[0].provider", "`str`", "1")),
    ],
)
def test_a_bad_value_is_named_with_what_is_wanted(tables: dict[str, Any], parts: tuple[str, ...]) -> None:
    """Key, value and wanted type; a model without a price is one of them."""
    message = refused(tables)
    for part in parts:
        assert part in message


def test_a_bad_variable_is_named(tmp_path: Path) -> None:
    """With its value and what is wanted."""
    for environment, parts in (
        ({"WORLDROUTER_CORE_GRPC_PORT": "many"}, ("WORLDROUTER_CORE_GRPC_PORT", "'many'", "`int`")),
        ({"WORLDROUTER_MONEY_CHUNK_NANO_USD": "0"}, ("WORLDROUTER_MONEY_CHUNK_NANO_USD", "'0'", ">= 1")),
        ({"WORLDROUTER_EMBEDDED_ENABLED": "perhaps"}, ("WORLDROUTER_EMBEDDED_ENABLED", "'perhaps'", "bool")),
        ({"WORLDROUTER_MONEY_FEE_BASIS_POINT": "0"}, ("WORLDROUTER_MONEY_FEE_BASIS_POINT", "no such setting")),
    ):
        with pytest.raises(BadSettings) as caught:
            load(None, environment, {})
        for part in parts:
            assert part in str(caught.value)


def test_variables_of_kubernetes_services_are_ignored() -> None:
    """Services named worldrouter-core, worldrouter-core-grpc and worldrouter-database bring these."""
    service = {
        "WORLDROUTER_CORE_SERVICE_HOST": "10.0.0.1",
        "WORLDROUTER_CORE_SERVICE_PORT_GRPC": "50051",
        "WORLDROUTER_CORE_PORT": "tcp://10.0.0.1:50051",
        "WORLDROUTER_CORE_PORT_50051_TCP_ADDR": "10.0.0.1",
        "WORLDROUTER_CORE_GRPC_PORT": "tcp://10.0.0.1:50051",
        "WORLDROUTER_DATABASE_PORT_5432_TCP": "tcp://10.0.0.2:5432",
    }
    assert load(None, service, {}) == Settings()


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    """With the place of the mistake; also one that is no text, or has a number for a section."""
    with pytest.raises(BadSettings, match=r"worldrouter\.toml.*line 2"):
        load(written(tmp_path, "[core]\nhost = x\n"), {}, {})
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadSettings, match=r"binary\.toml"):
        load(tmp_path / "binary.toml", {}, {})
    with pytest.raises(BadSettings, match="core"):
        load(written(tmp_path, "core = 5"), {"WORLDROUTER_CORE_HOST": "x"}, {"grpc_port": 1})
    with pytest.raises(OSError, match="absent"):
        load(tmp_path / "absent.toml", {}, {})


@pytest.mark.parametrize(
    "tables",
    [
        {"database": {"url": "postgresql+asyncpg://user:canary@host/db", "pool": 5}},
        {"providers": {"up": {"kind": "openai", "headers": {"x-key": "canary", "y": 1}}}},
        {"providers": {"up": {"kind": "openai", "api_key": "canary", "nonsense": 1}}},
    ],
)
def test_a_refusal_repeats_no_secret(tables: dict[str, Any]) -> None:
    """A table is not shown whole because one of its keys is wrong."""
    assert "canary" not in refused(tables)


# Secrets


def test_a_secret_is_a_reference(tmp_path: Path) -> None:
    """To a variable or a file; an empty reference is none."""
    (tmp_path / "key").write_text("from-file\n")
    assert secret("x", "", {}) is None
    assert secret("x", "env:KEY", {"KEY": "from-env"}) == "from-env"
    assert secret("x", f"file:{tmp_path / 'key'}", {}) == "from-file"


def test_a_reference_to_nothing_is_refused(tmp_path: Path) -> None:
    """It says which, and of which setting; a secret written down instead of a reference is not repeated."""
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    for reference, part in (
        ("env:KEY", "KEY"),
        ("file:/no/such/file", "/no/such/file"),
        (f"file:{tmp_path}", "directory"),
        (f"file:{tmp_path / 'empty'}", "empty"),
        (f"file:{tmp_path / 'binary'}", "not text"),
        ("sk-canary", "env:NAME"),
    ):
        with pytest.raises(BadSettings) as caught:
            secret("providers.up.api_key", reference, {"KEY": ""})
        assert str(caught.value).startswith("providers.up.api_key: ")
        assert part in str(caught.value)
        assert "canary" not in str(caught.value)


# What they are made into


def test_models_become_a_catalog(tmp_path: Path) -> None:
    """A price without cache prices takes those of the input; endpoints are named by their providers."""
    catalog = configured.catalog(load(written(tmp_path, WHOLE), {}, {}))
    assert list(catalog.models) == ["a", "b"]
    model = catalog.models["b"]
    prices = model.price
    assert (prices.input_pico_usd, prices.output_pico_usd) == (37_500, 150_000)
    assert (prices.cache_read_pico_usd, prices.cache_write_pico_usd) == (9_000, 37_500)
    assert [(each.name, each.provider, each.upstream_model) for each in model.endpoints] == [
        ("up", "up", "up-b"),
        ("spare", "play", "x"),
    ]
    assert (catalog.models["a"].public, catalog.models["a"].first_token_timeout_s) == (False, 300)


def test_a_cache_may_be_read_for_nothing() -> None:
    """A price of 0 is a price, not a missing one."""
    price = {"input": 5, "output": 7, "cache_read": 0, "cache_write": 0}
    endpoints = [{"provider": "p", "model": "m"}]
    tables = {"providers": {"p": {"kind": "scripted"}}, "models": [{**MODEL, "price": price, "endpoints": endpoints}]}
    prices = configured.catalog(convert(tables)).models["m"].price
    assert (prices.cache_read_pico_usd, prices.cache_write_pico_usd) == (0, 0)


def test_providers_get_their_secrets(tmp_path: Path) -> None:
    """From the environment that is given, not from the process's own."""
    settings = load(written(tmp_path, WHOLE), {}, {})
    client = configured.http_client(settings)
    made = configured.providers(settings, client, {"UP_KEY": "sk-canary"})
    assert isinstance(made["up"], OpenAIProvider)
    assert isinstance(made["play"], ScriptedProvider)
    assert "canary" not in repr(made)
    with pytest.raises(BadSettings, match=r"providers\.up\.api_key: the environment variable UP_KEY is not set"):
        configured.providers(settings, client, {})


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (
            lambda text: text.replace('provider = "up"', 'provider = "nobody"'),
            "model 'b': there is no provider 'nobody'",
        ),
        (lambda text: text.replace('name = "spare"', 'name = "up"'), "model 'b': two endpoints are named 'up'"),
        (lambda text: text.replace('id = "a"', 'id = "b"'), "model 'b' is configured twice"),
        (
            lambda text: text.replace('endpoints = [{ provider = "play", model = "x" }]', "endpoints = []"),
            "no endpoint",
        ),
    ],
)
def test_models_that_do_not_fit_together_are_refused(tmp_path: Path, change: Any, part: str) -> None:
    """Naming the model."""
    settings = load(written(tmp_path, change(WHOLE)), {}, {})
    with pytest.raises(BadSettings) as caught:
        configured.catalog(settings)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    "provider",
    [
        {"kind": "openai", "base_url": "ftp://x"},
        {"kind": "openai", "base_url": "https://user:canary@x/v1"},
        {"kind": "openai", "base_url": "https://x/v1", "headers": {"bad name": "canary"}},
        {"kind": "scripted", "script": {"txt": "canary"}},
    ],
)
def test_a_provider_that_cannot_be_is_refused(provider: dict[str, Any]) -> None:
    """Naming it, and no secret."""
    settings = convert({"providers": {"up": provider}})
    with pytest.raises(BadSettings, match=r"^providers\.up: ") as caught:
        configured.providers(settings, configured.http_client(settings), {})
    assert "canary" not in str(caught.value)
