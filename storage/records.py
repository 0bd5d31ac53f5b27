"""What the store takes and gives: frozen records, without behaviour.

Those of limits, usage and audits are in `limit_records`, `usage_records` and `audit_records`.
Amounts are integer nanodollars, prices integer picodollars per token, times integer microseconds since
the Unix epoch by the database's clock unless a field says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypedDict

import msgspec

AccountKind = Literal["user", "service", "house"]
LedgerKind = Literal["usage", "topup", "fee", "refund", "adjust"]
USUAL_TTL_S = 30.0
"""How long a core counts as live that says nothing more, unless its settings say otherwise."""
MAX_LEVELS = 4
"""How deep a tree of accounts is at most, its root included."""

HOUSE_PAYMENTS = "house_payments"
"""Account that payments come from; its balance is the negative of all money ever paid in."""
HOUSE_FEES = "house_fees"
"""Account that service fees go to."""
HOUSE_USAGE = "house_usage"
"""Account that usage charges go to: revenue."""
HOUSE_ADJUSTMENTS = "house_adjustments"
"""Account that adjustments, starting balances among them, come from."""


@dataclass(frozen=True, slots=True)
class Once:
    """A change that may be repeated: it happens once per scope and key. The same key with another body is a mistake.

    `scope` is the kind of change and who asks for it, `body_hash` a digest of all that the change depends on.
    """

    scope: str
    key: str
    body_hash: bytes


@dataclass(frozen=True, slots=True)
class Account:
    """Who owns keys and, unless it has a parent, a balance.

    `allowed_models` are IDs, or prefixes of IDs and a `*`, of the models that its keys and those of all accounts below
    it may use; empty: all. `seq` grows with every change of any account or its limits: cores poll for a greater one.
    """

    id: str
    display_name: str
    kind: AccountKind
    credit_limit_nano_usd: int
    created_us: int
    parent_id: str | None = None
    allowed_models: tuple[str, ...] = ()
    expires_us: int | None = None
    seq: int = 0


class AccountChanges(TypedDict, total=False):
    """What to change of an account."""

    display_name: str
    credit_limit_nano_usd: int
    allowed_models: tuple[str, ...]
    expires_us: int | None


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account has: credits less debits, and the part that active leases may still spend."""

    account_id: str
    balance_nano_usd: int
    held_nano_usd: int
    available_nano_usd: int
    credit_limit_nano_usd: int


@dataclass(frozen=True, slots=True)
class SecretHash:
    """HMAC-SHA-256 of a key's secret under the pepper of that version."""

    digest: bytes
    pepper_version: int


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A credential. `secret` is current; `old_secret` is valid until `old_secret_expires_us`.

    `seq` grows with every change of any key or its limits: cores poll for keys of a greater one. `allowed_models` are
    as an account's.
    """

    id: str
    account_id: str
    account_kind: AccountKind
    display_name: str
    secret: SecretHash
    secret_prefix: str
    secret_suffix: str
    old_secret: SecretHash | None
    old_secret_expires_us: int | None
    created_us: int
    expires_us: int | None
    revoked_us: int | None
    seq: int
    allowed_models: tuple[str, ...] = ()


class KeyChanges(TypedDict, total=False):
    """What to change of a key."""

    display_name: str
    expires_us: int | None
    allowed_models: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key to make."""

    id: str
    account_id: str
    display_name: str
    secret: SecretHash
    secret_prefix: str
    secret_suffix: str
    expires_us: int | None
    allowed_models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Price:
    """An immutable price; `id` is a hash of its content."""

    id: str
    model_id: str
    input_pico_usd: int
    output_pico_usd: int
    cache_read_pico_usd: int
    cache_write_pico_usd: int


@dataclass(frozen=True, slots=True)
class Configuration:
    """Which configuration a core has: its version (0: its file has none), and a hash of what cores on one database
    agree on, without a space. `parts` are hashes by model and aspect, for people: in which of them two differ."""

    version: int
    content_hash: str
    parts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Serving:
    """A core that is to serve a configuration. It is live for `ttl_s`, unless it says so again."""

    core_id: str
    configuration: Configuration
    ttl_s: float


@dataclass(frozen=True, slots=True)
class TopUp:
    """A payment that was credited."""

    id: str
    account_id: str
    amount_nano_usd: int
    fee_nano_usd: int
    created_us: int


@dataclass(frozen=True, slots=True)
class NewPayment:
    """Credit to be bought through a provider, with the fee on top."""

    id: str
    account_id: str
    amount_nano_usd: int
    fee_nano_usd: int
    provider: str


@dataclass(frozen=True, slots=True)
class Payment:
    """A payment through a provider. `reference` is the provider's name for it, `url` where it is paid; "" until known.

    A failed payment may be paid yet.
    """

    id: str
    account_id: str
    amount_nano_usd: int
    fee_nano_usd: int
    provider: str
    reference: str
    url: str
    state: Literal["pending", "paid", "failed"]
    created_us: int
    updated_us: int


@dataclass(frozen=True, slots=True)
class Refund:
    """Credit of a payment that was taken back, and the part of its fee that was given back with it."""

    id: str
    payment_id: str
    account_id: str
    amount_nano_usd: int
    fee_nano_usd: int
    created_us: int


@dataclass(frozen=True, slots=True)
class Lease:
    """Money moved out of `accounts.available` that one core may spend; or, `account_id` being a purse's, what that
    core may use of a limit.

    `seq` numbers the lease's changes of `granted` (grant, extension, give-back) so that a change whose
    commit is unknown can be repeated without doing it twice.
    """

    id: str
    account_id: str
    core_id: str
    granted_nano_usd: int
    spent_nano_usd: int
    seq: int


@dataclass(frozen=True, slots=True)
class Charge:
    """What a settled request was charged in the end, and what the house paid of its cost."""

    amount_nano_usd: int
    shortfall_nano_usd: int


class Settlement(msgspec.Struct, frozen=True, gc=False):
    """What a finished request costs: one ledger row, and the same amount spent from its lease and from each budget.

    `lease_id` is None when nothing was held (a free model, or a request refused after admission):
    then the amount is 0. `budgets` are (lease id, purse id) of the spend limits that the amount was held from too;
    the ledger does not keep them.
    """

    request_id: str
    account_id: str
    amount_nano_usd: int
    shortfall_nano_usd: int
    lease_id: str | None
    key_id: str | None
    client_request_id: str
    model_id: str
    endpoint: str
    price_id: str
    prompt_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    estimated: bool
    status: str
    finish_reason: str
    error_reason: str
    attempts: int
    streamed: bool
    ttft_ms: int | None
    duration_ms: int
    core_id: str
    budgets: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A committed movement of money, any kind. `id` ascends in commit order on one core."""

    id: int
    ref: str
    kind: LedgerKind
    debit_account_id: str
    credit_account_id: str
    amount_nano_usd: int
    shortfall_nano_usd: int
    note: str
    created_us: int
