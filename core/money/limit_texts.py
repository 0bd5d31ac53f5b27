"""Limits in words, for those whom they stop."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from core.money.pricing import usd_text
from storage.limit_records import Limit, Purse

_SPANS: Final = {"lifetime": "budget", "month": "monthly budget", "day": "daily budget"}


def owner_text(limit: Limit) -> str:
    """Whose limit it is, at the beginning of a sentence."""
    kind = "API key" if limit.owner_id.startswith("key_") else "Account"
    return f"{kind} {limit.owner_id}"


def budget_text(limit: Limit) -> str:
    """A limit on spend: whose it is, and how much."""
    owner = owner_text(limit).replace("Account", "account")
    return f"The {_SPANS[limit.period]} of {owner}, {usd_text(limit.amount)} USD, is"


def none_text(limit: Limit) -> str:
    """A limit of 0, which no wait helps with."""
    what = "requests at once" if limit.measure == "concurrency" else f"{limit.measure} per minute"
    return f"{owner_text(limit)} has a limit of 0 {what}: it may use none."


def renewal_text(purse: Purse) -> str:
    """When the limit starts anew, as a sentence after another; nothing if it never does."""
    if purse.ends_us is None:
        return ""
    # Whole seconds: periods end at midnight.
    return f" It starts anew at {datetime.fromtimestamp(purse.ends_us // 1_000_000, UTC):%Y-%m-%dT%H:%M:%SZ}."
