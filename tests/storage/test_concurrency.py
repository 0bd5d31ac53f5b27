"""Many callers at once, and callers that go away, on both databases."""

from __future__ import annotations

import asyncio
import random

import pytest

from storage.errors import StoreUnavailable
from storage.records import Once
from storage.usage_records import ALL_USAGE, UsageQuery


async def test_concurrent_acquisitions_never_overdraw(store, funded, acquire, audit) -> None:
    """Fifty acquisitions at once share out what there is, to the last nanodollar and no further."""
    await funded(balance=333)
    leases = await asyncio.gather(*(acquire(f"lease_{number}", 10) for number in range(50)))
    assert sum(lease is not None for lease in leases) == 33
    assert (await store.balance("acc_1")).available_nano_usd == 3
    await audit()


async def test_concurrent_repeats_of_one_acquisition_take_once(store, funded, acquire, audit) -> None:
    """The same acquisition sent many times at once makes one lease."""
    await funded(balance=100)
    leases = await asyncio.gather(*(acquire("lease_1", 10) for _ in range(20)))
    assert set(leases) == {leases[0]}
    assert (await store.balance("acc_1")).available_nano_usd == 90
    await audit()


async def test_concurrent_repeats_of_one_top_up_credit_once(store, funded, audit) -> None:
    """The same payment sent many times at once is credited once and answered alike."""
    await funded(balance=0)
    answers = await asyncio.gather(
        *(
            store.top_up(
                payment_id=f"pay_{number}",
                account_id="acc_1",
                amount_nano_usd=100,
                fee_nano_usd=5,
                once=Once("top-ups", "once", b""),
            )
            for number in range(20)
        )
    )
    assert set(answers) == {answers[0]}
    assert (await store.balance("acc_1")).balance_nano_usd == 100
    await audit()


async def test_settling_beside_other_changes_loses_nothing(store, funded, acquire, settlement, audit) -> None:
    """Settlements, acquisitions, closings, reaping and heartbeats at the same time keep the accounts straight."""
    await funded(balance=10_000)
    for number in range(10):
        await acquire(f"lease_{number}", 100)

    async def settle(number: int) -> None:
        await store.settle([settlement(f"req_{number}_{n}", f"lease_{n}", 3) for n in range(10)])

    async def churn(number: int) -> None:
        await acquire(f"more_{number}", 10, ttl_s=0.0)
        await store.close_lease(f"lease_{number}")
        await store.renew("core_1", ttl_s=30)
        await store.reap()

    await asyncio.gather(*(settle(number) for number in range(15)), *(churn(number) for number in range(5)))
    await audit()
    assert (await store.balance("house_usage")).balance_nano_usd == 450


async def test_cancelled_callers_leave_a_working_store(
    store, funded, acquire, settlement, audit, query, database_url
) -> None:
    """Callers that go away at any moment leave no transaction open, no lock held and no connection lost."""
    await funded(balance=1_000_000)
    await acquire("lease_1", 1000)
    dice = random.Random(7)

    async def call(number: int) -> None:
        match number % 5:
            case 0:
                await acquire(f"cancelled_{number}", 10)
            case 1:
                await store.settle([settlement(f"req_{number}", "lease_1", 1)])
            case 2:
                await store.adjust(ref=f"adj_{number}", account_id="acc_1", amount_nano_usd=1, note="")
            case 3:
                await store.balance("acc_1")
            case _:
                await store.renew("core_1", ttl_s=30)

    for _ in range(6):
        tasks = [asyncio.create_task(call(number)) for number in range(40)]
        for task in dice.sample(tasks, 35):
            await asyncio.sleep(dice.uniform(0, 0.002))
            task.cancel()
        await asyncio.wait(tasks)
    async with asyncio.timeout(10):
        await asyncio.gather(*(call(number) for number in range(40)))
    await audit()
    assert len(await store.usage_between(UsageQuery(0, 100_000, None), ALL_USAGE, limit=100)) == 8
    async with asyncio.timeout(10):
        while len(asyncio.all_tasks()) > 1:  # noqa: ASYNC110 - tasks give no sign when they are gone
            await asyncio.sleep(0.01)
    if database_url.startswith("postgresql"):
        own = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        assert (await query(f"{own} AND state = 'idle in transaction'"))[0][0] == 0


async def test_a_cancelled_commit_still_commits(store, funded, settlement, acquire) -> None:
    """A transaction that has begun runs to its end; repeating the call afterwards does nothing twice."""
    await funded(balance=100)
    await acquire("lease_1", 50)
    task = asyncio.create_task(store.settle([settlement("req_1", "lease_1", 5)]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(10):
        while await store.usage_record("req_1") is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await store.settle([settlement("req_1", "lease_1", 5), settlement("req_2", "lease_1", 6)])
    assert (await store.balance("acc_1")).balance_nano_usd == 89


async def test_close_waits_for_what_runs_and_refuses_what_comes(store, funded, query) -> None:
    """Changes in flight are committed before the store closes; later ones find it closed, and closing again is fine."""
    await funded(balance=0)
    running = [
        asyncio.create_task(store.adjust(ref=f"adj_{n}", account_id="acc_1", amount_nano_usd=1, note=""))
        for n in range(3)
    ]
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    done = await asyncio.gather(*running, return_exceptions=True)
    committed = sum(result is None for result in done)
    assert all(result is None or isinstance(result, StoreUnavailable) for result in done)
    assert committed >= 1
    assert (await query("SELECT available FROM accounts WHERE id = 'acc_1'"))[0][0] == committed
    with pytest.raises(StoreUnavailable):
        await store.balance("acc_1")
