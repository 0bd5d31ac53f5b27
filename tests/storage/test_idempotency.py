"""Changes that are made once however often they are sent, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from storage.errors import Duplicate, IdempotencyConflict, Missing
from storage.interfaces import Store
from storage.limit_records import Limit
from storage.records import NewApiKey, Once, SecretHash
from storage.store import open_store

Change = Callable[[Store, int, Once], Awaitable[Any]]

DAY_S = 24 * 3600


def secret(number: int) -> SecretHash:
    return SecretHash(f"secret {number}".encode(), 1)


def new_key(number: int, account_id: str = "acc_1") -> NewApiKey:
    return NewApiKey(f"made_{number}", account_id, f"Key {number}", secret(number), "wlr_ab", "wxyz", None)


CHANGES: dict[str, Change] = {
    "create_account": lambda store, n, once: store.create_account(f"made_{n}", f"Name {n}", "user", once=once),
    "create_key": lambda store, n, once: store.create_key(new_key(n), once=once),
    "update_key": lambda store, n, once: store.update_key("key_1", {"display_name": f"{n}"}, once=once),
    "rotate_key": lambda store, n, once: store.rotate_key(
        "key_1", secret=secret(n), prefix="", suffix="", grace_us=1_000_000 * n, once=once
    ),
    "revoke_key": lambda store, n, once: store.revoke_key("key_1", once=once),
    "update_account": lambda store, n, once: store.update_account("acc_1", {"display_name": f"{n}"}, once=once),
    "set_limit": lambda store, n, once: store.set_limit(
        Limit(f"made_{n}", "key_1", "requests", "minute", n), once=once
    ),
}
"""Every change with an idempotency key but that of payments, as the n-th attempt would make it."""


@pytest.fixture
async def stores(store: Store, database_url: str) -> AsyncIterator[list[Store]]:
    """Stores of several cores over a database with an account and a key; of one core where it takes only one."""
    await store.create_account("acc_1", "Somebody", "user")
    await store.create_key(NewApiKey("key_1", "acc_1", "Key", secret(0), "wlr_ab", "wxyz", None))
    more = 0 if database_url.startswith("sqlite") else 2
    async with AsyncExitStack() as stack:
        others = [await open_store(database_url) for _ in range(more)]
        for other in others:
            stack.push_async_callback(other.close)
        yield [store, *others]


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_repeats_at_the_same_time_have_one_effect(stores, query, change) -> None:
    """However many repeats run over however many cores, one change is made and all are answered alike."""
    changes = "SELECT sum(value) FROM revisions WHERE name IN ('accounts', 'api_keys')"
    [[before]] = await query(changes)
    once = Once("changes", "once", b"body")
    answers = await asyncio.gather(*(change(stores[n % len(stores)], n, once) for n in range(1, 13)))
    assert all(answer == answers[0] for answer in answers)
    assert await change(stores[0], 99, once) == answers[0]
    assert await query(changes) == [(before + 1,)]
    for table in ("accounts", "api_keys", "limits"):
        [[made]] = await query(f"SELECT count(*) FROM {table} WHERE id LIKE 'made%'")
        assert made <= 1


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_a_key_belongs_to_one_body_and_one_scope(stores, change) -> None:
    """The same key with another body conflicts and changes nothing; in another scope it is another key."""
    first = await change(stores[0], 1, Once("changes", "once", b"body"))
    with pytest.raises(IdempotencyConflict):
        await change(stores[0], 2, Once("changes", "once", b"other"))
    assert await change(stores[0], 3, Once("changes", "once", b"body")) == first
    await change(stores[0], 2, Once("others", "once", b"other"))


async def test_a_change_that_failed_leaves_its_key_free(stores) -> None:
    """A refused change may be sent again under its key, corrected or not."""
    [store, *_] = stores
    once = Once("changes", "once", b"body")
    with pytest.raises(Duplicate):
        await store.create_account("acc_1", "Again", "user", once=once)
    with pytest.raises(Missing):
        await store.create_key(new_key(1, "nobody"), once=once)
    with pytest.raises(Missing):
        await store.update_key("nothing", {"display_name": "", "expires_us": None}, once=once)
    with pytest.raises(Missing):
        await store.revoke_key("nothing", once=once)
    assert (await store.revoke_key("key_1", once=once)).revoked_us is not None


async def test_a_repeat_answers_what_was_made_as_it_is_now(stores) -> None:
    """A repeated update does not undo what came after it, and a repeated rotation is answered for a revoked key."""
    [store, *_] = stores
    once = Once("updates", "once", b"body")
    await store.update_key("key_1", {"display_name": "first"}, once=once)
    await store.update_key("key_1", {"display_name": "second"})
    assert (await store.update_key("key_1", {"display_name": "first"}, once=once)).display_name == "second"
    rotation = Once("rotations", "once", b"body")
    for number in (1, 2):
        rotated = await store.rotate_key(
            "key_1", secret=secret(number), prefix="", suffix="", grace_us=0, once=rotation
        )
        assert rotated.secret == secret(1)
        await store.revoke_key("key_1")


async def test_revoking_a_revoked_key_takes_its_idempotency_key(stores) -> None:
    """A change that had nothing to do is one all the same: its key is taken."""
    [store, *_] = stores
    revoked = await store.revoke_key("key_1")
    assert await store.revoke_key("key_1", once=Once("changes", "once", b"body")) == revoked
    with pytest.raises(IdempotencyConflict):
        await store.revoke_key("key_1", once=Once("changes", "once", b"other"))


async def test_old_keys_are_forgotten_by_scope(stores, query) -> None:
    """Keys of a scope's beginning that are old enough are freed; younger ones and those of other scopes stay."""
    [store, *_] = stores
    for scope in ("a% of x", "a% of y", "abc of x"):
        for key in ("old", "young"):
            await store.revoke_key("key_1", once=Once(scope, key, b"body"))
    await query(f"UPDATE idempotency SET created_us = created_us - {8 * DAY_S * 1_000_000} WHERE key = 'old'")
    assert await store.forget_keys("a% of ", older_than_s=9 * DAY_S) == 0
    assert await store.forget_keys("a% of ", older_than_s=7 * DAY_S) == 2
    assert await store.forget_keys("a% of ", older_than_s=7 * DAY_S) == 0
    left = await query("SELECT scope, key FROM idempotency ORDER BY scope, key")
    assert [tuple(row) for row in left] == [
        ("a% of x", "young"),
        ("a% of y", "young"),
        ("abc of x", "old"),
        ("abc of x", "young"),
    ]
    await store.revoke_key("key_1", once=Once("a% of x", "old", b"other"))
