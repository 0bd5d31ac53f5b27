"""`worldrouter usage summary`, `export` and `rebuild`: usage summed up, and as a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from typing import TypeVar

import click
from worldrouter.v1 import metering_pb2

from core.cli.client import ANSWER_TIMEOUT_S, PAGE_SIZE, Core
from core.cli.money import exact_usd, shown_usd
from core.cli.options import AnyFunction, Decorator, client_command, key_option
from core.cli.output import Json, csv_line, print_json, print_table
from core.cli.session import Session
from core.cli.usage import record_json

DEFAULT_DAYS = 30
PAGE_TIMEOUT_S = 120.0
"""For a page of a long list: sums of a large ledger take seconds while they are made anew."""

_DIMENSIONS: Mapping[str, metering_pb2.UsageDimension] = {
    "day": metering_pb2.USAGE_DIMENSION_DAY,
    "account": metering_pb2.USAGE_DIMENSION_ACCOUNT,
    "key": metering_pb2.USAGE_DIMENSION_API_KEY,
    "model": metering_pb2.USAGE_DIMENSION_MODEL,
}
Page = TypeVar("Page", metering_pb2.SummarizeUsageResponse, metering_pb2.ListUsageRecordsResponse)
_FIELDS: Mapping[str, str] = {"day": "day", "account": "account_id", "key": "api_key_id", "model": "model_id"}


class DayType(click.ParamType[date]):
    """A command line value that is a day in UTC."""

    name = "day"

    def convert(self, value: str | date, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """Parse the value; a usage error when it is not a day."""
        try:
            return value if isinstance(value, date) else date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is not a day such as 2026-11-01", param, ctx)


class DimensionsType(click.ParamType[list[str]]):
    """A command line value that is a list of what to tell apart, comma-separated."""

    name = "dimensions"

    def convert(self, value: str | list[str], param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """Split the value; a usage error when a word is unknown or stands there twice."""
        words = value.split(",") if isinstance(value, str) else value
        if len(set(words)) < len(words) or not _DIMENSIONS.keys() >= set(words):
            self.fail(f"{value!r} is not a list of {', '.join(_DIMENSIONS)}, each once at most", param, ctx)
        return words


def _range_options(command: AnyFunction) -> AnyFunction:
    """The options that say which days, accounts and keys."""
    since = click.option("--since", type=DayType(), metavar="DAY", help="First day.  [default: 29 days earlier]")
    until = click.option("--until", type=DayType(), metavar="DAY", help="Last day, included.  [default: today]")
    account = click.option("--account", "account_id", default="", metavar="ID", help="Account.  [default: your own]")
    everyone = click.option("--all-accounts", is_flag=True, help="All accounts; for the operator.")
    return since(until(account(everyone(key_option(command)))))


def _format_option(*formats: str, default: str | None) -> Decorator:
    """Flags of which one says how to print."""

    def add(command: AnyFunction) -> AnyFunction:
        for name in formats:
            text = {"json": "Print JSON, for scripts.", "csv": "Print CSV, for spreadsheets."}[name]
            shown = f"{text}  [default]" if name == default else text
            command = click.option(f"--{name}", "form", flag_value=name, default=default, help=shown)(command)
        return command

    return add


@click.command()
@click.option(
    "--by", type=DimensionsType(), metavar="WHAT", default="day,model", show_default=True,
    help="What to tell apart: any of day, account, key, model, comma-separated.",
)  # fmt: skip
@_range_options
@_format_option("csv", "json", default=None)
@client_command
def summary(
    session: Session,
    by: list[str],
    since: date | None,
    until: date | None,
    account_id: str,
    all_accounts: bool,
    key_id: str,
    form: str | None,
) -> None:
    """Sum requests up by day, account, key or model.

    Days are those of UTC, both ends included; a request counts on the day that its charge was committed. Exact at
    this moment: every committed request is in it. The cost is what was charged; refunds are in the ledger.

    \b
    Examples:
      worldrouter usage summary
      worldrouter usage summary --by model --since 2026-11-01 --until 2026-11-30
      worldrouter usage summary --by day,account --all-accounts --csv > usage.csv
    """
    first, last = _days(session, since, until)

    def page(core: Core, token: str) -> metering_pb2.SummarizeUsageResponse:
        request = metering_pb2.SummarizeUsageRequest(
            account_id=account_id, all_accounts=all_accounts, api_key_id=key_id, first_day=first, last_day=last,
            group_by=[_DIMENSIONS[each] for each in by], page_size=PAGE_SIZE, page_token=token,
        )  # fmt: skip
        return core.call(core.metering.SummarizeUsage, request, timeout_s=PAGE_TIMEOUT_S)

    with session.connect() as core:
        found = [_summary_json(each, by) for answer in _pages(core, page) for each in answer.summaries]
    if form == "json":
        print_json(found)
    elif form == "csv":
        _print_csv(iter(found), _summary_json(metering_pb2.UsageSummary(), by))
    else:
        _print_summaries(found, by)
        click.echo(f"Of {first} to {last}, UTC.", err=True)


@click.command()
@_range_options
@_format_option("csv", "json", default="csv")
@client_command
def export(
    session: Session,
    since: date | None,
    until: date | None,
    account_id: str,
    all_accounts: bool,
    key_id: str,
    form: str,
) -> None:
    """Write all requests of some days to standard output.

    Newest first, page by page, however many there are. Amounts stand twice: in USD with all their decimals, and as
    integers of nanodollars. `account_id` is who paid, the root of a tree (`summary --by account` tells the accounts
    below it apart); `shortfall` is what was not charged, as it was beyond what was held. In CSV, text that a
    spreadsheet would take for a formula begins with an apostrophe; --json prints a line for each request.

    \b
    Examples:
      worldrouter usage export --csv > usage.csv
      worldrouter usage export --since 2026-11-01 --until 2026-11-30 --all-accounts --csv > november.csv
    """
    first, last = _days(session, since, until)

    def page(core: Core, token: str) -> metering_pb2.ListUsageRecordsResponse:
        request = metering_pb2.ListUsageRecordsRequest(
            account_id=account_id, all_accounts=all_accounts, api_key_id=key_id, first_day=first, last_day=last,
            page_size=PAGE_SIZE, page_token=token,
        )  # fmt: skip
        return core.call(core.metering.ListUsageRecords, request, timeout_s=PAGE_TIMEOUT_S)

    with session.connect() as core:
        rows = (_flat(record_json(each)) for answer in _pages(core, page) for each in answer.records)
        if form == "json":
            for row in rows:
                print_json(row)
        else:
            _print_csv(rows, _flat(record_json(metering_pb2.UsageRecord())))


@click.command()
@client_command
def rebuild(session: Session) -> None:
    """Make the sums behind `summary` anew from the ledger.

    Needed only when somebody damaged them. Meanwhile summaries stay exact, and are slow.

    \b
    Example:
      worldrouter usage rebuild
    """
    with session.connect() as core:
        request = metering_pb2.RebuildUsageSummariesRequest()
        done = core.call(core.metering.RebuildUsageSummaries, request, timeout_s=ANSWER_TIMEOUT_S)
    click.echo(f"{done.entry_count} ledger entries were gone through.")


def _days(session: Session, since: date | None, until: date | None) -> tuple[str, str]:
    """First and last day as the API has them."""
    last = until or session.now().date()
    first = since or last - timedelta(days=DEFAULT_DAYS - 1)
    return first.isoformat(), last.isoformat()


def _pages(core: Core, fetch: Callable[[Core, str], Page]) -> Iterator[Page]:
    """All pages of a list, one at a time."""
    token = ""
    while True:
        answer = fetch(core, token)
        yield answer
        token = answer.next_page_token
        if not token:
            return


def _print_csv(rows: Iterator[dict[str, Json]], like: Mapping[str, Json]) -> None:
    """A heading, from the names of a row that need not be one of them, and the rows."""
    click.echo(csv_line(list(like)), nl=False)
    for row in rows:
        click.echo(csv_line([_cell(value) for value in row.values()]), nl=False)


def _cell(value: Json) -> str | int:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str | int) else ""


def _flat(row: Mapping[str, Json]) -> dict[str, Json]:
    """A record without its part for tokens: that part's fields stand in its place."""
    flat: dict[str, Json] = {}
    for name, value in row.items():
        flat |= value if isinstance(value, Mapping) else {name: value}
    return flat


def _summary_json(each: metering_pb2.UsageSummary, by: list[str]) -> dict[str, Json]:
    return {
        **{_FIELDS[name]: str(getattr(each, _FIELDS[name])) for name in by},
        "request_count": each.request_count,
        "failed_request_count": each.failed_request_count,
        "prompt_token_count": each.prompt_token_count,
        "cached_token_count": each.cached_token_count,
        "cache_write_token_count": each.cache_write_token_count,
        "completion_token_count": each.completion_token_count,
        "reasoning_token_count": each.reasoning_token_count,
        "cost_usd": exact_usd(each.cost_nano_usd),
        "cost_nano_usd": each.cost_nano_usd,
        "shortfall_usd": exact_usd(each.shortfall_nano_usd),
        "shortfall_nano_usd": each.shortfall_nano_usd,
    }


def _print_summaries(found: list[dict[str, Json]], by: list[str]) -> None:
    numbers = {
        "REQUESTS": "request_count",
        "FAILED": "failed_request_count",
        "IN": "prompt_token_count",
        "CACHED": "cached_token_count",
        "OUT": "completion_token_count",
    }
    rows = [
        [
            *(str(row[_FIELDS[name]]) or "the operator's" for name in by),
            *(str(row[name]) for name in numbers.values()),
            shown_usd(int(str(row["cost_nano_usd"]))),
        ]
        for row in found
    ]
    print_table([*map(str.upper, by), *numbers, "USD"], rows, right=[*numbers, "USD"])
