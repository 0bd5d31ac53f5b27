"""`worldrouter usage` and `usage records`: what requests came to, one by one."""

from __future__ import annotations

import click
from worldrouter.v1 import metering_pb2, types_pb2

from core.cli.client import collect
from core.cli.money import exact_usd, shown_usd
from core.cli.options import account_option, client_command, json_option, key_option, limit_option
from core.cli.output import Json, enum_word, exact_time, print_fields, print_json, print_table, shown_time
from core.cli.session import Session


class _OrRecords(click.Group):
    """A group whose command `records` may be left out: `worldrouter usage ID` shows a request."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the name back in where none of a command comes first."""
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["records", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_OrRecords)
def usage() -> None:
    """What requests came to, one by one, summed up, and as a file.

    Without a command it is `records`: `worldrouter usage` lists requests, `worldrouter usage REQUEST_ID` shows one.
    """


@usage.command()
@click.argument("request_id", required=False)
@account_option
@key_option
@limit_option
@json_option
@client_command
def records(session: Session, request_id: str | None, account_id: str, key_id: str, limit: int, as_json: bool) -> None:
    """List the requests of an account or of an API key, or show one.

    The list begins with the newest. REQUEST_ID is the `x-request-id` of an answer; the `chatcmpl-` in front
    of it may stay. What --json prints as `cost_usd` is exact. The word `records` may be left out.

    \b
    Examples:
      worldrouter usage
      worldrouter usage 01k9zvw3 --json | jq -r .cost_usd
      worldrouter usage records --account acct_01k9 --limit 1000 --json
    """
    with session.connect() as core:
        if request_id is not None:
            wanted = metering_pb2.GetUsageRecordRequest(request_id=request_id.removeprefix("chatcmpl-"))
            _print_record(core.call(core.metering.GetUsageRecord, wanted), as_json)
            return

        def page(size: int, token: str) -> tuple[list[metering_pb2.UsageRecord], str]:
            request = metering_pb2.ListUsageRecordsRequest(
                account_id=account_id, api_key_id=key_id, page_size=size, page_token=token
            )
            answer = core.call(core.metering.ListUsageRecords, request)
            return list(answer.records), answer.next_page_token

        found = collect(page, limit)
    _print_records(found, as_json)


def _print_records(records: list[metering_pb2.UsageRecord], as_json: bool) -> None:
    if as_json:
        print_json([record_json(record) for record in records])
        return
    columns = ["REQUEST", "TIME", "MODEL", "STATUS", "IN", "OUT", "USD", "MS"]
    rows = [
        [
            record.request_id,
            shown_time(record.create_time),
            record.model_id,
            _status(record),
            str(record.usage.prompt_token_count),
            str(record.usage.completion_token_count),
            shown_usd(record.cost_nano_usd),
            str(record.duration_ms),
        ]
        for record in records
    ]
    print_table(columns, rows, right=["IN", "OUT", "USD", "MS"])


def _print_record(record: metering_pb2.UsageRecord, as_json: bool) -> None:
    if as_json:
        print_json(record_json(record))
        return
    usage = record.usage
    cost = f"{shown_usd(record.cost_nano_usd)} USD"
    if record.shortfall_nano_usd:
        cost += f"; {shown_usd(record.shortfall_nano_usd)} USD beyond what was held were not charged"
    written = f", {usage.cache_write_token_count} written to the cache" if usage.cache_write_token_count else ""
    first = f"{record.time_to_first_token_ms} ms" if record.HasField("time_to_first_token_ms") else "none came"
    print_fields(
        {
            "request": record.request_id,
            "client's id": record.client_request_id or "none",
            "time": shown_time(record.create_time),
            "account": record.account_id,
            "key": record.api_key_id or "the operator's",
            "model": record.model_id,
            "endpoint": record.endpoint or "none answered",
            "status": " ".join(filter(None, [_status(record), record.error_reason])),
            "finish reason": record.finish_reason or "none",
            "input": f"{usage.prompt_token_count} tokens, {usage.cached_token_count} of them cached{written}",
            "output": f"{usage.completion_token_count} tokens, {usage.reasoning_token_count} of them reasoning",
            "counted": "by estimate" if usage.estimated else "by the upstream",
            "cost": cost,
            "price": record.price_id or "none",
            "attempts": str(record.attempt_count),
            "first token": first,
            "duration": f"{record.duration_ms} ms",
            "streamed": "yes" if record.streamed else "no",
        }
    )


def record_json(record: metering_pb2.UsageRecord) -> dict[str, Json]:
    """A record for JSON."""
    first = record.time_to_first_token_ms if record.HasField("time_to_first_token_ms") else None
    return {
        "request_id": record.request_id,
        "client_request_id": record.client_request_id,
        "account_id": record.account_id,
        "api_key_id": record.api_key_id,
        "model_id": record.model_id,
        "endpoint": record.endpoint,
        "status": _status(record),
        "finish_reason": record.finish_reason,
        "error_reason": record.error_reason,
        "usage": usage_json(record.usage),
        "cost_usd": exact_usd(record.cost_nano_usd),
        "cost_nano_usd": record.cost_nano_usd,
        "shortfall_usd": exact_usd(record.shortfall_nano_usd),
        "shortfall_nano_usd": record.shortfall_nano_usd,
        "price_id": record.price_id,
        "attempt_count": record.attempt_count,
        "time_to_first_token_ms": first,
        "duration_ms": record.duration_ms,
        "streamed": record.streamed,
        "create_time": exact_time(record.create_time),
    }


def usage_json(usage: types_pb2.Usage) -> dict[str, Json]:
    """Token counts for JSON, under the names of the API."""
    return {
        "prompt_token_count": usage.prompt_token_count,
        "completion_token_count": usage.completion_token_count,
        "total_token_count": usage.total_token_count,
        "cached_token_count": usage.cached_token_count,
        "cache_write_token_count": usage.cache_write_token_count,
        "reasoning_token_count": usage.reasoning_token_count,
        "estimated": usage.estimated,
    }


def _status(record: metering_pb2.UsageRecord) -> str:
    return enum_word(metering_pb2.CompletionStatus.DESCRIPTOR, record.status)
