"""Settling, on both databases."""

from __future__ import annotations

import pytest

from storage.errors import StoreError


async def charged(store, request_id: str) -> tuple[int, int]:
    kept = (await store.usage_record(request_id)).settlement
    return kept.amount_nano_usd, kept.shortfall_nano_usd


async def test_settle_spends_from_active_leases(store, funded, acquire, settlement, audit) -> None:
    """Each row is charged to its lease, several rows of several leases in one batch."""
    await funded(balance=100)
    await acquire("lease_1", 30)
    await acquire("lease_2", 30)
    changed = await store.settle(
        [
            settlement("req_1", "lease_1", 10),
            settlement("req_2", "lease_2", 11, shortfall_nano_usd=3),
            settlement("req_3", "lease_1", 12),
            settlement("req_4"),
        ]
    )
    assert changed == {}
    balance = await store.balance("acc_1")
    assert (balance.balance_nano_usd, balance.held_nano_usd, balance.available_nano_usd) == (67, 27, 40)
    assert await charged(store, "req_2") == (11, 3)
    assert await charged(store, "req_4") == (0, 0)
    await audit()


async def test_settle_skips_requests_that_are_in_the_ledger(store, funded, acquire, settlement, audit) -> None:
    """A request is charged once, whether it comes again later, in another batch or twice in one."""
    await funded(balance=100)
    await acquire("lease_1", 50)
    await store.settle([settlement("req_1", "lease_1", 10)])
    again = [settlement("req_1", "lease_1", 10), settlement("req_2", "lease_1", 5), settlement("req_2", "lease_1", 6)]
    for _ in range(2):
        await store.settle(again)
    assert (await store.balance("acc_1")).balance_nano_usd == 85
    await audit()


async def test_settle_of_nothing_is_nothing(store) -> None:
    """An empty batch is accepted."""
    await store.settle([])


async def test_settle_of_a_closed_lease_takes_what_the_account_has(store, funded, acquire, settlement, audit) -> None:
    """Rows that come late are paid by the account one after the other; what it cannot pay is shortfall.

    What is charged otherwise than asked is told, when the batch comes again too.
    """
    await funded(balance=100)
    await acquire("lease_1", 60)
    await store.close_lease("lease_1")
    await acquire("lease_2", 70)
    late = [
        settlement("req_1", "lease_1", 20),
        settlement("req_2", "lease_1", 20, shortfall_nano_usd=1),
        settlement("req_3", "never_made", 5),
        settlement("req_4", "lease_2", 70),
    ]
    changed = await store.settle(late)
    assert {name: (each.amount_nano_usd, each.shortfall_nano_usd) for name, each in changed.items()} == {
        "req_2": (10, 11),
        "req_3": (0, 5),
    }
    assert await store.settle(late) == changed
    assert [await charged(store, row.request_id) for row in late] == [(20, 0), (10, 11), (0, 5), (70, 0)]
    assert (await store.balance("acc_1")).balance_nano_usd == 0
    await audit()


async def test_settle_late_spends_the_credit_limit(store, funded, acquire, settlement, query, audit) -> None:
    """An account that runs on credit pays late rows down to its limit."""
    await funded(balance=10)
    await query("UPDATE accounts SET credit_limit = 20 WHERE id = 'acc_1'")
    await acquire("lease_1", 10)
    await store.close_lease("lease_1")
    await store.settle([settlement("req_1", "lease_1", 50)])
    assert await charged(store, "req_1") == (30, 20)
    assert (await store.balance("acc_1")).available_nano_usd == -20
    await audit()


async def test_settle_never_overspends_a_lease(store, funded, acquire, settlement, audit) -> None:
    """A core that claims more than its lease has gets what fits; the rest is shortfall, and the batch commits."""
    await funded(balance=100)
    await acquire("lease_1", 30)
    await store.settle([settlement("req_1", "lease_1", 25), settlement("req_2", "lease_1", 25)])
    assert await charged(store, "req_1") == (25, 0)
    assert await charged(store, "req_2") == (5, 20)
    await audit()


async def test_settle_charges_nobody_for_what_no_lease_held(store, funded, acquire, settlement, audit) -> None:
    """Without a lease nothing is taken, and the lease of another account pays for nobody else."""
    await funded(balance=100)
    await funded("acc_2", balance=0)
    await acquire("lease_1", 30)
    await store.settle([settlement("req_1", None, 7), settlement("req_2", "lease_1", 8, account_id="acc_2")])
    assert await charged(store, "req_1") == (0, 7)
    assert await charged(store, "req_2") == (0, 8)
    assert (await store.balance("acc_1")).held_nano_usd == 30
    await audit()


@pytest.mark.parametrize(
    "oddity",
    [
        {"finish_reason": "stop\0"},
        {"finish_reason": "\ud800"},
        {"prompt_tokens": 2**70},
        {"completion_tokens": -(2**70)},
        {"shortfall_nano_usd": -1},
    ],
    ids=["nul", "surrogate", "huge", "tiny", "negative"],
)
async def test_settle_makes_odd_rows_fit(store, funded, acquire, settlement, audit, oddity) -> None:
    """A row that the database cannot keep is clamped; it neither fails the others nor goes missing."""
    await funded(balance=100)
    await acquire("lease_1", 30)
    await store.settle([settlement("req_1", "lease_1", 5), settlement("req_2", "lease_1", 6, **oddity)])
    assert await charged(store, "req_1") == (5, 0)
    assert (await charged(store, "req_2"))[0] == 6
    await audit()


async def test_settle_that_cannot_be_written_changes_nothing(store, funded, acquire, settlement, query) -> None:
    """All rows of a batch are committed or none, and the store goes on afterwards."""
    await funded(balance=100)
    await acquire("lease_1", 30)
    await query("ALTER TABLE ledger RENAME TO hidden")
    with pytest.raises(StoreError):
        await store.settle([settlement("req_1", "lease_1", 5)])
    await query("ALTER TABLE hidden RENAME TO ledger")
    assert (await store.balance("acc_1")).held_nano_usd == 30
    await store.settle([settlement("req_1", "lease_1", 5)])
    assert (await store.balance("acc_1")).held_nano_usd == 25
