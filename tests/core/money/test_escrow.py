"""Leases and holds: money is got, shared, spent and given back, never more than there is."""

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


# Getting money


async def test_a_small_balance_is_leased_exactly(escrow: Escrow, store: Any, fund: Fund) -> None:
    """Below four chunks the lease is the hold, so that nothing idle stands in the way of others."""
    await fund("a", 3 * USD)
    await escrow.hold("a", USD // 10)
    assert await store.available() == 3 * USD - USD // 10


async def test_a_large_balance_is_leased_in_chunks(escrow: Escrow, store: Any, fund: Fund) -> None:
    """The next hold is plain arithmetic, without a call of the store."""
    await fund("a", 100 * USD)
    await escrow.hold("a", USD // 10)
    assert await store.available() == 99 * USD
    calls = store.calls.total()
    for _ in range(9):
        assert escrow.try_hold("a", USD // 10) is not None
    assert store.calls.total() == calls
    assert escrow.try_hold("a", 1) is None
    assert escrow.held_nano_usd == USD


async def test_a_hold_larger_than_a_chunk_is_leased_whole(escrow: Escrow, store: Any, fund: Fund) -> None:
    """A lease is at least the hold."""
    await fund("a", 100 * USD)
    assert (await escrow.hold("a", 7 * USD)).amount_nano_usd == 7 * USD
    assert await store.available() == 93 * USD


async def test_a_lease_is_extended_not_multiplied(escrow: Escrow, store: Any, fund: Fund, rows: Rows) -> None:
    """An account has one lease in a core, however often it needs more."""
    await fund("a", 3 * USD)
    for _ in range(5):
        await escrow.hold("a", USD // 2)
    assert rows("SELECT granted, seq FROM leases") == [(5 * USD // 2, 5)]


async def test_credit_counts_like_money(escrow: Escrow, store: Any, fund: Fund) -> None:
    """Who fits into it is admitted beside who does not, and the refusal says what it could pay."""
    await fund("a", USD)
    await store.update_account("a", {"credit_limit_nano_usd": 2 * USD})
    with pytest.raises(OutOfFunds) as caught:
        await escrow.hold("a", 4 * USD)
    assert caught.value.payable_nano_usd == 3 * USD
    refused, admitted = await asyncio.gather(
        escrow.hold("a", 4 * USD), escrow.hold("a", 3 * USD), return_exceptions=True
    )
    assert isinstance(refused, OutOfFunds)
    assert isinstance(admitted, Hold)
    assert await store.available() == -2 * USD


async def test_what_the_account_cannot_pay_is_refused(escrow: Escrow, fund: Fund) -> None:
    """The refusal says how large a hold it could pay, and that nothing is held."""
    await fund("a", USD)
    with pytest.raises(OutOfFunds) as caught:
        await escrow.hold("a", USD + 1)
    assert (caught.value.payable_nano_usd, caught.value.held_nano_usd) == (USD, 0)
    await escrow.hold("a", USD)


async def test_a_refusal_tells_what_running_requests_hold(escrow: Escrow, fund: Fund) -> None:
    """So that the caller learns whether waiting helps."""
    await fund("a", USD)
    await escrow.hold("a", 7 * USD // 10)
    with pytest.raises(OutOfFunds) as caught:
        await escrow.hold("a", USD // 2)
    assert (caught.value.payable_nano_usd, caught.value.held_nano_usd) == (3 * USD // 10, 7 * USD // 10)


async def test_free_lease_money_counts_as_payable(escrow: Escrow, fund: Fund) -> None:
    """What is leased and idle here is the account's to spend."""
    await fund("a", 10 * USD)
    escrow.release(await escrow.hold("a", USD // 10))
    assert (await escrow.hold("a", 10 * USD)).amount_nano_usd == 10 * USD


async def test_an_account_without_a_balance_gets_nothing(escrow: Escrow, fund: Fund) -> None:
    """Zero is out of funds, not trouble with the store."""
    await fund("a", 0)
    with pytest.raises(OutOfFunds):
        await escrow.hold("a", 1)


async def test_accounts_do_not_see_each_other(escrow: Escrow, fund: Fund) -> None:
    """One account's money never pays another's request."""
    await fund("a", 100 * USD)
    await fund("b", 0)
    await escrow.hold("a", 1)
    assert escrow.try_hold("b", 1) is None
    with pytest.raises(OutOfFunds):
        await escrow.hold("b", 1)


# Many at once


async def test_all_who_wait_are_served_by_one_change(escrow: Escrow, store: Any, fund: Fund) -> None:
    """Acquiring is single-flight per account."""
    await fund("a", 100 * USD)
    holds = await asyncio.gather(*(escrow.hold("a", USD // 100) for _ in range(50)))
    assert len(holds) == 50
    assert store.calls["acquire"] == 1
    assert store.calls["extend"] <= 1


async def test_a_thousand_holds_never_exceed_the_balance(escrow: Escrow, store: Any, fund: Fund) -> None:
    """1,000 requests of 0.10 USD on 5 USD: 50 run, 950 are refused, and the store is asked a few times only."""
    await fund("a", 5 * USD)
    found = await asyncio.gather(*(escrow.hold("a", USD // 10) for _ in range(1_000)), return_exceptions=True)
    holds = [each for each in found if isinstance(each, Hold)]
    refusals = [each for each in found if isinstance(each, OutOfFunds)]
    assert (len(holds), len(refusals)) == (50, 950)
    assert escrow.held_nano_usd == 5 * USD
    assert {(each.payable_nano_usd, each.held_nano_usd) for each in refusals} == {(0, 5 * USD)}
    assert await store.available() == 0
    assert store.calls.total() < 20


async def test_never_more_held_and_spent_than_there_was(escrow: Escrow, store: Any, fund: Fund, clock: Any) -> None:
    """1,000 requests that come, cost less than, as much as or more than their hold, and go, on 5 USD."""
    await fund("a", 5 * USD)
    randomness = random.Random(1)
    spent = 0

    async def request(number: int) -> bool:
        nonlocal spent
        await asyncio.sleep(randomness.random() / 10)
        try:
            hold = await escrow.hold("a", USD // 10)
        except OutOfFunds:
            return False
        assert escrow.held_nano_usd + spent <= 5 * USD
        await asyncio.sleep(randomness.random() / 50)
        charge, shortfall = escrow.charge(hold, randomness.randrange(0, USD // 8))
        assert shortfall >= 0
        spent += charge
        assert escrow.held_nano_usd + spent <= 5 * USD
        await store.settled(escrow, hold, charge, f"r{number}")
        clock.now_s += 0.01
        escrow.give_back_idle()
        return True

    served = sum(await asyncio.gather(*(request(number) for number in range(1_000))))
    assert served >= 50  # more, where some end before others come
    assert escrow.held_nano_usd == 0
    clock.now_s += 3
    escrow.give_back_idle()
    await escrow.close()
    assert await store.available() == 5 * USD - spent


async def test_who_came_first_is_served_first(escrow: Escrow, fund: Fund) -> None:
    """When there is not enough for all, in order; who asks for too much does not keep out those who come later."""
    await fund("a", 10)
    waiting = [asyncio.ensure_future(escrow.hold("a", amount)) for amount in (4, 7, 5, 2, 1)]
    done = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(each, Hold) for each in done] == [True, False, True, False, True]
    assert {each.payable_nano_usd for each in done if isinstance(each, OutOfFunds)} == {0}


async def test_a_small_hold_does_not_overtake_who_waits(escrow: Escrow, store: Any, fund: Fund) -> None:
    """While somebody waits for an extension, the rest of the lease is not given to latecomers."""
    await fund("a", 100 * USD)
    await escrow.hold("a", 9 * USD // 10)
    store.faults["extend"] = ["hang"]
    first = asyncio.ensure_future(escrow.hold("a", USD // 2))
    await store.called("extend")
    assert escrow.try_hold("a", USD // 10) is None
    second = asyncio.ensure_future(escrow.hold("a", USD // 10))
    store.resume.set()
    assert (await first).amount_nano_usd == USD // 2
    assert (await second).amount_nano_usd == USD // 10


# Who goes away


@pytest.mark.parametrize("method", ["acquire", "extend"])
@pytest.mark.parametrize("when", ["hang", "hang after"])
async def test_a_caller_that_goes_away_while_waiting_leaves_no_hold(
    escrow: Escrow, store: Any, fund: Fund, method: str, when: str
) -> None:
    """Whether or not the store had already moved the money."""
    await fund("a", 2 * USD)
    first = await escrow.hold("a", USD) if method == "extend" else None
    store.faults[method] = [when]
    waiting = asyncio.ensure_future(escrow.hold("a", USD // 2))
    await store.called(method)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    store.resume.set()
    held = USD if first else 0
    assert escrow.held_nano_usd == held
    hold = await escrow.hold("a", 2 * USD - held)
    assert escrow.held_nano_usd == 2 * USD
    escrow.release(hold)


async def test_a_caller_that_goes_away_just_when_it_is_served_leaves_no_hold(
    escrow: Escrow, store: Any, fund: Fund
) -> None:
    """Its hold is released although nobody saw it."""
    await fund("a", USD)
    waiting = asyncio.ensure_future(escrow.hold("a", USD))
    for _ in range(10**6):
        if escrow.held_nano_usd:
            break
        await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert escrow.held_nano_usd == 0


# Ends


async def test_a_charge_is_at_most_the_hold_and_what_is_free(escrow: Escrow, fund: Fund) -> None:
    """The rest is the house's; what others hold is never touched."""
    await fund("a", 100)
    mine = await escrow.hold("a", 40)
    await escrow.hold("a", 50)
    assert escrow.charge(mine, 60) == (40, 20)
    assert escrow.held_nano_usd == 50


async def test_a_charge_may_take_free_lease_money(escrow: Escrow, fund: Fund) -> None:
    """A cost above its hold is paid as long as the lease has it."""
    await fund("a", 100 * USD)
    hold = await escrow.hold("a", 1)
    assert escrow.charge(hold, USD + 5) == (USD, 5)


async def test_what_was_not_spent_is_free_again(escrow: Escrow, fund: Fund) -> None:
    """At the charge, not at its commit."""
    await fund("a", 100)
    hold = await escrow.hold("a", 100)
    assert escrow.try_hold("a", 1) is None
    assert escrow.charge(hold, 30) == (30, 0)
    assert escrow.try_hold("a", 70) is not None


async def test_a_charge_that_was_given_up_is_free_again(escrow: Escrow, store: Any, fund: Fund) -> None:
    """The row of amount 0 that follows in its place ends the hold."""
    await fund("a", 100)
    hold = await escrow.hold("a", 100)
    charge, _ = escrow.charge(hold, 30)
    escrow.refund(hold, charge)
    await store.settled(escrow, hold, 0, "r")
    assert escrow.try_hold("a", 100) is not None


# Giving back


async def test_idle_money_goes_back(escrow: Escrow, store: Any, fund: Fund, clock: Any, rows: Rows) -> None:
    """After two seconds without a request the lease is closed and all of it returns."""
    await fund("a", 100 * USD)
    escrow.release(await escrow.hold("a", 5))
    clock.now_s += 1.9
    escrow.give_back_idle()
    await store.still()
    assert await store.available() == 99 * USD
    clock.now_s += 0.2
    escrow.give_back_idle()
    await escrow.close()
    assert await store.available() == 100 * USD
    assert rows("SELECT state FROM leases") == [("closed",)]


async def test_what_a_long_stream_holds_stays(escrow: Escrow, store: Any, fund: Fund, clock: Any) -> None:
    """Only the free part of its lease goes back, so the hold is as good as before."""
    await fund("a", 100 * USD)
    hold = await escrow.hold("a", USD // 4)
    clock.now_s += 3
    escrow.give_back_idle()
    await store.still()
    assert await store.available() == 100 * USD - USD // 4
    charge, _ = escrow.charge(hold, USD // 4)
    assert charge == USD // 4
    await store.settled(escrow, hold, charge, "r")


async def test_a_hold_taken_just_before_an_idle_lease_is_closed_keeps_it(
    escrow: Escrow, store: Any, fund: Fund, clock: Any, rows: Rows
) -> None:
    """Between the decision to close it and the closing a request may have come: its money must not go back."""
    await fund("a", 100 * USD)
    escrow.release(await escrow.hold("a", 5))
    clock.now_s += 3
    escrow.give_back_idle()
    hold = escrow.try_hold("a", 5)
    assert hold is not None
    await store.still()
    assert rows("SELECT state FROM leases") == [("active",)]
    escrow.release(hold)


async def test_a_charge_under_way_keeps_its_lease(
    escrow: Escrow, store: Any, fund: Fund, clock: Any, rows: Rows
) -> None:
    """A lease is not closed before the rows that it pays are committed."""
    await fund("a", 100 * USD)
    hold = await escrow.hold("a", USD // 4)
    charge, _ = escrow.charge(hold, 7)
    clock.now_s += 3
    escrow.give_back_idle()
    await store.still()
    assert rows("SELECT state FROM leases") == [("active",)]
    await store.settled(escrow, hold, charge, "r")
    escrow.give_back_idle()
    await store.still()
    assert rows("SELECT state, spent FROM leases") == [("closed", 7)]
    assert await store.available() == 100 * USD - 7


async def test_a_request_during_the_give_back_waits_for_it(escrow: Escrow, store: Any, fund: Fund, clock: Any) -> None:
    """It then gets a lease of its own."""
    await fund("a", 100 * USD)
    escrow.release(await escrow.hold("a", 5))
    clock.now_s += 3
    store.faults["close_lease"] = ["hang"]
    escrow.give_back_idle()
    waiting = asyncio.ensure_future(escrow.hold("a", 5))
    await store.called("close_lease")
    assert not waiting.done()
    store.resume.set()
    assert (await waiting).lease.id == "lease_1"


async def test_money_on_its_way_back_is_not_held_again(escrow: Escrow, store: Any, fund: Fund, clock: Any) -> None:
    """From the moment the store is asked to take it."""
    await fund("a", 100 * USD)
    kept = await escrow.hold("a", USD // 4)
    clock.now_s += 3
    store.faults["give_back"] = ["hang"]
    escrow.give_back_idle()
    await store.called("give_back")
    assert escrow.try_hold("a", 1) is None
    waiting = asyncio.ensure_future(escrow.hold("a", USD // 2))
    store.resume.set()
    hold = await waiting
    assert escrow.charge(hold, USD // 2) == (USD // 2, 0)
    assert escrow.charge(kept, USD // 4) == (USD // 4, 0)
    await store.settle([store.settlement(hold, USD // 2, "r1"), store.settlement(kept, USD // 4, "r2")])
    assert (await store.balance("a")).balance_nano_usd == 100 * USD - 3 * USD // 4


async def test_idle_accounts_are_forgotten(escrow: Escrow, store: Any, fund: Fund, clock: Any) -> None:
    """A core's memory does not grow with every account that it ever saw."""
    await fund("a", USD)
    await fund("b", 0)
    escrow.release(await escrow.hold("a", 5))
    with pytest.raises(OutOfFunds):
        await escrow.hold("b", 5)
    for _ in range(2):
        clock.now_s += 3
        escrow.give_back_idle()
        await store.still()
    assert escrow._accounts == {}


async def test_closing_returns_everything(escrow: Escrow, store: Any, fund: Fund, rows: Rows) -> None:
    """Of all accounts, and leases that an unknown outcome left behind."""
    for account in ("a", "b"):
        await fund(account, 100 * USD)
        escrow.release(await escrow.hold(account, 5))
    await fund("c", 100 * USD)
    store.faults["acquire"] = ["lost"] * 4
    with pytest.raises(ServiceUnavailable):
        await escrow.hold("c", 5)
    await escrow.close()
    assert [await store.available(account) for account in "abc"] == [100 * USD] * 3
    assert {state for (state,) in rows("SELECT state FROM leases")} == {"closed"}


async def test_a_lost_reply_is_asked_for_again(escrow: Escrow, store: Any, fund: Fund, rows: Rows) -> None:
    """An acquisition whose answer got lost is repeated under the same id: no money is locked, no caller refused."""
    await fund("a", 5 * USD)
    store.faults["acquire"] = ["lost"]
    escrow.release(await escrow.hold("a", 3 * USD))
    assert len(rows("SELECT id FROM leases")) == 1
    assert await store.available() == 2 * USD
