"""`worldrouter topup`, `balance` and `ledger`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from worldrouter.v1 import metering_pb2

pytestmark = pytest.mark.timeout(20)

TOP_UP = metering_pb2.TopUp(
    id="pay_1",
    account_id="acct_1",
    amount_nano_usd=10_000_000_000,
    fee_nano_usd=500_000_000,
    paid_nano_usd=10_500_000_000,
)
BALANCE = metering_pb2.Balance(
    account_id="acct_1",
    balance_nano_usd=9_999_987_655,
    held_nano_usd=1_000_000_000,
    available_nano_usd=8_999_987_655,
)


def test_topup_sends_integer_nanodollars(invoke: Callable[..., Any]) -> None:
    """`topup --account ID --usd 10 --json` sends 10^10 nanodollars and an idempotency key of its own."""
    run = invoke("topup", "--account", "acct_1", "--usd", "10", "--json")
    request = run.answer("MeteringService.CreateTopUp", TOP_UP)
    assert request == metering_pb2.CreateTopUpRequest(
        account_id="acct_1", amount_nano_usd=10_000_000_000, idempotency_key="new-id"
    )
    assert json.loads(run.result().stdout) == {
        "id": "pay_1",
        "account_id": "acct_1",
        "amount_usd": "10.000000000",
        "amount_nano_usd": 10_000_000_000,
        "fee_usd": "0.500000000",
        "fee_nano_usd": 500_000_000,
        "paid_usd": "10.500000000",
        "paid_nano_usd": 10_500_000_000,
        "idempotency_key": "new-id",
        "create_time": "1970-01-01T00:00:00.000000Z",
    }


def test_topup_takes_an_idempotency_key(invoke: Callable[..., Any]) -> None:
    """--idempotency-key is sent as it is; people see credit, fee and what was paid."""
    run = invoke("topup", "--usd", "10.000000001", "--idempotency-key", "invoice-7")
    request = run.answer("MeteringService.CreateTopUp", TOP_UP)
    assert (request.account_id, request.amount_nano_usd) == ("", 10_000_000_001)
    assert request.idempotency_key == "invoice-7"
    lines = run.result().stdout.splitlines()
    assert lines[2:5] == ["credit   10.000000 USD", "fee      0.500000 USD", "paid     10.500000 USD"]


def test_refund_sends_what_to_take_back(invoke: Callable[..., Any]) -> None:
    """`refund PAYMENT --usd 2.5 --keep-fee --json` sends integer nanodollars; people see what to pay out."""
    made = metering_pb2.Refund(
        id="refund_1",
        payment_id="pay_1",
        account_id="acct_1",
        amount_nano_usd=2_500_000_000,
        fee_nano_usd=125_000_000,
        refunded_nano_usd=2_625_000_000,
    )
    run = invoke("refund", "pay_1", "--usd", "2.5", "--keep-fee", "--json")
    assert run.answer("MeteringService.CreateRefund", made) == metering_pb2.CreateRefundRequest(
        payment_id="pay_1", amount_nano_usd=2_500_000_000, keep_fee=True, idempotency_key="new-id"
    )
    assert json.loads(run.result().stdout) == {
        "id": "refund_1",
        "payment_id": "pay_1",
        "account_id": "acct_1",
        "amount_usd": "2.500000000",
        "amount_nano_usd": 2_500_000_000,
        "fee_usd": "0.125000000",
        "fee_nano_usd": 125_000_000,
        "refunded_usd": "2.625000000",
        "refunded_nano_usd": 2_625_000_000,
        "idempotency_key": "new-id",
        "create_time": "1970-01-01T00:00:00.000000Z",
    }
    run = invoke("refund", "pay_1", "--usd", "2.5", "--idempotency-key", "ticket-7")
    request = run.answer("MeteringService.CreateRefund", made)
    assert (request.idempotency_key, request.keep_fee) == ("ticket-7", False)
    lines = run.result().stdout.splitlines()
    assert lines[3:6] == ["credit    2.500000 USD", "fee       0.125000 USD", "refunded  2.625000 USD"]


def test_a_refund_that_may_have_been_made_names_its_key(invoke: Callable[..., Any]) -> None:
    """When the outcome is open the error says how to repeat it without refunding twice."""
    run = invoke("refund", "pay_1", "--usd", "10")
    run.refuse("MeteringService.CreateRefund", grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    assert "it may have been taken all the same: repeat it with --idempotency-key new-id" in run.result().stderr


@pytest.mark.parametrize("amount", ["ten", "1e3", "-5", "0.0000000001"])
def test_a_bad_amount_is_wrong_usage(invoke: Callable[..., Any], amount: str) -> None:
    """Nothing is sent for an amount that cannot be read exactly; exit status 2."""
    result = invoke("topup", f"--usd={amount}").result()
    assert result.exit_code == 2
    assert "Invalid value for '--usd'" in result.stderr


def test_a_payment_that_may_have_been_credited_names_its_key(invoke: Callable[..., Any]) -> None:
    """When the outcome is open the error says how to repeat it without paying twice."""
    run = invoke("topup", "--usd", "10")
    run.refuse("MeteringService.CreateTopUp", grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
    result = run.result()
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: the core at 127.0.0.1:1 did not answer in time (DEADLINE_EXCEEDED); "
        "it may have been credited all the same: repeat it with --idempotency-key new-id\n"
    )


def test_a_refused_payment_is_just_an_error(invoke: Callable[..., Any], trailers_of: Callable[..., Any]) -> None:
    """A refusal of the core leaves nothing open."""
    run = invoke("topup", "--usd", "1")
    trailers = trailers_of(grpc.StatusCode.INVALID_ARGUMENT, "Below 10 USD.", "INVALID_REQUEST", "req_1")
    run.refuse("MeteringService.CreateTopUp", grpc.StatusCode.INVALID_ARGUMENT, "Below 10 USD.", trailers=trailers)
    assert run.result().stderr == "Error: Below 10 USD (INVALID_REQUEST, request req_1)\n"


def test_balance_is_exact_in_json(invoke: Callable[..., Any]) -> None:
    """JSON has every amount twice: as a decimal string and as an integer."""
    run = invoke("balance", "--account", "acct_1", "--json")
    assert run.answer("MeteringService.GetBalance", BALANCE).account_id == "acct_1"
    assert json.loads(run.result().stdout) == {
        "account_id": "acct_1",
        "balance_usd": "9.999987655",
        "held_usd": "1.000000000",
        "available_usd": "8.999987655",
        "credit_limit_usd": "0.000000000",
        "balance_nano_usd": 9_999_987_655,
        "held_nano_usd": 1_000_000_000,
        "available_nano_usd": 8_999_987_655,
        "credit_limit_nano_usd": 0,
    }


def test_balance_for_people_has_six_decimals(invoke: Callable[..., Any]) -> None:
    """Amounts stand under one another, rounded to microdollars."""
    run = invoke("balance")
    assert run.answer("MeteringService.GetBalance", BALANCE).account_id == ""
    assert run.result().stdout.splitlines() == [
        "account       acct_1",
        "balance       9.999988 USD",
        "held          1.000000 USD",
        "available     8.999988 USD",
        "credit limit  0.000000 USD",
    ]


def test_ledger_lists_every_movement(invoke: Callable[..., Any]) -> None:
    """An entry in JSON says from where to where, how much and why."""
    entry = metering_pb2.LedgerEntry(
        id=7,
        ref="adj_1",
        kind=metering_pb2.LEDGER_KIND_ADJUST,
        debit_account_id="house_adjustments",
        credit_account_id="acct_1",
        amount_nano_usd=5,
        note="starting balance",
    )
    run = invoke("ledger", "--account", "acct_1", "--limit", "5", "--json")
    request = run.answer("MeteringService.ListLedgerEntries", metering_pb2.ListLedgerEntriesResponse(entries=[entry]))
    assert (request.account_id, request.page_size) == ("acct_1", 5)
    (found,) = json.loads(run.result().stdout)
    assert (found["kind"], found["amount_usd"], found["amount_nano_usd"]) == ("adjust", "0.000000005", 5)
    assert (found["debit_account_id"], found["credit_account_id"]) == ("house_adjustments", "acct_1")
    assert (found["ref"], found["note"], found["shortfall_nano_usd"]) == ("adj_1", "starting balance", 0)


def test_ledger_for_people_is_a_table(invoke: Callable[..., Any]) -> None:
    """Amounts end under one another; a kind newer than this program is called unknown."""
    entries = [
        metering_pb2.LedgerEntry(id=12, ref="pay_1", kind=metering_pb2.LEDGER_KIND_TOPUP, amount_nano_usd=10**10),
        metering_pb2.LedgerEntry(id=9, ref="req_1", kind=99, amount_nano_usd=12_345),  # type: ignore[arg-type]
    ]
    run = invoke("ledger")
    run.answer("MeteringService.ListLedgerEntries", metering_pb2.ListLedgerEntriesResponse(entries=entries))
    header, first, second = run.result().stdout.splitlines()
    assert header.split() == ["ID", "TIME", "KIND", "FROM", "TO", "USD", "REF", "NOTE"]
    assert "topup" in first
    assert "unknown" in second
    assert first.index("10.000000 ") + len("10.000000") == second.index("0.000012 ") + len("0.000012")


@pytest.mark.parametrize(("command", "method"), [("balance", "GetBalance"), ("ledger", "ListLedgerEntries")])
def test_errors_are_one_line(
    invoke: Callable[..., Any], trailers_of: Callable[..., Any], command: str, method: str
) -> None:
    """Whatever the command, the core's error is one line with its reason and request id."""
    run = invoke(command)
    trailers = trailers_of(grpc.StatusCode.NOT_FOUND, "No.", "NOT_FOUND", "req_1")
    run.refuse(f"MeteringService.{method}", grpc.StatusCode.NOT_FOUND, "No.", trailers=trailers)
    result = run.result()
    assert (result.exit_code, result.stderr) == (1, "Error: No (NOT_FOUND, request req_1)\n")
