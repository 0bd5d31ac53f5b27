"""Payments through providers, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from sqlalchemy import NullPool, text
from sqlalchemy.ext.asyncio import create_async_engine

from storage.errors import IdempotencyConflict, Missing
from storage.interfaces import Store
from storage.records import NewPayment, Once, Payment
from storage.store import open_store


@pytest.fixture
async def stores(store: Store, funded: Any, database_url: str) -> AsyncIterator[list[Store]]:
    """Stores of several cores, of one where the database takes only one, with the empty account acc_1."""
    await funded(balance=0)
    async with AsyncExitStack() as stack:
        others = [] if database_url.startswith("sqlite") else [await open_store(database_url) for _ in range(2)]
        for other in others:
            stack.push_async_callback(other.close)
        yield [store, *others]


async def begin(store: Store, payment_id: str = "pay_1", **changes: Any) -> Payment:
    return await store.create_payment(NewPayment(payment_id, "acc_1", 1000, 50, "test"), **changes)


async def test_a_payment_is_credited_when_it_was_paid(stores, audit) -> None:
    """Begun it is pending and worth nothing; paid it has both legs in the ledger, with the provider's note."""
    [store, *_] = stores
    made = await begin(store)
    assert (made.state, made.reference, made.url) == ("pending", "", "")
    begun = await store.begin_payment("pay_1", reference="ref", url="http://pay")
    assert (begun.reference, begun.url) == ("ref", "http://pay")
    assert (await store.balance("acc_1")).balance_nano_usd == 0
    paid = await store.end_payment("pay_1", paid=True, note="test payment")
    assert paid.state == "paid"
    assert await store.payment("pay_1") == paid
    assert (await store.balance("acc_1")).available_nano_usd == 1000
    legs = await store.ledger_entries("house_payments", before_id=None, limit=10)
    assert [(leg.ref, leg.kind, leg.amount_nano_usd, leg.note) for leg in legs] == [
        ("pay_1", "fee", 50, "test payment"),
        ("pay_1", "topup", 1000, "test payment"),
    ]
    await audit()


async def test_events_at_the_same_time_credit_once(stores, audit) -> None:
    """However many events over however many cores, in whatever order: one credit, and the payment is paid."""
    for number in range(20):
        await begin(stores[0], f"pay_{number}")
    sent = [
        stores[turn % len(stores)].end_payment(f"pay_{number}", paid=turn % 2 > 0, note="")
        for number in range(20)
        for turn in range(4)
    ]
    await asyncio.gather(*sent)
    assert [(await stores[0].payment(f"pay_{number}")).state for number in range(20)] == ["paid"] * 20
    assert (await stores[0].balance("acc_1")).balance_nano_usd == 20_000
    await audit()


async def test_an_event_waits_for_the_one_before_it(stores, database_url) -> None:
    """A payment that another core is just crediting is not let fail by an event that came meanwhile."""
    [store, *_] = stores
    await begin(store)
    engine = create_async_engine(database_url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE payments SET state = 'paid' WHERE id = 'pay_1'"))
        failing = asyncio.create_task(store.end_payment("pay_1", paid=False, note=""))
        await asyncio.sleep(0.3)
        assert not failing.done()
    assert (await failing).state == "paid"


async def test_a_failed_payment_may_be_paid_yet_and_a_paid_one_stays(stores) -> None:
    """Late and repeated events do no harm."""
    [store, *_] = stores
    await begin(store)
    for paid, state in ((False, "failed"), (False, "failed"), (True, "paid"), (False, "paid"), (True, "paid")):
        assert (await store.end_payment("pay_1", paid=paid, note="")).state == state
    assert (await store.balance("acc_1")).balance_nano_usd == 1000


async def test_a_payment_is_begun_once_per_key(stores, query) -> None:
    """The same key and body answer the first payment; another body conflicts."""
    once = Once("payments", "k", b"body")
    made = await asyncio.gather(*(begin(stores[n % len(stores)], f"pay_{n}", once=once) for n in range(8)))
    assert len({payment.id for payment in made}) == 1
    with pytest.raises(IdempotencyConflict):
        await begin(stores[0], "pay_9", once=Once("payments", "k", b"other"))
    assert [list(row) for row in await query("SELECT count(*) FROM payments")] == [[1]]


async def test_payments_are_listed_newest_first(stores) -> None:
    """Pages, of one account or of all."""
    [store, *_] = stores
    await store.create_account("acc_2", "Somebody else", "user")
    await store.create_payment(NewPayment("pay_x", "acc_2", 1, 0, "test"))
    for number in range(3):
        await begin(store, f"pay_{number}")
    own = await store.payments(account_id="acc_1", before=None, limit=10)
    assert [payment.id for payment in own] == ["pay_2", "pay_1", "pay_0"]
    rest = await store.payments(account_id="acc_1", before=(own[0].created_us, own[0].id), limit=1)
    assert rest == own[1:2]
    assert len(await store.payments(account_id=None, before=None, limit=10)) == 4


async def test_what_is_not_there_is_missing(stores) -> None:
    """No account, a house account, no payment."""
    [store, *_] = stores
    for account_id in ("nobody", "house_usage"):
        with pytest.raises(Missing):
            await store.create_payment(NewPayment("pay_1", account_id, 1, 0, "test"))
    with pytest.raises(Missing):
        await store.end_payment("pay_1", paid=True, note="")
    with pytest.raises(Missing):
        await store.begin_payment("pay_1", reference="", url="")
    assert await store.payment("pay_1") is None
