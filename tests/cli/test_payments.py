"""`worldrouter payments`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from worldrouter.v1 import payment_pb2

pytestmark = pytest.mark.timeout(20)

PAYMENT = payment_pb2.Payment(
    id="pay_1",
    account_id="acct_1",
    amount_nano_usd=10_000_000_000,
    fee_nano_usd=500_000_000,
    paid_nano_usd=10_500_000_000,
    provider="test",
    provider_reference="test_pay_1",
    url="http://127.0.0.1:8080/test-pay/pay_1",
    state=payment_pb2.PAYMENT_STATE_PENDING,
)


def test_create_begins_a_payment_and_shows_its_page(invoke: Callable[..., Any]) -> None:
    """`payments create` sends integer nanodollars and an idempotency key; people see where to pay."""
    run = invoke("payments", "create", "--account", "acct_1", "--usd", "10", "--provider", "test")
    assert run.answer("PaymentService.CreatePayment", PAYMENT) == payment_pb2.CreatePaymentRequest(
        account_id="acct_1", amount_nano_usd=10_000_000_000, provider="test", idempotency_key="new-id"
    )
    lines = run.result().stdout.splitlines()
    assert lines[4] == "to pay     10.500000 USD"
    assert lines[7:9] == ["state      pending", "page       http://127.0.0.1:8080/test-pay/pay_1"]


def test_show_and_list_print_json(invoke: Callable[..., Any]) -> None:
    """One object, and a list of the same."""
    run = invoke("payments", "show", "pay_1", "--json")
    assert run.answer("PaymentService.GetPayment", PAYMENT).payment_id == "pay_1"
    shown = json.loads(run.result().stdout)
    assert (shown["state"], shown["paid_nano_usd"], shown["amount_usd"]) == ("pending", 10_500_000_000, "10.000000000")
    run = invoke("payments", "list", "--account", "acct_1", "--json")
    page = payment_pb2.ListPaymentsResponse(payments=[PAYMENT])
    assert run.answer("PaymentService.ListPayments", page).account_id == "acct_1"
    assert json.loads(run.result().stdout) == [shown]
    run = invoke("payments", "list")
    run.answer("PaymentService.ListPayments", page)
    assert run.result().stdout.splitlines()[1].split()[-4:] == ["test", "pending", "10.000000", "10.500000"]


def test_a_payment_that_may_have_been_begun_names_its_key(invoke: Callable[..., Any]) -> None:
    """When the outcome is open the error says how to repeat it."""
    run = invoke("payments", "create", "--usd", "10")
    run.refuse("PaymentService.CreatePayment", grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    assert "repeat it with --idempotency-key new-id" in run.result().stderr
