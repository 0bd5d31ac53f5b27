"""Budgets and slots: a request gets of all limits what it needs or nothing, and every core together no more than is
there."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from core.errors import ServiceUnavailable
from core.money.escrow import Escrow, EscrowSettings, OutOfFunds
from core.money.funds import Chain, Funds, OverLimit
from storage.limit_records import Limit
from storage.records import NewApiKey, SecretHash
from storage.store import open_store

USD = 1_000_000_000
DAY_US = 86_400 * 1_000_000
NOON_US = 20_000 * DAY_US + DAY_US // 2

ORG = Limit("lim_org", "a", "spend", "lifetime", 3 * USD)
KEY = Limit("lim_key", "key_1", "spend", "lifetime", USD)
DAILY = Limit("lim_day", "a", "spend", "day", USD)
SLOTS = Limit("lim_slots", "a", "concurrency", "now", 2)


@dataclass
class World:
    """Two cores' funds over one store, whose clock is `now_us`. Account "a" has 100 USD, and a key."""

    store: Any
    funds: Funds
    escrow: Escrow
    other: Funds
    clock: Any
    now_us: int = NOON_US
    limits: tuple[Limit, ...] = ()
    chains: list[Chain] = field(default_factory=list)

    async def limit(self, *limits: Limit) -> None:
        """Bind the caller."""
        for limit in limits:
            await self.store.set_limit(limit)
        self.limits = limits

    async def hold(self, amount: int, funds: Funds | None = None) -> Chain:
        """As admission does."""
        funds = funds or self.funds
        chain = funds.try_hold("a", amount, self.limits) or await funds.hold("a", amount, self.limits)
        self.chains.append(chain)
        return chain

    def held(self) -> int:
        """Everything that is held of anything."""
        return sum(each.lease.held for each in self.escrow._accounts.values() if each.lease is not None)

    def pass_time(self, seconds: int) -> None:
        self.clock.now_s += seconds
        self.now_us += seconds * 1_000_000


@pytest.fixture
async def world(store: Any, database: Any, clock: Any, conserved: Callable[[], None]) -> AsyncIterator[World]:
    await store.close()  # the same database, by another clock
    made: World
    opened = await open_store(f"sqlite+aiosqlite:///{database}", now_us=lambda: made.now_us)
    store = type(store)(opened)
    numbers = itertools.count()

    def escrow(core_id: str) -> Escrow:
        return Escrow(
            store,
            core_id=core_id,
            settings=EscrowSettings(USD // 10),
            clock=clock,
            new_lease_id=lambda: f"lease_{next(numbers):03}",
        )

    first, second = escrow("core_1"), escrow("core_2")
    made = World(store, Funds(first, store, clock=clock), first, Funds(second, store, clock=clock), clock)
    for core_id in ("core_1", "core_2"):
        await opened.register_core(core_id)
    await opened.create_account("a", "a", "user")
    await opened.create_key(NewApiKey("key_1", "a", "k", SecretHash(b"x", 1), "p", "s", None))
    await opened.adjust(ref="start", account_id="a", amount_nano_usd=100 * USD, note="x")
    yield made
    while first._tasks or second._tasks:
        await asyncio.gather(*first._tasks, *second._tasks)
    conserved()
    await opened.close()


async def test_a_request_holds_of_its_payer_and_of_every_limit(world: World) -> None:
    """The same amount of each budget, and one slot; in the end the charge is spent everywhere, the slot is free."""
    await world.limit(ORG, DAILY, SLOTS)
    chain = await world.hold(USD // 2)
    assert chain.money is not None
    assert [hold.amount_nano_usd for hold in (chain.money, *chain.budgets, *chain.slots)] == [USD // 2] * 3 + [1]
    assert chain.charge(USD // 5) == (USD // 5, 0)
    assert world.held() == 1
    chain.release_slots()
    assert world.held() == 0
    assert {hold.lease.spent for hold in (chain.money, *chain.budgets)} == {USD // 5}


async def test_the_steady_state_needs_no_database(world: World) -> None:
    """Neither for the budgets nor for the slots, once they are leased."""
    await world.limit(ORG, DAILY, SLOTS)
    (await world.hold(USD // 10)).release()
    calls = world.store.calls.total()
    for _ in range(20):
        chain = world.funds.try_hold("a", USD // 20, world.limits)
        assert chain is not None
        chain.release()
    assert world.store.calls.total() == calls


@pytest.mark.parametrize("limits", [(KEY, ORG), (ORG, KEY), (SLOTS, KEY)], ids=["inner first", "inner last", "slots"])
async def test_the_smallest_budget_binds_and_nothing_else_is_held(world: World, limits: tuple[Limit, ...]) -> None:
    """A refusal says whose budget it is and what it has, and leaves no hold on any other."""
    await world.limit(*(limits))
    chain = await world.hold(4 * USD // 5)
    before = world.held()
    with pytest.raises(OverLimit) as caught:
        await world.hold(USD // 2)
    assert (caught.value.limit, caught.value.payable_nano_usd) == (KEY, USD // 5)
    assert caught.value.held_nano_usd == 4 * USD // 5
    assert world.held() == before
    chain.release()
    await world.hold(USD)


async def test_a_poor_payer_leaves_no_hold_on_the_budgets(world: World) -> None:
    """Nor a slot."""
    await world.limit(SLOTS, Limit("lim_big", "a", "spend", "lifetime", 10_000 * USD))
    with pytest.raises(OutOfFunds) as caught:
        await world.hold(101 * USD)
    assert not isinstance(caught.value, OverLimit)
    assert world.held() == 0


async def test_a_stopped_payer_leaves_no_hold_on_the_budgets(world: World) -> None:
    """Nor a slot, though all of them are at hand."""
    await world.limit(SLOTS, ORG)
    (await world.hold(USD)).release()
    world.escrow.stopped = frozenset({"a"})
    for hold in (world.funds.try_hold, world.funds.hold):
        with pytest.raises(ServiceUnavailable):
            await hold("a", USD, world.limits)  # type: ignore[misc]
    assert world.held() == 0


async def test_a_cancelled_request_leaves_no_hold(world: World) -> None:
    """Wherever it is cancelled: before, in and after each call of the store."""
    await world.limit(SLOTS, ORG, DAILY)
    finished = False
    for steps in itertools.count():
        # Each time with nothing leased, so that every call is made.
        while world.escrow._tasks:
            await asyncio.gather(*world.escrow._tasks, return_exceptions=True)
        await world.escrow.close()
        world.funds._known.clear()
        task = asyncio.ensure_future(world.funds.hold("a", USD // 10, world.limits))
        for _ in range(steps):
            await asyncio.sleep(0)
            if steps % 3 == 0:
                await world.store.still()
        finished = task.done()
        task.cancel()
        found = (await asyncio.gather(task, return_exceptions=True))[0]
        while world.escrow._tasks:
            await asyncio.gather(*world.escrow._tasks, return_exceptions=True)
        if isinstance(found, Chain):
            found.release()
        assert world.held() == 0, steps
        if finished or steps > 60:
            break
    assert finished


async def test_budgets_are_shared_between_cores(world: World) -> None:
    """What one core holds another cannot have; when it is spent, nobody can."""
    await world.limit(KEY)
    first = await world.hold(6 * USD // 10)
    with pytest.raises(OverLimit) as caught:
        await world.hold(6 * USD // 10, world.other)
    assert caught.value.payable_nano_usd == 4 * USD // 10
    await world.hold(4 * USD // 10, world.other)
    first.release()


async def test_slots_are_shared_between_cores_and_come_back(world: World) -> None:
    """Three of three are taken; when fewer are in use on one core, the others let as many in after a while."""
    await world.limit(Limit("lim_slots", "a", "concurrency", "now", 3))
    chains = [await world.hold(1) for _ in range(3)]
    with pytest.raises(OverLimit):
        await world.hold(1, world.other)
    for chain in chains[1:]:
        chain.release()
    for _ in range(2):
        (await world.hold(1)).release()
        world.pass_time(3)
        world.funds.give_back_idle()
        await asyncio.gather(*world.escrow._tasks)
    await world.hold(1, world.other)
    with pytest.raises(OverLimit):
        await world.hold(1, world.other)
    assert world.funds.try_hold("a", 1, world.limits) is not None


async def test_a_crash_frees_its_slots_with_the_lease(world: World) -> None:
    """The reaper returns what a dead core held."""
    await world.limit(SLOTS)
    await world.hold(1)
    await world.hold(1)
    world.pass_time(31)
    await world.store.reap()
    world.other._escrow._renewed_s = world.clock.now_s
    await world.hold(1, world.other)
    await world.hold(1, world.other)


async def test_a_day_begins_by_the_databases_clock(world: World) -> None:
    """Neither before nor after; requests that run over midnight spend of the day that they began in."""
    await world.limit(DAILY)
    over = await world.hold(9 * USD // 10)
    with pytest.raises(OverLimit) as caught:
        await world.hold(USD // 2)
    assert caught.value.purse.ends_us == 20_001 * DAY_US
    world.pass_time(43_199)
    world.escrow._renewed_s = world.clock.now_s
    with pytest.raises(OverLimit):
        await world.hold(USD // 2)
    world.pass_time(1)
    next_day = await world.hold(USD)
    assert next_day.budgets[0].account_id != over.budgets[0].account_id
    assert over.charge(USD // 10) == (USD // 10, 0)
    assert next_day.budgets[0].lease.spent == 0


async def test_a_day_ends_though_this_cores_clock_is_slow(world: World) -> None:
    """The store is asked again once an hour, however much of the day should be left."""
    await world.limit(DAILY)
    await world.hold(USD)
    world.now_us += DAY_US
    world.clock.now_s += 3_601
    world.escrow._renewed_s = world.clock.now_s
    await world.hold(USD)


async def test_a_changed_amount_counts_at_once(world: World) -> None:
    """Raised, it lets more in; lowered, what was leased beyond it goes back before anybody gets it."""
    await world.limit(Limit("lim", "a", "spend", "lifetime", 10 * USD))
    (await world.hold(2 * USD)).charge(USD)
    await world.limit(Limit("lim", "a", "spend", "lifetime", 3 * USD // 2))
    with pytest.raises(OverLimit) as caught:
        await world.hold(USD)
    assert caught.value.payable_nano_usd == USD // 2
    await world.limit(Limit("lim", "a", "spend", "lifetime", 0))
    with pytest.raises(OverLimit) as caught:
        await world.hold(1)
    assert caught.value.payable_nano_usd == 0
    await world.limit(Limit("lim", "a", "spend", "lifetime", 2 * USD))
    await world.hold(USD)


async def test_fewer_slots_count_as_running_requests_end(world: World) -> None:
    """Though none was free when the limit was lowered: a slot that comes free beyond it is nobody's."""
    await world.limit(Limit("lim", "a", "concurrency", "now", 4))
    chains = [await world.hold(1), await world.hold(1), await world.hold(1, world.other), await world.hold(1)]
    await world.limit(Limit("lim", "a", "concurrency", "now", 2))
    for chain in chains[:2]:
        with pytest.raises(OverLimit):
            await world.hold(1)
        with pytest.raises(OverLimit):
            await world.hold(1, world.other)
        chain.release()
    with pytest.raises(OverLimit):
        await world.hold(1)
    with pytest.raises(OverLimit):
        await world.hold(1, world.other)
    chains[3].release()
    await world.hold(1)
    with pytest.raises(OverLimit):
        await world.hold(1)
    await world.limit(Limit("lim", "a", "concurrency", "now", 3))
    await world.hold(1)


async def test_what_running_requests_hold_of_a_lowered_budget_goes_back_as_it_comes_free(world: World) -> None:
    """It is theirs until their end, and what they do not spend of it is nobody's."""
    await world.limit(Limit("lim", "a", "spend", "lifetime", 10 * USD))
    running = await world.hold(5 * USD)
    await world.limit(Limit("lim", "a", "spend", "lifetime", 2 * USD))
    with pytest.raises(OverLimit):
        await world.hold(1)
    running.charge(USD)
    await world.hold(USD)
    with pytest.raises(OverLimit):
        await world.hold(1)
    await world.limit(Limit("lim", "a", "spend", "lifetime", 3 * USD))
    await world.hold(USD)


async def test_a_lowered_limit_counts_though_the_store_failed(world: World) -> None:
    """What could not be brought back at once is brought back before anybody gets a slot."""
    await world.limit(Limit("lim", "a", "concurrency", "now", 6))
    chains = [await world.hold(1) for _ in range(6)]
    await world.limit(Limit("lim", "a", "concurrency", "now", 3))
    world.store.faults["give_back"] = ["refused"]
    with pytest.raises(ServiceUnavailable):
        await world.hold(1)
    for chain in chains[1:]:
        chain.release()
    for _ in range(2):  # what is given back meanwhile does not undo it
        world.pass_time(3)
        world.funds.give_back_idle()
        await world.store.still()
        await world.hold(1)
    with pytest.raises(OverLimit):
        await world.hold(1)


async def test_a_deleted_limit_binds_nobody(world: World) -> None:
    """Though a caller still names it."""
    await world.limit(KEY)
    await world.hold(USD)
    await world.store.delete_limit(KEY.id)
    world.funds._known.clear()
    await world.hold(5 * USD)


async def test_a_charge_is_no_more_than_the_least_lease_has(world: World) -> None:
    """Beyond the hold it takes what is free, of all of them the same."""
    await world.limit(KEY)
    chain = await world.hold(USD // 2)
    assert chain.charge(USD) == (USD // 2, USD // 2)
    chain.settled(0)
    assert chain.money is not None
    assert chain.money.lease.spent == chain.budgets[0].lease.spent == USD // 2


async def test_a_database_that_does_not_answer_is_no_refusal_of_the_budget(world: World) -> None:
    """It is unavailable, and nothing is held."""
    await world.limit(KEY)
    world.store.faults["purse"] = ["refused"] * 4
    with pytest.raises(ServiceUnavailable):
        await world.hold(1)
    assert world.held() == 0


@pytest.mark.parametrize("what", ["slots", "budgets"])
async def test_what_is_held_of_a_lease_that_is_closed_meanwhile_is_nothing(world: World, what: str) -> None:
    """Whoever waits for the payer's money with the rest in hand gets it anew when one of its leases is gone."""
    await world.limit(SLOTS, Limit("lim_big", "a", "spend", "lifetime", 50 * USD))
    first = await world.hold(USD // 100)
    gone = getattr(first, what)[0].lease
    first.release()
    world.store.faults["extend"] = ["ok", "hang"]  # of the budget's lease, and of the payer's
    waiting = asyncio.ensure_future(world.hold(5 * USD))
    await world.store.called("extend", 2)
    await world.store.close_lease(gone.id)
    await world.escrow.renew()
    assert gone.lost
    world.store.resume.set()
    chain = await waiting
    assert [hold.lease.lost for hold in (*chain.budgets, *chain.slots)] == [False, False]
    assert gone.held == 0
    chain.release()
