"""`worldrouter accounts`: who owns a balance."""

from __future__ import annotations

from typing import Final

import click
from worldrouter.v1 import account_pb2

from core.cli.client import collect
from core.cli.money import exact_usd, shown_usd
from core.cli.options import client_command, json_option, limit_option
from core.cli.output import Json, exact_time, print_fields, print_json, print_table, shown_time
from core.cli.session import Session

KINDS: Final = {
    "user": account_pb2.ACCOUNT_KIND_USER,
    "service": account_pb2.ACCOUNT_KIND_SERVICE,
    "house": account_pb2.ACCOUNT_KIND_HOUSE,
}
MADE_KINDS = ("user", "service")


@click.group()
def accounts() -> None:
    """Accounts: who owns a balance.

    Keys spend from an account; usage and ledger are per account.
    """


@accounts.command()
@click.argument("name")
@click.option("--id", "account_id", default="", metavar="ID", help="ID to give it.  [default: one is made]")
@click.option(
    "--kind",
    type=click.Choice(MADE_KINDS),
    default="user",
    show_default=True,
    help="What it is for: a customer, or an internal service, whose keys may verify those of others.",
)
@json_option
@client_command
def create(session: Session, name: str, account_id: str, kind: str, as_json: bool) -> None:
    """Make an account called NAME, with a balance of zero.

    \b
    Examples:
      worldrouter accounts create "Ada Lovelace"
      worldrouter accounts create search --id search --kind service
      worldrouter accounts create Ada --json | jq -r .id
    """
    request = account_pb2.CreateAccountRequest(account_id=account_id, display_name=name, kind=KINDS[kind])
    with session.connect() as core:
        account = core.call(core.accounts.CreateAccount, request)
    _print(account, as_json)


@accounts.command()
@click.argument("account_id", metavar="[ID]", default="")
@json_option
@client_command
def get(session: Session, account_id: str, as_json: bool) -> None:
    """Show one account; without ID the default one.

    \b
    Example:
      worldrouter accounts get acct_01k9
    """
    with session.connect() as core:
        account = core.call(core.accounts.GetAccount, account_pb2.GetAccountRequest(account_id=account_id))
    _print(account, as_json)


@accounts.command("list")
@limit_option
@json_option
@client_command
def list_(session: Session, limit: int, as_json: bool) -> None:
    """List accounts, newest first.

    \b
    Examples:
      worldrouter accounts list
      worldrouter accounts list --json | jq -r '.[].id'
    """
    with session.connect() as core:

        def page(size: int, token: str) -> tuple[list[account_pb2.Account], str]:
            request = account_pb2.ListAccountsRequest(page_size=size, page_token=token)
            answer = core.call(core.accounts.ListAccounts, request)
            return list(answer.accounts), answer.next_page_token

        found = collect(page, limit)
    if as_json:
        print_json([_json(account) for account in found])
    else:
        rows = [[a.id, a.display_name, _kind(a), shown_time(a.create_time)] for a in found]
        print_table(["ID", "NAME", "KIND", "CREATED"], rows)


def _print(account: account_pb2.Account, as_json: bool) -> None:
    if as_json:
        print_json(_json(account))
        return
    print_fields(
        {
            "id": account.id,
            "name": account.display_name,
            "kind": _kind(account),
            "credit limit": f"{shown_usd(account.credit_limit_nano_usd)} USD",
            "created": shown_time(account.create_time),
        }
    )


def _json(account: account_pb2.Account) -> dict[str, Json]:
    return {
        "id": account.id,
        "name": account.display_name,
        "kind": _kind(account),
        "credit_limit_usd": exact_usd(account.credit_limit_nano_usd),
        "credit_limit_nano_usd": account.credit_limit_nano_usd,
        "create_time": exact_time(account.create_time),
    }


def _kind(account: account_pb2.Account) -> str:
    return next((name for name, kind in KINDS.items() if kind == account.kind), "unknown")
