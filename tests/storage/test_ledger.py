"""Payments, adjustments, prices and listings, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import DBAPIError

from storage.errors import Duplicate, IdempotencyConflict, Missing
from storage.records import Once
from storage.usage_records import ALL_USAGE, UsageBounds, UsageQuery, UsedBy


def payment(**changes):
    values = {
        "payment_id": "pay_1",
        "account_id": "acc_1",
        "amount_nano_usd": 1000,
        "fee_nano_usd": 50,
        "once": Once("top-ups", "once", b"body"),
    }
    return {**values, **changes}


async def test_top_up_credits_the_account_and_the_fee_in_two_legs(store, funded, audit) -> None:
    """The account gets the amount, the house the fee, both from payments and under the payment's id."""
    await funded(balance=0)
    made = await store.top_up(**payment())
    assert (made.id, made.account_id, made.amount_nano_usd, made.fee_nano_usd) == ("pay_1", "acc_1", 1000, 50)
    assert (await store.balance("acc_1")).available_nano_usd == 1000
    assert (await store.balance("house_fees")).balance_nano_usd == 50
    legs = await store.ledger_entries("house_payments", before_id=None, limit=10)
    assert [(leg.ref, leg.kind, leg.credit_account_id, leg.amount_nano_usd) for leg in legs] == [
        ("pay_1", "fee", "house_fees", 50),
        ("pay_1", "topup", "acc_1", 1000),
    ]
    await audit()


async def test_top_up_without_a_fee_has_one_leg(store, funded) -> None:
    """A fee of 0 leaves no entry."""
    await funded(balance=0)
    assert (await store.top_up(**payment(fee_nano_usd=0))).fee_nano_usd == 0
    assert len(await store.ledger_entries("house_payments", before_id=None, limit=10)) == 1


async def test_top_up_repeated_answers_the_first_and_credits_nothing(store, funded) -> None:
    """The same key and body answers the first payment, even under a new payment id."""
    await funded(balance=0)
    first = await store.top_up(**payment())
    assert await store.top_up(**payment(payment_id="pay_2")) == first
    assert (await store.balance("acc_1")).available_nano_usd == 1000


async def test_top_up_with_the_key_of_another_body_conflicts(store, funded) -> None:
    """An idempotency key belongs to the body it came with first."""
    await funded(balance=0)
    await store.top_up(**payment())
    with pytest.raises(IdempotencyConflict):
        await store.top_up(**payment(once=Once("top-ups", "once", b"other"), amount_nano_usd=2000))
    assert (await store.balance("acc_1")).available_nano_usd == 1000


async def test_top_up_of_no_account_leaves_nothing(store, funded) -> None:
    """A payment for an unknown or house account is refused whole: its idempotency key stays free."""
    await funded(balance=0)
    for account_id in ("nobody", "house_usage"):
        with pytest.raises(Missing):
            await store.top_up(**payment(account_id=account_id))
    assert (await store.balance("house_payments")).balance_nano_usd == 0
    await store.top_up(**payment())


async def test_top_up_refuses_a_taken_payment_id_and_senseless_amounts(store, funded) -> None:
    """A payment id is used once, amounts are above zero and fees not below."""
    await funded(balance=0)
    await store.top_up(**payment())
    with pytest.raises(Duplicate):
        await store.top_up(**payment(once=Once("top-ups", "twice", b"body")))
    for changes in ({"amount_nano_usd": 0}, {"fee_nano_usd": -1}):
        with pytest.raises(ValueError, match="above 0"):
            await store.top_up(**payment(**changes))


async def test_adjust_credits_once_per_ref(store, funded, audit) -> None:
    """An adjustment is an entry with its reason; repeating it changes nothing."""
    await funded(balance=0)
    for _ in range(2):
        await store.adjust(ref="adj_1", account_id="acc_1", amount_nano_usd=7, note="starting balance")
    [entry] = await store.ledger_entries("acc_1", before_id=None, limit=10)
    assert (entry.ref, entry.kind, entry.debit_account_id, entry.credit_account_id) == (
        "adj_1",
        "adjust",
        "house_adjustments",
        "acc_1",
    )
    assert (entry.amount_nano_usd, entry.shortfall_nano_usd, entry.note) == (7, 0, "starting balance")
    assert (await store.balance("acc_1")).balance_nano_usd == 7
    await audit()


async def test_adjust_refuses_unknown_accounts_and_senseless_amounts(store) -> None:
    """Nothing is entered for an account that is not there."""
    with pytest.raises(Missing):
        await store.adjust(ref="adj_1", account_id="nobody", amount_nano_usd=7, note="")
    with pytest.raises(ValueError, match="above 0"):
        await store.adjust(ref="adj_1", account_id="nobody", amount_nano_usd=-7, note="")
    assert await store.ledger_entries("nobody", before_id=None, limit=10) == []


async def test_ledger_entries_are_paged_newest_first(store, funded, acquire, settlement) -> None:
    """An account's entries, debits and credits alike, come in pages by descending id."""
    await funded(balance=100)
    await acquire("lease_1", 50)
    await store.settle([settlement(f"req_{number}", "lease_1", number) for number in range(4)])
    await store.adjust(ref="adj_2", account_id="acc_1", amount_nano_usd=5, note="")
    everything = await store.ledger_entries("acc_1", before_id=None, limit=10)
    assert [entry.ref for entry in everything] == ["adj_2", "req_3", "req_2", "req_1", "req_0", "adj_acc_1"]
    first = await store.ledger_entries("acc_1", before_id=None, limit=4)
    assert first + await store.ledger_entries("acc_1", before_id=first[-1].id, limit=4) == everything
    charges = await store.ledger_entries("house_usage", before_id=None, limit=2)
    assert [entry.ref for entry in charges] == ["req_3", "req_2"]


async def test_usage_records_hold_the_settlement_as_it_was(store, funded, acquire, settlement) -> None:
    """A usage record reads back equal to what was settled; adjustments are not among them."""
    await funded(balance=100)
    await acquire("lease_1", 50)
    first = settlement("req_1", "lease_1", 7, shortfall_nano_usd=2)
    second = settlement("req_2", key_id=None, ttft_ms=None, estimated=True, streamed=False, status="failed")
    await store.settle([first, second])
    asked = UsageQuery(0, 100_000, UsedBy("acc_1", "acc_1"))
    newer, older = await store.usage_between(asked, ALL_USAGE, limit=10)
    assert (newer.settlement, older.settlement) == (second, first)
    assert older.created_us > 1_700_000_000_000_000
    assert await store.usage_between(asked, UsageBounds(0, newer.entry_id - 1), limit=10) == [older]
    assert await store.usage_record("req_1") == older
    assert await store.usage_record("adj_acc_1") is None


@pytest.mark.parametrize("change", ["UPDATE ledger SET amount = 0", "DELETE FROM ledger"])
async def test_the_database_refuses_to_change_the_ledger(store, funded, query, change) -> None:
    """No statement, whoever sends it, alters or removes an entry."""
    await funded(balance=100)
    with pytest.raises(DBAPIError, match="append-only"):
        await query(change)
    assert len(await store.ledger_entries("acc_1", before_id=None, limit=10)) == 1


async def test_the_database_refuses_to_overdraw_an_account(store, funded, query) -> None:
    """Below the credit limit no account goes, whoever asks."""
    await funded(balance=100)
    with pytest.raises(DBAPIError, match="ck_accounts_available"):
        await query("UPDATE accounts SET available = -1 WHERE id = 'acc_1'")
