"""What is blacked out of texts, and which values a core knows to be secrets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.access.apikeys import make_key
from core.redaction import Redaction
from core.server import secrets_of
from core.settings import convert

KEY = make_key("key_01m80c3xwk5gc1zwqh0nes95qb")


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (f"it was {KEY}.", "it was [secret]."),
        ("Authorization: Bearer abcdefgh12", "Authorization: [secret]"),
        ("it said s3cretkey", "it said [secret]"),
        (json.dumps({"a": 'quo"ted"'}), '{"a": "[secret]"}'),
        ("s3cretkey-longer", "[secret]"),
        ("nothing, bearer of it", "nothing, bearer of it"),
        ("send `Authorization: Bearer wlrouter_...`.", "send `Authorization: Bearer wlrouter_...`."),
        ("the list is EMPTY", "the list is EMPTY"),
    ],
    ids=range(8),  # a key in an id would be another one in each worker
)
def test_secrets_are_blacked_out(text: str, seen: str) -> None:
    """Those that are known, whole and in JSON, and what looks like one; no placeholder, nor how we speak of keys."""
    assert Redaction(["s3cretkey", "s3cretkey-longer", 'quo"ted"', "EMPTY", ""])(text) == seen


def test_secrets_are_added() -> None:
    """What was one stays one, and a longer one still goes first."""
    redact = Redaction(["s3cretkey"])
    redact.add(["s3cretkey-longer", "another1"])
    assert redact("s3cretkey s3cretkey-longer another1") == "[secret] [secret] [secret]"


def test_secrets_of_a_configuration() -> None:
    """Keys of providers and of Stripe, headers that are credentials, and the database's password."""
    echo: dict[str, Any] = {"kind": "openai", "base_url": "http://a/v1"}
    settings = convert(
        {
            "database": {"url": "postgresql+asyncpg://user:p%40ss@db/worldrouter"},
            "payments": {"stripe": {"api_key": "env:S", "webhook_secret": "env:W"}},
            "providers": {
                "a": echo | {"api_key": "env:A", "headers": {"anthropic-version": "2023-06-01"}},
                "b": echo | {"headers": {"Authorization": "Basic YWJj", "X-Api-Key": "k"}},
            },
        }
    )
    found = secrets_of(settings, {"A": "sk-a", "S": "sk_live", "W": "whsec"})
    assert found == ["p@ss", "sk-a", "Basic YWJj", "YWJj", "k", "k", "sk_live", "whsec"]
