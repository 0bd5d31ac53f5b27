"""What a batch of settlements changes, worked out from what the database says; pure, so both databases share it.

The database reads (known request ids, leases, accounts), `plan` decides, the database writes the plan.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from storage.records import HOUSE_USAGE, Charge, Settlement

K = TypeVar("K")

_INT64_MAX = 2**63 - 1

REQUEST_FIELDS = (
    "lease_id",
    "key_id",
    "client_request_id",
    "model_id",
    "endpoint",
    "price_id",
    "prompt_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "estimated",
    "status",
    "finish_reason",
    "error_reason",
    "attempts",
    "streamed",
    "ttft_ms",
    "duration_ms",
    "core_id",
)
"""Fields of `Settlement` that are columns of `ledger` by the same name, in the order of both."""

ROW_COLUMNS = (
    "ref",
    "kind",
    "created_us",
    "debit_account",
    "credit_account",
    "amount",
    "shortfall",
    "note",
    *REQUEST_FIELDS,
)
"""Columns of a planned row: all of `ledger` but its id, in the table's order."""

Row = tuple[Any, ...]
"""A planned row, in their order."""

_OF_REQUEST = slice(4, 4 + len(REQUEST_FIELDS))
"""Where in a `Settlement` they are."""


@dataclass(frozen=True, slots=True)
class HeldLease:
    """A lease as read under its lock: whose money (an account's or a purse's id), and how much of it is unspent."""

    account_id: str
    free_nano_usd: int
    active: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """The writes of a batch: rows in the order of `ROW_COLUMNS`, additions to leases, takings from accounts and purses.

    A lease is named by its id and its owner's. `changed` are the charges, by request id, that are not what their
    settlement says.
    """

    rows: list[Row]
    spent: dict[tuple[str, str], int]
    taken: dict[str, int]
    taken_of_purses: dict[str, int]
    changed: dict[str, Charge]


def unknown(batch: Iterable[Settlement], known: Collection[str]) -> list[Settlement]:
    """The settlements whose request id is neither in the ledger nor earlier in the batch."""
    fresh: dict[str, Settlement] = {}
    for settlement in batch:
        if settlement.request_id not in known:
            fresh.setdefault(settlement.request_id, settlement)
    return list(fresh.values())


def late_accounts(batch: Iterable[Settlement], leases: Mapping[str, HeldLease]) -> list[str]:
    """Accounts that must pay themselves, because their lease is no more; sorted, to be locked in that order."""
    return sorted(
        {
            settlement.account_id
            for settlement in batch
            if settlement.lease_id is not None and not _covers(leases.get(settlement.lease_id), settlement)
        }
    )


def late_purses(batch: Iterable[Settlement], leases: Mapping[str, HeldLease]) -> list[str]:
    """Purses that must give themselves, because their lease is no more; sorted, to be locked in that order."""
    named = {budget for settlement in batch for budget in settlement.budgets}
    return sorted({purse_id for lease_id, purse_id in named if not _is_of(leases.get(lease_id), purse_id)})


def named_leases(batch: Iterable[Settlement]) -> list[str]:
    """All leases that a batch names."""
    named = {settlement.lease_id for settlement in batch if settlement.lease_id is not None}
    return list(named.union(*([lease_id for lease_id, _ in settlement.budgets] for settlement in batch)))


def plan(
    batch: Sequence[Settlement],
    leases: Mapping[str, HeldLease],
    spendable: Mapping[str, int],
    purses: Mapping[str, int],
    now_us: int,
) -> Plan:
    """Charge each settlement to its active lease, else to its account, never more than is there; and the same amount,
    so never more than the least of them has, to the lease of each budget, else to its purse.

    `spendable` is what the late accounts can pay (available and credit limit), `purses` what the late purses have;
    one that is gone binds nobody. What cannot be charged is added to the row's shortfall. A charge without a lease is
    a bug of the core: nothing was held, nothing is taken.
    """
    free = {(lease_id, lease.account_id): lease.free_nano_usd for lease_id, lease in leases.items()}
    left, left_of_purses = dict(spendable), dict(purses)
    done = Plan([], {}, {}, {}, {})
    for settlement in batch:
        lease_id, amount = settlement.lease_id, settlement.amount_nano_usd
        for budget in settlement.budgets:
            if _is_of(leases.get(budget[0]), budget[1]):
                amount = min(amount, max(0, free[budget]))
            else:
                amount = min(amount, max(0, left_of_purses.get(budget[1], amount)))
        if lease_id is None:
            charged = 0
        elif _covers(leases.get(lease_id), settlement):
            charged = _take(amount, (lease_id, settlement.account_id), free, done.spent)
        else:
            charged = _take(amount, settlement.account_id, left, done.taken)
        for budget in settlement.budgets:
            if _is_of(leases.get(budget[0]), budget[1]):
                _take(charged, budget, free, done.spent)
            else:
                _take(charged, budget[1], left_of_purses, done.taken_of_purses)
        shortfall = settlement.shortfall_nano_usd + settlement.amount_nano_usd - charged
        if charged != settlement.amount_nano_usd:
            done.changed[settlement.request_id] = Charge(charged, shortfall)
        account_id = settlement.account_id
        head = (settlement.request_id, "usage", now_us, account_id, HOUSE_USAGE, charged, shortfall, "")
        done.rows.append(head + msgspec.structs.astuple(settlement)[_OF_REQUEST])
    return done


def changed_before(batch: Iterable[Settlement], kept: Mapping[str, Charge]) -> dict[str, Charge]:
    """Of what the ledger has `kept` of an earlier attempt, the charges that are not what the settlement says."""
    return {
        settlement.request_id: charge
        for settlement in batch
        if (charge := kept.get(settlement.request_id)) is not None
        and charge != Charge(settlement.amount_nano_usd, settlement.shortfall_nano_usd)
    }


def foreseen(batch: Sequence[Settlement], now_us: int) -> Plan | None:
    """The plan if all is as it nearly always is: every request id new, every lease active and large enough.

    None when the batch itself says that something is not.
    """
    named = {(row.lease_id, row.account_id) for row in batch if row.lease_id is not None}
    named.update(budget for row in batch for budget in row.budgets)
    leases = {lease_id: HeldLease(owner_id, _INT64_MAX, True) for lease_id, owner_id in named}
    return None if late_accounts(batch, leases) else plan(batch, leases, {}, {}, now_us)


def _covers(lease: HeldLease | None, settlement: Settlement) -> bool:
    return lease is not None and lease.active and lease.account_id == settlement.account_id


def _is_of(lease: HeldLease | None, purse_id: str) -> bool:
    return lease is not None and lease.active and lease.account_id == purse_id


def _take(amount: int, source: K, left: dict[K, int], taken: dict[K, int]) -> int:
    charged = min(amount, max(0, left.get(source, 0)))
    if charged:
        left[source] -= charged
        taken[source] = taken.get(source, 0) + charged
    return charged


def storable(settlement: Settlement) -> Settlement:
    """The settlement with whatever no database can keep made to fit: one such row must not hold up the rest.

    Amounts and counts are clamped to 0 and 2^63 - 1; NUL and lone surrogates in text become "?".
    """
    changed: dict[str, Any] = {}
    for name in Settlement.__struct_fields__:
        value = getattr(settlement, name)
        if isinstance(value, str):
            changed[name] = value.replace("\0", "?").encode("utf-8", "replace").decode("utf-8")
        elif isinstance(value, int) and not isinstance(value, bool):
            changed[name] = min(max(value, 0), _INT64_MAX)
    return msgspec.structs.replace(settlement, **changed)
