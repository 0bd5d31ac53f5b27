"""Leases, on both databases."""

from __future__ import annotations

import asyncio

import pytest

from storage.errors import Missing, StoreError
from storage.records import Lease


async def available(store) -> int:
    return (await store.balance("acc_1")).available_nano_usd


async def test_acquire_grants_exactly_what_is_wanted_from_a_small_account(store, funded, acquire, audit) -> None:
    """Below four chunks per live core nothing more than the want is taken."""
    await funded(balance=399)
    assert await acquire("lease_1", 30, chunk_nano_usd=100) == Lease("lease_1", "acc_1", "core_1", 30, 0, 1)
    assert await available(store) == 369
    await audit()


async def test_acquire_grants_a_chunk_from_a_large_account(store, funded, acquire, query) -> None:
    """From four chunks per live core on, be they on credit, a chunk is granted, or the want when that is more."""
    for account_id, balance in (("acc_1", 400), ("acc_2", 400), ("acc_3", 10)):
        await funded(account_id, balance)
    await query("UPDATE accounts SET credit_limit = 390 WHERE id = 'acc_3'")
    assert (await acquire("lease_1", 30, chunk_nano_usd=100)).granted_nano_usd == 100
    assert (await acquire("lease_2", 130, chunk_nano_usd=100, account_id="acc_2")).granted_nano_usd == 130
    assert (await acquire("lease_3", 30, chunk_nano_usd=100, account_id="acc_3")).granted_nano_usd == 100


async def test_acquire_counts_live_cores(store, funded, acquire, database_url) -> None:
    """With more live cores an account must have more before chunks are granted; dead ones do not count."""
    await funded(balance=799)
    await store.register_core("core_2")
    only_one = database_url.startswith("sqlite")  # there the later core has ended the earlier one
    granted = await acquire("lease_1", 1, chunk_nano_usd=100, core_id="core_2")
    assert granted.granted_nano_usd == (100 if only_one else 1)
    extended = await store.extend(lease_id="lease_1", seq=2, want_nano_usd=1, chunk_nano_usd=100)
    assert extended.granted_nano_usd == 2 * granted.granted_nano_usd
    await store.renew("core_1", ttl_s=0.02)
    await asyncio.sleep(0.05)
    alone = await acquire("lease_2", 1, chunk_nano_usd=100, core_id="core_2")
    assert alone.granted_nano_usd == 100


async def test_acquire_of_more_than_there_is_finds_nothing(store, funded, acquire) -> None:
    """An account that cannot pay the want keeps what it has."""
    await funded(balance=100)
    assert await acquire("lease_1", 101) is None
    assert await available(store) == 100
    assert (await acquire("lease_1", 100)).granted_nano_usd == 100


async def test_acquire_spends_the_credit_limit(store, funded, acquire, query, audit) -> None:
    """An account with a credit limit pays down to its negative, and no further."""
    await funded(balance=10)
    await query("UPDATE accounts SET credit_limit = 90 WHERE id = 'acc_1'")
    assert await acquire("lease_1", 101) is None
    assert (await acquire("lease_1", 100)).granted_nano_usd == 100
    assert await available(store) == -90
    await audit()


async def test_acquire_repeated_returns_the_lease_as_it_is(store, funded, acquire) -> None:
    """A second acquisition under the same id takes nothing more."""
    await funded(balance=100)
    first = await acquire("lease_1", 30)
    assert await acquire("lease_1", 60) == first
    assert await available(store) == 70


async def test_acquire_refuses_what_is_missing(store, funded, acquire) -> None:
    """Unknown accounts, house accounts and closed leases are Missing, an unknown core is refused."""
    await funded(balance=100)
    for account_id in ("nobody", "house_usage"):
        with pytest.raises(Missing):
            await acquire("lease_1", 0, account_id=account_id)
    with pytest.raises(StoreError):
        await acquire("lease_1", 1, core_id="nobody")
    await acquire("lease_1", 30)
    await store.close_lease("lease_1")
    with pytest.raises(Missing):
        await acquire("lease_1", 30)
    assert await available(store) == 100


async def test_negative_amounts_are_refused(store, funded, acquire) -> None:
    """No amount below zero is ever moved."""
    await funded(balance=100)
    await acquire("lease_1", 30)
    with pytest.raises(ValueError, match="0 or more"):
        await acquire("lease_2", -1)
    with pytest.raises(ValueError, match="0 or more"):
        await store.extend(lease_id="lease_1", seq=2, want_nano_usd=1, chunk_nano_usd=-1)
    with pytest.raises(ValueError, match="0 or more"):
        await store.give_back(lease_id="lease_1", seq=2, amount_nano_usd=-1)


async def test_extend_grants_more_once_per_seq(store, funded, acquire, audit) -> None:
    """An extension numbers itself; repeated under its number it grants nothing more."""
    await funded(balance=100)
    await acquire("lease_1", 30)
    for _ in range(2):
        extended = await store.extend(lease_id="lease_1", seq=2, want_nano_usd=20, chunk_nano_usd=0)
        assert extended == Lease("lease_1", "acc_1", "core_1", 50, 0, 2)
    assert await available(store) == 50
    assert await store.extend(lease_id="lease_1", seq=3, want_nano_usd=51, chunk_nano_usd=0) is None
    await audit()


async def test_extend_follows_the_rule_of_acquire(store, funded, acquire) -> None:
    """A large account grants an extension of a whole chunk."""
    await funded(balance=1000)
    await acquire("lease_1", 1)
    extended = await store.extend(lease_id="lease_1", seq=2, want_nano_usd=5, chunk_nano_usd=100)
    assert extended.granted_nano_usd == 101


async def test_give_back_returns_unspent_money_once_per_seq(store, funded, acquire, settlement, audit) -> None:
    """What is returned is available again; more than the unspent part cannot be returned."""
    await funded(balance=100)
    await acquire("lease_1", 30)
    await store.settle([settlement("req_1", "lease_1", 10)])
    with pytest.raises(StoreError):
        await store.give_back(lease_id="lease_1", seq=2, amount_nano_usd=21)
    for _ in range(2):
        left = await store.give_back(lease_id="lease_1", seq=2, amount_nano_usd=20)
        assert left == Lease("lease_1", "acc_1", "core_1", 10, 10, 2)
    assert await available(store) == 90
    await audit()


async def test_changes_out_of_order_or_of_closed_leases_are_refused(store, funded, acquire) -> None:
    """A change that is neither the last nor the next one is an error; a closed lease is Missing."""
    await funded(balance=100)
    await acquire("lease_1", 30)
    with pytest.raises(StoreError):
        await store.extend(lease_id="lease_1", seq=4, want_nano_usd=1, chunk_nano_usd=0)
    await store.close_lease("lease_1")
    for lease_id in ("lease_1", "lease_2"):
        with pytest.raises(Missing):
            await store.extend(lease_id=lease_id, seq=2, want_nano_usd=1, chunk_nano_usd=0)
        with pytest.raises(Missing):
            await store.give_back(lease_id=lease_id, seq=2, amount_nano_usd=1)


async def test_close_lease_returns_the_unspent_part_once(store, funded, acquire, settlement, audit) -> None:
    """Closing again, or closing what never was, changes nothing."""
    await funded(balance=100)
    await acquire("lease_1", 30)
    await store.settle([settlement("req_1", "lease_1", 10)])
    for lease_id in ("lease_1", "lease_1", "lease_2"):
        await store.close_lease(lease_id)
    assert await available(store) == 90
    await audit()


async def test_renew_lengthens_the_life_of_the_cores_active_leases(store, funded, acquire) -> None:
    """Renewed leases survive their first term; closed ones are not among those named."""
    await funded(balance=100)
    for number in range(3):
        await acquire(f"lease_{number}", 10, ttl_s=0.05)
    await store.close_lease("lease_1")
    assert await store.renew("core_1", ttl_s=30) == ["lease_0", "lease_2"]
    assert await store.renew("core_2", ttl_s=30) == []
    await asyncio.sleep(0.1)
    assert await store.reap() == 0


async def test_reap_closes_expired_leases_and_returns_their_money(store, funded, acquire, settlement, audit) -> None:
    """An expired lease is closed by anybody's reaper, and only that one."""
    await funded(balance=100)
    await acquire("lease_1", 30, ttl_s=0.0)
    await acquire("lease_2", 20, ttl_s=0.0)
    await acquire("lease_3", 10)
    await store.settle([settlement("req_1", "lease_1", 5)])
    assert await store.reap() == 2
    assert await store.reap() == 0
    assert await available(store) == 85
    await audit()


async def test_register_core_on_sqlite_closes_what_earlier_cores_left(
    store, funded, acquire, settlement, database_url, audit
) -> None:
    """The only core there can be takes over at once; where cores run side by side, nothing of others is touched."""
    await funded(balance=100)
    await acquire("lease_1", 30)
    await store.settle([settlement("req_1", "lease_1", 5)])
    await store.register_core("core_2")
    await store.register_core("core_2")
    assert await available(store) == (95 if database_url.startswith("sqlite") else 70)
    await audit()


async def test_many_expired_leases_are_reaped_in_one_call(store, funded, query, audit) -> None:
    """One call closes all of them, however many transactions that takes."""
    await funded(balance=100)
    for first in range(0, 600, 100):
        values = ", ".join(
            f"('lease_{number}', 'acc_1', 'core_1', 0, 0, 1, 'active', 0, 0)" for number in range(first, first + 100)
        )
        await query(f"INSERT INTO leases VALUES {values}")
    assert await store.reap() == 600
    await audit()
