"""Purses: one per limit and period, leased as accounts are, settled in the same transaction."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import create_async_engine

from storage.errors import Missing
from storage.limit_records import Limit
from storage.periods import period_around
from storage.records import Charge, Price

USD = 1_000_000_000
DAY_US = 86_400 * 1_000_000
LIMIT = Limit("lim_1", "acc_1", "spend", "lifetime", 5 * USD)


def micros(*date: int) -> int:
    """A moment in UTC."""
    return int(datetime(*date, tzinfo=UTC).timestamp()) * 1_000_000  # type: ignore[misc,arg-type]


@pytest.mark.parametrize(
    ("period", "starts", "ends"),
    [
        ("day", (2028, 2, 29), (2028, 3, 1)),
        ("month", (2028, 2, 1), (2028, 3, 1)),
        ("lifetime", None, None),
        ("now", None, None),
    ],
)
def test_periods_are_calendar_days_and_months_in_utc(period: Any, starts: Any, ends: Any) -> None:
    """From midnight on, and to the microsecond before the next."""
    expected = (micros(*starts), micros(*ends)) if starts else (0, None)
    for moment in (micros(2028, 2, 29), micros(2028, 3, 1) - 1):
        assert period_around(period, moment) == expected
    if ends:
        assert period_around(period, micros(*ends))[0] == micros(*ends)


def test_december_ends_with_the_year() -> None:
    """And its month with it."""
    assert period_around("month", micros(2026, 12, 31)) == (micros(2026, 12, 1), micros(2027, 1, 1))


@pytest.fixture
async def purse_id(store: Any, funded: Any) -> str:
    """The purse of `LIMIT`, for an account with 10 USD."""
    await funded()
    await store.set_limit(LIMIT)
    return str((await store.purse(LIMIT.id)).id)


async def test_a_purse_is_made_once_and_follows_its_limit(store: Any, purse_id: str, query: Any) -> None:
    """However many ask for it, and whatever is leased meanwhile: what is available moves by the difference."""
    await asyncio.gather(*(store.purse(LIMIT.id) for _ in range(5)))
    assert [tuple(row) for row in await query("SELECT id, amount, available FROM purses")] == [
        (purse_id, 5 * USD, 5 * USD)
    ]
    await store.acquire(
        lease_id="l", account_id=purse_id, core_id="core_1", want_nano_usd=4 * USD, chunk_nano_usd=0, ttl_s=30
    )
    await store.set_limit(Limit("other id", "acc_1", "spend", "lifetime", 3 * USD))
    assert (await store.purse(LIMIT.id)).amount == 3 * USD
    assert (await store.balance(purse_id)).available_nano_usd == -2 * USD + USD
    assert await store.unbalanced() == []
    await store.close_lease("l")
    assert (await store.balance(purse_id)).available_nano_usd == 3 * USD
    with pytest.raises(Missing):
        await store.purse("nobody's")


async def test_a_limit_does_not_change_while_its_purse_is_brought_to_it(
    store: Any, purse_id: str, database_url: str
) -> None:
    """Else the older amount might be the last to be written, and stay."""
    if database_url.startswith("sqlite"):
        pytest.skip("one change at a time")
    waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND transactionid = pg_current_xact_id()::xid"
    engine = create_async_engine(database_url, poolclass=NullPool)
    async with engine.connect() as locking:
        await locking.execute(text("SELECT 1 FROM purses FOR UPDATE"))
        bringing = asyncio.ensure_future(store.purse(LIMIT.id))
        async with asyncio.timeout(5):
            while (await locking.execute(text(waits))).first() is None:  # noqa: ASYNC110  the server does not say so
                await asyncio.sleep(0.01)
        lowering = asyncio.ensure_future(store.set_limit(Limit("x", "acc_1", "spend", "lifetime", USD)))
        await asyncio.wait([bringing, lowering], timeout=0.2)
        assert [bringing.done(), lowering.done()] == [False, False]
    await asyncio.gather(bringing, lowering)
    assert (await store.purse(LIMIT.id)).amount == USD


async def test_a_purse_of_any_amount_follows_its_limit(store: Any, purse_id: str) -> None:
    """Also one of all that 64 bits hold, up and down again."""
    for amount in (2**63 - 1, 5 * USD, 2**63 - 1, 0):
        await store.set_limit(Limit(LIMIT.id, "acc_1", "spend", "lifetime", amount))
        assert (await store.purse(LIMIT.id)).available == amount
    assert await store.unbalanced() == []


@pytest.mark.parametrize("closed", ["none", "budget", "money", "both"])
async def test_a_settlement_is_charged_to_money_and_budgets_alike(
    store: Any, purse_id: str, acquire: Any, settlement: Any, closed: str
) -> None:
    """The same amount of each, and of whichever has lost its lease no more than it has left."""
    await store.put_prices([Price("price_1", "model", 1, 1, 1, 1)])
    await acquire("money", 4 * USD)
    await acquire("budget", 4 * USD, account_id=purse_id)
    if closed in ("budget", "both"):
        await store.close_lease("budget")
        await store.set_limit(Limit("x", "acc_1", "spend", "lifetime", 2 * USD))
        await store.purse(LIMIT.id)
    if closed in ("money", "both"):
        await store.close_lease("money")
        await acquire("away", 9 * USD)
    budgets = (("budget", purse_id),)
    changed = await store.settle([settlement("req_1", "money", 3 * USD, budgets=budgets), settlement("req_2")])
    charge = {"none": 3 * USD, "budget": 2 * USD, "money": USD, "both": USD}[closed]
    assert changed == ({} if closed == "none" else {"req_1": Charge(charge, 3 * USD - charge)})
    assert await store.used([LIMIT.id]) == {LIMIT.id: charge}
    assert (await store.usage_record("req_1")).settlement.amount_nano_usd == charge
    assert await store.settle([settlement("req_1", "money", 3 * USD, budgets=budgets)]) == changed
    assert await store.used([LIMIT.id]) == {LIMIT.id: charge}
    assert (await store.unbalanced(), (await store.audit()).deviations) == ([], [])
    await store.close_lease("budget")
    await store.close_lease("money")
    assert await store.used([LIMIT.id]) == {LIMIT.id: charge}
    assert (await store.unbalanced(), (await store.audit()).deviations) == ([], [])


async def test_many_settle_against_one_purse_from_several_cores(
    store: Any, another_store: Any, purse_id: str, acquire: Any, settlement: Any
) -> None:
    """Nobody waits for somebody who waits for him, and it adds up."""
    stores = [store, await another_store(), await another_store()]
    for number in range(3):
        await acquire(f"money_{number}", USD)
        await acquire(f"budget_{number}", USD, account_id=purse_id)
    await store.close_lease("budget_2")
    rows = [
        settlement(f"req_{number}_{n}", f"money_{number}", 1_000, budgets=((f"budget_{number}", purse_id),))
        for n in range(20)
        for number in range(3)
    ]
    await asyncio.gather(*(stores[at % 3].settle(rows[at * 10 : at * 10 + 10]) for at in range(6)))
    assert await store.used([LIMIT.id]) == {LIMIT.id: 60_000}
    assert await store.unbalanced() == []


async def test_an_audit_finds_a_purse_that_does_not_add_up(store: Any, purse_id: str, tamper: Any) -> None:
    """In short and in full."""
    await tamper("UPDATE purses SET available = available + 7")
    for found in (await store.unbalanced(), (await store.audit()).deviations):
        [deviation] = found
        assert (deviation.kind, deviation.account_id) == ("purse", purse_id)
        assert int(deviation.found) - int(deviation.expected) == 7


async def test_slots_in_use_are_those_that_cores_have(store: Any, funded: Any, acquire: Any) -> None:
    """Whether or not a request runs in each."""
    await funded()
    slots = Limit("lim_2", "acc_1", "concurrency", "now", 9)
    await store.set_limit(slots)
    purse = await store.purse(slots.id)
    assert purse.left_us is None
    await acquire("lease", 2, account_id=purse.id)
    assert await store.used([slots.id, "lim_0"]) == {slots.id: 2}
    assert await acquire("more", 8, account_id=purse.id) is None


async def test_what_is_used_is_of_the_present_period(
    store: Any, funded: Any, acquire: Any, settlement: Any, query: Any
) -> None:
    """What was charged yesterday, to the purse or to a lease of it that is still there, counts no more."""
    await funded()
    await store.put_prices([Price("price_1", "model", 1, 1, 1, 1)])
    daily = await store.set_limit(Limit("lim_3", "acc_1", "spend", "day", 5 * USD))
    purse_id = (await store.purse(daily.id)).id
    await acquire("money", 4 * USD)
    for number in range(2):
        await acquire(f"budget_{number}", USD, account_id=purse_id)
        budgets = ((f"budget_{number}", purse_id),)
        await store.settle([settlement(f"req_{number}", "money", USD // 4, budgets=budgets)])
    await store.close_lease("budget_0")
    assert await store.used([daily.id]) == {daily.id: USD // 2}
    await query(f"UPDATE purses SET starts_us = starts_us - {DAY_US}, ends_us = ends_us - {DAY_US}")
    assert await store.used([daily.id]) == {}
