"""What an audit concludes from accounts, entries and links, row by row; pure.

Entries come in the order of their ids, which is nearly that of their chains: one that was chained late waits here
for its predecessors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from storage.audit_records import AuditReport, Deviation
from storage.chain import AMOUNT, CONTENT_FIELDS, CREDIT, DEBIT, Head, content_of, next_hash, owner_of
from storage.records import AccountKind

LISTED_LIMIT = 1_000
"""Deviations that a report lists; all are counted."""
WAITING_LIMIT = 4_096
"""Entries of one chain that may wait; more come late by no transaction, but by a missing link."""

_KIND, _PRICE = CONTENT_FIELDS.index("kind"), CONTENT_FIELDS.index("price_id")


@dataclass(frozen=True, slots=True)
class AccountRow:
    """What an account has. Amounts in nanodollars."""

    id: str
    kind: AccountKind
    available: int
    credit_limit: int
    held: int


def account_deviations(account: AccountRow, net: int) -> Iterator[Deviation]:
    """What is wrong with an account whose credits less debits are `net`."""
    has = account.available + account.held
    if account.kind == "house":
        if account.available or account.held:
            yield Deviation("house_balance", account.id, "", "0", str(has))
        return
    if has != net:
        yield Deviation("balance", account.id, "", str(net), str(has))
    if account.available < -account.credit_limit:
        yield Deviation("overdrawn", account.id, "", str(-account.credit_limit), str(account.available))


@dataclass(slots=True)
class Findings:
    """Deviations: all counted, the first ones kept."""

    listed: list[Deviation] = field(default_factory=list)
    count: int = 0
    chain_holds: bool = True

    def add(self, found: Deviation) -> None:
        """Take note."""
        self.count += 1
        self.chain_holds = self.chain_holds and not found.kind.startswith("chain_")
        if len(self.listed) < LISTED_LIMIT:
            self.listed.append(found)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row of `ledger_chain` says that an entry is."""

    account_id: str
    position: int
    hash: bytes


@dataclass(slots=True)
class _Chain:
    """A chain as far as it was followed: its last link, the sums of its account, and entries before their turn."""

    head: Head = field(default_factory=Head)
    waiting: dict[int, tuple[str, Place, bytes | None]] = field(default_factory=dict)


class Walk:
    """Follows all chains and adds everything up. `below` is the id up to which every entry must be in a chain."""

    def __init__(self, account_ids: Collection[str], price_ids: Collection[str], below: int) -> None:
        self.findings = Findings()
        self._account_ids = account_ids
        self._price_ids = price_ids
        self._below = below
        self._chains: dict[str, _Chain] = {}
        self._unchained: dict[str, int] = {}
        self.entry_count = self.chained_count = self.last_chained_id = 0

    def entry(self, row: Sequence[Any], place: Place | None) -> None:
        """The next entry by id, given by its columns, and its place if it has one."""
        self.entry_count += 1
        debit, credit, amount = row[DEBIT], row[CREDIT], row[AMOUNT]
        for account_id in (debit, credit):
            if account_id not in self._account_ids:
                self._found("unknown_account", account_id, row, "an account", "none")
        if row[_KIND] == "usage" and row[_PRICE] not in self._price_ids:
            self._found("unknown_price", debit, row, "a price", str(row[_PRICE]))
        if place is not None:
            self._chained(row, place)
            return
        if row[0] <= self._below:
            self._found("chain_unlisted", owner_of(debit, credit), row, "in the chain", "not there")
        self._unchained[debit] = self._unchained.get(debit, 0) - amount
        self._unchained[credit] = self._unchained.get(credit, 0) + amount

    def dropped(self, entry_id: int, place: Place) -> None:
        """A place whose entry is not in the ledger."""
        subject = str(entry_id)
        self.findings.add(Deviation("chain_missing", place.account_id, subject, "in the ledger", "not there"))
        self._link(subject, place, None)

    def net(self, account_id: str) -> int:
        """Credits less debits of an account, of the entries so far."""
        head = self._chain(account_id).head
        return head.credits - head.debits + self._unchained.get(account_id, 0)

    def finish(self, heads: Mapping[str, Head]) -> None:
        """After the last entry: compare with the heads as stored."""
        for account_id in sorted(self._chains.keys() | heads.keys()):
            chain = self._chain(account_id)
            while chain.waiting:
                self._skip(account_id, chain)
            stored = heads.get(account_id, Head())
            self._gap(account_id, chain, stored.position + 1)
            if chain.head != stored:
                self.findings.add(Deviation("chain_head", account_id, "", _shown(chain.head), _shown(stored)))

    def report(self) -> AuditReport:
        """All of it."""
        return AuditReport(
            deviations=self.findings.listed,
            deviation_count=self.findings.count,
            chain_holds=self.findings.chain_holds,
            account_count=len(self._account_ids),
            entry_count=self.entry_count,
            chained_count=self.chained_count,
            last_chained_id=self.last_chained_id,
        )

    def _chained(self, row: Sequence[Any], place: Place) -> None:
        self.chained_count += 1
        self.last_chained_id = row[0]
        owner = owner_of(row[DEBIT], row[CREDIT])
        self._chain(row[DEBIT]).head.debits += row[AMOUNT]
        self._chain(row[CREDIT]).head.credits += row[AMOUNT]
        if place.account_id != owner:
            self._found("chain_hash", owner, row, f"in the chain of {owner}", f"in that of {place.account_id}")
        self._link(str(row[0]), place, content_of(row))

    def _link(self, subject: str, place: Place, content: bytes | None) -> None:
        chain = self._chain(place.account_id)
        if place.position != chain.head.position + 1:
            chain.waiting[place.position] = subject, place, content
            if len(chain.waiting) > WAITING_LIMIT:
                self._skip(place.account_id, chain)
            return
        self._follow(chain, subject, place, content)
        while chain.waiting and (next_ := chain.waiting.pop(chain.head.position + 1, None)) is not None:
            self._follow(chain, *next_)

    def _follow(self, chain: _Chain, subject: str, place: Place, content: bytes | None) -> None:
        if content is not None and (expected := next_hash(chain.head.hash, content)) != place.hash:
            self.findings.add(Deviation("chain_hash", place.account_id, subject, expected.hex(), place.hash.hex()))
        # As stored: an entry that was changed is named, and not all after it.
        chain.head.position, chain.head.hash = place.position, place.hash

    def _skip(self, account_id: str, chain: _Chain) -> None:
        """Go on behind positions of which nothing is known; the first entry there stands behind an unknown hash."""
        first = min(chain.waiting)
        self._gap(account_id, chain, first)
        _, place, _ = chain.waiting.pop(first)
        chain.head.position, chain.head.hash = place.position, place.hash
        while (next_ := chain.waiting.pop(chain.head.position + 1, None)) is not None:
            self._follow(chain, *next_)

    def _gap(self, account_id: str, chain: _Chain, end: int) -> None:
        for position in range(chain.head.position + 1, end)[:LISTED_LIMIT]:
            self.findings.add(Deviation("chain_missing", account_id, "", f"position {position}", "not there"))

    def _chain(self, account_id: str) -> _Chain:
        found = self._chains.get(account_id)
        if found is None:
            found = self._chains[account_id] = _Chain()
        return found

    def _found(self, kind: Any, account_id: str, row: Sequence[Any], expected: str, found: str) -> None:
        self.findings.add(Deviation(kind, account_id, str(row[0]), expected, found))


def _shown(head: Head) -> str:
    return f"position {head.position}, hash {head.hash.hex()}, debits {head.debits}, credits {head.credits}"
