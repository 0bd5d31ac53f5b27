"""`worldrouter limits`: what accounts and keys may use."""

from __future__ import annotations

from typing import Final

import click
from worldrouter.v1 import limit_pb2

from core.cli.changes import change, repeat_option
from core.cli.client import PAGE_SIZE
from core.cli.money import UsdType, exact_usd, shown_usd
from core.cli.options import WholeNumber, client_command, json_option
from core.cli.output import Json, enum_word, print_fields, print_json, print_table
from core.cli.session import Session

SPEND_PERIODS: Final = {
    "day": limit_pb2.LIMIT_PERIOD_DAY,
    "month": limit_pb2.LIMIT_PERIOD_MONTH,
    "lifetime": limit_pb2.LIMIT_PERIOD_LIFETIME,
}
_COUNT = WholeNumber(0, 2**63 - 1)


@click.group()
def limits() -> None:
    """Limits: what accounts and keys may use.

    A limit of an account counts for all keys and accounts below it, a request against all limits above it.
    """


@limits.command("set")
@click.argument("owner_id", metavar="OWNER")
@click.option("--usd", type=UsdType(), metavar="AMOUNT", help="Most to spend, in USD; needs --per.")
@click.option("--per", type=click.Choice(list(SPEND_PERIODS)), help="Over what --usd counts; days and months in UTC.")
@click.option("--requests", type=_COUNT, help="Most requests per minute.")
@click.option("--tokens", type=_COUNT, help="Most tokens per minute, of input and output together.")
@click.option("--concurrency", type=_COUNT, help="Most requests at the same time.")
@repeat_option
@json_option
@client_command
def set_(
    session: Session,
    owner_id: str,
    usd: int | None,
    per: str | None,
    requests: int | None,
    tokens: int | None,
    concurrency: int | None,
    idempotency_key: str | None,
    as_json: bool,
) -> None:
    """Set one limit of OWNER, an account or a key.

    An account or key has at most one of each kind: setting it again changes the maximum, and what was used stays
    used; 0 forbids all of it. What was used before a limit was made does not count. Every core goes by it within 2
    seconds.

    \b
    Examples:
      worldrouter limits set acct_01k9 --usd 50 --per month
      worldrouter limits set key_01k9 --requests 60
      worldrouter limits set key_01k9 --concurrency 4 --json
    """
    maxima = {
        limit_pb2.LIMIT_MEASURE_SPEND: usd,
        limit_pb2.LIMIT_MEASURE_REQUESTS: requests,
        limit_pb2.LIMIT_MEASURE_TOKENS: tokens,
        limit_pb2.LIMIT_MEASURE_CONCURRENCY: concurrency,
    }
    given = [(measure, maximum) for measure, maximum in maxima.items() if maximum is not None]
    if len(given) != 1 or (usd is None) != (per is None):
        raise click.UsageError("give one of these: --usd with --per, --requests, --tokens, --concurrency")
    [(measure, maximum)] = given
    period = limit_pb2.LIMIT_PERIOD_MINUTE
    if per is not None:
        period = SPEND_PERIODS[per]
    elif concurrency is not None:
        period = limit_pb2.LIMIT_PERIOD_NOW
    request = limit_pb2.SetLimitRequest(
        owner_id=owner_id,
        measure=measure,
        period=period,
        maximum=maximum,
        idempotency_key=idempotency_key or session.new_id(),
    )
    with session.connect() as core:
        limit = change(core, core.limits.SetLimit, request)
    if as_json:
        print_json(_json(limit))
        return
    columns = ["id", "owner", "measure", "per", "maximum", "used"]
    print_fields(dict(zip(columns, _row(limit), strict=True)))


@limits.command("list")
@click.argument("owner_id", metavar="OWNER")
@click.option("--inherited", is_flag=True, help="Those of all accounts above it, too.")
@json_option
@client_command
def list_(session: Session, owner_id: str, inherited: bool, as_json: bool) -> None:
    """List the limits of OWNER, an account or a key, with their use.

    What is used of --concurrency are the slots that cores have, which may be more than the requests that run: those
    of a request go back up to four seconds after its end.

    \b
    Examples:
      worldrouter limits list acct_01k9
      worldrouter limits list key_01k9 --inherited --json
    """
    request = limit_pb2.ListLimitsRequest(owner_id=owner_id, inherited=inherited, page_size=PAGE_SIZE)
    with session.connect() as core:
        found = core.call(core.limits.ListLimits, request).limits  # a page holds more than there can be
    if as_json:
        print_json([_json(limit) for limit in found])
    else:
        columns = ["ID", "OWNER", "MEASURE", "PER", "MAXIMUM", "USED"]
        print_table(columns, [_row(limit) for limit in found], right=["MAXIMUM", "USED"])


@limits.command()
@click.argument("limit_id", metavar="ID")
@repeat_option
@client_command
def delete(session: Session, limit_id: str, idempotency_key: str | None) -> None:
    """Delete a limit, and what is known of its use.

    \b
    Example:
      worldrouter limits delete limit_01k9
    """
    request = limit_pb2.DeleteLimitRequest(limit_id=limit_id, idempotency_key=idempotency_key or session.new_id())
    with session.connect() as core:
        change(core, core.limits.DeleteLimit, request)


def _row(limit: limit_pb2.Limit) -> list[str]:
    numbers = [str(limit.maximum), str(limit.used)]
    if limit.measure == limit_pb2.LIMIT_MEASURE_SPEND:
        numbers = [f"{shown_usd(limit.maximum)} USD", f"{shown_usd(limit.used)} USD"]
    return [limit.id, limit.owner_id, _measure(limit), _period(limit), *numbers]


def _json(limit: limit_pb2.Limit) -> dict[str, Json]:
    exact: dict[str, Json] = {}
    if limit.measure == limit_pb2.LIMIT_MEASURE_SPEND:
        exact = {"maximum_usd": exact_usd(limit.maximum), "used_usd": exact_usd(limit.used)}
    return {
        "id": limit.id,
        "owner_id": limit.owner_id,
        "measure": _measure(limit),
        "period": _period(limit),
        "maximum": limit.maximum,
        "used": limit.used,
        **exact,
    }


def _measure(limit: limit_pb2.Limit) -> str:
    return enum_word(limit_pb2.LimitMeasure.DESCRIPTOR, limit.measure)


def _period(limit: limit_pb2.Limit) -> str:
    return enum_word(limit_pb2.LimitPeriod.DESCRIPTOR, limit.period)
