"""The ledger writer: batches, unknown outcomes, charges that are given up."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from core.money.ledger import LINGER_ABOVE, LINGER_S, MAX_BATCH, QUIET_ROUNDS, LedgerWriter, SettlementFailed
from storage.limit_records import Limit
from storage.records import Charge, Settlement

SETTLE_TIMEOUT_S = 5.0

Rows = Callable[[str], list[tuple[Any, ...]]]


@dataclass
class Receipt:
    """Notes what became of a settlement."""

    commits: int = 0
    voids: list[Settlement] = field(default_factory=list)

    def on_commit(self, charged: Charge | None) -> None:
        self.commits += 1

    def on_void(self, instead: Settlement) -> None:
        self.voids.append(instead)


@dataclass
class Ledger:
    """A writer at work."""

    writer: LedgerWriter
    store: Any
    clock: Any
    in_flight: int = 0
    commits: list[int] = field(default_factory=list)
    receipts: dict[str, Receipt] = field(default_factory=dict)

    def put(self, request_id: str, amount: int = 100, **changes: Any) -> asyncio.Future[None]:
        receipt = self.receipts[request_id] = Receipt()
        return self.writer.put(msgspec.structs.replace(settlement(request_id, amount), **changes), receipt)

    async def put_in_vain(self, request_id: str, fault: str) -> None:
        """Put a charge whose first attempt meets this fault, and the next ones failures, until its waiter is told."""
        committed = self.put(request_id)
        self.store.faults["settle"] = [fault] + ["refused"] * 6
        await self.store.called("settle", 3)
        await self._told(committed)
        self.store.faults.clear()

    async def put_too_late(self, request_id: str, **changes: Any) -> None:
        """Put a charge whose attempt hangs, until its waiter is told; it goes on when the store's `resume` is set."""
        self.store.faults["settle"] = ["hang"]
        committed = self.put(request_id, **changes)
        await self.store.called("settle")
        await self._told(committed)

    async def _told(self, committed: asyncio.Future[None]) -> None:
        self.clock.now_s += SETTLE_TIMEOUT_S
        self.writer.sweep()
        with pytest.raises(SettlementFailed):
            await committed

    async def drained(self) -> None:
        async with asyncio.timeout(10):
            await self.writer.drained()


def settlement(request_id: str, amount: int) -> Settlement:
    """A charge to a lease of account "a"."""
    return Settlement(
        request_id=request_id,
        account_id="a",
        lease_id="lease_a",
        amount_nano_usd=amount,
        shortfall_nano_usd=3,
        key_id="key_1",
        client_request_id="",
        model_id="m",
        endpoint="e",
        price_id="p",
        prompt_tokens=1,
        cached_tokens=0,
        cache_write_tokens=0,
        completion_tokens=2,
        reasoning_tokens=0,
        estimated=False,
        status="complete",
        finish_reason="stop",
        error_reason="",
        attempts=1,
        streamed=True,
        ttft_ms=1,
        duration_ms=2,
        core_id="core_1",
    )


@pytest.fixture
async def ledger(store: Any, clock: Any, conserved: Callable[[], None]) -> AsyncIterator[Ledger]:
    """A running writer over a real store, whose account has a lease of 1 USD."""
    await store.register_core("core_1")
    await store.create_account("a", "a", "user")
    await store.adjust(ref="start", account_id="a", amount_nano_usd=2_000_000_000, note="x")
    await store.acquire(
        lease_id="lease_a",
        account_id="a",
        core_id="core_1",
        want_nano_usd=1_000_000_000,
        chunk_nano_usd=1,
        ttl_s=30.0,
    )
    made: Ledger
    writer = LedgerWriter(
        store,
        clock=clock,
        in_flight=lambda: made.in_flight,
        observe_commit=lambda rows, seconds: made.commits.append(rows),
        settle_timeout_s=SETTLE_TIMEOUT_S,
        jitter=lambda: 0.0,
    )
    made = Ledger(writer, store, clock)
    task = asyncio.ensure_future(writer.run())
    yield made
    store.resume.set()
    await made.drained()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    conserved()


@pytest.fixture
def usage(rows: Rows) -> Callable[[], dict[str, tuple[Any, ...]]]:
    """A function that reads what the ledger says of each request: amount, status, error."""
    sql = "SELECT ref, amount, shortfall, status, error_reason FROM ledger WHERE kind = 'usage'"
    return lambda: {ref: rest for ref, *rest in map(tuple, rows(sql))}


async def test_a_settlement_is_durable_when_its_future_is_done(ledger: Ledger, usage: Any) -> None:
    """And its receipt has been told, once."""
    await ledger.put("r1")
    assert usage() == {"r1": [100, 3, "complete", ""]}
    assert ledger.receipts["r1"] == Receipt(commits=1)
    assert ledger.writer.depth == 0


async def test_nothing_is_done_before_its_commit(ledger: Ledger, usage: Any) -> None:
    """While the database works, the row is in the queue and its waiter waits."""
    ledger.store.faults["settle"] = ["hang"]
    committed = ledger.put("r1")
    await ledger.store.called("settle")
    assert not committed.done()
    assert ledger.writer.depth == 1
    assert usage() == {}
    ledger.store.resume.set()
    await committed


async def test_a_batch_is_what_gathered_while_the_last_one_committed(ledger: Ledger) -> None:
    """One transaction for all of it."""
    ledger.store.faults["settle"] = ["hang"]
    first = ledger.put("r0")
    await ledger.store.called("settle")
    rest = [ledger.put(f"r{number}") for number in range(1, 101)]
    ledger.store.resume.set()
    await asyncio.gather(first, *rest)
    assert ledger.commits == [1, 100]


async def test_a_batch_is_bounded(ledger: Ledger) -> None:
    """At most 256 rows, in the order in which they came."""
    waiting = [ledger.put(f"r{number:04}") for number in range(600)]
    await asyncio.gather(*waiting)
    assert ledger.commits == [MAX_BATCH, MAX_BATCH, 600 - 2 * MAX_BATCH]
    refs = [each.request_id for batch in ledger.store.batches for each in batch]
    assert refs == sorted(refs)


async def test_a_batch_waits_for_what_the_loop_has_at_hand(ledger: Ledger) -> None:
    """Rows that come one round after another are one batch, unless all that runs is in the batch already."""
    for in_flight, batches in ((3, [3]), (1, [1, 2])):
        ledger.commits.clear()
        ledger.in_flight = in_flight
        waiting = [ledger.put(f"a{in_flight}")]
        for letter in "bc":
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            waiting.append(ledger.put(f"{letter}{in_flight}"))
        await asyncio.gather(*waiting)
        assert ledger.commits == batches


async def test_a_batch_waits_for_nothing_that_is_not_at_hand(ledger: Ledger) -> None:
    """Requests that run elsewhere hold up nobody."""
    ledger.in_flight = LINGER_ABOVE
    first = ledger.put("r1")
    for _ in range(QUIET_ROUNDS + 2):
        await asyncio.sleep(0)
    await asyncio.gather(first, ledger.put("r2"))
    assert ledger.commits == [1, 1]


async def test_it_lingers_only_when_much_is_in_flight(ledger: Ledger) -> None:
    """Few requests commit at once; many wait a moment for one another."""
    for in_flight, batches in ((LINGER_ABOVE, 2), (LINGER_ABOVE + 1, 1)):
        ledger.commits.clear()
        ledger.in_flight = in_flight
        first = ledger.put(f"a{in_flight}")
        for _ in range(QUIET_ROUNDS + 2):
            await asyncio.sleep(0)
        await asyncio.gather(first, ledger.put(f"b{in_flight}"))
        assert len(ledger.commits) == batches


async def test_it_lingers_no_longer_than_it_says(ledger: Ledger) -> None:
    """Rounds of a busy event loop that took that long already are part of it."""
    ledger.in_flight = LINGER_ABOVE + 1
    first = ledger.put("r1")
    await asyncio.sleep(0)
    ledger.clock.now_s += LINGER_S
    for _ in range(QUIET_ROUNDS + 1):
        await asyncio.sleep(0)
    await asyncio.gather(first, ledger.put("r2"))
    assert ledger.commits == [1, 1]


@pytest.mark.parametrize("fault", ["refused", "lost", "lost before", "bug"])
async def test_a_failed_commit_is_tried_again_until_it_works(ledger: Ledger, usage: Any, fault: str) -> None:
    """Whatever the outcome was, there is one row of each, and its waiter learns of it once."""
    ledger.store.faults["settle"] = [fault] * 4
    await asyncio.gather(*(ledger.put(f"r{number}") for number in range(5)))
    assert usage() == {f"r{number}": [100, 3, "complete", ""] for number in range(5)}
    assert ledger.store.calls["settle"] == 5
    assert all(receipt == Receipt(commits=1) for receipt in ledger.receipts.values())
    found = await ledger.store.balance("a")
    assert found.balance_nano_usd == 2_000_000_000 - 500


async def test_rows_that_come_while_a_batch_fails_wait_for_it(ledger: Ledger) -> None:
    """The same batch again: its outcome may be unknown."""
    ledger.store.faults["settle"] = ["lost before", "hang"]
    first = ledger.put("r0")
    await ledger.store.called("settle", 2)
    second = ledger.put("r1")
    ledger.store.resume.set()
    await asyncio.gather(first, second)
    assert [[each.request_id for each in batch] for batch in ledger.store.batches] == [["r0"], ["r0"], ["r1"]]


async def test_a_charge_that_surely_did_not_happen_is_given_up_in_time(ledger: Ledger, usage: Any) -> None:
    """After the settle timeout its waiter gets an error; the row that follows charges nothing and says why."""
    committed = ledger.put("r1")
    ledger.store.faults["settle"] = ["refused"] * 8
    await ledger.store.called("settle", 2)
    ledger.clock.now_s += SETTLE_TIMEOUT_S - 0.1
    ledger.writer.sweep()
    assert not committed.done()
    ledger.clock.now_s += 0.1
    ledger.writer.sweep()
    with pytest.raises(SettlementFailed):
        await committed
    ledger.store.faults.clear()
    await ledger.drained()
    assert usage() == {"r1": [0, 0, "internal_error", "SERVICE_UNAVAILABLE"]}
    receipt = ledger.receipts["r1"]
    assert (receipt.commits, [each.amount_nano_usd for each in receipt.voids]) == (1, [0])


@pytest.mark.parametrize("fault", ["lost", "bug after"])
async def test_a_charge_that_may_have_happened_is_given_back(
    ledger: Ledger, usage: Any, rows: Rows, fault: str
) -> None:
    """Its waiter gets an error in time; the row stays what it was, as the database may have it; a credit follows."""
    await ledger.put_in_vain("r1", fault)
    await ledger.drained()
    assert usage() == {"r1": [100, 3, "complete", ""]}
    assert ledger.receipts["r1"] == Receipt(commits=1)
    assert rows("SELECT kind, credit_account, amount FROM ledger WHERE ref = 'refund-r1'") == [("adjust", "a", 100)]


async def test_a_charge_that_did_not_happen_after_all_is_given_up(ledger: Ledger, usage: Any) -> None:
    """Nobody knew in time: its waiter got an error. What is tried again charges nothing, so nothing is given back."""
    await ledger.put_in_vain("r1", "lost before")
    adjusted = ledger.store.calls["adjust"]
    await ledger.drained()
    assert usage() == {"r1": [0, 0, "internal_error", "SERVICE_UNAVAILABLE"]}
    receipt = ledger.receipts["r1"]
    assert (receipt.commits, [each.amount_nano_usd for each in receipt.voids]) == (1, [0])
    assert ledger.store.calls["adjust"] == adjusted


async def test_a_charge_that_came_too_late_is_given_back(ledger: Ledger, usage: Any, rows: Rows) -> None:
    """It hung past the settle timeout, so its waiter got an error: the row stays, and so does its refund, once."""
    ledger.store.faults["adjust"] = ["refused"]
    await ledger.put_too_late("r1")
    ledger.store.resume.set()
    await ledger.drained()
    assert usage() == {"r1": [100, 3, "complete", ""]}
    assert ledger.receipts["r1"] == Receipt(commits=1)
    assert rows("SELECT kind, credit_account, amount FROM ledger WHERE ref = 'refund-r1'") == [("adjust", "a", 100)]


async def test_budgets_get_back_what_they_were_charged(ledger: Ledger, rows: Rows) -> None:
    """And the account the same: what was charged late, not what was asked for."""
    await ledger.store.set_limit(Limit("lim_1", "a", "spend", "lifetime", 60))
    purse_id = (await ledger.store.purse("lim_1")).id
    await ledger.put_too_late("r1", budgets=(("a lease that is gone", purse_id),))
    ledger.store.resume.set()
    await ledger.drained()
    assert rows("SELECT kind, amount FROM ledger WHERE ref LIKE '%r1' ORDER BY id") == [("usage", 60), ("adjust", 60)]
    assert rows("SELECT available, spent FROM purses") == [(60, 0)]


@pytest.mark.parametrize("fault", ["refused", "lost"])
async def test_giving_back_is_tried_until_it_works(ledger: Ledger, rows: Rows, fault: str) -> None:
    """Once, whatever the outcomes were; the writer is not drained before."""
    await ledger.put_too_late("r1")
    ledger.store.faults["adjust"] = [fault] * 2
    ledger.store.resume.set()
    await ledger.drained()
    assert rows("SELECT amount FROM ledger WHERE ref = 'refund-r1'") == [(100,)]


async def test_a_charge_that_was_delivered_is_not_given_back(ledger: Ledger, rows: Rows) -> None:
    """Nor one that nobody waited for."""
    ledger.store.faults["settle"] = ["lost", "refused"]
    departed = ledger.put("r1")
    departed.cancel()
    await ledger.put("r2")
    await ledger.drained()
    assert rows("SELECT ref FROM ledger WHERE ref LIKE 'refund%'") == []


async def test_a_slow_refusal_gives_the_charge_up(ledger: Ledger, usage: Any) -> None:
    """A commit that hangs past the settle timeout and then fails for sure: the caller was told, nothing is charged."""
    ledger.store.faults["settle"] = ["hang, then refused"]
    committed = ledger.put("r1")
    await ledger.store.called("settle")
    ledger.clock.now_s += SETTLE_TIMEOUT_S
    ledger.writer.sweep()
    with pytest.raises(SettlementFailed):
        await committed
    ledger.store.resume.set()
    await ledger.drained()
    assert usage() == {"r1": [0, 0, "internal_error", "SERVICE_UNAVAILABLE"]}


async def test_a_charge_that_nobody_waits_for_is_never_given_up(ledger: Ledger, usage: Any) -> None:
    """Of a caller that went away: what was produced is charged, however long the database is down."""
    ledger.put("r1").cancel()
    ledger.store.faults["settle"] = ["refused"] * 4
    await ledger.store.called("settle", 2)
    ledger.clock.now_s += 10 * SETTLE_TIMEOUT_S
    ledger.writer.sweep()
    await ledger.drained()
    assert usage() == {"r1": [100, 3, "complete", ""]}
    assert ledger.receipts["r1"] == Receipt(commits=1)


async def test_waiters_that_went_away_make_no_noise(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """Neither a commit nor a failure that nobody looks at is reported as an unretrieved exception."""
    ledger.store.faults["settle"] = ["refused"] * 3
    ledger.put("r1")
    ledger.put("r2").cancel()
    await ledger.store.called("settle", 2)
    ledger.clock.now_s += SETTLE_TIMEOUT_S
    ledger.writer.sweep()
    await ledger.drained()
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]


async def test_a_bug_in_the_store_does_not_end_the_writer(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its trace, and the batch is tried again."""
    with caplog.at_level(logging.ERROR):
        ledger.store.faults["settle"] = ["bug"]
        await ledger.put("r1")
    assert [record.exc_info is not None for record in caplog.records if record.name == "core.money.ledger"] == [True]


async def test_health_ends_when_a_settlement_waits_too_long(ledger: Ledger) -> None:
    """Whether commits fail or hang, new requests are refused; once one works they are not."""
    assert ledger.writer.healthy
    ledger.store.faults["settle"] = ["hang"]
    committed = ledger.put("r1")
    await ledger.store.called("settle")
    assert ledger.writer.healthy
    ledger.clock.now_s += SETTLE_TIMEOUT_S
    assert not ledger.writer.healthy
    ledger.store.resume.set()
    await committed
    assert ledger.writer.healthy


async def test_drained_waits_for_what_is_queued(ledger: Ledger) -> None:
    """At once when there is nothing; else until everything is committed."""
    await ledger.drained()
    ledger.store.faults["settle"] = ["hang"]
    ledger.put("r1")
    waiting = asyncio.ensure_future(ledger.writer.drained())
    await ledger.store.called("settle")
    assert not waiting.done()
    ledger.store.resume.set()
    await waiting
    assert ledger.writer.depth == 0
