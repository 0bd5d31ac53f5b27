"""What audits and exports of the ledger look like in messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Self

from worldrouter.v1 import metering_pb2

from core.errors import ServiceUnavailable
from storage.audit_records import AccountState, AuditReport, ChainedEntry, DeviationKind, LedgerSnapshot
from storage.interfaces import AuditStore

PART_ITEMS = 500
"""Accounts or entries of one message of an export: a few hundred kilobytes."""
UNCHAINED_LIMIT = 5_000
"""Entries that may wait to be chained when an export begins: all of them are kept in memory for it."""

_KINDS: Mapping[DeviationKind, metering_pb2.AuditDeviationKind] = {
    "balance": metering_pb2.AUDIT_DEVIATION_KIND_BALANCE,
    "overdrawn": metering_pb2.AUDIT_DEVIATION_KIND_OVERDRAWN,
    "house_balance": metering_pb2.AUDIT_DEVIATION_KIND_HOUSE_BALANCE,
    "lease_bounds": metering_pb2.AUDIT_DEVIATION_KIND_LEASE_BOUNDS,
    "lease_spent": metering_pb2.AUDIT_DEVIATION_KIND_LEASE_SPENT,
    "unknown_account": metering_pb2.AUDIT_DEVIATION_KIND_UNKNOWN_ACCOUNT,
    "unknown_price": metering_pb2.AUDIT_DEVIATION_KIND_UNKNOWN_PRICE,
    "chain_hash": metering_pb2.AUDIT_DEVIATION_KIND_CHAIN_HASH,
    "chain_missing": metering_pb2.AUDIT_DEVIATION_KIND_CHAIN_MISSING,
    "chain_unlisted": metering_pb2.AUDIT_DEVIATION_KIND_CHAIN_UNLISTED,
    "chain_head": metering_pb2.AUDIT_DEVIATION_KIND_CHAIN_HEAD,
    "purse": metering_pb2.AUDIT_DEVIATION_KIND_PURSE,
}


def report_message(report: AuditReport) -> metering_pb2.AuditResponse:
    """An audit's report as the API has it."""
    return metering_pb2.AuditResponse(
        deviations=[
            metering_pb2.AuditDeviation(
                kind=_KINDS[found.kind],
                account_id=found.account_id,
                subject=found.subject,
                expected=found.expected,
                found=found.found,
            )
            for found in report.deviations
        ],
        deviation_count=report.deviation_count,
        chain_holds=report.chain_holds,
        account_count=report.account_count,
        entry_count=report.entry_count,
        chained_entry_count=report.chained_count,
        last_chained_entry_id=report.last_chained_id,
    )


class Export:
    """An export on its way: made by `begin`, read by `opening` and then `next_entries`.

    No transaction stays open between its parts: chained entries do not change, and of those that are chained
    meanwhile it knows from the beginning how long each chain was.
    """

    def __init__(self, store: AuditStore, snapshot: LedgerSnapshot) -> None:
        self._store = store
        self._field_names = snapshot.field_names
        self._accounts = snapshot.accounts
        self._unchained: Sequence[ChainedEntry] = snapshot.unchained
        self._lengths = {account.id: account.position for account in snapshot.accounts}
        self._after: tuple[str, int] | None = ("", 0)

    @classmethod
    async def begin(cls, store: AuditStore) -> Self:
        """Fix the moment that it shows. ServiceUnavailable while too many entries wait to be chained."""
        snapshot = await store.ledger_snapshot(UNCHAINED_LIMIT + 1)
        if len(snapshot.unchained) > UNCHAINED_LIMIT:
            raise ServiceUnavailable("The ledger is still being chained.", retry_after_s=60)
        return cls(store, snapshot)

    def opening(self) -> Iterator[metering_pb2.ExportLedgerResponse]:
        """The fields' names and all accounts."""
        yield metering_pb2.ExportLedgerResponse(field_names=self._field_names)
        for first in range(0, len(self._accounts), PART_ITEMS):
            some = self._accounts[first : first + PART_ITEMS]
            yield metering_pb2.ExportLedgerResponse(accounts=map(_account_message, some))

    async def next_entries(self) -> list[metering_pb2.ExportedEntry] | None:
        """The next entries, perhaps none; None at the end."""
        if self._after is not None:
            page = await self._store.chained_entries(after=self._after, limit=PART_ITEMS)
            full = len(page) == PART_ITEMS
            self._after = (page[-1].account_id, page[-1].position) if full else None
            return [_entry_message(entry) for entry in page if entry.position <= self._lengths.get(entry.account_id, 0)]
        some, self._unchained = self._unchained[:PART_ITEMS], self._unchained[PART_ITEMS:]
        return [_entry_message(entry) for entry in some] or None


def _account_message(account: AccountState) -> metering_pb2.ExportedAccount:
    return metering_pb2.ExportedAccount(
        account_id=account.id,
        kind=account.kind,
        available_nano_usd=account.available_nano_usd,
        held_nano_usd=account.held_nano_usd,
        chained_entry_count=account.position,
        chain_hash=account.hash,
    )


def _entry_message(entry: ChainedEntry) -> metering_pb2.ExportedEntry:
    return metering_pb2.ExportedEntry(
        account_id=entry.account_id, position=entry.position, hash=entry.hash, content_json=entry.content
    )
