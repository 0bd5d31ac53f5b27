"""Usage by day over a real server: records of days, sums, and making the sums anew."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from worldrouter.v1 import metering_pb2

from storage.records import Settlement

C = grpc.StatusCode
DAY, ACCOUNT = metering_pb2.USAGE_DIMENSION_DAY, metering_pb2.USAGE_DIMENSION_ACCOUNT
KEY, MODEL = metering_pb2.USAGE_DIMENSION_API_KEY, metering_pb2.USAGE_DIMENSION_MODEL


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


def settlement(
    number: int, account_id: str, *, model: str = "m", status: str = "complete", key_id: str = "key_a"
) -> Settlement:
    return Settlement(
        request_id=f"{number:026}",
        account_id=account_id,
        lease_id=None,
        amount_nano_usd=0,
        shortfall_nano_usd=0,
        key_id=None if number % 4 == 0 else key_id,
        client_request_id="",
        model_id=model,
        endpoint="e",
        price_id="",
        prompt_tokens=10,
        cached_tokens=4,
        cache_write_tokens=1,
        completion_tokens=20,
        reasoning_tokens=5,
        estimated=False,
        status=status,
        finish_reason="stop",
        error_reason="",
        attempts=1,
        streamed=False,
        ttft_ms=None,
        duration_ms=1,
        core_id="core_a",
    )


@pytest.fixture
async def key(core) -> Any:
    """The credential of a key of team-a, which has ten requests; the default account has five."""
    await core.make_account("team-a")
    await core.store.settle([settlement(n, "team-a", model=f"m{n % 2}") for n in range(10)])
    await core.store.settle([settlement(n, "default", status="timeout") for n in range(10, 15)])
    return bearer((await core.make_key("team-a")).secret)


def summarize(core, metadata: Any, **fields: Any) -> Any:
    return core.metering.SummarizeUsage(metering_pb2.SummarizeUsageRequest(**fields), metadata=metadata)


def listed(core, metadata: Any, **fields: Any) -> Any:
    return core.metering.ListUsageRecords(metering_pb2.ListUsageRecordsRequest(**fields), metadata=metadata)


async def test_a_total_says_all_there_is(core, key) -> None:
    """Without groups there is one row, of the caller's account; nothing in it is told apart."""
    [row] = (await summarize(core, key)).summaries
    assert (row.request_count, row.failed_request_count) == (10, 0)
    assert (row.prompt_token_count, row.cached_token_count, row.cache_write_token_count) == (100, 40, 10)
    assert (row.completion_token_count, row.reasoning_token_count) == (200, 50)
    assert not any(row.HasField(name) for name in ("day", "account_id", "api_key_id", "model_id"))
    [own] = (await summarize(core, core.operator)).summaries
    assert (own.request_count, own.failed_request_count) == (5, 5)


async def test_groups_ascend_in_the_order_asked_for(core, key) -> None:
    """By several things at once; the operator's own requests have an empty key."""
    rows = (await summarize(core, key, group_by=[MODEL, KEY])).summaries
    assert [(row.model_id, row.api_key_id, row.request_count) for row in rows] == [
        ("m0", "", 3),
        ("m0", "key_a", 2),
        ("m1", "key_a", 5),
    ]
    assert all(row.HasField("api_key_id") and not row.HasField("day") for row in rows)
    rows = (await summarize(core, core.operator, group_by=[DAY, ACCOUNT], all_accounts=True)).summaries
    today = datetime.now(UTC).date().isoformat()
    assert [(row.account_id, row.request_count) for row in rows] == [("default", 5), ("team-a", 10)]
    assert {row.day for row in rows} <= {today, datetime.now(UTC).date().isoformat()}


async def test_days_bound_sums_and_lists(core, key) -> None:
    """Both ends are included; before and after there is nothing."""
    today = datetime.now(UTC).date().isoformat()
    for days, count in (
        ({"first_day": today}, 10),
        ({"first_day": "1970-01-01", "last_day": "9999-12-31"}, 10),
        ({"last_day": "2020-01-01"}, 0),
        ({"first_day": "9999-12-31"}, 0),
    ):
        assert sum(row.request_count for row in (await summarize(core, key, **days)).summaries) == count
        assert len((await listed(core, key, **days)).records) == count


async def test_the_operator_lists_and_sums_all_accounts(core, key, failure) -> None:
    """Nobody else does, and not together with one account."""
    records = (await listed(core, core.operator, all_accounts=True)).records
    assert [int(record.request_id) for record in records] == list(range(14, -1, -1))
    [row] = (await summarize(core, core.operator, all_accounts=True)).summaries
    assert row.request_count == 15
    for call in (summarize, listed):
        failed = await failure(call(core, key, all_accounts=True))
        assert (failed.code, failed.reason, failed.param) == (C.PERMISSION_DENIED, "FORBIDDEN", "all_accounts")
        failed = await failure(call(core, core.operator, all_accounts=True, account_id="team-a"))
        assert (failed.code, failed.param) == (C.INVALID_ARGUMENT, "account_id")
        for account_id in ("default", "acct_none"):
            failed = await failure(call(core, key, account_id=account_id))
            assert (failed.code, failed.param) == (C.NOT_FOUND, "account_id")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"first_day": "2026-02-30"}, "first_day"),
        ({"first_day": "20260201"}, "first_day"),
        ({"first_day": "2026-W01-1"}, "first_day"),
        ({"first_day": "1969-12-31"}, "first_day"),
        ({"last_day": "today"}, "last_day"),
        ({"first_day": "2026-02-02", "last_day": "2026-02-01"}, "last_day"),
        ({"group_by": [DAY, DAY]}, "group_by"),
        ({"group_by": [0]}, "group_by"),
        ({"group_by": [99]}, "group_by"),
        ({"page_token": "x"}, "page_token"),
        ({"page_size": -1}, "page_size"),
    ],
)
async def test_what_is_no_question_is_refused(core, key, failure, fields: dict[str, Any], param: str) -> None:
    """By the name of the field that is wrong."""
    failed = await failure(summarize(core, key, **fields))
    assert (failed.code, failed.param) == (C.INVALID_ARGUMENT, param)


async def test_pages_cover_sums_and_records_once(core, key, failure) -> None:
    """Following the tokens to the end; a token is good for its own question alone."""
    by, token, found = [MODEL, KEY, ACCOUNT], "", []
    while True:
        page = await summarize(core, core.operator, all_accounts=True, group_by=by, page_size=1, page_token=token)
        found += page.summaries
        token = page.next_page_token
        if not token:
            break
        failed = await failure(summarize(core, core.operator, all_accounts=True, group_by=[MODEL], page_token=token))
        assert failed.param == "page_token"
        await core.store.roll_up_usage()
    assert sum(row.request_count for row in found) == 15
    assert len(found) == 5
    token, ids = "", []
    while True:
        page = await listed(core, key, first_day="2020-01-01", page_size=3, page_token=token)
        ids += [int(record.request_id) for record in page.records]
        token = page.next_page_token
        if not token:
            break
        assert (await failure(listed(core, key, page_token=token))).param == "page_token"
    assert ids == list(range(9, -1, -1))


async def test_the_sums_are_made_anew(core, key) -> None:
    """The operator has the ledger gone through; the answers stay as they were."""
    before = await summarize(core, key, group_by=[MODEL, KEY, DAY])
    request = metering_pb2.RebuildUsageSummariesRequest()
    assert (await core.metering.RebuildUsageSummaries(request, metadata=core.operator)).entry_count == 15
    assert await summarize(core, key, group_by=[MODEL, KEY, DAY]) == before


async def test_a_key_below_sees_its_account_and_what_is_under_that(core, failure) -> None:
    """Usage of an account is what its keys and those below it used: records, days, sums and single requests."""
    await core.make_account("org")
    keys = {}
    for account_id, parent_id in (("team", "org"), ("group", "team"), ("other", "org")):
        await core.make_account(account_id, parent_id=parent_id)
        keys[account_id] = await core.make_key(account_id)
    used = [settlement(n, "org", key_id=key.id) for n, key in zip((1, 2, 3), keys.values(), strict=True)]
    await core.store.settle(used)
    team = bearer(keys["team"].secret)
    for metadata, fields in ((team, {}), (core.operator, {"account_id": "team"})):
        assert [record.request_id[-1] for record in (await listed(core, metadata, **fields)).records] == ["2", "1"]
        assert (await summarize(core, metadata, **fields)).summaries[0].request_count == 2
    sums = (await summarize(core, core.operator, account_id="org", group_by=[ACCOUNT])).summaries
    assert [(row.account_id, row.request_count) for row in sums] == [("group", 1), ("other", 1), ("team", 1)]
    request = metering_pb2.GetUsageRecordRequest(request_id=f"{2:026}")
    assert (await core.metering.GetUsageRecord(request, metadata=team)).api_key_id == keys["group"].id
    request = metering_pb2.GetUsageRecordRequest(request_id=f"{3:026}")
    assert (await failure(core.metering.GetUsageRecord(request, metadata=team))).code is C.NOT_FOUND
    for account_id in ("org", "group"):
        assert (await failure(summarize(core, team, account_id=account_id))).code is C.NOT_FOUND


async def test_lists_and_sums_of_one_key(core, key, failure) -> None:
    """Of the account's own and those below it, page by page; for the operator of any; of another's there is none."""
    await core.make_account("below", parent_id="team-a")
    mine, below, other = [(await core.make_key(owner)).id for owner in ("team-a", "below", "default")]
    await core.store.settle([settlement(n, "team-a", key_id=mine) for n in range(21, 24)])
    await core.store.settle([settlement(25, "team-a", key_id=below), settlement(26, "default", key_id=other)])
    today = datetime.now(UTC).date().isoformat()
    for metadata in (key, core.operator):
        for fields in ({"api_key_id": mine}, {"api_key_id": mine, "account_id": "team-a", "first_day": today}):
            first = await listed(core, metadata, page_size=2, **fields)
            last = await listed(core, metadata, page_size=2, page_token=first.next_page_token, **fields)
            assert [int(each.request_id) for each in (*first.records, *last.records)] == [23, 22, 21]
            assert not last.next_page_token
            failed = await failure(
                listed(core, metadata, page_token=first.next_page_token, **fields | {"api_key_id": below})
            )
            assert (failed.code, failed.param) == (C.INVALID_ARGUMENT, "page_token")
            assert (await summarize(core, metadata, **fields)).summaries[0].request_count == 3
        assert [record.api_key_id for record in (await listed(core, metadata, api_key_id=below)).records] == [below]
    for fields in ({}, {"account_id": "default"}, {"all_accounts": True}):
        assert len((await listed(core, core.operator, api_key_id=other, **fields)).records) == 1
    unused = (await core.make_key("below")).id
    assert list((await listed(core, key, api_key_id=unused)).records) == []
    for call in (summarize, listed):
        for metadata, fields in (
            (key, {"api_key_id": other}),
            (key, {"api_key_id": "key_none"}),
            (key, {"api_key_id": "% no id"}),
            (core.operator, {"api_key_id": "key_none"}),
            (core.operator, {"api_key_id": mine, "account_id": "default"}),
            (core.operator, {"api_key_id": mine, "account_id": "below"}),
        ):
            failed = await failure(call(core, metadata, **fields))
            assert (failed.code, failed.param) == (C.NOT_FOUND, "api_key_id")
        failed = await failure(call(core, key, api_key_id=mine, account_id="default"))
        assert (failed.code, failed.param) == (C.NOT_FOUND, "account_id")
