"""Payments given back, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import accumulate, count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.errors import BeyondPayment, IdempotencyConflict, Missing, Unaffordable
from storage.interfaces import Store
from storage.records import Once
from storage.refunds import fee_share
from storage.store import open_store


@pytest.fixture
async def paid(store, funded) -> None:
    """The payment `pay_1` of 1000 and a fee of 51, credited to acc_1, which has nothing else."""
    await funded(balance=0)
    await store.top_up(
        payment_id="pay_1", account_id="acc_1", amount_nano_usd=1000, fee_nano_usd=51, once=Once("top-ups", "k", b"")
    )


@pytest.fixture
async def stores(store: Store, database_url: str) -> AsyncIterator[list[Store]]:
    """Stores of several cores; of one where the database takes only one."""
    async with AsyncExitStack() as stack:
        others = [] if database_url.startswith("sqlite") else [await open_store(database_url) for _ in range(2)]
        for other in others:
            stack.push_async_callback(other.close)
        yield [store, *others]


async def refund(store: Store, key: str, amount: int, **changes: Any) -> Any:
    values = {"refund_id": f"refund_{key}", "payment_id": "pay_1", "keep_fee": False}
    once = Once("refunds", key, b"%d" % amount)
    return await store.refund(amount_nano_usd=amount, once=once, **{**values, **changes})


@pytest.mark.usefixtures("paid")
async def test_a_refund_is_rows_of_its_own(store, audit) -> None:
    """The credit goes back from the account, the fee's share from the house, under the refund's id and with a note."""
    made = await refund(store, "a", 500)
    assert (made.id, made.payment_id, made.account_id) == ("refund_a", "pay_1", "acc_1")
    assert (made.amount_nano_usd, made.fee_nano_usd) == (500, 25)
    assert (await store.balance("acc_1")).available_nano_usd == 500
    assert (await store.balance("house_fees")).balance_nano_usd == 26
    assert (await store.balance("house_payments")).balance_nano_usd == -526
    fee, credit, *_ = await store.ledger_entries("house_payments", before_id=None, limit=10)
    assert (credit.ref, credit.kind, credit.debit_account_id, credit.amount_nano_usd, credit.note) == (
        "refund_a",
        "refund",
        "acc_1",
        500,
        "refund of pay_1",
    )
    assert (fee.ref, fee.kind, fee.debit_account_id, fee.amount_nano_usd) == ("refund_a", "fee", "house_fees", 25)
    await audit()
    await store.chain()
    assert (await store.audit()).deviations == []


@pytest.mark.usefixtures("paid")
async def test_a_payment_given_back_in_parts_is_given_back_whole(store, audit) -> None:
    """After refunds of all of it nothing of the payment is left anywhere, and nothing more can be refunded."""
    for key, amount in {"a": 333, "b": 333, "c": 334}.items():
        await refund(store, key, amount)
    for account_id in ("acc_1", "house_fees", "house_payments"):
        assert (await store.balance(account_id)).balance_nano_usd == 0
    await store.adjust(ref="adj", account_id="acc_1", amount_nano_usd=10, note="")
    with pytest.raises(BeyondPayment) as caught:
        await refund(store, "d", 1)
    assert caught.value.left_nano_usd == 0
    await audit()


@pytest.mark.usefixtures("paid")
async def test_a_fee_that_is_kept_stays_with_the_house(store) -> None:
    """With keep_fee only the credit goes back; the other parts give back their share and no more."""
    assert (await refund(store, "a", 500, keep_fee=True)).fee_nano_usd == 0
    assert (await refund(store, "b", 500)).fee_nano_usd == 26
    assert (await store.balance("house_fees")).balance_nano_usd == 25


@given(st.integers(0, 10**12), st.lists(st.integers(1, 10**15), min_size=1, max_size=20))
def test_shares_add_up_to_the_fee(fee: int, parts: list[int]) -> None:
    """However a payment is divided, its parts' shares are none below 0 and the fee in all."""
    befores = accumulate(parts, initial=0)
    shares = [fee_share(fee, sum(parts), before, part) for before, part in zip(befores, parts, strict=False)]
    assert min(shares) >= 0
    assert sum(shares) == fee


@pytest.mark.usefixtures("paid")
async def test_a_repeated_refund_takes_once(store) -> None:
    """The same key and body answer the first refund; another body conflicts."""
    first = await refund(store, "a", 500)
    assert await refund(store, "a", 500, refund_id="refund_b") == first
    with pytest.raises(IdempotencyConflict):
        await refund(store, "a", 501)
    assert (await store.balance("acc_1")).available_nano_usd == 500


@pytest.mark.usefixtures("paid")
async def test_what_cannot_be_refunded_leaves_nothing(store, acquire, query, audit) -> None:
    """More than the payment, more than is available, what is held, what was no payment: refused whole."""
    await store.adjust(ref="adj", account_id="acc_1", amount_nano_usd=500, note="")
    with pytest.raises(BeyondPayment):
        await refund(store, "a", 1001)
    for payment_id in ("pay_2", "adj"):
        with pytest.raises(Missing):
            await refund(store, "a", 1, payment_id=payment_id)
    await acquire("lease_1", 1100)
    with pytest.raises(Unaffordable) as caught:
        await refund(store, "a", 401)
    assert caught.value.missing_nano_usd == 1
    for amount in (0, -1):
        with pytest.raises(ValueError, match="above 0"):
            await refund(store, "a", amount)
    assert [list(row) for row in await query("SELECT count(*) FROM refunds")] == [[0]]
    assert (await store.balance("house_fees")).balance_nano_usd == 51
    await query("UPDATE accounts SET credit_limit = 1 WHERE id = 'acc_1'")
    await refund(store, "a", 401)
    assert (await store.balance("acc_1")).available_nano_usd == -1
    await audit()


@pytest.mark.usefixtures("paid")
async def test_refunds_at_the_same_time_never_exceed_the_payment(stores, audit) -> None:
    """Of many refunds at once, over all cores, as many are made as the payment has room for; repeats are none."""
    await stores[0].adjust(ref="adj", account_id="acc_1", amount_nano_usd=5000, note="")
    numbers = count()
    refunds = [refund(stores[next(numbers) % len(stores)], f"{n}", 150) for n in range(12) for _ in range(2)]
    done = await asyncio.gather(*refunds, return_exceptions=True)
    made = {answer.id for answer in done if not isinstance(answer, BaseException)}
    assert len(made) == 6
    assert all(isinstance(answer, BeyondPayment) for answer in done if isinstance(answer, BaseException))
    assert (await stores[0].balance("acc_1")).available_nano_usd == 6000 - 900
    await audit()
