"""MeteringService: balances, top-ups, the ledger, usage."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from worldrouter.v1 import metering_pb2, metering_pb2_grpc

from core.call import Role, current_call
from core.errors import Conflict, Forbidden, InsufficientBalance, InvalidRequest, NotFound
from core.ids import IdSource
from core.money.pricing import usd_text
from core.money.top_ups import TopUpRules
from core.services import Context, auditing, fields, usage
from core.services.paging import Number, Pager
from core.services.repeats import once_required
from storage.errors import BeyondPayment, Missing, Unaffordable
from storage.interfaces import AccountStore, AuditStore, KeyStore, LedgerStore, UsageStore
from storage.records import LedgerEntry, LedgerKind, Refund, TopUp
from storage.usage_records import UsedBy

_LEDGER_KINDS: Mapping[LedgerKind, metering_pb2.LedgerKind] = {
    "usage": metering_pb2.LEDGER_KIND_USAGE,
    "topup": metering_pb2.LEDGER_KIND_TOPUP,
    "fee": metering_pb2.LEDGER_KIND_FEE,
    "refund": metering_pb2.LEDGER_KIND_REFUND,
    "adjust": metering_pb2.LEDGER_KIND_ADJUST,
}


class MeteringStore(LedgerStore, UsageStore, Protocol):
    """What money services need of the store, but for accounts."""


class MeteringServicer(metering_pb2_grpc.MeteringServiceServicer):
    """Money, for API keys that of their own account, for the operator that of all."""

    def __init__(
        self,
        accounts: AccountStore,
        keys: KeyStore,
        ledger: MeteringStore,
        audits: AuditStore,
        ids: IdSource,
        *,
        top_up_rules: TopUpRules,
    ) -> None:
        self._accounts = accounts
        self._keys = keys
        self._ledger = ledger
        self._audits = audits
        self._ids = ids
        self._rules = top_up_rules

    async def GetBalance(self, request: metering_pb2.GetBalanceRequest, context: Context) -> metering_pb2.Balance:
        """Get what an account has."""
        account_id = _account_id(request.account_id)
        payer_id = await self._payer_id(account_id)
        if payer_id != account_id:
            raise Conflict(f"This account has no balance: the account {payer_id!r} pays for it.", param="account_id")
        balance = fields.found(await self._accounts.balance(account_id), param="account_id", value=account_id)
        return metering_pb2.Balance(
            account_id=balance.account_id,
            balance_nano_usd=balance.balance_nano_usd,
            held_nano_usd=balance.held_nano_usd,
            available_nano_usd=balance.available_nano_usd,
            credit_limit_nano_usd=balance.credit_limit_nano_usd,
        )

    async def CreateTopUp(self, request: metering_pb2.CreateTopUpRequest, context: Context) -> metering_pb2.TopUp:
        """Credit a payment, once per idempotency key."""
        amount = self._rules.check(request.amount_nano_usd)
        account_id = _account_id(request.account_id)
        repeatable = once_required(request, request.idempotency_key, account_id=account_id)
        account = fields.found(await self._accounts.account(account_id), param="account_id", value=account_id)
        if account.kind == "house":
            raise InvalidRequest("House accounts take no payments.", param="account_id")
        top_up = await self._ledger.top_up(
            payment_id="pay_" + self._ids.new(),
            account_id=account_id,
            amount_nano_usd=amount,
            fee_nano_usd=self._rules.fee_nano_usd(amount),
            once=repeatable,
        )
        return _top_up_message(top_up)

    async def CreateRefund(self, request: metering_pb2.CreateRefundRequest, context: Context) -> metering_pb2.Refund:
        """Take back what was credited, once per idempotency key."""
        payment_id = fields.resource_id(request.payment_id, param="payment_id")
        if request.amount_nano_usd <= 0:
            raise InvalidRequest("amount_nano_usd must be 1 or more.", param="amount_nano_usd")
        try:
            refund = await self._ledger.refund(
                refund_id="refund_" + self._ids.new(),
                payment_id=payment_id,
                amount_nano_usd=request.amount_nano_usd,
                keep_fee=request.keep_fee,
                once=once_required(request, request.idempotency_key),
            )
        except Missing as error:
            raise NotFound(f"No payment {payment_id[:100]!r} was credited.", param="payment_id") from error
        except BeyondPayment as error:
            left = error.left_nano_usd
            message = f"No more than {left} nanodollars ({usd_text(left)} USD) are left of this payment."
            raise Conflict(message, param="amount_nano_usd") from error
        except Unaffordable as error:
            lacks = error.missing_nano_usd
            message = f"The account lacks {usd_text(lacks)} USD; what running requests hold is not available."
            raise InsufficientBalance(message, missing_nano_usd=lacks, affordable_tokens=0) from error
        return _refund_message(refund)

    async def ListLedgerEntries(
        self, request: metering_pb2.ListLedgerEntriesRequest, context: Context
    ) -> metering_pb2.ListLedgerEntriesResponse:
        """List what moved an account's balance, newest first."""
        account_id = _account_id(request.account_id)
        await self._payer_id(account_id)  # no such account is an error, not an empty list
        scope = ["ListLedgerEntries", account_id]
        pager = Pager(scope, tuple[Number], request.page_size, request.page_token)
        before_id = pager.after[0] if pager.after else None
        fetched = await self._ledger.ledger_entries(account_id, before_id=before_id, limit=pager.limit)
        page = pager.page(fetched, lambda entry: (entry.id,))
        return metering_pb2.ListLedgerEntriesResponse(
            entries=map(_entry_message, page.items), next_page_token=page.next_page_token
        )

    async def ListUsageRecords(
        self, request: metering_pb2.ListUsageRecordsRequest, context: Context
    ) -> metering_pb2.ListUsageRecordsResponse:
        """List requests, newest first."""
        return await usage.records(self._ledger, usage.query(request, await self._whose(request)), request)

    async def GetUsageRecord(
        self, request: metering_pb2.GetUsageRecordRequest, context: Context
    ) -> metering_pb2.UsageRecord:
        """Get one request, if the caller may see it."""
        request_id = fields.request_id(request.request_id, param="request_id")
        caller = current_call.get().caller
        whose = None if caller.role is Role.OPERATOR else UsedBy(caller.account_id, caller.payer_id)
        record = await self._ledger.usage_record(request_id, whose)
        return usage.record_message(fields.found(record, param="request_id", value=request_id))

    async def SummarizeUsage(
        self, request: metering_pb2.SummarizeUsageRequest, context: Context
    ) -> metering_pb2.SummarizeUsageResponse:
        """Sum requests up."""
        return await usage.summaries(self._ledger, usage.query(request, await self._whose(request)), request)

    async def RebuildUsageSummaries(
        self, request: metering_pb2.RebuildUsageSummariesRequest, context: Context
    ) -> metering_pb2.RebuildUsageSummariesResponse:
        """Empty the roll-ups and go through the ledger again."""
        await self._ledger.forget_usage()
        return metering_pb2.RebuildUsageSummariesResponse(entry_count=await self._ledger.roll_up_usage())

    async def Audit(self, request: metering_pb2.AuditRequest, context: Context) -> metering_pb2.AuditResponse:
        """Count everything anew and follow every chain."""
        return auditing.report_message(await self._audits.audit())

    async def ExportLedger(
        self, request: metering_pb2.ExportLedgerRequest, context: Context
    ) -> AsyncIterator[metering_pb2.ExportLedgerResponse]:
        """Stream the whole ledger, as it was when the call began."""
        export = await auditing.Export.begin(self._audits)
        for part in export.opening():
            yield part
        while (entries := await export.next_entries()) is not None:
            yield metering_pb2.ExportLedgerResponse(entries=entries)

    async def _whose(self, request: usage.UsageRequest) -> UsedBy | None:
        """The account or the key that a request is about; None for all. Raises Forbidden unless the operator asks for
        all."""
        is_operator = current_call.get().caller.role is Role.OPERATOR
        if request.all_accounts and not is_operator:
            raise Forbidden("Only the operator may ask for all accounts.", param="all_accounts")
        if request.all_accounts and request.account_id:
            raise InvalidRequest("account_id must be empty with all_accounts.", param="account_id")
        is_any = request.all_accounts or bool(is_operator and request.api_key_id and not request.account_id)
        account_id = None if is_any else _account_id(request.account_id)
        if request.api_key_id:
            return await self._by_key(request.api_key_id, account_id)
        return None if account_id is None else UsedBy(account_id, await self._payer_id(account_id))

    async def _by_key(self, key_id: str, account_id: str | None) -> UsedBy:
        """A key of the account or of one below it; of any for None. Raises NotFound."""
        key_id = fields.resource_id(key_id, param="api_key_id")
        key = fields.found(await self._keys.key(key_id), param="api_key_id", value=key_id)
        line = [account.id for account in await self._accounts.lineage(key.account_id)]
        if account_id is not None and account_id not in line:
            raise fields.not_found("api_key_id", key_id)
        return UsedBy(key.account_id, line[0], key_id)

    async def _payer_id(self, account_id: str) -> str:
        """The root above an account, or itself. Raises NotFound when there is no such account."""
        line = await self._accounts.lineage(account_id)
        if not line:
            raise fields.not_found("account_id", account_id)
        return line[0].id


def _account_id(requested: str) -> str:
    """The account a request is about: the caller's own unless it names one. Raises NotFound for somebody else's."""
    caller = current_call.get().caller
    if not requested:
        return caller.account_id
    account_id = fields.resource_id(requested, param="account_id")
    if caller.role is not Role.OPERATOR and account_id != caller.account_id:
        raise fields.not_found("account_id", account_id)
    return account_id


def _top_up_message(top_up: TopUp) -> metering_pb2.TopUp:
    return metering_pb2.TopUp(
        id=top_up.id,
        account_id=top_up.account_id,
        amount_nano_usd=top_up.amount_nano_usd,
        fee_nano_usd=top_up.fee_nano_usd,
        paid_nano_usd=top_up.amount_nano_usd + top_up.fee_nano_usd,
        create_time=fields.timestamp(top_up.created_us),
    )


def _refund_message(refund: Refund) -> metering_pb2.Refund:
    return metering_pb2.Refund(
        id=refund.id,
        payment_id=refund.payment_id,
        account_id=refund.account_id,
        amount_nano_usd=refund.amount_nano_usd,
        fee_nano_usd=refund.fee_nano_usd,
        refunded_nano_usd=refund.amount_nano_usd + refund.fee_nano_usd,
        create_time=fields.timestamp(refund.created_us),
    )


def _entry_message(entry: LedgerEntry) -> metering_pb2.LedgerEntry:
    return metering_pb2.LedgerEntry(
        id=entry.id,
        ref=entry.ref,
        kind=_LEDGER_KINDS[entry.kind],
        debit_account_id=entry.debit_account_id,
        credit_account_id=entry.credit_account_id,
        amount_nano_usd=entry.amount_nano_usd,
        shortfall_nano_usd=entry.shortfall_nano_usd,
        note=entry.note,
        create_time=fields.timestamp(entry.created_us),
    )
