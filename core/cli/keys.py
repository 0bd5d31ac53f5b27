"""`worldrouter keys`: API keys."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

import click
from google.protobuf.timestamp_pb2 import Timestamp
from worldrouter.v1 import auth_pb2

from core.cli.changes import change, named, repeat_option
from core.cli.client import collect
from core.cli.durations import DurationType, end_of
from core.cli.options import (
    account_option,
    client_command,
    expiry_option,
    json_option,
    limit_option,
    models_option,
    unending_option,
)
from core.cli.output import Json, exact_time, print_fields, print_json, print_table, shown_time
from core.cli.session import Session


@click.group()
def keys() -> None:
    """API keys: what clients are let in with.

    They send it as `Authorization: Bearer wlrouter_…`. A key belongs to one account. Its secret is shown
    once, when it is made or rotated.
    """


@keys.command()
@click.argument("name")
@account_option
@expiry_option
@models_option
@repeat_option
@json_option
@client_command
def create(
    session: Session,
    name: str,
    account_id: str,
    expires_in: timedelta | datetime | None,
    models: list[str] | None,
    idempotency_key: str | None,
    as_json: bool,
) -> None:
    """Make a key called NAME and show its secret, this once.

    \b
    Examples:
      worldrouter keys create laptop
      worldrouter keys create ci --account acct_01k9 --expires-in 90d --models 'gpt-4o*'
      export OPENAI_API_KEY=$(worldrouter keys create laptop --json | jq -r .secret)
    """
    request = auth_pb2.CreateApiKeyRequest(
        account_id=account_id,
        display_name=name,
        allowed_models=models,
        idempotency_key=idempotency_key or session.new_id(),
    )
    if expires_in is not None:
        request.expire_time.FromDatetime(end_of(expires_in, session.now()))
    with session.connect() as core:
        key = change(core, core.auth.CreateApiKey, request, ends=request.expire_time)
    _print(key, session.now(), as_json)


@keys.command()
@click.argument("key_id", metavar="ID")
@json_option
@client_command
def get(session: Session, key_id: str, as_json: bool) -> None:
    """Show one key, without its secret.

    \b
    Example:
      worldrouter keys get key_01k9
    """
    with session.connect() as core:
        key = core.call(core.auth.GetApiKey, auth_pb2.GetApiKeyRequest(api_key_id=key_id))
    _print(key, session.now(), as_json)


@keys.command("list")
@click.option("--account", "account_id", default="", metavar="ID", help="Only keys of this account.  [default: of all]")
@limit_option
@json_option
@client_command
def list_(session: Session, account_id: str, limit: int, as_json: bool) -> None:
    """List keys, newest first, revoked ones among them.

    \b
    Examples:
      worldrouter keys list
      worldrouter keys list --account acct_01k9 --json
    """
    with session.connect() as core:

        def page(size: int, token: str) -> tuple[list[auth_pb2.ApiKey], str]:
            request = auth_pb2.ListApiKeysRequest(account_id=account_id, page_size=size, page_token=token)
            answer = core.call(core.auth.ListApiKeys, request)
            return list(answer.api_keys), answer.next_page_token

        found = collect(page, limit)
    now = session.now()
    if as_json:
        print_json([_json(key, now) for key in found])
        return
    rows = [
        [k.id, k.display_name, _recognise(k), k.account_id, _state(k, now), shown_time(k.create_time)] for k in found
    ]
    print_table(["ID", "NAME", "SECRET", "ACCOUNT", "STATE", "CREATED"], rows)


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--name", metavar="NAME", help="Name for people.")
@expiry_option
@unending_option
@models_option
@repeat_option
@json_option
@client_command
def update(
    session: Session,
    key_id: str,
    name: str | None,
    expires_in: timedelta | datetime | None,
    never_expires: bool,
    models: list[str] | None,
    idempotency_key: str | None,
    as_json: bool,
) -> None:
    """Change what is given of a key.

    Every core goes by it within 2 seconds.

    \b
    Examples:
      worldrouter keys update key_01k9 --models 'gpt-4o-mini,smollm2*'
      worldrouter keys update key_01k9 --name "Ada's laptop" --never-expires
    """
    request = auth_pb2.UpdateApiKeyRequest(
        api_key=auth_pb2.ApiKey(id=key_id, display_name=name or "", allowed_models=models),
        idempotency_key=idempotency_key or session.new_id(),
    )
    if expires_in is not None:
        request.api_key.expire_time.FromDatetime(end_of(expires_in, session.now()))
    given = {
        "display_name": name is not None,
        "expire_time": expires_in is not None or never_expires,
        "allowed_models": models is not None,
    }
    request.update_mask.paths.extend(named(given))
    with session.connect() as core:
        key = change(core, core.auth.UpdateApiKey, request, ends=request.api_key.expire_time)
    _print(key, session.now(), as_json)


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--grace", type=DurationType(), help="How long the old secret stays valid: 0s to 30d.  [default: 24h]")
@repeat_option
@json_option
@client_command
def rotate(session: Session, key_id: str, grace: timedelta | None, idempotency_key: str | None, as_json: bool) -> None:
    """Give a key a new secret and show it, this once.

    The old secret stays valid for the grace time, so that clients can change over.

    \b
    Examples:
      worldrouter keys rotate key_01k9
      worldrouter keys rotate key_01k9 --grace 0s      # the old one leaked
    """
    request = auth_pb2.RotateApiKeyRequest(api_key_id=key_id, idempotency_key=idempotency_key or session.new_id())
    if grace is not None:
        request.grace_period.FromTimedelta(grace)
    with session.connect() as core:
        answer = change(core, core.auth.RotateApiKey, request)
    _print(answer.api_key, session.now(), as_json, old_secret_ends=answer.old_secret_expire_time)


@keys.command()
@click.argument("key_id", metavar="ID")
@repeat_option
@json_option
@client_command
def revoke(session: Session, key_id: str, idempotency_key: str | None, as_json: bool) -> None:
    """Revoke a key for good.

    It is refused within 2 seconds, and its running streams are cut within 5.

    \b
    Example:
      worldrouter keys revoke key_01k9
    """
    request = auth_pb2.RevokeApiKeyRequest(api_key_id=key_id, idempotency_key=idempotency_key or session.new_id())
    with session.connect() as core:
        answer = change(core, core.auth.RevokeApiKey, request)
    _print(answer.api_key, session.now(), as_json)


@keys.command()
@click.argument("secret", required=False)
@json_option
@client_command
def verify(session: Session, secret: str | None, as_json: bool) -> None:
    """Say whose a key is. Exit status 1 when it is not valid.

    Without SECRET it is asked for, or read from standard input: an argument can be seen by others on this
    machine and stays in the shell's history.

    \b
    Examples:
      worldrouter keys verify
      echo "$OPENAI_API_KEY" | worldrouter keys verify --json
    """
    request = auth_pb2.VerifyApiKeyRequest(secret=secret or _ask_secret(session))
    with session.connect() as core:
        answer = core.call(core.auth.VerifyApiKey, request)
    if as_json:
        print_json({"valid": answer.valid, "id": answer.api_key_id, "account_id": answer.account_id})
    elif answer.valid:
        print_fields({"valid": "yes", "id": answer.api_key_id, "account": answer.account_id})
    else:
        print_fields({"valid": "no: unknown, mistyped, revoked or expired"})
    if not answer.valid:
        raise click.exceptions.Exit(1)


def _ask_secret(session: Session) -> str:
    """The secret from a prompt that does not echo, or from a pipe. An empty one would verify ourselves."""
    if session.stdin_is_terminal():
        return click.prompt("Key", type=str, hide_input=True, err=True)
    secret = sys.stdin.readline().strip()
    if not secret:
        raise click.UsageError("there is no key on standard input")
    return secret


def _print(key: auth_pb2.ApiKey, now: datetime, as_json: bool, *, old_secret_ends: Timestamp | None = None) -> None:
    if as_json:
        ends = {} if old_secret_ends is None else {"old_secret_expire_time": exact_time(old_secret_ends)}
        print_json(_json(key, now) | ends)
        return
    fields = {
        "id": key.id,
        "name": key.display_name,
        "account": key.account_id,
        "state": _state(key, now),
        "created": shown_time(key.create_time),
        "expires": shown_time(key.expire_time) if key.HasField("expire_time") else "never",
        "models": ", ".join(key.allowed_models) or "all",
        "secret": key.secret or _recognise(key),
    }
    if old_secret_ends is not None:
        fields["old secret ends"] = shown_time(old_secret_ends)
    print_fields(fields)
    if key.secret:
        click.echo("Keep the secret now: it is not shown again.", err=True)


def _json(key: auth_pb2.ApiKey, now: datetime) -> dict[str, Json]:
    secret: dict[str, Json] = {"secret": key.secret} if key.secret else {}
    return {
        "id": key.id,
        "name": key.display_name,
        **secret,
        "account_id": key.account_id,
        "state": _state(key, now),
        "allowed_models": list(key.allowed_models),
        "secret_prefix": key.secret_prefix,
        "secret_suffix": key.secret_suffix,
        "create_time": exact_time(key.create_time),
        "expire_time": exact_time(key.expire_time) if key.HasField("expire_time") else None,
        "revoke_time": exact_time(key.revoke_time) if key.HasField("revoke_time") else None,
    }


def _state(key: auth_pb2.ApiKey, now: datetime) -> str:
    if key.HasField("revoke_time"):
        return "revoked"
    if key.HasField("expire_time") and key.expire_time.ToDatetime(tzinfo=UTC) <= now:
        return "expired"
    return "active"


def _recognise(key: auth_pb2.ApiKey) -> str:
    """What is known of a secret after the day it was made."""
    return f"{key.secret_prefix}…{key.secret_suffix}"
