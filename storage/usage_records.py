"""What the store takes and gives of usage: the entries of requests, and their sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from storage.records import Settlement

UsageDimension = Literal["day", "account", "api_key", "model"]
"""What usage is summed up by."""


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """A committed request: its settlement as stored (`amount_nano_usd` is what was charged in the end)."""

    entry_id: int
    created_us: int
    settlement: Settlement


@dataclass(frozen=True, slots=True)
class UsedBy:
    """An account and the root above it, which may be itself. Its usage is what its keys and those below it used; with
    `key_id`, what that one used."""

    account_id: str
    payer_id: str
    key_id: str | None = None


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which usage is meant: of UTC days, both of them included, as days since the Unix epoch; and of one account, or of
    all when it is None."""

    first_day: int
    last_day: int
    whose: UsedBy | None


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Usage entries added up. What they were not told apart by is None; `key_id` is empty for the operator's."""

    day: int | None
    account_id: str | None
    key_id: str | None
    model_id: str | None
    requests: int
    failed_requests: int
    prompt_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    amount_nano_usd: int
    shortfall_nano_usd: int


@dataclass(frozen=True, slots=True)
class UsageBounds:
    """Ids of ledger entries between which something is, both of them included."""

    first_id: int
    last_id: int


ALL_USAGE = UsageBounds(0, 2**63 - 1)
"""Whatever the ledger has."""
