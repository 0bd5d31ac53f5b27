"""What a place in the tree of accounts comes to for a caller."""

from __future__ import annotations

import pytest

from core.call import Caller, Policy, Role
from core.errors import InvalidApiKey
from storage.limit_records import Limit


def limit(owner_id: str, amount: int) -> Limit:
    return Limit(f"limit_{owner_id}_{amount}", owner_id, "requests", "minute", amount)


async def caller_of(auth, key: str) -> Caller:
    await auth.authenticator.refresh()
    return await auth.authenticator.authenticate(f"Bearer {key}")


async def test_a_key_is_bound_by_all_that_is_above_it(auth) -> None:
    """The root pays; limits come outermost first; models are what every level allows, of those that there are."""
    org, team = limit("org", 1), limit("acct_a", 2)
    auth.keys.put_account("org", limits=[org], allowed_models=("large*", "small", "gone"))
    auth.keys.put_account("acct_a", limits=[team], parent_id="org")
    key, record = auth.add(allowed_models=("large-*", "tiny", "small"))
    own = limit(record.id, 3)
    auth.keys.limits_[record.id] = [own]
    bound = Policy((org, team, own), frozenset({"large-2", "small"}))
    assert await caller_of(auth, key) == Caller(Role.API_KEY, "acct_a", record.id, "org", bound)


async def test_lists_of_models_choose_from_the_models_that_there_are_now(auth) -> None:
    """Also once others were loaded, for keys that called before."""
    auth.keys.put_account("acct_a", allowed_models=("large*",))
    key, _ = auth.add(allowed_models=("large-2", "large-3"))
    assert (await caller_of(auth, key)).policy == Policy((), frozenset({"large-2"}))
    auth.authenticator.put_models({"large-3", "tiny"})
    caller = await auth.authenticator.authenticate(f"Bearer {key}")  # before the next poll
    assert caller.policy == Policy((), frozenset({"large-3"}))


async def test_nothing_binds_where_nothing_is_set(auth) -> None:
    """Without limits and lists there is no policy, however deep the key is; what is lifted binds no more."""
    auth.keys.put_account("org", limits=[limit("org", 1)])
    auth.keys.put_account("acct_a", parent_id="org")
    key, record = auth.add()
    assert (await caller_of(auth, key)).policy == Policy((limit("org", 1),), None)
    auth.keys.put_account("org")
    assert await caller_of(auth, key) == Caller(Role.API_KEY, "acct_a", record.id, "org", None)


async def test_an_account_that_ends_takes_all_below_it_along(auth) -> None:
    """Keys below an account are refused once it has expired, their streams cut; others go on. It may be prolonged."""
    auth.keys.put_account("org", expires_us=auth.clock.us() + 10_000_000)
    auth.keys.put_account("acct_a", parent_id="org")
    auth.keys.put_account("other")
    key, record = auth.add()
    other, _ = auth.add(account_id="other")
    assert (await caller_of(auth, key)).payer_id == "org"
    auth.clock.s += 11
    await auth.poll()
    assert auth.revoked == [record.id]
    with pytest.raises(InvalidApiKey, match="account of this API key has expired"):
        await caller_of(auth, key)
    assert await auth.authenticator.verify(key) is None
    assert (await caller_of(auth, other)).account_id == "other"
    auth.keys.put_account("org", expires_us=None)
    assert (await caller_of(auth, key)).payer_id == "org"


async def test_the_end_of_an_account_that_was_put_off_cuts_nobody(auth) -> None:
    """Its streams go on past the old end, up to the new one."""
    auth.keys.put_account("acct_a", expires_us=auth.clock.us() + 1_000_000)
    key, record = auth.add()
    await caller_of(auth, key)
    auth.keys.put_account("acct_a", expires_us=auth.clock.us() + 3_000_000)
    await auth.authenticator.refresh()
    assert await auth.revoked_after(2) == []
    assert await auth.revoked_after(1) == [record.id]


@pytest.mark.parametrize(("key_s", "account_s"), [(1, 60), (60, 1)])
async def test_a_key_ends_with_the_first_of_what_ends(auth, key_s: int, account_s: int) -> None:
    """It or an account above it."""
    auth.keys.put_account("acct_a", expires_us=auth.clock.us() + account_s * 1_000_000)
    key, _ = auth.add(expires_us=auth.clock.us() + key_s * 1_000_000)
    await caller_of(auth, key)
    auth.clock.s += 1
    with pytest.raises(InvalidApiKey, match="has expired"):
        await caller_of(auth, key)


async def test_the_operator_spends_from_the_default_account_within_its_limits(auth, operator_token) -> None:
    """Limits of the default account bind the operator's chats, those set later too; lists of models do not."""
    assert (await caller_of(auth, operator_token)).policy is None
    auth.keys.put_account("org", limits=[limit("org", 1)], allowed_models=("tiny",))
    auth.keys.put_account("acct_default", parent_id="org")
    assert await caller_of(auth, operator_token) == Caller(
        Role.OPERATOR, "acct_default", None, "org", Policy((limit("org", 1),), None)
    )
    auth.keys.put_account("org", allowed_models=("tiny",))
    assert (await caller_of(auth, operator_token)).policy is None


async def test_an_account_that_has_no_number_yet_is_a_root_of_its_own(auth) -> None:
    """One that a core of an older version has made meanwhile: its keys are valid, expire, and no poll fails."""
    key, record = auth.add(account_id="older", expires_us=auth.clock.us() + 10_000_000)
    assert await caller_of(auth, key) == Caller(Role.API_KEY, "older", record.id)
    auth.clock.s += 11
    await auth.poll()
    assert auth.revoked == [record.id]
    other, record = auth.add(account_id="older")
    assert (await caller_of(auth, other)).policy is None
    auth.keys.put_account("older", limits=[limit("older", 1)])
    assert (await caller_of(auth, other)).policy == Policy((limit("older", 1),), None)
