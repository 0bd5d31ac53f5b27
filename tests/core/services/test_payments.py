"""PaymentService over a real server, with the built-in test provider."""

import asyncio
import json
from typing import Any

import grpc
import pytest
from worldrouter.v1 import metering_pb2, payment_pb2

from core.errors import InvalidRequest
from core.ids import IdSource
from core.money.top_ups import TopUpRules
from core.payments.sandbox import Sandbox
from core.services.payments import PaymentServicer
from storage.records import NewPayment

C = grpc.StatusCode
USD = 10**9


def create(core, amount: int = 10 * USD, **fields: Any) -> Any:
    request = payment_pb2.CreatePaymentRequest(amount_nano_usd=amount, **fields)
    return core.payments.CreatePayment(request, metadata=core.operator)


def send(core, body: bytes, signature: str, provider: str = "test") -> Any:
    """A webhook, from anybody."""
    header = payment_pb2.WebhookHeader(name="x-worldrouter-signature", value=signature)
    return core.payments.HandleWebhook(payment_pb2.HandleWebhookRequest(provider=provider, body=body, headers=[header]))


async def page(core, payment_id: str) -> payment_pb2.TestPaymentPage:
    return await core.payments.GetTestPaymentPage(payment_pb2.GetTestPaymentPageRequest(payment_id=payment_id))


async def balance(core) -> int:
    answer = await core.metering.GetBalance(metering_pb2.GetBalanceRequest(), metadata=core.operator)
    return answer.balance_nano_usd


async def test_a_payment_is_credited_by_its_webhook_once(core) -> None:
    """The page's event credits the payment, however often it is sent, and the ledger says that it was a test."""
    made = await create(core)
    assert made.state == payment_pb2.PAYMENT_STATE_PENDING
    assert made.url == f"http://127.0.0.1:8080/test-pay/{made.id}"
    assert (made.amount_nano_usd, made.fee_nano_usd, made.paid_nano_usd) == (10 * USD, USD // 2, 10 * USD + USD // 2)
    shown = await page(core, made.id)
    assert shown.payment == made
    await asyncio.gather(*(send(core, shown.pay_body, shown.pay_signature) for _ in range(5)))
    await send(core, shown.decline_body, shown.decline_signature)
    got = await core.payments.GetPayment(payment_pb2.GetPaymentRequest(payment_id=made.id), metadata=core.operator)
    assert got.state == payment_pb2.PAYMENT_STATE_PAID
    assert await balance(core) == 10 * USD
    entries = await core.metering.ListLedgerEntries(metering_pb2.ListLedgerEntriesRequest(), metadata=core.operator)
    [entry] = entries.entries
    assert (entry.ref, entry.note) == (made.id, "test payment")
    listed = await core.payments.ListPayments(payment_pb2.ListPaymentsRequest(), metadata=core.operator)
    assert list(listed.payments) == [got]


async def test_a_declined_payment_is_worth_nothing(core) -> None:
    """Decline changes the state alone."""
    shown = await page(core, (await create(core)).id)
    await send(core, shown.decline_body, shown.decline_signature)
    assert (await page(core, shown.payment.id)).payment.state == payment_pb2.PAYMENT_STATE_FAILED
    assert await balance(core) == 0


async def test_a_payment_is_in_whole_cents(core) -> None:
    """What is missing to a whole cent is part of the fee; the credit is exact."""
    made = await create(core, 10 * USD + 1)
    assert made.amount_nano_usd == 10 * USD + 1
    assert made.paid_nano_usd == 10_510_000_000
    assert made.amount_nano_usd + made.fee_nano_usd == made.paid_nano_usd


async def test_only_the_providers_signature_counts(core, failure) -> None:
    """A webhook that is unsigned, signed for another body or by somebody else is refused, and nothing changes."""
    shown = await page(core, (await create(core)).id)
    forged = json.dumps({"payment_id": shown.payment.id, "paid_nano_usd": shown.payment.paid_nano_usd}).encode()
    stranger = Sandbox("", b"x" * 32)
    payment = await core.store.payment(shown.payment.id)
    for body, signature in (
        (shown.pay_body, ""),
        (shown.pay_body, shown.decline_signature),
        (forged + b" ", shown.pay_signature),
        stranger.event(payment, paid=True),
        (shown.pay_body, "ü"),
        (b"", ""),
    ):
        failed = await failure(send(core, body, signature))
        assert (failed.code, failed.openai_code) == (C.INVALID_ARGUMENT, "invalid_signature")
    assert (await failure(send(core, b"x" * 65_537, ""))).code is C.RESOURCE_EXHAUSTED
    assert (await failure(send(core, b"", "", provider="stripe"))).code is C.NOT_FOUND
    assert await balance(core) == 0


async def test_what_does_not_fit_is_not_credited(core, failure) -> None:
    """An event of no payment of ours, of another provider's, or with another amount credits nothing."""
    payment = await core.store.payment((await create(core)).id)
    provider = Sandbox("", b"s" * 32)
    await core.store.create_payment(NewPayment("pay_other", "default", 10 * USD, 0, "stripe"))
    wrong = {
        "pay_none": C.NOT_FOUND,
        "pay_other": C.NOT_FOUND,
    }
    for payment_id, code in wrong.items():
        body = json.dumps({"payment_id": payment_id, "paid_nano_usd": 10 * USD}).encode()
        assert (await failure(send(core, body, provider._signature(body)))).code is code
    body = json.dumps({"payment_id": payment.id, "paid_nano_usd": 10 * USD}).encode()
    assert (await failure(send(core, body, provider._signature(body)))).code is C.ABORTED
    assert (await failure(page(core, "pay_other"))).code is C.NOT_FOUND
    assert await balance(core) == 0


async def test_a_repeated_request_begins_one_payment(core, failure) -> None:
    """The same key answers the same payment, as it is now."""
    first = await create(core, idempotency_key="k")
    assert await create(core, idempotency_key="k", provider="test", account_id="default") == first
    failed = await failure(create(core, 11 * USD, idempotency_key="k"))
    assert (failed.code, failed.param) == (C.ABORTED, "idempotency_key")


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"amount": 10 * USD - 1}, C.INVALID_ARGUMENT, "amount_nano_usd"),
        ({"provider": "stripe"}, C.INVALID_ARGUMENT, "provider"),
        ({"account_id": "house_fees"}, C.INVALID_ARGUMENT, "account_id"),
        ({"account_id": "acct_none"}, C.NOT_FOUND, "account_id"),
    ],
)
async def test_bad_payments_are_refused_by_name(core, failure, fields, code, param) -> None:
    """Too little, an unknown provider, no account to credit."""
    failed = await failure(create(core, **fields))
    assert (failed.code, failed.param) == (code, param)


async def test_of_several_providers_one_is_named() -> None:
    """None of them is chosen for whoever pays."""
    both = {name: Sandbox("http://127.0.0.1", b"s" * 32) for name in ("a", "b")}
    ids = IdSource(lambda: 0, bytes)
    servicer = PaymentServicer(None, None, both, ids, rules=TopUpRules(), default_account_id="default")
    with pytest.raises(InvalidRequest, match="a, b") as caught:
        await servicer.CreatePayment(payment_pb2.CreatePaymentRequest(amount_nano_usd=10**10), None)
    assert caught.value.param == "provider"
