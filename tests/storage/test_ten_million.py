"""How fast usage is found in a ledger of ten million entries, on both databases; `ROWS=1000000` for fewer."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable
from typing import TypeVar

import pytest
from sqlalchemy import Dialect, make_url
from sqlalchemy.schema import CreateIndex

from storage.interfaces import Store
from storage.records import NewApiKey, SecretHash
from storage.tables import ledger
from storage.usage import US_PER_DAY
from storage.usage_records import ALL_USAGE, UsageBounds, UsageQuery, UsedBy
from tests.storage.conftest import Query

pytestmark = [pytest.mark.long, pytest.mark.timeout(3_600)]

T = TypeVar("T")

ROWS = int(os.environ.get("ROWS", "10000000"))
STEP = 500_000
DAYS, FIRST_DAY = 365, 20_000
EVER = (0, 100_000)
PAGE = 101
MOST_S = 3.0
"""Far above what an answer takes, far below a look at every entry."""

# Nine of ten requests are of one organisation, by one of 500 keys: 50 of them are a group's, and every 100,000th is of
# a team with 21 keys that nearly never asks.
FILL = """
    WITH RECURSIVE numbers(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {last})
    INSERT INTO ledger (ref, kind, created_us, debit_account, credit_account, amount, shortfall, note, lease_id, key_id,
      client_request_id, model_id, endpoint, price_id, prompt_tokens, cached_tokens, cache_write_tokens,
      completion_tokens, reasoning_tokens, estimated, status, finish_reason, error_reason, attempts, streamed, ttft_ms,
      duration_ms, core_id)
    SELECT '01m812gf204vccwcar' || (10000000 + n), 'usage', {day} * {us_per_day} + n * ({us_per_day} / {per_day}),
      CASE WHEN n % 10 = 0 THEN 'acc_' || (n % 97) ELSE 'org' END, 'house_usage', 5, 0, '',
      'lease_01m812gf1nx764hhqnqpbffe' || (n % 100),
      CASE WHEN n % 100000 = 7 THEN 'key_little' WHEN n % 10 = 0 THEN 'key_acc_' || (n % 97)
      ELSE 'key_' || (n % 500) END, '', 'model_' || (n % 3), 'endpoint',
      'price_1', 300, 0, 0, 20, 0, {false}, 'complete', 'stop', '', 1, {false}, 12, 345, 'core_1' FROM numbers
"""


async def filled(store: Store, query: Query, *, false: str, dialect: Dialect) -> None:
    await store.create_account("org", "Org", "user")
    for account_id, keys in (("team", ["key_little", *(f"unused_{n}" for n in range(20))]), ("group", range(50))):
        await store.create_account(account_id, "Below", "user", parent_id="org")
        for key in keys:
            name = key if isinstance(key, str) else f"key_{key}"
            await store.create_key(NewApiKey(name, account_id, "Key", SecretHash(b"d", 1), "p", "s", None))
    values = {"day": FIRST_DAY, "us_per_day": US_PER_DAY, "per_day": max(ROWS // DAYS, 1), "false": false}
    for index in ledger.indexes:  # made anew behind the entries, which takes a third of the time
        await query(f"DROP INDEX {index.name}")
    for first in range(0, ROWS, STEP):
        await query(FILL.format(first=first, last=min(first + STEP, ROWS), **values))
    for index in ledger.indexes:
        await query(str(CreateIndex(index).compile(dialect=dialect)))


async def timed(what: str, work: Awaitable[T]) -> tuple[float, T]:
    began_s = time.monotonic()
    found = await work
    took_s = time.monotonic() - began_s
    sys.stdout.write(f"{what}: {took_s:,.3f} s\n")
    return took_s, found


async def test_usage_is_found_among_ten_million_entries(store, query, database_url) -> None:
    """A page of whoever paid, of a little-used and of a busy account below it, and sums by day take no longer than a
    page takes, whatever else is in the ledger."""
    dialect = make_url(database_url).get_dialect()()
    sys.stdout.write(f"\n{ROWS:,} entries, {dialect.name}\n")
    await timed("fill", filled(store, query, false="0" if dialect.name == "sqlite" else "false", dialect=dialect))
    await timed("roll up", store.roll_up_usage())
    if dialect.name == "postgresql":
        await query("ANALYZE")  # as it does by itself, sooner or later
    for whose in ("org", "team", "group", "acc_10"):
        used_by = UsedBy(whose, whose if whose.startswith("acc") else "org")
        for days in (EVER, (FIRST_DAY + 100, FIRST_DAY + 130)):
            asked = UsageQuery(*days, used_by)
            bounds_s, bounds = 0.0, ALL_USAGE
            if days != EVER:
                bounds_s, bounds = await timed(f"{whose} {days}: bounds", store.usage_bounds(asked))
            assert bounds is not None
            sys.stdout.write(f"{whose} {days}\n")
            first_s, page = await timed("  first page", store.usage_between(asked, bounds, limit=PAGE))
            middle = UsageBounds(bounds.first_id, (page[0].entry_id + bounds.first_id) // 2)
            second_s, _ = await timed("  a page in the middle", store.usage_between(asked, middle, limit=PAGE))
            by_day_s, _ = await timed("  by day", store.summarize_usage(asked, ("day",), after=None, limit=PAGE))
            assert page
            assert max(bounds_s + first_s, second_s, by_day_s) < MOST_S
    [[key_id]] = await query("SELECT min(key_id) FROM usage_daily WHERE account_id = 'org'")
    asked = UsageQuery(*EVER, UsedBy("group", "org", key_id))
    of_key_s, page = await timed(f"{key_id}: first page", store.usage_between(asked, ALL_USAGE, limit=PAGE))
    assert {record.settlement.key_id for record in page} == {key_id}
    assert of_key_s < MOST_S
    asked, count = UsageQuery(*EVER, UsedBy("group", "org")), 0
    bounds, began_s = ALL_USAGE, time.monotonic()
    for _ in range(20):
        page = await store.usage_between(asked, bounds, limit=1_000)
        bounds, count = UsageBounds(bounds.first_id, page[-1].entry_id - 1), count + len(page)
    sys.stdout.write(f"export of group: {count / (time.monotonic() - began_s):,.0f} entries a second\n")
