"""`worldrouter payments`: credit bought through a payment provider."""

from __future__ import annotations

import click
from worldrouter.v1 import payment_pb2

from core.cli.changes import change
from core.cli.client import collect
from core.cli.money import UsdType, exact_usd, shown_usd
from core.cli.options import account_option, client_command, json_option, limit_option
from core.cli.output import Json, enum_word, exact_time, print_fields, print_json, print_table, shown_time
from core.cli.session import Session


@click.group()
def payments() -> None:
    """Payments: credit bought through a payment provider.

    A payment has a page where it is paid, and is credited once, when the provider says that it was.
    """


@payments.command()
@account_option
@click.option(
    "--usd",
    "amount_nano_usd",
    type=UsdType(),
    required=True,
    metavar="AMOUNT",
    help="Credit to buy, in USD, such as 10 or 12.50; the service fee comes on top.",
)
@click.option("--provider", default="", metavar="NAME", help="stripe or test.  [default: the one that is configured]")
@click.option(
    "--idempotency-key",
    metavar="KEY",
    help="Name of this payment: the same one again begins nothing.  [default: a new one]",
)
@json_option
@client_command
def create(
    session: Session,
    account_id: str,
    amount_nano_usd: int,
    provider: str,
    idempotency_key: str | None,
    as_json: bool,
) -> None:
    """Begin a payment and show the page where it is paid.

    \b
    Examples:
      worldrouter payments create --usd 10
      worldrouter payments create --account acct_01k9 --usd 25 --provider stripe --json | jq -r .url
    """
    key = idempotency_key or session.new_id()
    request = payment_pb2.CreatePaymentRequest(
        account_id=account_id, amount_nano_usd=amount_nano_usd, provider=provider, idempotency_key=key
    )
    with session.connect() as core:
        begun = "it may have been begun all the same"
        payment = change(core, core.payments.CreatePayment, request, maybe_done=begun)
    _print(payment, as_json)


@payments.command("list")
@click.option("--account", "account_id", default="", metavar="ID", help="Only payments for this account.")
@limit_option
@json_option
@client_command
def list_(session: Session, account_id: str, limit: int, as_json: bool) -> None:
    """List payments, newest first.

    \b
    Example:
      worldrouter payments list --account acct_01k9
    """
    with session.connect() as core:

        def page(size: int, token: str) -> tuple[list[payment_pb2.Payment], str]:
            request = payment_pb2.ListPaymentsRequest(account_id=account_id, page_size=size, page_token=token)
            answer = core.call(core.payments.ListPayments, request)
            return list(answer.payments), answer.next_page_token

        found = collect(page, limit)
    if as_json:
        print_json([_json(payment) for payment in found])
        return
    rows = [
        [
            *(p.id, shown_time(p.create_time), p.account_id, p.provider, _state(p)),
            *(shown_usd(p.amount_nano_usd), shown_usd(p.paid_nano_usd)),
        ]
        for p in found
    ]
    money = ["USD CREDIT", "USD TO PAY"]
    print_table(["ID", "TIME", "ACCOUNT", "PROVIDER", "STATE", *money], rows, right=money)


@payments.command()
@click.argument("payment_id", metavar="ID")
@json_option
@client_command
def show(session: Session, payment_id: str, as_json: bool) -> None:
    """Show one payment.

    \b
    Example:
      worldrouter payments show pay_01k9
    """
    with session.connect() as core:
        payment = core.call(core.payments.GetPayment, payment_pb2.GetPaymentRequest(payment_id=payment_id))
    _print(payment, as_json)


def _print(payment: payment_pb2.Payment, as_json: bool) -> None:
    if as_json:
        print_json(_json(payment))
        return
    print_fields(
        {
            "id": payment.id,
            "account": payment.account_id,
            "credit": f"{shown_usd(payment.amount_nano_usd)} USD",
            "fee": f"{shown_usd(payment.fee_nano_usd)} USD",
            "to pay": f"{shown_usd(payment.paid_nano_usd)} USD",
            "provider": payment.provider,
            "reference": payment.provider_reference,
            "state": _state(payment),
            "page": payment.url,
            "created": shown_time(payment.create_time),
        }
    )


def _json(payment: payment_pb2.Payment) -> dict[str, Json]:
    return {
        "id": payment.id,
        "account_id": payment.account_id,
        "amount_usd": exact_usd(payment.amount_nano_usd),
        "amount_nano_usd": payment.amount_nano_usd,
        "fee_usd": exact_usd(payment.fee_nano_usd),
        "fee_nano_usd": payment.fee_nano_usd,
        "paid_usd": exact_usd(payment.paid_nano_usd),
        "paid_nano_usd": payment.paid_nano_usd,
        "provider": payment.provider,
        "provider_reference": payment.provider_reference,
        "state": _state(payment),
        "url": payment.url,
        "create_time": exact_time(payment.create_time),
        "update_time": exact_time(payment.update_time),
    }


def _state(payment: payment_pb2.Payment) -> str:
    return enum_word(payment_pb2.PaymentState.DESCRIPTOR, payment.state)
