"""Accounts under one another, and the limits of accounts and keys."""

from __future__ import annotations

import pytest

from storage.errors import Missing, NotPayer, TooDeep, Unaffordable
from storage.limit_records import Limit
from storage.records import NewApiKey, NewPayment, Once, SecretHash


@pytest.fixture
async def tree(store) -> None:
    """org > team > group > person, and other beside org."""
    await store.create_account("org", "Organisation", "user")
    await store.create_account("other", "Other", "user")
    await store.create_account("team", "Team", "user", parent_id="org", allowed_models=("a", "b*"), expires_us=7)
    await store.create_account("group", "Group", "user", parent_id="team")
    await store.create_account("person", "Person", "user", parent_id="group")


async def test_an_account_knows_what_is_above_it(store, tree) -> None:
    """A lineage goes from the root to the account; lists tell what is right below one; a fifth level is refused."""
    assert [each.id for each in await store.lineage("person")] == ["org", "team", "group", "person"]
    assert await store.lineage("nobody") == []
    team = await store.account("team")
    assert (team.parent_id, team.allowed_models, team.expires_us) == ("org", ("a", "b*"), 7)
    assert await store.accounts(parent_id="org", before=None, limit=9) == [team]
    with pytest.raises(TooDeep):
        await store.create_account("fifth", "Fifth", "user", parent_id="person")
    for parent_id in ("nobody", "house_usage"):
        with pytest.raises(Missing):
            await store.create_account("fifth", "Fifth", "user", parent_id=parent_id)


async def test_only_the_root_has_money(store, tree) -> None:
    """Whatever would give an account below another money, or credit, names who pays for it, and leaves nothing."""
    credit = {"account_id": "group", "amount_nano_usd": 5}
    attempts = (
        store.top_up(payment_id="pay_1", fee_nano_usd=1, once=Once("s", "k", b""), **credit),
        store.adjust(ref="adj_1", note="", **credit),
        store.create_payment(NewPayment("pay_2", "group", 5, 0, "test")),
        store.update_account("group", {"credit_limit_nano_usd": 5}),
    )
    for attempt in attempts:
        with pytest.raises(NotPayer) as refused:
            await attempt
        assert refused.value.payer_id == "org"
    assert await store.ledger_entries("house_payments", before_id=None, limit=9) == []


async def test_an_account_is_changed_in_what_is_named(store, tree) -> None:
    """Every change is numbered, in order; a credit limit cannot fall below what is owed."""
    before = max(each.seq for each in await store.accounts_changed_since(0, 99))
    named = await store.update_account("team", {"display_name": "New", "expires_us": None})
    assert (named.display_name, named.allowed_models, named.expires_us) == ("New", ("a", "b*"), None)
    org = await store.update_account("org", {"credit_limit_nano_usd": 9})
    assert [each.seq for each in (named, org)] == [before + 1, before + 2]
    assert await store.accounts_changed_since(before, 99) == [named, org]
    await store.register_core("core_1")
    await store.acquire(lease_id="l", account_id="org", core_id="core_1", want_nano_usd=6, chunk_nano_usd=0, ttl_s=9)
    with pytest.raises(Unaffordable) as refused:
        await store.update_account("org", {"credit_limit_nano_usd": 4})
    assert refused.value.missing_nano_usd == 2
    assert (await store.update_account("org", {"credit_limit_nano_usd": 6})).credit_limit_nano_usd == 6
    for account_id in ("nobody", "house_usage"):
        with pytest.raises(Missing):
            await store.update_account(account_id, {"display_name": "New"})


async def test_a_change_of_a_limit_is_one_of_its_owner(store, tree) -> None:
    """A limit is known by owner, measure and period: set again it keeps its id. Cores learn of its owner."""
    await store.create_key(NewApiKey("key_1", "team", "Key", SecretHash(b"d", 1), "p", "s", None, ("b2",)))
    account_seq = max(each.seq for each in await store.accounts_changed_since(0, 99))
    [key] = await store.keys_changed_since(0, 9)
    assert key.allowed_models == ("b2",)
    spend = await store.set_limit(Limit("limit_1", "team", "spend", "day", 5))
    slots = await store.set_limit(Limit("limit_2", "team", "concurrency", "now", 0))
    again = await store.set_limit(Limit("limit_3", "team", "spend", "day", 6))
    rate = await store.set_limit(Limit("limit_4", "key_1", "requests", "minute", 7))
    assert (spend.id, again) == ("limit_1", Limit("limit_1", "team", "spend", "day", 6))
    assert await store.limits(["team", "key_1", "org"]) == [rate, again, slots]
    [team] = await store.accounts_changed_since(account_seq, 9)
    assert (team.id, team.seq) == ("team", account_seq + 3)
    [key] = await store.keys_changed_since(key.seq, 9)
    await store.delete_limit("limit_1")
    await store.delete_limit("limit_4")
    assert await store.limits(["team", "key_1"]) == [slots]
    assert [each.seq for each in await store.accounts_changed_since(account_seq + 3, 9)] == [account_seq + 4]
    assert [each.id for each in await store.keys_changed_since(key.seq, 9)] == ["key_1"]
    with pytest.raises(Missing):
        await store.delete_limit("limit_1")
    for owner_id in ("nobody", "house_usage"):
        with pytest.raises(Missing):
            await store.set_limit(Limit("limit_5", owner_id, "requests", "minute", 7))
