"""What audits and exports of the ledger give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from storage.records import AccountKind

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
