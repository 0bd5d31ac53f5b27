"""The minute's audit: an account that does not add up gets no leases, until it does."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from core.errors import ServiceUnavailable
from core.money.auditor import Auditor
from core.money.escrow import Escrow
from core.money.funds import Funds
from storage.limit_records import Limit

USD = 1_000_000_000
EVERY_S = 0.01

Fund = Callable[..., Awaitable[None]]


@pytest.fixture
def auditor(store: Any, escrow: Escrow, clock: Any) -> Auditor:
    return Auditor(store, escrow, every_s=EVERY_S, clock=clock)


@pytest.fixture
async def running(auditor: Auditor) -> AsyncIterator[None]:
    """The auditor at work."""
    task = asyncio.create_task(auditor.run())
    yield
    assert not task.done()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.fixture
def change(database: Path) -> Callable[[int], None]:
    """A function that adds to what account "a" has, past the store."""

    def add(amount: int) -> None:
        connection = sqlite3.connect(database)
        connection.execute("UPDATE accounts SET available = available + ? WHERE id = 'a'", (amount,))
        connection.commit()
        connection.close()

    return add


async def test_an_account_that_does_not_add_up_is_stopped_and_comes_free(
    auditor: Auditor, escrow: Escrow, fund: Fund, change: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """New requests are refused, also those that its lease could pay; others go on, and what runs ends as always."""
    await fund("a", 10 * USD)
    await fund("b", 10 * USD)
    running = await escrow.hold("a", USD // 10)
    change(7)
    await auditor.audit()
    assert auditor.deviation_count == 1
    for refused in (escrow.hold("a", 1), asyncio.to_thread(escrow.try_hold, "a", 1)):
        with pytest.raises(ServiceUnavailable, match="is being checked") as caught:
            await refused
        assert caught.value.retry_after_s == 60
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert f"Account a gets no leases until it adds up: balance should be {10 * USD} and is {10 * USD + 7}" in (
        record.getMessage()
    )
    escrow.release(await escrow.hold("b", 1))
    assert escrow.charge(running, USD // 10) == (USD // 10, 0)

    change(-7)
    await auditor.audit()
    assert auditor.deviation_count == 0
    assert "adds up again" in caplog.text
    escrow.release(await escrow.hold("a", 1))


async def test_it_chains_and_audits_by_itself(
    running: None, auditor: Auditor, store: Any, fund: Fund, clock: Any, change: Any, rows: Any
) -> None:
    """Entries are chained between audits; an audit comes when it is time."""
    await fund("a", USD)
    await store.called("chain", store.calls["chain"] + 2)
    assert rows("SELECT account_id, position FROM ledger_chain") == [("a", 1)]
    assert store.calls["unbalanced"] == 0
    change(1)
    clock.now_s += 1
    await store.called("unbalanced")
    assert auditor.deviation_count == 1
    change(-1)
    clock.now_s += 1
    await store.called("unbalanced", 2)
    assert auditor.deviation_count == 0


@pytest.mark.parametrize("fault", ["refused", "bug"])
async def test_a_database_that_fails_changes_nothing(
    running: None, auditor: Auditor, escrow: Escrow, store: Any, fund: Fund, clock: Any, change: Any, fault: str
) -> None:
    """What was stopped stays so, a chain that cannot be written keeps no audit back, and it goes on."""
    await fund("a", USD)
    change(1)
    store.faults["chain"] = [fault] * 3
    clock.now_s += 1
    await store.called("unbalanced")
    assert escrow.stopped == {"a"}
    store.faults["unbalanced"] = [fault]
    clock.now_s += 1
    await store.called("unbalanced", 2)
    assert (escrow.stopped, auditor.deviation_count) == ({"a"}, 1)
    change(-1)
    clock.now_s += 1
    await store.called("unbalanced", 3)
    assert escrow.stopped == frozenset()


async def test_a_purse_that_does_not_add_up_stops_its_limit_alone(
    auditor: Auditor, escrow: Escrow, store: Any, clock: Any, fund: Fund, database: Path
) -> None:
    """Requests under that limit are refused; what else the account asks is not."""
    await fund("a", 10 * USD)
    budgets = [Limit(f"lim_{period}", "a", "spend", period, USD) for period in ("day", "month")]
    for limit in budgets:
        await store.set_limit(limit)
    funds = Funds(escrow, store, clock=clock)
    (await funds.hold("a", 1, budgets)).release()
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE purses SET available = available + 1 WHERE limit_id = 'lim_day'")
    connection.close()
    await auditor.audit()
    assert auditor.deviation_count == 1
    with pytest.raises(ServiceUnavailable):
        funds.try_hold("a", 1, budgets)
    chain = funds.try_hold("a", 1, budgets[1:])
    assert chain is not None
    chain.release()
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE purses SET available = available - 1 WHERE limit_id = 'lim_day'")
    connection.close()
    await auditor.audit()
    assert funds.try_hold("a", 1, budgets) is not None
