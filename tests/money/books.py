"""The books of a database, read past the code under test, and what must be true of them at every moment."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.money.memory import MemoryStore, Row

ACCOUNTS = "SELECT id, available, credit_limit FROM accounts WHERE kind <> 'house'"
LEASES = "SELECT id, account_id, granted, spent, state = 'active' FROM leases"
PURSES = "SELECT id, limit_id, amount, available, spent FROM purses"
LEDGER = "SELECT ref, kind, debit_account, credit_account, amount, shortfall, coalesce(status, '') FROM ledger"


class Violation(AssertionError):
    """Something about the money is wrong."""


@dataclass(frozen=True, slots=True)
class HeldPart:
    """A lease."""

    account_id: str
    granted: int
    spent: int
    active: bool


@dataclass(frozen=True, slots=True)
class Purse:
    """A limit's period."""

    limit_id: str
    amount: int
    available: int
    spent: int


@dataclass(frozen=True)
class Books:
    """Accounts as (available, credit limit) by id, leases and purses by id, and all ledger rows."""

    accounts: dict[str, tuple[int, int]]
    leases: dict[str, HeldPart]
    rows: Sequence[Row]
    purses: dict[str, Purse]

    @classmethod
    def of(
        cls, accounts: Iterable[Any], leases: Iterable[Any], ledger: Iterable[Any], purses: Iterable[Any] = ()
    ) -> Books:
        """From the rows of the queries above."""
        return cls(
            {id_: (available, limit) for id_, available, limit in accounts},
            {id_: HeldPart(account, granted, spent, bool(active)) for id_, account, granted, spent, active in leases},
            [Row(*row) for row in ledger],
            {id_: Purse(*row) for id_, *row in purses},
        )

    @classmethod
    def of_memory(cls, store: MemoryStore) -> Books:
        """Of a store in memory."""
        return cls(
            {id_: (row.available, row.credit_limit) for id_, row in store.accounts_.items()},
            {id_: HeldPart(row.account_id, row.granted, row.spent, row.active) for id_, row in store.leases.items()},
            list(store.rows.values()),
            {id_: Purse(row.limit_id, row.amount, row.available, row.spent) for id_, row in store.purses.items()},
        )

    def usage(self) -> dict[str, Row]:
        """The usage row of each request."""
        return {row.ref: row for row in self.rows if row.kind == "usage"}

    def check(self) -> None:
        """Violation unless every account and purse adds up, within its bound, and no request is charged twice."""
        debits: defaultdict[str, int] = defaultdict(int)
        credits: defaultdict[str, int] = defaultdict(int)
        for row in self.rows:
            debits[row.debit] += row.amount
            credits[row.credit] += row.amount
        held: defaultdict[str, int] = defaultdict(int)
        for lease_id, lease in self.leases.items():
            if not 0 <= lease.spent <= lease.granted:
                raise Violation(f"{lease_id} has spent {lease.spent} of {lease.granted}")
            if lease.active:
                held[lease.account_id] += lease.granted - lease.spent
        for account_id, (available, credit_limit) in self.accounts.items():
            if available + credit_limit < 0:
                raise Violation(f"{account_id} is below its bound: {available}")
            if available + held[account_id] + debits[account_id] != credits[account_id]:
                raise Violation(
                    f"{account_id} does not add up: {available} available + {held[account_id]} in leases "
                    f"+ {debits[account_id]} debits is not {credits[account_id]} credits"
                )
        self._check_purses()
        twice = [each for each, count in Counter((row.ref, row.kind) for row in self.rows).items() if count > 1]
        if twice:
            raise Violation(f"entered twice: {twice}")

    def spent_of_purses(self) -> dict[str, int]:
        """What was charged to each purse."""
        spent = {id_: purse.spent for id_, purse in self.purses.items()}
        for lease in self.leases.values():
            if lease.active and lease.account_id in spent:
                spent[lease.account_id] += lease.spent
        return spent

    def _check_purses(self) -> None:
        granted: defaultdict[str, int] = defaultdict(int)
        for lease in self.leases.values():
            if lease.active:
                granted[lease.account_id] += lease.granted
        for purse_id, purse in self.purses.items():
            if purse.available + granted[purse_id] + purse.spent != purse.amount:
                raise Violation(
                    f"{purse_id} does not add up: {purse.available} available + {granted[purse_id]} in leases "
                    f"+ {purse.spent} spent is not {purse.amount}"
                )
