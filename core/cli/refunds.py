"""`worldrouter refund`: credit of a payment, taken back."""

from __future__ import annotations

import click
from worldrouter.v1 import metering_pb2

from core.cli.changes import change
from core.cli.money import UsdType, exact_usd, shown_usd
from core.cli.options import client_command, json_option
from core.cli.output import exact_time, print_fields, print_json, shown_time
from core.cli.session import Session


@click.command()
@click.argument("payment_id", metavar="PAYMENT")
@click.option(
    "--usd",
    "amount_nano_usd",
    type=UsdType(),
    required=True,
    metavar="AMOUNT",
    help="Credit to take back, in USD; the fee's share is given back on top.",
)
@click.option("--keep-fee", is_flag=True, help="Give nothing of the service fee back.")
@click.option(
    "--idempotency-key",
    metavar="KEY",
    help="Name of this refund: the same one again takes nothing.  [default: a new one]",
)
@json_option
@client_command
def refund(
    session: Session, payment_id: str, amount_nano_usd: int, keep_fee: bool, idempotency_key: str | None, as_json: bool
) -> None:
    """Take credit of a payment back from its account.

    At most what is left of the payment and what the account has available, its credit limit included: what was
    spent already may so become a debt. Paying the money out is up to you: this only says how much.

    \b
    Examples:
      worldrouter refund pay_01k9 --usd 10
      worldrouter refund pay_01k9 --usd 2.50 --keep-fee --idempotency-key ticket-17 --json
    """
    key = idempotency_key or session.new_id()
    request = metering_pb2.CreateRefundRequest(
        payment_id=payment_id, amount_nano_usd=amount_nano_usd, keep_fee=keep_fee, idempotency_key=key
    )
    with session.connect() as core:
        made = change(core, core.metering.CreateRefund, request, maybe_done="it may have been taken all the same")
    amounts = {"credit": made.amount_nano_usd, "fee": made.fee_nano_usd, "refunded": made.refunded_nano_usd}
    if as_json:
        print_json(
            {
                "id": made.id,
                "payment_id": made.payment_id,
                "account_id": made.account_id,
                "amount_usd": exact_usd(made.amount_nano_usd),
                "amount_nano_usd": made.amount_nano_usd,
                "fee_usd": exact_usd(made.fee_nano_usd),
                "fee_nano_usd": made.fee_nano_usd,
                "refunded_usd": exact_usd(made.refunded_nano_usd),
                "refunded_nano_usd": made.refunded_nano_usd,
                "idempotency_key": key,
                "create_time": exact_time(made.create_time),
            }
        )
        return
    shown = {name: f"{shown_usd(amount)} USD" for name, amount in amounts.items()}
    print_fields(
        {
            "id": made.id,
            "payment": made.payment_id,
            "account": made.account_id,
            **shown,
            "created": shown_time(made.create_time),
        }
    )
