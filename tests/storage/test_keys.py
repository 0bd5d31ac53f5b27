"""API keys, on both databases."""

from __future__ import annotations

import asyncio

import pytest

from storage.errors import Duplicate, Missing
from storage.records import NewApiKey, SecretHash


def new_key(key_id: str, account_id: str = "acc_1", expires_us: int | None = None) -> NewApiKey:
    return NewApiKey(key_id, account_id, f"Key {key_id}", SecretHash(key_id.encode(), 1), "wlr_ab", "wxyz", expires_us)


@pytest.fixture
async def account(store) -> None:
    """The account `acc_1`, which keys of these tests belong to."""
    await store.create_account("acc_1", "Somebody", "service")


@pytest.mark.usefixtures("account")
async def test_create_key_returns_what_key_finds(store) -> None:
    """A new key carries its account's kind, has no old secret and is not revoked."""
    made = await store.create_key(new_key("key_1", expires_us=9_000_000_000_000_000))
    assert (made.id, made.account_id, made.account_kind) == ("key_1", "acc_1", "service")
    assert made.secret == SecretHash(b"key_1", 1)
    assert (made.old_secret, made.old_secret_expires_us, made.revoked_us) == (None, None, None)
    assert made.expires_us == 9_000_000_000_000_000
    assert await store.key("key_1") == made
    assert await store.key("key_2") is None


@pytest.mark.usefixtures("account")
async def test_create_key_refuses_unknown_and_house_accounts_and_taken_ids(store) -> None:
    """A key belongs to an account of a customer, and its id is taken once."""
    for account_id in ("nobody", "house_usage"):
        with pytest.raises(Missing):
            await store.create_key(new_key("key_1", account_id))
    await store.create_key(new_key("key_1"))
    with pytest.raises(Duplicate):
        await store.create_key(new_key("key_1"))


@pytest.mark.usefixtures("account")
async def test_keys_are_listed_newest_first_in_pages(store) -> None:
    """Pages of one account's keys hold revoked ones too and nobody else's."""
    await store.create_account("acc_2", "Somebody else", "user")
    await store.create_key(new_key("other", "acc_2"))
    made = [await store.create_key(new_key(f"key_{number}")) for number in range(4)]
    made[1] = await store.revoke_key("key_1")
    newest_first = sorted(made, key=lambda key: (key.created_us, key.id), reverse=True)
    first = await store.keys(account_id="acc_1", before=None, limit=3)
    rest = await store.keys(account_id="acc_1", before=(first[-1].created_us, first[-1].id), limit=3)
    assert first + rest == newest_first
    assert len(await store.keys(account_id=None, before=None, limit=10)) == 5


@pytest.mark.usefixtures("account")
async def test_every_change_takes_the_next_seq(store) -> None:
    """Whoever remembers the greatest seq it saw finds exactly the keys that changed since."""
    first = await store.create_key(new_key("key_1"))
    second = await store.create_key(new_key("key_2"))
    updated = await store.update_key("key_1", {"display_name": "New name", "expires_us": 5})
    revoked = await store.revoke_key("key_2")
    assert [first.seq, second.seq, updated.seq, revoked.seq] == [1, 2, 3, 4]
    assert (updated.display_name, updated.expires_us) == ("New name", 5)
    assert await store.keys_changed_since(0, limit=10) == [updated, revoked]
    assert await store.keys_changed_since(2, limit=1) == [updated]
    assert await store.keys_changed_since(4, limit=10) == []


@pytest.mark.usefixtures("account")
async def test_concurrent_changes_take_different_seqs(store) -> None:
    """Changes at the same time are numbered one by one, without gaps."""
    made = await asyncio.gather(*(store.create_key(new_key(f"key_{number}")) for number in range(20)))
    assert sorted(key.seq for key in made) == list(range(1, 21))


@pytest.mark.usefixtures("account")
async def test_rotate_key_keeps_the_old_secret_for_the_grace_time(store) -> None:
    """The former secret becomes the old one, with an end; the next rotation replaces it."""
    made = await store.create_key(new_key("key_1"))
    rotated = await store.rotate_key(
        "key_1", secret=SecretHash(b"second", 2), prefix="wlr_cd", suffix="stuv", grace_us=60_000_000
    )
    assert (rotated.secret, rotated.secret_prefix, rotated.secret_suffix) == (
        SecretHash(b"second", 2),
        "wlr_cd",
        "stuv",
    )
    assert rotated.old_secret == made.secret
    assert 0 <= rotated.old_secret_expires_us - made.created_us - 60_000_000 < 30_000_000
    again = await store.rotate_key("key_1", secret=SecretHash(b"third", 2), prefix="", suffix="", grace_us=0)
    assert again.old_secret == SecretHash(b"second", 2)


@pytest.mark.usefixtures("account")
async def test_revoke_key_once_and_for_all(store) -> None:
    """A second revocation changes nothing, and a revoked key cannot be rotated."""
    await store.create_key(new_key("key_1"))
    revoked = await store.revoke_key("key_1")
    assert revoked.revoked_us is not None
    assert await store.revoke_key("key_1") == revoked
    with pytest.raises(Missing):
        await store.rotate_key("key_1", secret=SecretHash(b"x", 1), prefix="", suffix="", grace_us=0)


async def test_changes_of_unknown_keys_are_missing(store) -> None:
    """A key that does not exist cannot be changed, and the attempt takes no seq."""
    with pytest.raises(Missing):
        await store.update_key("nothing", {"display_name": "", "expires_us": None})
    with pytest.raises(Missing):
        await store.rotate_key("nothing", secret=SecretHash(b"x", 1), prefix="", suffix="", grace_us=0)
    with pytest.raises(Missing):
        await store.revoke_key("nothing")
    await store.create_account("acc_1", "Somebody", "user")
    assert (await store.create_key(new_key("key_1"))).seq == 1
