"""PaymentService: credit bought through payment providers."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from worldrouter.v1 import payment_pb2, payment_pb2_grpc

from core.errors import Conflict, InvalidRequest, RequestTooLarge
from core.ids import IdSource
from core.money.top_ups import TopUpRules
from core.payments.base import PaymentProvider
from core.payments.sandbox import Sandbox
from core.services import Context, fields
from core.services.paging import Number, Pager, Word
from core.services.repeats import once
from storage.interfaces import AccountStore, PaymentStore
from storage.records import NewPayment, Payment

_log = logging.getLogger(__name__)

NANO_USD_PER_CENT = 10_000_000
MAX_WEBHOOK_BYTES = 64 << 10

_STATES: Mapping[str, payment_pb2.PaymentState] = {
    "pending": payment_pb2.PAYMENT_STATE_PENDING,
    "paid": payment_pb2.PAYMENT_STATE_PAID,
    "failed": payment_pb2.PAYMENT_STATE_FAILED,
}


class PaymentServicer(payment_pb2_grpc.PaymentServiceServicer):
    """Payments, for the operator; webhooks, judged by their signature, and the test page, for anybody."""

    def __init__(
        self,
        accounts: AccountStore,
        payments: PaymentStore,
        providers: Mapping[str, PaymentProvider],
        ids: IdSource,
        *,
        rules: TopUpRules,
        default_account_id: str,
    ) -> None:
        self._accounts = accounts
        self._payments = payments
        self._providers = providers
        self._ids = ids
        self._rules = rules
        self._default_account_id = default_account_id

    async def CreatePayment(self, request: payment_pb2.CreatePaymentRequest, context: Context) -> payment_pb2.Payment:
        """Enter a payment and begin it at its provider; what failed there is tried again by a repeat."""
        amount = self._rules.check(request.amount_nano_usd)
        name = self._provider_name(request.provider)
        account_id = fields.resource_id(request.account_id or self._default_account_id, param="account_id")
        account = fields.found(await self._accounts.account(account_id), param="account_id", value=account_id)
        if account.kind == "house":
            raise InvalidRequest("House accounts take no payments.", param="account_id")
        fee = self._rules.fee_nano_usd(amount, whole_nano_usd=NANO_USD_PER_CENT)
        payment = await self._payments.create_payment(
            NewPayment("pay_" + self._ids.new(), account_id, amount, fee, name),
            once=once(request, request.idempotency_key, account_id=account_id, provider=name),
        )
        if not payment.url and payment.state == "pending":
            begun = await self._providers[name].begin(payment)
            payment = await self._payments.begin_payment(payment.id, reference=begun.reference, url=begun.url)
        return _message(payment)

    async def GetPayment(self, request: payment_pb2.GetPaymentRequest, context: Context) -> payment_pb2.Payment:
        """Get a payment."""
        return _message(await self._payment(request.payment_id))

    async def ListPayments(
        self, request: payment_pb2.ListPaymentsRequest, context: Context
    ) -> payment_pb2.ListPaymentsResponse:
        """List payments of one account or of all, newest first."""
        account_id = None
        if request.account_id:
            account_id = fields.resource_id(request.account_id, param="account_id")
            fields.found(await self._accounts.account(account_id), param="account_id", value=account_id)
        scope = ["ListPayments", request.account_id]
        pager = Pager(scope, tuple[Number, Word], request.page_size, request.page_token)
        fetched = await self._payments.payments(account_id=account_id, before=pager.after, limit=pager.limit)
        page = pager.page(fetched, lambda payment: (payment.created_us, payment.id))
        return payment_pb2.ListPaymentsResponse(
            payments=map(_message, page.items), next_page_token=page.next_page_token
        )

    async def HandleWebhook(
        self, request: payment_pb2.HandleWebhookRequest, context: Context
    ) -> payment_pb2.HandleWebhookResponse:
        """Credit what a signed event says was paid, once; what it says is all that is trusted."""
        provider = self._providers.get(request.provider)
        if provider is None:
            raise fields.not_found("provider", request.provider)
        if len(request.body) > MAX_WEBHOOK_BYTES:
            raise RequestTooLarge(f"A webhook has at most {MAX_WEBHOOK_BYTES} bytes.")
        event = provider.verify(request.body, {header.name: header.value for header in request.headers})
        if event is None:
            return payment_pb2.HandleWebhookResponse()
        payment = await self._payment(event.payment_id)
        if payment.provider != request.provider:
            raise fields.not_found("payment_id", payment.id)
        if event.paid_nano_usd not in (None, payment.amount_nano_usd + payment.fee_nano_usd):
            _log.error("Payment %s was paid with another amount than asked for, and is not credited", payment.id)
            raise Conflict("Another amount was paid than was asked for.")
        await self._payments.end_payment(payment.id, paid=event.paid_nano_usd is not None, note=provider.note)
        return payment_pb2.HandleWebhookResponse()

    async def GetTestPaymentPage(
        self, request: payment_pb2.GetTestPaymentPageRequest, context: Context
    ) -> payment_pb2.TestPaymentPage:
        """Get what the page of a test payment holds."""
        provider = self._providers.get("test")
        payment = await self._payment(request.payment_id) if isinstance(provider, Sandbox) else None
        if not isinstance(provider, Sandbox) or payment is None or payment.provider != "test":
            raise fields.not_found("payment_id", request.payment_id)
        pay_body, pay_signature = provider.event(payment, paid=True)
        decline_body, decline_signature = provider.event(payment, paid=False)
        return payment_pb2.TestPaymentPage(
            payment=_message(payment),
            pay_body=pay_body,
            pay_signature=pay_signature,
            decline_body=decline_body,
            decline_signature=decline_signature,
        )

    def _provider_name(self, requested: str) -> str:
        """The provider that is meant. Raises InvalidRequest."""
        if requested in self._providers:
            return requested
        if not requested and len(self._providers) == 1:
            return next(iter(self._providers))
        if not self._providers:
            raise InvalidRequest("No payment provider is configured.", param="provider")
        known = ", ".join(sorted(self._providers))
        raise InvalidRequest(f"provider must be one that is configured: {known}.", param="provider")

    async def _payment(self, payment_id: str) -> Payment:
        """The payment of this id. Raises InvalidRequest when it is empty, NotFound."""
        payment_id = fields.resource_id(payment_id, param="payment_id")
        return fields.found(await self._payments.payment(payment_id), param="payment_id", value=payment_id)


def _message(payment: Payment) -> payment_pb2.Payment:
    return payment_pb2.Payment(
        id=payment.id,
        account_id=payment.account_id,
        amount_nano_usd=payment.amount_nano_usd,
        fee_nano_usd=payment.fee_nano_usd,
        paid_nano_usd=payment.amount_nano_usd + payment.fee_nano_usd,
        provider=payment.provider,
        provider_reference=payment.reference,
        url=payment.url,
        state=_STATES[payment.state],
        create_time=fields.timestamp(payment.created_us),
        update_time=fields.timestamp(payment.updated_us),
    )
