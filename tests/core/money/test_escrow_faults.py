"""Leases that are renewed, lost or unknown, and a store that fails: no money is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from core.errors import ServiceUnavailable
from core.money.escrow import Escrow, Hold, OutOfFunds

USD = 1_000_000_000

Fund = Callable[..., Awaitable[None]]
Rows = Callable[[str], list[tuple[Any, ...]]]


# Renewal


async def test_renewal_keeps_leases_alive(escrow: Escrow, store: Any, fund: Fund, clock: Any) -> None:
    """And admission with them."""
    await fund("a", 100 * USD)
    await escrow.hold("a", 5)
    for _ in range(10):
        clock.now_s += 10
        await escrow.renew()
    assert escrow.try_hold("a", 5) is not None
    assert await store.reap() == 0


async def test_a_core_that_cannot_renew_stops_admitting(escrow: Escrow, store: Any, fund: Fund, clock: Any) -> None:
    """After half the life of a lease, until a renewal works again."""
    await fund("a", 100 * USD)
    await escrow.hold("a", 5)
    clock.now_s += 15
    assert escrow.try_hold("a", 5) is not None
    clock.now_s += 0.1
    with pytest.raises(ServiceUnavailable):
        escrow.try_hold("a", 5)
    with pytest.raises(ServiceUnavailable):
        await escrow.hold("b", 5)
    store.faults["renew"] = ["refused"]
    with pytest.raises(Exception, match="no answer"):
        await escrow.renew()
    with pytest.raises(ServiceUnavailable):
        escrow.try_hold("a", 5)
    await escrow.renew()
    assert escrow.try_hold("a", 5) is not None


async def test_the_age_of_a_renewal_counts_from_its_beginning(
    escrow: Escrow, store: Any, fund: Fund, clock: Any
) -> None:
    """A renewal whose answer took long is as old as its question."""
    await fund("a", 100 * USD)
    await escrow.hold("a", 5)
    store.faults["renew"] = ["hang after"]
    renewing = asyncio.ensure_future(escrow.renew())
    await store.called("renew")
    clock.now_s += 15.1
    store.resume.set()
    await renewing
    with pytest.raises(ServiceUnavailable):
        escrow.try_hold("a", 5)


async def test_a_lost_lease_is_replaced_and_its_holds_are_charged_late(
    escrow: Escrow, store: Any, fund: Fund, clock: Any
) -> None:
    """Another core's reaper closed it: what runs is charged whole, from the account; new requests get a new lease."""
    await fund("a", 3 * USD)
    hold = await escrow.hold("a", USD)
    await store.close_lease(hold.lease.id)
    await escrow.renew()
    assert await store.available() == 3 * USD
    assert escrow.try_hold("a", 1) is None
    other = await escrow.hold("a", USD)
    assert other.lease.id != hold.lease.id
    charge, shortfall = escrow.charge(hold, USD + 5)
    assert (charge, shortfall) == (USD + 5, 0)
    await store.settled(escrow, hold, charge, "late")
    assert await store.available() == 3 * USD - USD - (USD + 5)
    escrow.release(other)


async def test_a_lease_that_was_closed_unnoticed_is_replaced(escrow: Escrow, store: Any, fund: Fund) -> None:
    """The next extension notices, and the hold comes from a new one."""
    await fund("a", 3 * USD)
    hold = await escrow.hold("a", USD)
    await store.close_lease(hold.lease.id)
    other = await escrow.hold("a", USD)
    assert other.lease.id != hold.lease.id
    assert hold.lease.lost


async def test_a_lease_that_nobody_knows_is_closed_at_the_next_renewal(
    escrow: Escrow, store: Any, fund: Fund, rows: Rows
) -> None:
    """The answer to its acquisition got lost: renewed for ever, its money would be stuck."""
    await fund("a", 3 * USD)
    store.faults["acquire"] = ["lost"] * 4
    with pytest.raises(ServiceUnavailable):
        await escrow.hold("a", USD)
    assert await store.available() == 2 * USD
    await escrow.renew()
    assert await store.available() == 3 * USD
    assert rows("SELECT state FROM leases") == [("closed",)]


@pytest.mark.parametrize("when", ["hang", "hang after"])
async def test_a_lease_that_is_being_acquired_is_not_taken_for_a_stray(
    escrow: Escrow, store: Any, fund: Fund, when: str, rows: Rows
) -> None:
    """Renewal leaves alone what is under way."""
    await fund("a", 3 * USD)
    store.faults["acquire"] = [when]
    waiting = asyncio.ensure_future(escrow.hold("a", USD))
    await store.called("acquire")
    await escrow.renew()
    store.resume.set()
    hold = await waiting
    await escrow.renew()
    assert rows("SELECT state FROM leases") == [("active",)]
    assert escrow.charge(hold, 5) == (5, 0)
    await store.settled(escrow, hold, 5, "r")


async def test_a_lease_that_was_acquired_during_a_renewal_is_not_taken_for_a_stray(
    escrow: Escrow, store: Any, fund: Fund, rows: Rows
) -> None:
    """The renewal tells of it, though it was asked before."""
    await fund("a", 3 * USD)
    store.faults["acquire"] = store.faults["renew"] = ["hang after"] * 2
    waiting = asyncio.ensure_future(escrow.hold("a", USD))
    await store.called("acquire")
    renewal = asyncio.ensure_future(escrow.renew())
    await store.called("renew")
    store.resume.set()
    escrow.release(await waiting)
    await renewal
    assert rows("SELECT state FROM leases") == [("active",)]


async def test_a_lease_whose_grant_was_told_too_late_is_not_used(
    escrow: Escrow, store: Any, fund: Fund, clock: Any, rows: Rows
) -> None:
    """It may have been reaped since, and no renewal asked for it: whoever waits is refused, and it is closed."""
    await fund("a", 3 * USD)
    store.faults["acquire"] = ["hang after"]
    waiting = asyncio.ensure_future(escrow.hold("a", USD))
    await store.called("acquire")
    clock.now_s += 15.1
    await escrow.renew()
    store.resume.set()
    with pytest.raises(ServiceUnavailable):
        await waiting
    await escrow.renew()
    assert rows("SELECT state FROM leases") == [("closed",)]
    assert await store.available() == 3 * USD
    escrow.release(await escrow.hold("a", USD))


async def test_one_failure_of_the_store_refuses_nobody(escrow: Escrow, store: Any, fund: Fund, rows: Rows) -> None:
    """Both ways to get money are safe to repeat, and are repeated."""
    await fund("a", 3 * USD)
    for method in ("acquire", "extend"):
        for fault in ("lost", "refused"):
            store.faults[method] = [fault]
            await escrow.hold("a", USD // 4)
    assert rows("SELECT count(*), sum(granted) FROM leases") == [(1, USD)]


# Faults


@pytest.mark.parametrize("fault", ["refused", "lost", "lost before", "bug"])
@pytest.mark.parametrize("method", ["acquire", "extend", "balance", "give_back", "close_lease", "renew"])
async def test_no_fault_of_the_store_loses_money_or_blocks(
    escrow: Escrow, store: Any, fund: Fund, clock: Any, method: str, fault: str
) -> None:
    """Each call fails once, before or after its effect: requests are refused or served, and in the end all is back."""
    await fund("a", 5 * USD)
    first = await escrow.hold("a", USD) if method in ("extend", "give_back") else None
    store.faults[method] = [fault] * (4 if method in ("acquire", "extend") and fault != "bug" else 1)
    found = await asyncio.gather(*(escrow.hold("a", amount) for amount in (USD, 9 * USD)), return_exceptions=True)
    assert all(isinstance(each, Hold | OutOfFunds | ServiceUnavailable) for each in found)
    if first is not None:
        for hold in (each for each in found if isinstance(each, Hold)):
            escrow.release(hold)
        found = []
    for _ in range(3):
        clock.now_s += 3
        escrow.give_back_idle()
        await store.still()
        await asyncio.gather(escrow.renew(), return_exceptions=True)
    holds = [each for each in (first, *found) if isinstance(each, Hold)]
    for number, hold in enumerate(holds):
        charge, _ = escrow.charge(hold, 100)
        await store.settled(escrow, hold, charge, f"r{number}")
    assert escrow.held_nano_usd == 0
    hold = await escrow.hold("a", 3 * USD)
    escrow.release(hold)
    for _ in range(2):
        clock.now_s += 3
        escrow.give_back_idle()
        await store.still()
    await escrow.close()
    assert await store.available() == 5 * USD - 100 * len(holds)
    assert not any(store.faults.values())


async def test_random_faults_lose_no_money(escrow: Escrow, store: Any, fund: Fund, clock: Any) -> None:
    """Any sequence of failures under load: never more held and spent than there is, and in the end it adds up."""
    await fund("a", 5 * USD)
    randomness = random.Random(2)
    methods = ("acquire", "extend", "balance", "give_back", "close_lease", "renew")
    spent = 0

    async def request(number: int) -> None:
        nonlocal spent
        await asyncio.sleep(randomness.random() / 2)
        try:
            hold = await escrow.hold("a", randomness.choice([USD // 10, USD // 2, 2 * USD]))
        except (OutOfFunds, ServiceUnavailable):
            return
        await asyncio.sleep(randomness.random() / 50)
        charge, _ = escrow.charge(hold, randomness.randrange(0, USD // 50))
        spent += charge
        assert escrow.held_nano_usd + spent <= 5 * USD
        await store.settled(escrow, hold, charge, f"r{number}")

    async def trouble() -> None:
        for _ in range(60):
            await asyncio.sleep(0.01)
            store.faults.setdefault(randomness.choice(methods), []).append(
                randomness.choice(["refused", "lost", "lost before"])
            )
            clock.now_s += 1
            escrow.give_back_idle()
            await asyncio.gather(escrow.renew(), return_exceptions=True)

    await asyncio.gather(trouble(), *(request(number) for number in range(300)))
    store.faults.clear()
    await escrow.renew()
    assert escrow.held_nano_usd == 0
    assert (await escrow.hold("a", 5 * USD - spent)).amount_nano_usd == 5 * USD - spent
    await escrow.close()
    assert await store.available() == 5 * USD - spent
