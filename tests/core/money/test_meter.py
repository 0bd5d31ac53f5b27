"""The meter: from a hold to one settlement."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from core.call import Call, Caller, Role
from core.catalog import Model, price_of
from core.money.escrow import Escrow, EscrowSettings, Hold
from core.money.funds import Chain
from core.money.leases import OpenLease
from core.money.meter import Estimate, Meter, Outcome, Status
from core.money.pricing import cost_nano_usd
from core.money.usage import TokenCounts
from storage.records import Settlement

PRICE = price_of("m", input_pico_usd=1_000, output_pico_usd=2_000, cache_read_pico_usd=500, cache_write_pico_usd=1_500)
MODEL = Model(
    id="m",
    display_name="m",
    owned_by="o",
    created_s=0,
    max_output_tokens=100,
    context_tokens=0,
    price=PRICE,
    public=True,
    streaming=True,
    max_image_tokens=0,
    first_token_timeout_s=None,
    endpoints=(),
)
USED = TokenCounts(prompt=10, completion=20, total=30)  # costs 50 nUSD


class Queue:
    """Takes settlements and never commits them."""

    def __init__(self) -> None:
        self.taken: list[Settlement] = []

    def put(self, settlement: Settlement, receipt: Any) -> asyncio.Future[None]:
        self.taken.append(settlement)
        return asyncio.get_running_loop().create_future()


class Metered:
    """A meter with a lease of 1,000 nUSD, of which 200 are held for it; `bound`, with as much of a budget."""

    def __init__(
        self, *, granted: int = 1_000, held: int | None = 200, estimate: Estimate | None = None, bound: bool = False
    ) -> None:
        self.lease = OpenLease("lease_1", granted, 0, 1, held=held or 0)
        self.budget = OpenLease("lease_2", granted, 0, 1, held=200)
        hold = None if held is None else Hold("acct", self.lease, held)
        self.queue = Queue()
        store: Any = None
        self.meter = Meter(
            call=Call("r1", "client-1", Caller(Role.API_KEY, "acct", "key_1")),
            model=MODEL,
            streamed=True,
            hold=hold,
            chain=Chain(hold, (Hold("purse_1", self.budget, 200),), ()) if bound else None,
            estimate=estimate or Estimate(50, 75, most_input_tokens=2_000, most_output_tokens=5_000),
            escrow=Escrow(
                store, core_id="core_1", settings=EscrowSettings(), clock=lambda: 0.0, new_lease_id=lambda: "x"
            ),
            queue=self.queue,
            core_id="core_1",
        )

    def finish(self, tokens: TokenCounts, status: Status = "complete") -> Settlement:
        outcome = Outcome(status, tokens, "e", 1, 12, 34, finish_reason="stop", error_reason="X")
        self.meter.finish(outcome)
        (settlement,) = self.queue.taken
        return settlement


async def test_a_settlement_says_everything() -> None:
    """Who, what, how it ended, what it cost, by which price."""
    used = msgspec.structs.replace(USED, cached=4, cache_write=2, reasoning=5)
    assert Metered().finish(used) == Settlement(
        request_id="r1",
        account_id="acct",
        lease_id="lease_1",
        amount_nano_usd=4 + 2 + 3 + 40,
        shortfall_nano_usd=0,
        key_id="key_1",
        client_request_id="client-1",
        model_id="m",
        endpoint="e",
        price_id=PRICE.id,
        prompt_tokens=10,
        cached_tokens=4,
        cache_write_tokens=2,
        completion_tokens=20,
        reasoning_tokens=5,
        estimated=False,
        status="complete",
        finish_reason="stop",
        error_reason="X",
        attempts=1,
        streamed=True,
        ttft_ms=12,
        duration_ms=34,
        core_id="core_1",
    )


async def test_the_first_reason_wins() -> None:
    """A client that goes away while its answer is charged changes nothing: one settlement, one future."""
    metered = Metered()
    first = metered.finish(USED)
    again = metered.meter.finish(Outcome("client_gone", TokenCounts(), "e", 1, None, 99))
    assert metered.queue.taken == [first]
    assert again is metered.meter.committed
    assert metered.lease.spent == 50


async def test_the_rest_of_the_hold_is_free_at_once() -> None:
    """But its lease is kept until the row is committed."""
    metered = Metered()
    metered.finish(USED)
    assert (metered.lease.held, metered.lease.spent, metered.lease.unsettled) == (0, 50, 1)
    metered.meter.on_commit(None)
    assert metered.lease.unsettled == 0


async def test_a_bug_of_ours_is_free() -> None:
    """Whatever was produced before it."""
    settlement = Metered().finish(USED, "internal_error")
    assert (settlement.amount_nano_usd, settlement.prompt_tokens, settlement.completion_tokens) == (0, 0, 0)


@pytest.mark.parametrize("status", ["client_gone", "upstream_failed", "timeout", "revoked", "shutdown"])
async def test_what_was_produced_is_charged(status: Status) -> None:
    """Whatever ended it."""
    assert Metered().finish(USED, status).amount_nano_usd == 50


async def test_a_cost_above_the_hold_takes_what_the_lease_has_free() -> None:
    """And the house pays the rest."""
    settlement = Metered(granted=300).finish(TokenCounts(prompt=10, completion=150))
    assert (settlement.amount_nano_usd, settlement.shortfall_nano_usd) == (300, 10)


@pytest.mark.parametrize(
    "absurd",
    [
        TokenCounts(prompt=2_001, completion=1),
        TokenCounts(prompt=1, completion=5_001),
        TokenCounts(prompt=10**8, completion=10**8),
    ],
)
async def test_absurd_usage_is_charged_within_the_hold(absurd: TokenCounts) -> None:
    """A wrong count of an upstream never empties an account; the shortfall tells what it would have cost."""
    settlement = Metered(granted=10**9).finish(absurd)
    assert settlement.amount_nano_usd == 200
    assert settlement.shortfall_nano_usd == cost_nano_usd(MODEL.price, absurd) - 200
    assert settlement.completion_tokens == absurd.completion


async def test_an_honest_surprise_is_not_absurd() -> None:
    """Text that takes several times the estimated tokens is charged as it was counted."""
    assert Metered().finish(TokenCounts(prompt=400, completion=10)).amount_nano_usd == 420


async def test_a_free_model_holds_and_charges_nothing() -> None:
    """Its requests have rows all the same."""
    free = price_of("m", input_pico_usd=0, output_pico_usd=0, cache_read_pico_usd=0, cache_write_pico_usd=0)
    metered = Metered(held=None)
    metered.meter._model = replace(MODEL, price=free)
    settlement = metered.finish(USED)
    assert (settlement.lease_id, settlement.amount_nano_usd, settlement.shortfall_nano_usd) == (None, 0, 0)
    metered.meter.on_commit(None)
    metered.meter.on_void(settlement)


@pytest.mark.parametrize("bound", [False, True])
async def test_a_charge_that_was_given_up_is_free_again(bound: bool) -> None:
    """Of the budgets too; and the meter says what the ledger will say."""
    metered = Metered(bound=bound)
    settlement = metered.finish(USED)
    void = msgspec.structs.replace(settlement, amount_nano_usd=0, status="internal_error")
    told: list[tuple[Settlement, Settlement]] = []
    metered.meter.on_changed = lambda before, after: told.append((before, after))
    metered.meter.on_void(void)
    assert told == [(settlement, void)]
    assert metered.lease.spent == metered.budget.spent == 0
    assert metered.meter.settlement is void
