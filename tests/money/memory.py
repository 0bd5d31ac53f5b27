"""The ledger's store in memory: what the databases do, constraints included, at once and in one place.

`test_memory.py` plays the same calls on it and on SQLite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from storage.errors import Duplicate, IdempotencyConflict, Missing, StoreError
from storage.limit_records import PURSE_PREFIX, Limit, Purse
from storage.periods import period_around
from storage.records import (
    HOUSE_ADJUSTMENTS,
    HOUSE_FEES,
    HOUSE_PAYMENTS,
    Account,
    AccountKind,
    Balance,
    Charge,
    Lease,
    Once,
    Settlement,
    TopUp,
)
from storage.settlement import (
    ROW_COLUMNS,
    HeldLease,
    changed_before,
    late_accounts,
    late_purses,
    named_leases,
    plan,
    unknown,
)
from storage.usage_records import UsageRecord


class Refused(StoreError):
    """A constraint of the tables is violated: nothing was changed."""


@dataclass
class AccountRow:
    """What no lease holds, and how far below 0 it may go."""

    available: int = 0
    credit_limit: int = 0


@dataclass
class PurseRow:
    """As in the table; what it has available is here too."""

    limit_id: str
    ends_us: int | None
    amount: int
    available: int
    spent: int = 0
    credit_limit: int = 0


@dataclass
class LeaseRow:
    """As in the table."""

    account_id: str
    core_id: str
    granted: int
    ttl_us: int
    expires_us: int
    spent: int = 0
    seq: int = 1
    active: bool = True


@dataclass(frozen=True, slots=True)
class Row:
    """A ledger row; `settlement` is that of a usage row, as it came."""

    ref: str
    kind: str
    debit: str
    credit: str
    amount: int
    shortfall: int = 0
    status: str = ""
    settlement: Settlement | None = None


@dataclass
class MemoryStore:
    """`AccountStore`, `LeaseStore`, `PurseStore` and what writes `LedgerStore`; every call is one instant.

    `now_us` is the clock that leases expire by.
    """

    now_us: Callable[[], int]
    single_core: bool = False
    accounts_: dict[str, AccountRow] = field(default_factory=dict)
    limits: dict[str, Limit] = field(default_factory=dict)
    purses: dict[str, PurseRow] = field(default_factory=dict)
    leases: dict[str, LeaseRow] = field(default_factory=dict)
    cores: dict[str, int] = field(default_factory=dict)
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    claims: dict[tuple[str, str], tuple[bytes, str]] = field(default_factory=dict)

    # Accounts

    async def create_account(self, account_id: str, display_name: str, kind: AccountKind) -> Account:
        if account_id in self.accounts_:
            raise Duplicate(account_id)
        self.accounts_[account_id] = AccountRow()
        return Account(account_id, display_name, kind, 0, 0)

    async def balance(self, account_id: str) -> Balance | None:
        account = self._owners().get(account_id)
        if account is None:
            return None
        held = sum(each.granted - each.spent for each in self._active() if each.account_id == account_id)
        return Balance(account_id, account.available + held, held, account.available, account.credit_limit)

    # Limits

    async def set_limit(self, limit: Limit) -> Limit:
        self.limits[limit.id] = limit
        return limit

    async def purse(self, limit_id: str) -> Purse:
        limit = self.limits.get(limit_id)
        if limit is None:
            raise Missing(limit_id)
        now_us = self.now_us()
        starts_us, ends_us = period_around(limit.period, now_us)
        purse_id = f"{PURSE_PREFIX}{limit_id}_{starts_us // 1_000_000}"
        row = self.purses.setdefault(purse_id, PurseRow(limit_id, ends_us, limit.amount, limit.amount))
        row.available += limit.amount - row.amount
        row.amount = limit.amount
        left_us = None if ends_us is None else ends_us - now_us
        return Purse(purse_id, limit_id, limit.amount, row.available, ends_us, left_us)

    # Leases

    async def register_core(self, core_id: str, *, ttl_s: float = 30.0) -> None:
        self.cores[core_id] = self.now_us() + int(ttl_s * 1_000_000)
        if self.single_core:
            self.cores = {core_id: self.cores[core_id]}
            self._close(lease for lease in self._active() if lease.core_id != core_id)

    async def acquire(
        self, *, lease_id: str, account_id: str, core_id: str, want_nano_usd: int, chunk_nano_usd: int, ttl_s: float
    ) -> Lease | None:
        _refuse_negative(want_nano_usd, chunk_nano_usd)
        if lease_id in self.leases:
            return self._lease(lease_id)
        ttl_us = int(ttl_s * 1_000_000)
        granted = self._take(account_id, want_nano_usd, chunk_nano_usd)
        if granted is None:
            return None
        self.leases[lease_id] = LeaseRow(account_id, core_id, granted, ttl_us, self.now_us() + ttl_us)
        return self._lease(lease_id)

    async def extend(self, *, lease_id: str, seq: int, want_nano_usd: int, chunk_nano_usd: int) -> Lease | None:
        _refuse_negative(want_nano_usd, chunk_nano_usd)
        lease = self._lease(lease_id)
        row = self.leases[lease_id]
        if self._is_done(lease, seq):
            return lease
        granted = self._take(lease.account_id, want_nano_usd, chunk_nano_usd)
        if granted is None:
            return None
        row.granted, row.seq = row.granted + granted, seq
        return self._lease(lease_id)

    async def give_back(self, *, lease_id: str, seq: int, amount_nano_usd: int) -> Lease:
        _refuse_negative(amount_nano_usd)
        lease = self._lease(lease_id)
        row = self.leases[lease_id]
        if self._is_done(lease, seq):
            return lease
        if amount_nano_usd > row.granted - row.spent:
            raise StoreError("more than is unspent")
        row.granted, row.seq = row.granted - amount_nano_usd, seq
        self._account(lease.account_id).available += amount_nano_usd
        return self._lease(lease_id)

    async def close_lease(self, lease_id: str) -> None:
        if lease_id in self.leases and self.leases[lease_id].active:
            self._close([self.leases[lease_id]])

    async def renew(self, core_id: str, *, ttl_s: float) -> list[str]:
        self.cores[core_id] = self.now_us() + int(ttl_s * 1_000_000)
        alive = [id_ for id_, lease in self.leases.items() if lease.active and lease.core_id == core_id]
        for lease_id in alive:
            lease = self.leases[lease_id]
            lease.ttl_us = int(ttl_s * 1_000_000)
            lease.expires_us = self.now_us() + lease.ttl_us
        return sorted(alive)

    async def reap(self) -> int:
        expired = [lease for lease in self._active() if lease.expires_us <= self.now_us()]
        self._close(expired)
        return len(expired)

    # Ledger

    async def top_up(
        self, *, payment_id: str, account_id: str, amount_nano_usd: int, fee_nano_usd: int, once: Once
    ) -> TopUp:
        if amount_nano_usd <= 0 or fee_nano_usd < 0:
            raise ValueError("a top-up has an amount above 0 and a fee of 0 or more")
        claim = (once.scope, once.key)
        if claim in self.claims:
            first_hash, payment_id = self.claims[claim]
            if first_hash != once.body_hash:
                raise IdempotencyConflict(once.key)
            return self._top_up(payment_id)
        if (payment_id, "topup") in self.rows:
            raise Duplicate(payment_id)
        account = self._account(account_id)
        self.claims[claim] = (once.body_hash, payment_id)
        self._enter(Row(payment_id, "topup", HOUSE_PAYMENTS, account_id, amount_nano_usd))
        account.available += amount_nano_usd
        if fee_nano_usd:
            self._enter(Row(payment_id, "fee", HOUSE_PAYMENTS, HOUSE_FEES, fee_nano_usd))
        return self._top_up(payment_id)

    async def adjust(
        self, *, ref: str, account_id: str, amount_nano_usd: int, note: str, purse_ids: Sequence[str] = ()
    ) -> None:
        if amount_nano_usd <= 0:
            raise ValueError("an adjustment has an amount above 0")
        if (ref, "adjust") in self.rows:
            return
        self._account(account_id).available += amount_nano_usd
        self._enter(Row(ref, "adjust", HOUSE_ADJUSTMENTS, account_id, amount_nano_usd))
        for purse_id in purse_ids:
            self.purses[purse_id].available += amount_nano_usd
            self.purses[purse_id].spent -= amount_nano_usd

    async def settle(self, batch: Sequence[Settlement]) -> dict[str, Charge]:
        kept = {ref: Charge(row.amount, row.shortfall) for (ref, kind), row in self.rows.items() if kind == "usage"}
        fresh = unknown(batch, kept)
        rows = {lease_id: self.leases[lease_id] for lease_id in named_leases(fresh) if lease_id in self.leases}
        held = {id_: HeldLease(row.account_id, row.granted - row.spent, row.active) for id_, row in rows.items()}
        payers = {id_: self._account(id_) for id_ in late_accounts(fresh, held)}
        spendable = {id_: account.available + account.credit_limit for id_, account in payers.items()}
        gone = {id_: self._account(id_).available for id_ in late_purses(fresh, held)}
        planned = plan(fresh, held, spendable, gone, self.now_us())
        made = [dict(zip(ROW_COLUMNS, row, strict=True)) for row in planned.rows]
        refs = [row["ref"] for row in made]
        if len(set(refs)) < len(refs) or any((ref, "usage") in self.rows for ref in refs):
            raise Refused("uq_ledger_ref_kind")
        if any(not 0 <= rows[id_].spent + amount <= rows[id_].granted for (id_, _), amount in planned.spent.items()):
            raise Refused("ck_leases_spent")
        if any(spendable[id_] < amount for id_, amount in planned.taken.items()):
            raise Refused("ck_accounts_available")
        for (lease_id, _), amount in planned.spent.items():
            rows[lease_id].spent += amount
        for account_id, amount in planned.taken.items():
            payers[account_id].available -= amount
        for purse_id, amount in planned.taken_of_purses.items():
            self.purses[purse_id].available -= amount
            self.purses[purse_id].spent += amount
        by_id = {settlement.request_id: settlement for settlement in fresh}
        for row in made:
            self._enter(
                Row(
                    row["ref"],
                    "usage",
                    row["debit_account"],
                    row["credit_account"],
                    row["amount"],
                    row["shortfall"],
                    row["status"],
                    by_id[row["ref"]],
                )
            )
        return planned.changed | changed_before(batch, kept)

    async def usage_record(self, request_id: str) -> UsageRecord | None:
        row = self.rows.get((request_id, "usage"))
        if row is None or row.settlement is None:
            return None
        charged = msgspec.structs.replace(row.settlement, amount_nano_usd=row.amount, shortfall_nano_usd=row.shortfall)
        return UsageRecord(0, 0, charged)

    # Parts

    def _owners(self) -> dict[str, AccountRow | PurseRow]:
        return {**self.accounts_, **self.purses}

    def _account(self, account_id: str) -> AccountRow | PurseRow:
        found = self._owners().get(account_id)
        if found is None:
            raise Missing(account_id)
        return found

    def _active(self) -> list[LeaseRow]:
        return [lease for lease in self.leases.values() if lease.active]

    def _lease(self, lease_id: str) -> Lease:
        row = self.leases.get(lease_id)
        if row is None or not row.active:
            raise Missing(lease_id)
        return Lease(lease_id, row.account_id, row.core_id, row.granted, row.spent, row.seq)

    @staticmethod
    def _is_done(lease: Lease, seq: int) -> bool:
        if seq not in (lease.seq, lease.seq + 1):
            raise StoreError(f"{seq} is not the next change")
        return seq == lease.seq

    def _take(self, account_id: str, want: int, chunk: int) -> int | None:
        account = self._account(account_id)
        spendable = account.available + account.credit_limit
        live = sum(1 for until_us in self.cores.values() if until_us > self.now_us())
        plenty = spendable >= 4 * chunk and spendable >= 4 * chunk * live
        for amount in (max(want, chunk), want) if plenty else (want,):
            if spendable >= amount:
                account.available -= amount
                return amount
        return None

    def _close(self, closed: Any) -> None:
        for lease in closed:
            lease.active = False
            owner = self._account(lease.account_id)
            owner.available += lease.granted - lease.spent
            if isinstance(owner, PurseRow):
                owner.spent += lease.spent

    def _enter(self, row: Row) -> None:
        self.rows[row.ref, row.kind] = row

    def _top_up(self, payment_id: str) -> TopUp:
        credit, fee = self.rows[payment_id, "topup"], self.rows.get((payment_id, "fee"))
        return TopUp(payment_id, credit.credit, credit.amount, fee.amount if fee else 0, 0)


def _refuse_negative(*amounts: int) -> None:
    if min(amounts) < 0:
        raise ValueError("an amount is 0 or more")
