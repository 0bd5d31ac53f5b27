"""The append-only ledger: payments, adjustments, and reading what was settled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import ColumnElement, Select, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.database import AnyRow, AnySelect, OverDatabase
from storage.entries import add_available, enter
from storage.errors import Duplicate
from storage.idempotency import claim
from storage.purses import give_back
from storage.records import (
    HOUSE_ADJUSTMENTS,
    HOUSE_FEES,
    HOUSE_PAYMENTS,
    HOUSE_USAGE,
    Charge,
    LedgerEntry,
    Once,
    Settlement,
    TopUp,
)
from storage.settlement import REQUEST_FIELDS
from storage.tables import accounts, api_keys, ledger
from storage.usage_records import UsageRecord, UsedBy

_ENTRY = (
    ledger.c.id,
    ledger.c.ref,
    ledger.c.kind,
    ledger.c.debit_account,
    ledger.c.credit_account,
    ledger.c.amount,
    ledger.c.shortfall,
    ledger.c.note,
    ledger.c.created_us,
)


class SqlLedger(OverDatabase):
    """`LedgerStore` over a database."""

    async def top_up(
        self,
        *,
        payment_id: str,
        account_id: str,
        amount_nano_usd: int,
        fee_nano_usd: int,
        once: Once,
    ) -> TopUp:
        """Credit a payment, two legs in one transaction.

        The amount goes from `house_payments` to the account, a fee above 0 from `house_payments` to
        `house_fees`. Missing when there is no such account, NotPayer when it has a parent; Duplicate when the
        payment id is taken; ValueError unless amount > 0 and fee >= 0.
        """
        if amount_nano_usd <= 0 or fee_nano_usd < 0:
            raise ValueError("a top-up has an amount above 0 and a fee of 0 or more")

        async def work(connection: AsyncConnection) -> TopUp:
            earlier = await claim(self._db, connection, once, payment_id)
            if earlier is None:
                leg = (HOUSE_PAYMENTS, account_id, amount_nano_usd)
                if not await enter(self._db, connection, payment_id, "topup", *leg):
                    raise Duplicate(f"there is a payment {payment_id!r}")
                await add_available(connection, account_id, amount_nano_usd)
                if fee_nano_usd:
                    await enter(self._db, connection, payment_id, "fee", HOUSE_PAYMENTS, HOUSE_FEES, fee_nano_usd)
            return await _top_up(connection, earlier or payment_id)

        return await self._db.write(work)

    async def adjust(
        self, *, ref: str, account_id: str, amount_nano_usd: int, note: str, purse_ids: Sequence[str] = ()
    ) -> None:
        """Credit an account by the operator's word, and budgets by their purses. Nothing when `ref` is known: safe to
        repeat.

        Missing when there is no such account, NotPayer when it has a parent; ValueError unless amount > 0.
        """
        if amount_nano_usd <= 0:
            raise ValueError("an adjustment has an amount above 0")

        async def work(connection: AsyncConnection) -> None:
            leg = (HOUSE_ADJUSTMENTS, account_id, amount_nano_usd)
            if await enter(self._db, connection, ref, "adjust", *leg, note=note):
                await add_available(connection, account_id, amount_nano_usd)
                await give_back(connection, purse_ids, amount_nano_usd)

        await self._db.write(work)

    async def settle(self, batch: Sequence[Settlement]) -> Mapping[str, Charge]:
        """Commit a batch of settlements, all or none; rows whose request id is in the ledger are skipped.

        Rows of an active lease add to its `spent`; those of a closed one take from the account what it can pay
        (available and credit limit), the rest added to the row's shortfall. Safe to repeat, also after
        CommitUnknown.

        Returns what was charged, by request id, where it is not what the settlement says: nearly always nothing.
        """
        return await self._db.settle(batch) if batch else {}

    async def ledger_entries(self, account_id: str, *, before_id: int | None, limit: int) -> list[LedgerEntry]:
        """Entries that debit or credit the account, newest first."""
        branches = [ledger.c.debit_account == account_id]
        # Two branches, each in the order of its index. Usage credits one account alone, without an index:
        # almost every row is an answer there.
        own = ledger.c.credit_account == account_id
        branches.append(own if account_id == HOUSE_USAGE else own & (ledger.c.kind != "usage"))
        newest = [_newest(select(*_ENTRY).where(branch), before_id, limit) for branch in branches]
        both = union_all(*(select(branch.subquery()) for branch in newest)).subquery()
        statement = select(both).order_by(both.c.id.desc()).limit(limit)
        return [LedgerEntry(*row) for row in await self._db.listed(statement)]

    async def usage_record(self, request_id: str, whose: UsedBy | None = None) -> UsageRecord | None:
        """The usage entry of a request; None when there is none, or when it is not of that account."""
        asked = used_by(whose, ledger.c.debit_account, ledger.c.key_id)
        found = await self._db.rows(select(ledger).where(ledger.c.ref == request_id, ledger.c.kind == "usage", *asked))
        return usage_record_of(found[0]) if found else None


async def _top_up(connection: AsyncConnection, payment_id: str) -> TopUp:
    legs = select(ledger.c.kind, ledger.c.credit_account, ledger.c.amount, ledger.c.created_us).where(
        ledger.c.ref == payment_id, ledger.c.kind.in_(("topup", "fee"))
    )
    by_kind = {row.kind: row for row in await connection.execute(legs)}
    credit, fee = by_kind["topup"], by_kind.get("fee")
    return TopUp(payment_id, credit.credit_account, credit.amount, fee.amount if fee else 0, credit.created_us)


def _newest(statement: AnySelect, before_id: int | None, limit: int) -> AnySelect:
    if before_id is not None:
        statement = statement.where(ledger.c.id < before_id)
    return statement.order_by(ledger.c.id.desc()).limit(limit)


def used_by(
    whose: UsedBy | None, payer: ColumnElement[str], key: ColumnElement[str | None]
) -> list[ColumnElement[bool]]:
    """What of usage, by the columns of who paid and with which key, is of an account; everything for None."""
    if whose is None:
        return []
    if whose.key_id is not None:
        return [key == whose.key_id]
    if whose.account_id == whose.payer_id:
        return [payer == whose.payer_id]
    # Not by who paid as well: a database might look through all that the root has paid.
    return [key.in_(keys_of(whose))]


def keys_of(whose: UsedBy) -> Select[str]:
    """The IDs of the keys of an account and of those below it."""
    top = select(accounts.c.id).where(accounts.c.id == whose.account_id).cte(recursive=True)
    within = top.union_all(select(accounts.c.id).join(top, accounts.c.parent_id == top.c.id))
    return select(api_keys.c.id).where(api_keys.c.account_id.in_(select(within.c.id)))


def usage_record_of(row: AnyRow) -> UsageRecord:
    """The record that a usage entry is, given all columns of `ledger`."""
    fields = {name: getattr(row, name) for name in REQUEST_FIELDS}
    # SQLite has no booleans.
    fields["estimated"], fields["streamed"] = bool(row.estimated), bool(row.streamed)
    settlement = Settlement(
        request_id=row.ref,
        account_id=row.debit_account,
        amount_nano_usd=row.amount,
        shortfall_nano_usd=row.shortfall,
        **fields,
    )
    return UsageRecord(entry_id=row.id, created_us=row.created_us, settlement=settlement)
