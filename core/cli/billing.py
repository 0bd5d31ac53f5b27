"""`worldrouter topup`, `balance` and `ledger`: money in, and where it went."""

from __future__ import annotations

import click
from worldrouter.v1 import metering_pb2

from core.cli.audit import export
from core.cli.changes import change
from core.cli.client import collect
from core.cli.money import UsdType, exact_usd, shown_usd
from core.cli.options import account_option, client_command, json_option, limit_option
from core.cli.output import Json, enum_word, exact_time, print_fields, print_json, print_table, shown_time
from core.cli.session import Session


@click.command()
@account_option
@click.option(
    "--usd",
    "amount_nano_usd",
    type=UsdType(),
    required=True,
    metavar="AMOUNT",
    help="Credit to add, in USD, such as 10 or 12.50; the service fee comes on top.",
)
@click.option(
    "--idempotency-key",
    metavar="KEY",
    help="Name of this payment: the same one again credits nothing.  [default: a new one]",
)
@json_option
@client_command
def topup(session: Session, account_id: str, amount_nano_usd: int, idempotency_key: str | None, as_json: bool) -> None:
    """Add prepaid credit to an account.

    10 USD or more; the service fee comes on top. What came of a payment that failed half-way is settled by
    repeating it with the same --idempotency-key: it is credited once.

    \b
    Examples:
      worldrouter topup --usd 10
      worldrouter topup --account acct_01k9 --usd 25.50 --idempotency-key invoice-4711 --json
    """
    key = idempotency_key or session.new_id()
    request = metering_pb2.CreateTopUpRequest(
        account_id=account_id, amount_nano_usd=amount_nano_usd, idempotency_key=key
    )
    with session.connect() as core:
        credited = "it may have been credited all the same"
        top_up = change(core, core.metering.CreateTopUp, request, maybe_done=credited)
    if as_json:
        print_json(_top_up_json(top_up, key))
        return
    print_fields(
        {
            "id": top_up.id,
            "account": top_up.account_id,
            "credit": f"{shown_usd(top_up.amount_nano_usd)} USD",
            "fee": f"{shown_usd(top_up.fee_nano_usd)} USD",
            "paid": f"{shown_usd(top_up.paid_nano_usd)} USD",
            "created": shown_time(top_up.create_time),
        }
    )


@click.command()
@account_option
@json_option
@client_command
def balance(session: Session, account_id: str, as_json: bool) -> None:
    """Show what an account has.

    The balance is all credits less all charges. A part of it is held: set aside for requests, running ones and those
    to come, until 2 seconds after the last one. What is available is the rest.

    \b
    Examples:
      worldrouter balance
      worldrouter balance --account acct_01k9 --json | jq .available_nano_usd
    """
    with session.connect() as core:
        found = core.call(core.metering.GetBalance, metering_pb2.GetBalanceRequest(account_id=account_id))
    amounts = {
        "balance": found.balance_nano_usd,
        "held": found.held_nano_usd,
        "available": found.available_nano_usd,
        "credit_limit": found.credit_limit_nano_usd,
    }
    if as_json:
        exact: dict[str, Json] = {f"{name}_usd": exact_usd(amount) for name, amount in amounts.items()}
        nano: dict[str, Json] = {f"{name}_nano_usd": amount for name, amount in amounts.items()}
        print_json({"account_id": found.account_id, **exact, **nano})
        return
    shown = {name.replace("_", " "): f"{shown_usd(amount)} USD" for name, amount in amounts.items()}
    print_fields({"account": found.account_id, **shown})


@click.group(invoke_without_command=True)
@account_option
@limit_option
@json_option
@client_command
def ledger(session: Session, account_id: str, limit: int, as_json: bool) -> None:
    """List every movement of an account's money, newest first.

    \b
    Examples:
      worldrouter ledger
      worldrouter ledger --account acct_01k9 --json
    """
    if click.get_current_context().invoked_subcommand is not None:
        return
    with session.connect() as core:

        def page(size: int, token: str) -> tuple[list[metering_pb2.LedgerEntry], str]:
            request = metering_pb2.ListLedgerEntriesRequest(account_id=account_id, page_size=size, page_token=token)
            answer = core.call(core.metering.ListLedgerEntries, request)
            return list(answer.entries), answer.next_page_token

        found = collect(page, limit)
    if as_json:
        print_json([_entry_json(entry) for entry in found])
        return
    columns = ["ID", "TIME", "KIND", "FROM", "TO", "USD", "REF", "NOTE"]
    print_table(columns, [_entry_row(entry) for entry in found], right=["ID", "USD"])


ledger.add_command(export)


def _top_up_json(top_up: metering_pb2.TopUp, key: str) -> dict[str, Json]:
    return {
        "id": top_up.id,
        "account_id": top_up.account_id,
        "amount_usd": exact_usd(top_up.amount_nano_usd),
        "amount_nano_usd": top_up.amount_nano_usd,
        "fee_usd": exact_usd(top_up.fee_nano_usd),
        "fee_nano_usd": top_up.fee_nano_usd,
        "paid_usd": exact_usd(top_up.paid_nano_usd),
        "paid_nano_usd": top_up.paid_nano_usd,
        "idempotency_key": key,
        "create_time": exact_time(top_up.create_time),
    }


def _entry_json(entry: metering_pb2.LedgerEntry) -> dict[str, Json]:
    return {
        "id": entry.id,
        "ref": entry.ref,
        "kind": _kind(entry),
        "debit_account_id": entry.debit_account_id,
        "credit_account_id": entry.credit_account_id,
        "amount_usd": exact_usd(entry.amount_nano_usd),
        "amount_nano_usd": entry.amount_nano_usd,
        "shortfall_usd": exact_usd(entry.shortfall_nano_usd),
        "shortfall_nano_usd": entry.shortfall_nano_usd,
        "note": entry.note,
        "create_time": exact_time(entry.create_time),
    }


def _entry_row(entry: metering_pb2.LedgerEntry) -> list[str]:
    return [
        str(entry.id),
        shown_time(entry.create_time),
        _kind(entry),
        entry.debit_account_id,
        entry.credit_account_id,
        shown_usd(entry.amount_nano_usd),
        entry.ref,
        entry.note,
    ]


def _kind(entry: metering_pb2.LedgerEntry) -> str:
    return enum_word(metering_pb2.LedgerKind.DESCRIPTOR, entry.kind)
