"""What nobody will ask for again is removed, and nothing else, on both databases."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from storage import purging
from storage.interfaces import Store
from storage.limit_records import Limit
from storage.records import Once, Price

DAY_S = 24 * 3600
WEEK_S = 7 * DAY_S
USD = 10**9

Query = Callable[[str], Awaitable[Sequence[Any]]]


async def purged(store: Store) -> int:
    """Everything that a week has made useless, in as many transactions as it takes; how many rows."""
    count = 0
    while removed := await store.purge(older_than_s=WEEK_S):
        count += removed
    return count


async def age(query: Query, days: float, *, leases: str = "TRUE") -> None:
    """As if all of this had happened so many days before."""
    by = int(days * DAY_S * 1_000_000)
    await query(f"UPDATE leases SET expires_us = expires_us - {by} WHERE {leases}")
    await query(f"UPDATE cores SET started_us = started_us - {by}, heartbeat_us = heartbeat_us - {by}")


async def ids(query: Query, table: str) -> list[str]:
    return [row[0] for row in await query(f"SELECT id FROM {table} ORDER BY id")]


async def lease(store: Store, lease_id: str, owner_id: str = "acc_1", amount: int = USD, core: str = "core_1") -> None:
    got = await store.acquire(
        lease_id=lease_id, account_id=owner_id, core_id=core, want_nano_usd=amount, chunk_nano_usd=amount, ttl_s=30.0
    )
    assert got is not None


@pytest.fixture
async def used(store: Store) -> Store:
    """A store with a rich account, a price, and a core."""
    await store.create_account("acc_1", "Somebody", "user")
    await store.adjust(ref="start", account_id="acc_1", amount_nano_usd=100 * USD, note="")
    await store.put_prices([Price("price_1", "m", 1_000, 2_000, 1_000, 1_000)])
    await store.register_core("core_1")
    return store


async def test_closed_leases_go_after_a_week(used: Store, query: Query, settlement: Any) -> None:
    """Younger ones and active ones stay; the account and the audit are as they were."""
    for number in range(3):
        await lease(used, f"lease_{number}")
    await used.settle([settlement("req_1", "lease_0", USD // 2)])
    await used.close_lease("lease_0")
    await used.close_lease("lease_1")
    await age(query, 8, leases="id <> 'lease_1'")
    await age(query, 6.9, leases="id = 'lease_1'")
    before = await used.balance("acc_1")
    assert await purged(used) == 1
    assert await ids(query, "leases") == ["lease_1", "lease_2"]
    assert await used.balance("acc_1") == before
    assert (await used.audit()).deviations == []
    assert await used.unbalanced() == []
    assert await purged(used) == 0


async def test_a_charge_of_a_lease_that_is_gone_is_a_late_one(used: Store, query: Query, settlement: Any) -> None:
    """Whoever slept for a week pays from the account, and once."""
    await lease(used, "lease_0")
    await used.close_lease("lease_0")
    await age(query, 8)
    assert await purged(used) == 2  # the lease, and the core, which had no other
    late = settlement("req_1", "lease_0", USD)
    for _ in range(2):
        assert await used.settle([late]) == {}
    balance = await used.balance("acc_1")
    assert balance is not None
    assert balance.available_nano_usd == 99 * USD
    assert (await used.audit()).deviations == []


async def test_cores_go_when_no_lease_is_theirs(used: Store, query: Query, database_url: str) -> None:
    """And come back, should they wake up."""
    await lease(used, "lease_0")
    await query("INSERT INTO cores SELECT 'core_0', started_us, 0 FROM cores")
    assert await purged(used) == 0
    await age(query, 8)
    assert (await purged(used), await ids(query, "cores")) == (1, ["core_1"])
    await used.close_lease("lease_0")
    assert (await purged(used), await ids(query, "cores")) == (2, [])
    assert await used.renew("core_1", ttl_s=30.0) == []
    await lease(used, "lease_1")
    assert await used.renew("core_1", ttl_s=30.0) == ["lease_1"]


async def test_purses_of_past_periods_go(used: Store, query: Query) -> None:
    """Not those of this one, nor of a lifetime, nor one that is leased, or that does not add up."""
    for number, period in enumerate(["day", "day", "day", "day", "lifetime"]):
        owner = await used.create_account(f"below_{number}", "", "user", parent_id="acc_1")
        limit = await used.set_limit(Limit(f"lim_{number}", owner.id, "spend", period, 5 * USD))  # type: ignore[arg-type]
        await lease(used, f"lease_{number}", (await used.purse(limit.id)).id)
        if number != 1:
            await used.close_lease(f"lease_{number}")
    by = 9 * DAY_S * 1_000_000
    await query(f"UPDATE purses SET ends_us = ends_us - {by} WHERE limit_id <> 'lim_3'")
    await query("UPDATE purses SET available = available - 1 WHERE limit_id = 'lim_2'")
    assert await purged(used) == 1
    assert [row[0] for row in await query("SELECT limit_id FROM purses ORDER BY 1")] == [
        f"lim_{n}" for n in range(1, 5)
    ]


@pytest.mark.parametrize(("measure", "period"), [("spend", "lifetime"), ("spend", "month"), ("concurrency", "now")])
async def test_purses_of_deleted_limits_go(
    used: Store, query: Query, settlement: Any, measure: Any, period: Any
) -> None:
    """A week after the limit, whatever its period, and not while one is leased; then a late charge is bound by none."""
    limit = await used.set_limit(Limit("lim_1", "acc_1", measure, period, 5 * USD))
    purse_id = (await used.purse(limit.id)).id
    await lease(used, "lease_money")
    await lease(used, "lease_limit", purse_id)
    await used.delete_limit(limit.id)
    await used.settle([settlement("req_1", "lease_money", USD // 4, budgets=(("lease_limit", purse_id),))])
    assert await purged(used) == 0
    await query(f"UPDATE purses SET ends_us = ends_us - {8 * DAY_S * 1_000_000}")
    assert await purged(used) == 0
    for lease_id in ("lease_limit", "lease_money"):
        await used.close_lease(lease_id)
    assert await used.unbalanced() == (await used.audit()).deviations == []
    assert await purged(used) == 1
    assert await ids(query, "purses") == []
    late = settlement("req_2", "lease_money", 6 * USD, budgets=(("lease_limit", purse_id),))
    assert await used.settle([late]) == {}
    balance = await used.balance("acc_1")
    assert balance is not None
    assert balance.available_nano_usd == 100 * USD - USD // 4 - 6 * USD
    assert await used.unbalanced() == (await used.audit()).deviations == []


async def test_a_transaction_is_small(used: Store, query: Query, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each removes so many rows at most, and the next goes on."""
    monkeypatch.setattr(purging, "PURGE_LIMIT", 4)
    for number in range(10):
        await lease(used, f"lease_{number}")
        await used.close_lease(f"lease_{number}")
    await age(query, 8)
    counts = [await used.purge(older_than_s=WEEK_S) for _ in range(5)]
    assert counts == [4, 4, 2, 1, 0]


async def test_old_keys_go_in_small_transactions(used: Store, query: Query, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them all the same, but only of these scopes and only old ones."""
    monkeypatch.setattr("storage.idempotency.FORGET_LIMIT", 3)
    for scope in ("A of x", "A of y", "B of x"):
        for number in range(4):
            once = Once(scope, str(number), b"")
            await used.create_account(f"{scope[0]}-{scope[-1]}-{number}", "", "user", once=once)
    await query(f"UPDATE idempotency SET created_us = created_us - {8 * DAY_S * 1_000_000} WHERE key <> '3'")
    assert await used.forget_keys("A of ", older_than_s=WEEK_S) == 6
    left = await query("SELECT scope, count(*) FROM idempotency GROUP BY scope ORDER BY scope")
    assert [tuple(row) for row in left] == [("A of x", 1), ("A of y", 1), ("B of x", 4)]
