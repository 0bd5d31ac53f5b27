"""Accounts and balances, on both databases."""

from __future__ import annotations

import pytest

from storage.errors import Duplicate
from storage.records import Balance


async def test_create_account_returns_what_account_finds(store) -> None:
    """A new account has the given id, name and kind, and can be read back."""
    made = await store.create_account("acc_1", "Somebody ✓", "service")
    assert (made.id, made.display_name, made.kind, made.credit_limit_nano_usd) == (
        "acc_1",
        "Somebody ✓",
        "service",
        0,
    )
    assert made.created_us > 1_700_000_000_000_000
    assert await store.account("acc_1") == made


async def test_create_account_twice_is_a_duplicate(store) -> None:
    """An id is taken once, whatever the second name is."""
    await store.create_account("acc_1", "Somebody", "user")
    with pytest.raises(Duplicate):
        await store.create_account("acc_1", "Somebody else", "user")


async def test_unknown_account_is_none(store) -> None:
    """Reading an account or balance that is not there finds None."""
    assert await store.account("nobody") is None
    assert await store.balance("nobody") is None


async def test_accounts_are_listed_newest_first_in_pages_without_house(store) -> None:
    """Pages follow one another without gaps or repeats, and house accounts stay out of them."""
    made = [await store.create_account(f"acc_{number}", "Somebody", "user") for number in range(5)]
    newest_first = sorted(made, key=lambda account: (account.created_us, account.id), reverse=True)
    seen, before = [], None
    while page := await store.accounts(before=before, limit=2):
        seen += page
        before = (page[-1].created_us, page[-1].id)
    assert seen == newest_first


async def test_balance_counts_active_leases_as_held(store, funded, acquire) -> None:
    """Held is what active leases may still spend; balance is what is available plus held."""
    await funded(balance=100)
    await acquire("lease_1", 30)
    assert await store.balance("acc_1") == Balance("acc_1", 100, 30, 70, 0)
    await store.close_lease("lease_1")
    assert await store.balance("acc_1") == Balance("acc_1", 100, 0, 100, 0)


async def test_house_balances_are_sums_over_the_ledger(store, funded, acquire, settlement) -> None:
    """What house accounts have mirrors what users were credited and charged."""
    await funded(balance=100)
    await acquire("lease_1", 30)
    await store.settle([settlement("req_1", "lease_1", 20)])
    assert await store.balance("house_adjustments") == Balance("house_adjustments", -100, 0, -100, 0)
    assert await store.balance("house_usage") == Balance("house_usage", 20, 0, 20, 0)
    assert await store.balance("house_fees") == Balance("house_fees", 0, 0, 0, 0)
