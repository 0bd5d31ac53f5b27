"""On SQLite settlements are chained from the rows at hand, whenever enough have gathered: what comes of it is the same
as of reading them."""

from __future__ import annotations

import logging
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage import chaining, sqlite_chain
from storage.store import open_store
from tests.storage.test_sqlite import authorize, no_insert

ENOUGH = 4


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """These tests are about SQLite alone."""
    return sqlite_url


@pytest.fixture(autouse=True)
def _little_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_chain, "AT_HAND", ENOUGH)


async def places(store, query) -> list[int]:
    """Positions in the chain of acc_1, once the writer's thread has done what follows a settlement."""
    await authorize(store, None)
    return [row.position for row in await query("SELECT position FROM ledger_chain ORDER BY ledger_id")]


async def test_settlements_are_chained_at_once_when_enough_have_gathered(store, funded, settlement, query) -> None:
    """Over several batches, whatever is in them; an audit, which reads the ledger, finds the same hashes."""
    await funded()
    await store.chain()
    await store.settle([settlement("req_1", estimated=True), settlement("req_2", key_id=None, ttft_ms=None)])
    assert await places(store, query) == [1]
    await store.settle([settlement("req_3", client_request_id='é"\\\n\x01😀'), settlement("req_4", streamed=False)])
    assert await places(store, query) == [1, 2, 3, 4, 5]
    assert await store.chain() == 0
    assert (await store.audit()).chain_holds


async def test_what_was_not_at_hand_is_read(store, funded, settlement, query) -> None:
    """Behind an entry of another kind nothing is chained at once until all before it is."""
    await funded()
    await store.settle([settlement(f"req_{number}") for number in range(ENOUGH)])
    assert await places(store, query) == []
    assert await store.chain() == 1 + ENOUGH
    await store.settle([settlement(f"next_{number}") for number in range(ENOUGH)])
    assert await places(store, query) == list(range(1, 2 + 2 * ENOUGH))
    assert (await store.audit()).chain_holds


async def test_what_was_read_meanwhile_is_not_chained_again(store, funded, settlement, query) -> None:
    """Of the rows at hand, those that were read are left out."""
    await funded()
    await store.settle([settlement("req_1"), settlement("req_2")])
    assert await store.chain() == 3
    await store.settle([settlement("req_3"), settlement("req_4")])
    assert await places(store, query) == [1, 2, 3, 4, 5]
    assert (await store.audit()).chain_holds


async def test_settlements_that_cannot_be_chained_at_once_are_chained_later(
    store, funded, settlement, query, caplog
) -> None:
    """They are committed and told as ever; the log says why, once until it goes well again."""
    await funded()
    await store.chain()
    await authorize(store, no_insert("ledger_chain"))
    with caplog.at_level(logging.WARNING, "storage"):
        assert await store.settle([settlement(f"req_{number}") for number in range(ENOUGH)]) == {}
        assert await places(store, query) == [1]
        for goes_well, told in ((False, 1), (True, 1), (False, 2)):
            assert await store.chain() == ENOUGH * (told < 2)
            await authorize(store, None if goes_well else no_insert("ledger_chain"))
            await store.settle([settlement(f"req_{told}_{goes_well}_{number}") for number in range(ENOUGH)])
            await authorize(store, None)
            assert caplog.text.count("not chained at once") == told
    assert await store.chain() == ENOUGH
    assert (await store.audit()).chain_holds


async def test_settlements_have_a_turn_between_two_steps_of_the_chain(store, funded, settlement, monkeypatch) -> None:
    """A long chain leaves the writer alone for a while after each step: requests would wait for every one."""
    await funded()
    monkeypatch.setattr(chaining, "CHAIN_LIMIT", ENOUGH - 1)
    monkeypatch.setattr(sqlite_chain, "AT_HAND", 100)
    await store.settle([settlement(f"req_{number}") for number in range(ENOUGH)])
    chain_once, turns_s = store._db.chain_once, []

    async def watched(limit: int) -> int:
        turns_s.append(time.monotonic())
        done = await chain_once(limit)
        turns_s.append(time.monotonic())
        return done

    monkeypatch.setattr(store._db, "chain_once", watched)
    assert await store.chain() == 1 + ENOUGH
    first_ended_s, second_began_s = turns_s[1:3]
    assert second_began_s - first_ended_s > 0.9 * chaining.CHAIN_PAUSE_S


STEPS = st.lists(st.sampled_from(["settle", "settle many", "settle again", "adjust", "chain", "restart"]), max_size=12)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_the_chain_is_whole_whatever_else_writes_the_ledger(tmp_path_factory, migrated_file, settlement, steps):
    """Every entry has its place, in the order of ids, and an audit agrees, after any sequence of changes."""
    path = tmp_path_factory.mktemp("chain") / "test.db"
    path.write_bytes(migrated_file.read_bytes())
    store = await open_store(f"sqlite+aiosqlite:///{path}")
    await store.register_core("core_1")
    await store.create_account("acc_1", "Somebody", "user")
    for number, step in enumerate(steps):
        if step.startswith("settle"):
            count = 3 * ENOUGH if step == "settle many" else 2
            first = 0 if step == "settle again" else 100 * (1 + number)
            await store.settle([settlement(f"req_{first + each}") for each in range(count)])
        elif step == "adjust":
            await store.adjust(ref=f"adj_{number}", account_id="acc_1", amount_nano_usd=5, note="")
        elif step == "chain":
            await store.chain()
        else:
            await store.close()
            store = await open_store(f"sqlite+aiosqlite:///{path}")
    await store.chain()
    report = await store.audit()
    await store.close()
    assert report.chain_holds
    assert report.chained_count == report.entry_count
