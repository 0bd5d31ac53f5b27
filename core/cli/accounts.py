"""`worldrouter accounts`: who owns keys, and who pays."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import click
from worldrouter.v1 import account_pb2

from core.cli.changes import change, named, repeat_option
from core.cli.client import collect
from core.cli.durations import end_of
from core.cli.money import UsdType, exact_usd, shown_usd
from core.cli.options import (
    client_command,
    expiry_option,
    json_option,
    limit_option,
    models_option,
    unending_option,
)
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
    """Accounts: who owns keys, and who pays.

    Keys belong to an account. Accounts may stand under one another, such as organisation, team and project: the
    root pays for all of them, and what binds an account binds all below it.
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
@click.option("--parent", "parent_id", default="", metavar="ID", help="Account to make it under.  [default: none]")
@models_option
@expiry_option
@repeat_option
@json_option
@client_command
def create(
    session: Session,
    name: str,
    account_id: str,
    kind: str,
    parent_id: str,
    models: list[str] | None,
    expires_in: timedelta | datetime | None,
    idempotency_key: str | None,
    as_json: bool,
) -> None:
    """Make an account called NAME, with a balance of zero.

    Under another account it has no balance: the root above it pays, and what binds the accounts above it binds
    its keys too.

    \b
    Examples:
      worldrouter accounts create "Ada Lovelace"
      worldrouter accounts create search --id search --kind service
      worldrouter accounts create Research --parent acct_01k9 --models 'gpt-4o*,smollm2-135m-instruct'
      worldrouter accounts create Ada --json | jq -r .id
    """
    request = account_pb2.CreateAccountRequest(
        account_id=account_id,
        display_name=name,
        kind=KINDS[kind],
        parent_id=parent_id,
        allowed_models=models,
        idempotency_key=idempotency_key or session.new_id(),
    )
    if expires_in is not None:
        request.expire_time.FromDatetime(end_of(expires_in, session.now()))
    with session.connect() as core:
        account = change(core, core.accounts.CreateAccount, request, ends=request.expire_time)
    _print(account, as_json)


@accounts.command()
@click.argument("account_id", metavar="ID")
@click.option("--name", metavar="NAME", help="Name for people.")
@click.option(
    "--credit-limit",
    "credit_limit_nano_usd",
    type=UsdType(),
    metavar="AMOUNT",
    help="How far below zero its balance may go, in USD; 0 is prepaid.",
)
@models_option
@expiry_option
@unending_option
@repeat_option
@json_option
@client_command
def update(
    session: Session,
    account_id: str,
    name: str | None,
    credit_limit_nano_usd: int | None,
    models: list[str] | None,
    expires_in: timedelta | datetime | None,
    never_expires: bool,
    idempotency_key: str | None,
    as_json: bool,
) -> None:
    """Change what is given of an account.

    Every core goes by it within 2 seconds.

    \b
    Examples:
      worldrouter accounts update acct_01k9 --credit-limit 100
      worldrouter accounts update acct_01k9 --models '*' --never-expires
    """
    request = account_pb2.UpdateAccountRequest(
        account=account_pb2.Account(
            id=account_id,
            display_name=name or "",
            credit_limit_nano_usd=credit_limit_nano_usd or 0,
            allowed_models=models,
        ),
        idempotency_key=idempotency_key or session.new_id(),
    )
    if expires_in is not None:
        request.account.expire_time.FromDatetime(end_of(expires_in, session.now()))
    given = {
        "display_name": name is not None,
        "credit_limit_nano_usd": credit_limit_nano_usd is not None,
        "allowed_models": models is not None,
        "expire_time": expires_in is not None or never_expires,
    }
    request.update_mask.paths.extend(named(given))
    with session.connect() as core:
        account = change(core, core.accounts.UpdateAccount, request, ends=request.account.expire_time)
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
@click.option("--parent", "parent_id", default="", metavar="ID", help="Only accounts right below it.  [default: all]")
@limit_option
@json_option
@client_command
def list_(session: Session, parent_id: str, limit: int, as_json: bool) -> None:
    """List accounts, newest first.

    \b
    Examples:
      worldrouter accounts list
      worldrouter accounts list --parent acct_01k9
      worldrouter accounts list --json | jq -r '.[].id'
    """
    with session.connect() as core:

        def page(size: int, token: str) -> tuple[list[account_pb2.Account], str]:
            request = account_pb2.ListAccountsRequest(page_size=size, page_token=token, parent_id=parent_id)
            answer = core.call(core.accounts.ListAccounts, request)
            return list(answer.accounts), answer.next_page_token

        found = collect(page, limit)
    if as_json:
        print_json([_json(account) for account in found])
    else:
        rows = [[a.id, a.display_name, _kind(a), a.parent_id, shown_time(a.create_time)] for a in found]
        print_table(["ID", "NAME", "KIND", "PARENT", "CREATED"], rows)


def _print(account: account_pb2.Account, as_json: bool) -> None:
    if as_json:
        print_json(_json(account))
        return
    print_fields(
        {
            "id": account.id,
            "name": account.display_name,
            "kind": _kind(account),
            "parent": account.parent_id or "none",
            "credit limit": f"{shown_usd(account.credit_limit_nano_usd)} USD",
            "models": ", ".join(account.allowed_models) or "all",
            "created": shown_time(account.create_time),
            "expires": shown_time(account.expire_time) if account.HasField("expire_time") else "never",
        }
    )


def _json(account: account_pb2.Account) -> dict[str, Json]:
    return {
        "id": account.id,
        "name": account.display_name,
        "kind": _kind(account),
        "parent_id": account.parent_id or None,
        "credit_limit_usd": exact_usd(account.credit_limit_nano_usd),
        "credit_limit_nano_usd": account.credit_limit_nano_usd,
        "allowed_models": list(account.allowed_models),
        "create_time": exact_time(account.create_time),
        "expire_time": exact_time(account.expire_time) if account.HasField("expire_time") else None,
    }


def _kind(account: account_pb2.Account) -> str:
    return next((name for name, kind in KINDS.items() if kind == account.kind), "unknown")
