"""Requests under limits on spend and concurrency, through the whole pipeline."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from core.call import Policy
from core.errors import BudgetExceeded, RateLimited, UpstreamFailed
from storage.limit_records import Limit

USD = 1_000_000_000
SLOT = Limit("lim_slot", "a", "concurrency", "now", 1)


def bound(limits: Sequence[Limit]) -> Policy:
    """A caller's policy of these limits."""
    return Policy(tuple(limits), None)


async def budget(router: Any, amount: int, period: str = "lifetime", owner: str = "a") -> Limit:
    """A limit on spend. A request of the router's holds about 247,000 nanodollars."""
    made = Limit(f"lim_{owner}_{period}", owner, "spend", period, amount)  # type: ignore[arg-type]
    await router.store.set_limit(made)
    return made


async def test_a_charge_is_spent_of_every_budget(router: Any) -> None:
    """Of the account's leases and of the purses', in one transaction."""
    limits = [await budget(router, USD), await budget(router, USD, "day")]
    await router.unary({}, policy=bound(limits))
    row = await router.row()
    spent = router.rows("SELECT account_id LIKE 'purse%', spent FROM leases ORDER BY 1")
    assert row["amount_nano_usd"] > 0
    assert spent == [(0, row["amount_nano_usd"]), (1, row["amount_nano_usd"]), (1, row["amount_nano_usd"])]
    assert await router.store.used([limit.id for limit in limits]) == {
        limit.id: row["amount_nano_usd"] for limit in limits
    }


@pytest.mark.parametrize("is_bound", [False, True])
async def test_the_steady_state_is_one_row(router: Any, is_bound: bool) -> None:
    """Nothing is asked of the store before the first token, and one row is written after the last."""
    limits = [await budget(router, 50 * USD), SLOT] if is_bound else []
    await router.store.set_limit(SLOT)
    await router.chunks({}, policy=bound(limits))
    await router.settled()
    router.store.calls.clear()
    stream = router.stream({}, policy=bound(limits))
    await anext(stream)
    assert not router.store.calls
    async for _ in stream:
        pass
    await router.settled()
    assert router.store.calls == {"settle": 1}
    assert len(router.store.batches[-1]) == 1


async def test_a_budget_that_is_used_up_is_refused_as_such(router: Any) -> None:
    """Whose it is, how much, and when it starts anew."""
    limit = await budget(router, 1_000, "day")
    with pytest.raises(BudgetExceeded) as caught:
        await router.unary({}, policy=bound([limit]))
    assert caught.value.code == "budget_exceeded"
    assert caught.value.message.startswith("The daily budget of account a, 0.000001 USD, is exceeded: this request may")
    assert caught.value.message.endswith("T00:00:00Z.")
    assert caught.value.retry_after_s is None
    assert 240_000 < int(caught.value.details()["missing_nano_usd"]) < 250_000


async def test_an_output_limit_is_lowered_to_the_smallest_budget(router: Any) -> None:
    """To what is left of each in turn, where the caller set none; less than 1,024 tokens is refused."""
    wide, narrow = await budget(router, 10_000_000), await budget(router, 5_000_000, "day")
    with router.open({"max_tokens": None}, stream=False, policy=bound([wide, narrow])) as exchange:
        await exchange.admit()
        lowered = int(dict(exchange.metadata())["x-worldrouter-max-tokens"])
        assert 2_400 < lowered <= 2_500
        await exchange.complete()
    tight = await budget(router, 2_000_000, "month")
    with pytest.raises(BudgetExceeded, match="monthly budget"):
        await router.unary({"max_tokens": None}, policy=bound([wide, narrow, tight]))


@pytest.mark.parametrize("model", ["m", "free"])
async def test_one_slot_lets_one_request_run(router: Any, model: str) -> None:
    """Another is refused until it ends, and may come at once then; whether or not it costs anything."""
    await router.store.set_limit(SLOT)
    with router.open({"model": model}, stream=False, policy=bound([SLOT])) as exchange:
        await exchange.admit()
        with pytest.raises(RateLimited) as caught:
            await router.unary({"model": model}, policy=bound([SLOT]))
        assert caught.value.message == "Account a may run 1 requests at once, and does."
        assert caught.value.retry_after_s == 1
        await exchange.complete()
    await router.unary({"model": model}, policy=bound([SLOT]))


async def test_no_slots_at_all_have_no_time_to_try_again(router: Any) -> None:
    """A limit of 0 lets nothing through, however long one waits."""
    none = Limit("lim_none", "a", "concurrency", "now", 0)
    await router.store.set_limit(none)
    with pytest.raises(RateLimited, match="Account a has a limit of 0 requests at once") as caught:
        await router.unary({}, policy=bound([none]))
    assert caught.value.retry_after_s is None


async def test_a_slot_comes_back_whatever_happens(router: Any) -> None:
    """The upstream fails, the caller leaves before the first token or in the middle, nothing was ever sent."""
    await router.store.set_limit(SLOT)
    limits = [SLOT, await budget(router, USD)]
    router.scripted("p1", status=500)
    with pytest.raises(UpstreamFailed):
        await router.unary({}, policy=bound(limits))
    router.scripted("p1", text="a b c d e f", chunk_delay_ms=5.0)
    for steps in range(0, 60, 3):
        task = asyncio.ensure_future(router.chunks({"stream": True}, policy=bound(limits)))
        for _ in range(steps):
            await asyncio.sleep(0)
        if steps % 2:
            await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await router.settled()
        assert [each.id for each in router.escrow._accounts.values() if each.lease and each.lease.held] == [], steps
    with router.open({}, stream=False, policy=bound(limits)) as exchange:
        await exchange.admit()


async def test_a_lost_lease_of_a_budget_is_charged_late(router: Any) -> None:
    """No more than the budget has, and the payer no more than that."""
    limit = await budget(router, 300_000)
    with router.open({}, stream=False, policy=bound([limit])) as exchange:
        await exchange.admit()
        [[purse_lease]] = router.rows("SELECT id FROM leases WHERE account_id LIKE 'purse%'")
        await router.store.close_lease(purse_lease)
        await router.store.set_limit(Limit(limit.id, "a", "spend", "lifetime", 1_000))
        await router.store.purse(limit.id)
        await exchange.complete()
    row = await router.row()
    assert row["amount_nano_usd"] == 1_000
    assert row["shortfall_nano_usd"] > 0
    assert exchange.cost_nano_usd == 1_000
    lease = router.escrow._accounts["a"].lease
    assert lease.spent == 1_000
    assert await router.store.unbalanced() == []
