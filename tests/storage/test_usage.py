"""Usage by day: roll-ups behind the ledger and exact answers from them, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import product
from typing import Any

import pytest
from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import create_async_engine

from storage.postgres import Horizon
from storage.records import NewApiKey, SecretHash
from storage.store import open_store
from storage.usage import MAX_COUNTED, STEP_ENTRIES, US_PER_DAY
from storage.usage_records import UsageBounds, UsageDimension, UsageQuery, UsageSum, UsedBy

EVER = UsageQuery(0, 100_000, None)
ALL: Sequence[UsageDimension] = ("day", "account", "api_key", "model")
DAY = 20_000

INSERT = """
    INSERT INTO ledger (ref, kind, created_us, debit_account, credit_account, amount, shortfall, note, key_id,
      model_id, prompt_tokens, cached_tokens, cache_write_tokens, completion_tokens, reasoning_tokens, status)
    VALUES {}
"""

Insert = Callable[..., Awaitable[None]]


def entry(
    ref: str,
    *,
    day: int = DAY,
    account: str = "acc_1",
    key: str | None = "key_1",
    model: str = "m",
    amount: int = 5,
    tokens: int = 1,
    status: str = "complete",
    at_us: int = 0,
) -> str:
    key_sql = "NULL" if key is None else f"'{key}'"
    return (
        f"('{ref}', 'usage', {day * US_PER_DAY + at_us}, '{account}', 'house_usage', {amount}, 1, '', {key_sql},"
        f" '{model}', {tokens}, {tokens}, {tokens}, {tokens}, {tokens}, '{status}')"
    )


@pytest.fixture
def insert(query) -> Insert:
    """Enters charges straight into the ledger, of any time."""

    async def run(*entries: str) -> None:
        await query(INSERT.format(", ".join(entries)))

    return run


async def summary(store, by: Sequence[UsageDimension] = ALL, query: UsageQuery = EVER) -> list[UsageSum]:
    return await store.summarize_usage(query, by, after=None, limit=1_000)


def many(count: int, prefix: str = "r") -> list[str]:
    """Charges of three days, accounts, keys and models, in an order of no meaning."""
    return [
        entry(
            f"{prefix}{n}",
            day=DAY + n % 3,
            account=f"acc_{n % 5 % 3}",
            key=None if n % 7 == 0 else f"key_{n % 2}",
            model=f"m{n % 4}",
            amount=n,
            tokens=n * 3,
            status=("complete", "client_gone", "timeout", "upstream_failed")[n % 11 % 4],
        )
        for n in range(count)
    ]


def expected(count: int, by: Sequence[UsageDimension]) -> list[tuple[Any, ...]]:
    """Requests, failures, tokens and amount per group of what `many` makes, counted here."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for n in range(count):
        values = {
            "day": DAY + n % 3,
            "account": f"acc_{n % 5 % 3}",
            "api_key": "" if n % 7 == 0 else f"key_{n % 2}",
            "model": f"m{n % 4}",
        }
        group = groups.setdefault(tuple(values[each] for each in by), [0, 0, 0, 0])
        for place, more in enumerate((1, int(n % 11 % 4 > 1), n * 3, n)):
            group[place] += more
    return [(*key, *group) for key, group in sorted(groups.items())]


def seen(rows: list[UsageSum], by: Sequence[UsageDimension]) -> list[tuple[Any, ...]]:
    found = []
    for row in rows:
        values = {"day": row.day, "account": row.account_id, "api_key": row.key_id, "model": row.model_id}
        assert all((value is not None) == (name in by) for name, value in values.items())
        keys = [values[each] for each in by]
        assert row.prompt_tokens == row.cached_tokens == row.completion_tokens == row.reasoning_tokens
        assert row.shortfall_nano_usd == row.requests
        found.append((*keys, row.requests, row.failed_requests, row.cache_write_tokens, row.amount_nano_usd))
    return found


async def test_a_summary_is_exact_before_during_and_after_the_roll_up(store, insert) -> None:
    """Every grouping gives the same sums whether entries are rolled up, not yet, or some of them."""
    groupings = list(product(*[[None, each] for each in ALL]))
    for rolled in (0, 100, 200, 300):
        if rolled:
            await insert(*many(300)[rolled - 100 : rolled])
        for grouping in groupings:
            by = [each for each in grouping if each]
            assert seen(await summary(store, by), by) == expected(rolled, by)
        if rolled != 200:
            await store.roll_up_usage()
    await store.roll_up_usage()
    assert seen(await summary(store), ALL) == expected(300, ALL)


async def test_nothing_has_no_summary(store, funded) -> None:
    """Neither groups nor a total; other entries than usage are none."""
    await funded()
    for by in (ALL, ()):
        assert await summary(store, by) == []
    assert await store.usage_bounds(EVER) is None
    assert await store.roll_up_usage() == 1
    assert await summary(store, ()) == []


async def test_the_roll_up_goes_on_where_it_was(store, insert, query) -> None:
    """What is rolled up is not looked at again, and what comes later is added to it."""
    await insert(*many(50))
    assert await store.roll_up_usage() == 50
    assert await store.roll_up_usage() == 0
    rows = await query("SELECT count(*), sum(requests), sum(amount) FROM usage_daily")
    assert rows[0][1:] == (50, sum(range(50)))
    await insert(*many(50, "s"))
    assert await store.roll_up_usage() == 50
    again = await query("SELECT count(*), sum(requests), sum(amount) FROM usage_daily")
    assert again[0] == (rows[0][0], 100, 2 * sum(range(50)))


async def test_days_and_accounts_are_picked(store, insert) -> None:
    """A query is of whole days, both ends included, from the roll-up and from the ledger alike."""
    last_us = US_PER_DAY - 1
    await insert(
        entry("a", day=DAY - 1, at_us=last_us), entry("b", at_us=0), entry("c", day=DAY + 1, at_us=last_us),
        entry("d", day=DAY + 2), entry("e", account="acc_2"),
    )  # fmt: skip
    for _ in range(2):
        [row] = await summary(store, (), UsageQuery(DAY, DAY + 1, None))
        assert row.requests == 3
        [row] = await summary(store, (), UsageQuery(DAY, DAY + 1, UsedBy("acc_1", "acc_1")))
        assert row.requests == 2
        assert await summary(store, (), UsageQuery(DAY + 3, DAY + 9, None)) == []
        await store.roll_up_usage()


async def test_pages_cover_every_group_once(store, insert) -> None:
    """Following `after` gives all groups, in their order, also when half of them are rolled up."""
    await insert(*many(120))
    await store.roll_up_usage()
    await insert(*many(120, "s"))
    for by in (ALL, ("model", "day"), ("api_key",)):
        whole, after, found = await summary(store, by), None, []
        while page := await store.summarize_usage(EVER, by, after=after, limit=7):
            found += page
            names = {"day": "day", "account": "account_id", "api_key": "key_id", "model": "model_id"}
            after = tuple(getattr(page[-1], names[each]) for each in by)
        assert found == whole


async def test_roll_ups_are_made_anew(store, insert, query) -> None:
    """Emptied, they come back equal; meanwhile answers stay exact. Damage to them is gone."""
    await insert(*many(100))
    await store.roll_up_usage()
    whole = await query("SELECT * FROM usage_daily ORDER BY day, account_id, key_id, model_id")
    await query("UPDATE usage_daily SET amount = amount + 1")
    await store.forget_usage()
    assert seen(await summary(store), ALL) == expected(100, ALL)
    await store.roll_up_usage()
    assert await query("SELECT * FROM usage_daily ORDER BY day, account_id, key_id, model_id") == whole


@pytest.mark.slow
async def test_an_answer_is_exact_while_the_roll_ups_are_emptied(store, insert) -> None:
    """A summary that begins before they are emptied and ends after it misses nothing."""
    await insert(*many(100))
    await store.roll_up_usage()
    done = asyncio.Event()

    async def empty_and_fill() -> None:
        for _ in range(30):
            await store.forget_usage()
            await store.roll_up_usage()
        done.set()

    running = asyncio.create_task(empty_and_fill())
    while not done.is_set():
        assert seen(await summary(store, ("model",)), ("model",)) == expected(100, ("model",))
    await running


async def test_many_steps_make_the_same(store, query) -> None:
    """A ledger longer than a step is rolled up whole, groups that span steps added up."""
    count = 2 * STEP_ENTRIES[0] + 5
    digits = "SELECT 0 AS d" + "".join(f" UNION ALL SELECT {n}" for n in range(1, 10))
    await query(
        f"INSERT INTO ledger (ref, kind, created_us, debit_account, credit_account, amount, shortfall, note, model_id,"
        f" prompt_tokens, cached_tokens, cache_write_tokens, completion_tokens, reasoning_tokens, status)"
        f" SELECT CAST(n AS TEXT), 'usage', {DAY * US_PER_DAY}, 'acc_1', 'house_usage', 2, 0, '', 'm',"
        f" 1, 1, 1, 1, 1, 'complete'"
        f" FROM (SELECT a.d + 10*b.d + 100*c.d + 1000*e.d AS n FROM ({digits}) a, ({digits}) b, ({digits}) c,"
        f" ({digits}) e) numbers WHERE n < {count}"
    )
    assert await store.roll_up_usage() == count
    [row] = await query("SELECT requests, amount, first_id, last_id FROM usage_daily")
    assert row[:2] == (count, 2 * count)
    assert row[3] - row[2] == count - 1


async def test_cores_roll_up_side_by_side(store, insert, database_url) -> None:
    """Several at once, while entries come in: each entry is added once."""
    others = [store]
    if database_url.startswith("postgresql"):
        others += [await open_store(database_url) for _ in range(3)]
    try:
        for number in range(10):
            await asyncio.gather(insert(*many(40, f"{number}_")), *(other.roll_up_usage() for other in others))
        for _ in range(3):
            await asyncio.gather(*(other.roll_up_usage() for other in others))
        [row] = await summary(store, ())
        assert (row.requests, row.amount_nano_usd) == (400, 10 * sum(range(40)))
    finally:
        for other in others[1:]:
            await other.close()


async def test_an_entry_that_shows_up_late_is_not_lost(fresh_postgres_url) -> None:
    """On PostgreSQL ids become visible out of order: the roll-up waits behind a transaction that has a smaller one."""
    store = await open_store(fresh_postgres_url)
    engine = create_async_engine(fresh_postgres_url, poolclass=NullPool)
    try:
        async with engine.connect() as slow, engine.connect() as quick:
            await slow.execute(text(INSERT.format(entry("late"))))
            await quick.execute(text(INSERT.format(entry("early"))))
            await quick.commit()
            for _ in range(3):
                assert await store.roll_up_usage() == 0
            [row] = await summary(store, ())
            assert row.requests == 1
            await slow.commit()
        assert await store.roll_up_usage() == 2
        [row] = await summary(store, ())
        assert row.requests == 2
    finally:
        await engine.dispose()
        await store.close()


async def test_the_roll_up_moves_on_although_somebody_always_writes(fresh_postgres_url) -> None:
    """It waits for those that wrote when it looked, not for those that came after."""
    store = await open_store(fresh_postgres_url)
    engine = create_async_engine(fresh_postgres_url, poolclass=NullPool)
    try:
        async with engine.connect() as one, engine.connect() as two:
            await one.execute(text(INSERT.format(entry("a"))))
            await one.commit()
            await one.execute(text(INSERT.format(entry("b"))))
            assert await store.roll_up_usage() == 0
            await two.execute(text(INSERT.format(entry("c"))))
            await one.commit()
            assert await store.roll_up_usage() == 1
            await one.execute(text(INSERT.format(entry("d"))))
            await two.commit()
            assert await store.roll_up_usage() == 1
            await one.rollback()
        assert await store.roll_up_usage() == 1
    finally:
        await engine.dispose()
        await store.close()


def test_the_horizon_moves_when_all_that_wrote_have_ended() -> None:
    """To the id that was visible before they were looked for, never further."""
    horizon = Horizon()
    assert horizon.move(5, frozenset({"1/1", "2/1"})) == 0
    assert horizon.move(9, frozenset({"2/1", "3/1"})) == 0
    assert horizon.move(12, frozenset({"3/1"})) == 5
    assert horizon.move(14, frozenset({"3/1"})) == 5
    assert horizon.move(15, frozenset({"4/1"})) == 12
    assert horizon.move(16, frozenset()) == 16


async def test_absurd_counts_do_not_overflow(store, insert) -> None:
    """An upstream that reports nonsense twice does not stop the roll-up; what one entry adds is bounded."""
    await insert(*(entry(f"r{number}", tokens=2**63 - 1) for number in range(3)))
    for _ in range(2):
        [row] = await summary(store, ())
        assert row.prompt_tokens == 3 * MAX_COUNTED
        await store.roll_up_usage()


async def test_records_of_days_are_found_between_bounds(store, insert) -> None:
    """By the ids that the roll-ups and the rest of the ledger name, whatever order the times are in."""
    await insert(*many(60))
    for _ in range(2):
        query = UsageQuery(DAY + 1, DAY + 1, UsedBy("acc_1", "acc_1"))
        bounds = await store.usage_bounds(query)
        assert bounds is not None
        records = await store.usage_between(query, bounds, limit=100)
        wanted = [f"r{n}" for n in reversed(range(60)) if n % 3 == 1 and n % 5 % 3 == 1]
        assert [record.settlement.request_id for record in records] == wanted
        assert (records[-1].entry_id, records[0].entry_id) == (bounds.first_id, bounds.last_id)
        rest = UsageBounds(bounds.first_id, records[1].entry_id - 1)
        assert await store.usage_between(query, rest, limit=2) == records[2:4]
        await store.roll_up_usage()


async def test_usage_of_an_account_below_another_is_that_of_its_keys(store, insert) -> None:
    """The root pays for all; an account's part is what its keys and those below it used, rolled up or not yet."""
    await store.create_account("org", "Org", "user")
    for account_id, parent_id in (("team", "org"), ("group", "team"), ("cell", "group"), ("other", "org")):
        await store.create_account(account_id, "Below", "user", parent_id=parent_id)
    for owner in ("org", "team", "group", "cell", "other"):
        await store.create_key(NewApiKey(f"key_{owner}", owner, "Key", SecretHash(b"d", 1), "p", "s", None))
    entries = {"key_org": 1, "key_team": 2, "key_group": 4, "key_other": 8, None: 16, "key_cell": 32}
    await insert(*(entry(f"r{n}", account="org", key=key, amount=n) for key, n in entries.items()))
    by_account = {"cell": 32, "group": 4, "org": 17, "other": 8, "team": 2}
    for _ in range(2):
        for account_id, amount in (("org", 63), ("team", 38), ("group", 36), ("cell", 32), ("other", 8)):
            query = UsageQuery(DAY, DAY, UsedBy(account_id, "org"))
            [row] = await summary(store, (), query)
            assert (account_id, row.amount_nano_usd) == (account_id, amount)
            records = await store.usage_between(query, await store.usage_bounds(query), limit=9)
            assert sum(each.settlement.amount_nano_usd for each in records) == amount
        assert {row.account_id: row.amount_nano_usd for row in await summary(store, ("account",))} == by_account
        [last] = await store.summarize_usage(EVER, ("account", "day"), after=("other", DAY), limit=9)
        assert (last.account_id, last.requests) == ("team", 1)
        await store.roll_up_usage()
    for key, amount in (("key_group", 4), ("key_other", 8)):
        query = UsageQuery(DAY, DAY, UsedBy(key.removeprefix("key_"), "org", key))
        [row] = await summary(store, (), query)
        [record] = await store.usage_between(query, await store.usage_bounds(query), limit=9)
        assert row.amount_nano_usd == record.settlement.amount_nano_usd == amount
    assert await store.usage_record("r4", UsedBy("team", "org")) is not None
    assert await store.usage_record("r4", UsedBy("other", "org")) is None


async def test_records_of_more_keys_than_one_statement_asks_for(store, insert, monkeypatch) -> None:
    """Pages of an account with many keys are the newest of all keys together, each record once; days are picked."""
    await store.create_account("org", "Org", "user")
    await store.create_account("team", "Below", "user", parent_id="org")
    monkeypatch.setattr("storage.usage.KEYS_AT_ONCE", 3)
    count = 8
    for number in range(count):
        await store.create_key(NewApiKey(f"k{number}", "team", "Key", SecretHash(b"d", 1), "p", "s", None))
    mine = [entry(f"r{n}", account="org", key=f"k{n * 7 % count}", day=DAY + n % 2) for n in range(2 * count)]
    await insert(*mine, *(entry(f"other{n}", account="org", key="other") for n in range(9)))
    for first_day, wanted in ((DAY, range(2 * count)), (DAY + 1, range(1, 2 * count, 2))):
        query, found = UsageQuery(first_day, DAY + 1, UsedBy("team", "org")), []
        bounds = await store.usage_bounds(query)
        while page := await store.usage_between(query, bounds, limit=5):
            found += [record.settlement.request_id for record in page]
            bounds = UsageBounds(bounds.first_id, page[-1].entry_id - 1)
        assert found == [f"r{n}" for n in reversed(wanted)]
