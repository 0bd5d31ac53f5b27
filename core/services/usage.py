"""Usage in messages: records of days, and sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Final

from worldrouter.v1 import metering_pb2, types_pb2

from core.errors import InvalidRequest
from core.services import fields
from core.services.paging import Number, Pager, Word
from storage.interfaces import UsageStore
from storage.usage_records import ALL_USAGE, UsageBounds, UsageDimension, UsageQuery, UsageRecord, UsageSum, UsedBy

UsageRequest = metering_pb2.ListUsageRecordsRequest | metering_pb2.SummarizeUsageRequest
"""Requests that say which days, accounts and keys they are about."""

_EPOCH: Final = date(1970, 1, 1)
_LAST_DAY: Final = (date.max - _EPOCH).days

_STATUSES: Mapping[str, metering_pb2.CompletionStatus] = {
    "complete": metering_pb2.COMPLETION_STATUS_COMPLETE,
    "client_gone": metering_pb2.COMPLETION_STATUS_CLIENT_GONE,
    "upstream_failed": metering_pb2.COMPLETION_STATUS_UPSTREAM_FAILED,
    "timeout": metering_pb2.COMPLETION_STATUS_TIMEOUT,
    "revoked": metering_pb2.COMPLETION_STATUS_REVOKED,
    "shutdown": metering_pb2.COMPLETION_STATUS_SHUTDOWN,
    "internal_error": metering_pb2.COMPLETION_STATUS_INTERNAL_ERROR,
}

_DIMENSIONS: Mapping[int, UsageDimension] = {
    metering_pb2.USAGE_DIMENSION_DAY: "day",
    metering_pb2.USAGE_DIMENSION_ACCOUNT: "account",
    metering_pb2.USAGE_DIMENSION_API_KEY: "api_key",
    metering_pb2.USAGE_DIMENSION_MODEL: "model",
}


def query(request: UsageRequest, whose: UsedBy | None) -> UsageQuery:
    """The days of a request, of one account, of one key or of all. Raises InvalidRequest."""
    first_day = _day(request.first_day, "first_day", default=0)
    last_day = _day(request.last_day, "last_day", default=_LAST_DAY)
    if last_day < first_day:
        raise InvalidRequest("last_day is before first_day.", param="last_day")
    return UsageQuery(first_day, last_day, whose)


async def records(
    store: UsageStore, query: UsageQuery, request: metering_pb2.ListUsageRecordsRequest
) -> metering_pb2.ListUsageRecordsResponse:
    """A page of records, newest first. Its position is the last id seen and the least one to look at."""
    scope = ["ListUsageRecords", *_scope(query)]
    pager = Pager(scope, tuple[Number, Number], request.page_size, request.page_token)
    bounds: UsageBounds | None = ALL_USAGE
    if pager.after is not None:
        bounds = UsageBounds(pager.after[1], pager.after[0] - 1)
    elif request.first_day or request.last_day or request.api_key_id:
        # A key that is out of use may be far from the newest entries, where a database might begin to look for it.
        bounds = await store.usage_bounds(query)
    if bounds is None:
        return metering_pb2.ListUsageRecordsResponse()
    first_id = bounds.first_id
    page = pager.page(
        await store.usage_between(query, bounds, limit=pager.limit), lambda record: (record.entry_id, first_id)
    )
    return metering_pb2.ListUsageRecordsResponse(
        records=map(record_message, page.items), next_page_token=page.next_page_token
    )


async def summaries(
    store: UsageStore, query: UsageQuery, request: metering_pb2.SummarizeUsageRequest
) -> metering_pb2.SummarizeUsageResponse:
    """A page of sums. Its position is the last group seen. Raises InvalidRequest."""
    by = _dimensions(request.group_by)
    scope = ["SummarizeUsage", *_scope(query), *by]
    pager = Pager(scope, tuple[Number | Word, ...], request.page_size, request.page_token)
    found = await store.summarize_usage(query, by, after=pager.after, limit=pager.limit)
    page = pager.page(found, lambda sums: tuple(_key(sums, each) for each in by))
    return metering_pb2.SummarizeUsageResponse(
        summaries=map(_summary_message, page.items), next_page_token=page.next_page_token
    )


def record_message(record: UsageRecord) -> metering_pb2.UsageRecord:
    """A record as the API has it."""
    settled = record.settlement
    return metering_pb2.UsageRecord(
        request_id=settled.request_id,
        client_request_id=settled.client_request_id,
        account_id=settled.account_id,
        api_key_id=settled.key_id or "",
        model_id=settled.model_id,
        endpoint=settled.endpoint,
        status=_STATUSES[settled.status],
        finish_reason=settled.finish_reason,
        error_reason=settled.error_reason,
        usage=types_pb2.Usage(
            prompt_token_count=settled.prompt_tokens,
            completion_token_count=settled.completion_tokens,
            total_token_count=settled.prompt_tokens + settled.completion_tokens,
            cached_token_count=settled.cached_tokens,
            reasoning_token_count=settled.reasoning_tokens,
            cache_write_token_count=settled.cache_write_tokens,
            estimated=settled.estimated,
        ),
        cost_nano_usd=settled.amount_nano_usd,
        shortfall_nano_usd=settled.shortfall_nano_usd,
        price_id=settled.price_id,
        attempt_count=settled.attempts,
        time_to_first_token_ms=settled.ttft_ms,
        duration_ms=settled.duration_ms,
        streamed=settled.streamed,
        create_time=fields.timestamp(record.created_us),
    )


def _summary_message(sums: UsageSum) -> metering_pb2.UsageSummary:
    return metering_pb2.UsageSummary(
        day=None if sums.day is None else date.fromordinal(_EPOCH.toordinal() + sums.day).isoformat(),
        account_id=sums.account_id,
        api_key_id=sums.key_id,
        model_id=sums.model_id,
        request_count=sums.requests,
        failed_request_count=sums.failed_requests,
        prompt_token_count=sums.prompt_tokens,
        cached_token_count=sums.cached_tokens,
        cache_write_token_count=sums.cache_write_tokens,
        completion_token_count=sums.completion_tokens,
        reasoning_token_count=sums.reasoning_tokens,
        cost_nano_usd=sums.amount_nano_usd,
        shortfall_nano_usd=sums.shortfall_nano_usd,
    )


def _key(sums: UsageSum, dimension: UsageDimension) -> int | str:
    values = {"day": sums.day, "account": sums.account_id, "api_key": sums.key_id, "model": sums.model_id}
    value = values[dimension]
    assert value is not None, "what is told apart has a value"
    return value


def _dimensions(group_by: Sequence[int]) -> list[UsageDimension]:
    if len(set(group_by)) < len(group_by) or not _DIMENSIONS.keys() >= set(group_by):
        raise InvalidRequest("group_by must name each dimension once at most.", param="group_by")
    return [_DIMENSIONS[each] for each in group_by]


def _scope(query: UsageQuery) -> list[str]:
    # No account's id is "*".
    whose = ("*",) if query.whose is None else (query.whose.account_id, query.whose.key_id or "")
    return [*whose, str(query.first_day), str(query.last_day)]


def _day(text: str, param: str, *, default: int) -> int:
    """Days since the Unix epoch of a date such as 2026-11-01."""
    if not text:
        return default
    try:
        day = date.fromisoformat(text) if len(text) == len("2026-11-01") else None
    except ValueError:
        day = None
    if day is None or day < _EPOCH or day.isoformat() != text:
        raise InvalidRequest(f"{param} must be a day such as 2026-11-01.", param=param)
    return (day - _EPOCH).days
