"""What the store takes and gives: frozen records, without behaviour.

Amounts are integer nanodollars, prices integer picodollars per token, times integer microseconds since
the Unix epoch by the database's clock unless a field says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import msgspec

AccountKind = Literal["user", "service", "house"]
LedgerKind = Literal["usage", "topup", "fee", "refund", "adjust"]
DeviationKind = Literal[
    "balance",
    "overdrawn",
    "house_balance",
    "lease_bounds",
    "lease_spent",
    "purse",
    "unknown_account",
    "unknown_price",
    "chain_hash",
    "chain_missing",
    "chain_unlisted",
    "chain_head",
]
"""What an audit finds wrong:

balance          available and held by leases is not credits less debits
overdrawn        available is below the credit limit
house_balance    a house account has money available or held by leases
lease_bounds     a lease has spent less than 0 or more than was granted
lease_spent      a lease has spent more than the ledger's entries of it
purse            what a limit's period has available, leased and spent is not its amount
unknown_account  an entry names an account that does not exist
unknown_price    the charge of a request names no price that exists
chain_hash       an entry, or its place in the chain, was changed
chain_missing    an entry of the chain is not in the ledger, or a position not in the chain
chain_unlisted   an entry is not in the chain, though all around it are
chain_head       the end of a chain, or the sums there, are not those of its entries
"""
UsageDimension = Literal["day", "account", "api_key", "model"]
"""What usage is summed up by."""

LimitMeasure = Literal["spend", "requests", "tokens", "concurrency"]
"""What a limit counts: nanodollars charged, requests, tokens (input and output), requests that run at once."""
LimitPeriod = Literal["lifetime", "month", "day", "minute", "now"]
"""Over what a limit counts: spend by lifetime, calendar month or day (UTC), requests and tokens by minute,
concurrency by now."""

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


class Limit(msgspec.Struct, frozen=True, gc=False):
    """A bound on what an account (with all below it) or a key may use. `amount` is in the measure's unit, 0 or more.

    `id` stays the same when the amount is changed; `owner_id` is an account's or a key's.
    """

    id: str
    owner_id: str
    measure: LimitMeasure
    period: LimitPeriod
    amount: int


RATE_SLICES = 6_000
"""Slices of a minute: what is taken of a limit per minute is in use until so many slices later have passed."""
RATE_SLICE_US = 10_000
"""How long a slice lasts."""


class RateAsk(msgspec.Struct, frozen=True):
    """What a core asks of a limit of `amount` units per minute, all counts 0 or more.

    `needs` are those of requests that wait, in order: each is met whole or not at all; `share` is wanted beside them.
    `returned` are units that were taken and not used, by the slice that they were taken in; `owed` were used beyond
    what was taken.
    """

    limit_id: str
    amount: int
    needs: tuple[int, ...] = ()
    share: int = 0
    returned: Mapping[int, int] = msgspec.field(default_factory=dict)
    owed: int = 0


class RateShare(msgspec.Struct, frozen=True):
    """What a core got: `taken` units in the slice of this number, which began `into_us` ago by the database's clock.

    `used` is what all cores have in use since, by slice.
    """

    limit_id: str
    taken: int
    slice: int
    into_us: int
    used: Mapping[int, int]


PURSE_PREFIX = "purse_"
"""What ids of purses begin with, and no other id."""


def is_purse(owner_id: str) -> bool:
    """Whether the owner of a lease is a purse; else it is an account."""
    return owner_id.startswith(PURSE_PREFIX)


@dataclass(frozen=True, slots=True)
class Purse:
    """What a limit allows in its present period, which is over in `left_us` (None: never) and then at `ends_us`.

    `available` is what no core has of it; below 0, leases have so much more than the amount was lowered to.
    """

    id: str
    limit_id: str
    amount: int
    available: int
    ends_us: int | None
    left_us: int | None


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
    """Which configuration a core has: its version, 0 or more, and a hash of what cores on one database agree on."""

    version: int
    content_hash: str


UNVERSIONED = Configuration(0, "")
"""A configuration whose file has no version."""


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


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """A committed request: its settlement as stored (`amount_nano_usd` is what was charged in the end)."""

    entry_id: int
    created_us: int
    settlement: Settlement


@dataclass(frozen=True, slots=True)
class Deviation:
    """Something that does not add up. `account_id` may be a purse's; `subject` is the id of the lease or entry at
    fault, empty where it is the account; `expected` and `found` are amounts in nanodollars, hashes in hexadecimal, or
    words."""

    kind: DeviationKind
    account_id: str
    subject: str
    expected: str
    found: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What a full audit found. `deviations` are the first ones of `deviation_count`.

    `chained_count` of `entry_count` entries are in a chain, the newest of them `last_chained_id` (0: none).
    """

    deviations: list[Deviation]
    deviation_count: int
    chain_holds: bool
    account_count: int
    entry_count: int
    chained_count: int
    last_chained_id: int


@dataclass(frozen=True, slots=True)
class AccountState:
    """An account as an export states it: what it has, and the end of its chain (position 0: it has none).

    `kind` is empty when only the ledger knows the account.
    """

    id: str
    kind: AccountKind | Literal[""]
    available_nano_usd: int
    held_nano_usd: int
    position: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class ChainedEntry:
    """A ledger entry in its account's chain; `content` is the text that the hash covers, see `storage.chain`.

    Not chained yet: position 0 and no hash.
    """

    account_id: str
    position: int
    hash: bytes
    content: str


@dataclass(frozen=True, slots=True)
class LedgerSnapshot:
    """What an export begins with, all of one moment: every account, and the entries that are not chained yet.

    `field_names` are those of the entries' content, in order.
    """

    field_names: Sequence[str]
    accounts: list[AccountState]
    unchained: list[ChainedEntry]


@dataclass(frozen=True, slots=True)
class UsedBy:
    """An account and the root above it, which may be itself. Its usage is what its keys and those below it used."""

    account_id: str
    payer_id: str


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
