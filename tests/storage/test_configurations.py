"""What cores on one database serve, and who is refused."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from storage.errors import ConfigurationRefused
from storage.records import Configuration, Price, Serving

TTL_S = 30.0
PRICES = [Price(f"price_{number}", "model", number, 2, 3, 4) for number in range(3)]


def serving(version: int, content: str, core_id: str = "core_1", **parts: dict[str, str]) -> Serving:
    """A core with a configuration."""
    return Serving(core_id, Configuration(version, content, parts), TTL_S)


async def refusal(store, of: Serving) -> str:
    """Why it is refused."""
    with pytest.raises(ConfigurationRefused) as caught:
        await store.put_prices(PRICES, of)
    return str(caught.value)


async def test_put_prices_keeps_what_is_there(store, query) -> None:
    """Prices are inserted once, in any mixture of new and known ones."""
    await store.put_prices([])
    await store.put_prices(PRICES[:2])
    await store.put_prices(PRICES)
    rows = await query("SELECT * FROM prices ORDER BY id")
    assert [tuple(row) for row in rows] == [(price.id, "model", price.input_pico_usd, 2, 3, 4) for price in PRICES]


async def test_an_older_configuration_is_refused(store, query) -> None:
    """So is another of the same version, and one without a version where there is one; nothing of it is kept."""
    await store.put_prices(PRICES[:1], serving(0, "none"))
    for _ in range(2):
        await store.put_prices(PRICES[:1], serving(6, "old"))
    for _ in range(2):
        await store.put_prices(PRICES[:2], serving(7, "new", m={"price": "1"}))
    assert "has version 6, but the database has been served with version 7" in await refusal(store, serving(6, "old"))
    assert "has no version, but" in await refusal(store, serving(0, "new"))
    named = await refusal(store, serving(7, "other", m={"price": "2"}))
    assert "version 7, but other" in named
    assert "(content new) ('m' differs in price)" in named
    assert len(await query("SELECT * FROM prices")) == 2
    assert await store.newest_configuration() == Configuration(7, "new")


async def test_a_file_of_before_parts_were_kept(store, query) -> None:
    """A database that knows nothing but its hash takes the same content, and refuses another."""
    await query("INSERT INTO configurations VALUES (3, 'old', 1)")
    await store.put_prices(PRICES, serving(3, "old", m={"price": "1"}))
    assert "(content old): start" in await refusal(store, serving(3, "new", m={"price": "1"}))


async def test_of_two_configurations_of_one_version_one_is_refused(store) -> None:
    """However close together they come."""
    tried = await asyncio.gather(
        *(store.put_prices([], serving(3, f"content{number}", f"core_{number}")) for number in range(6)),
        return_exceptions=True,
    )
    assert sorted(type(outcome).__name__ for outcome in tried) == ["ConfigurationRefused"] * 5 + ["NoneType"]


async def test_files_without_a_version_change_while_nobody_else_is_there(store, query, database_url) -> None:
    """A core that is alone serves what it likes. On PostgreSQL none may serve another content than those that are
    live, and the refusal names what differs; one that has ended, or was silent for long, is not."""
    await store.put_prices(PRICES, serving(0, "a", same={"price": "1"}, m={"price": "1", "limits": "1"}, old={}))
    await store.put_prices(PRICES, serving(0, "b", same={"price": "1"}, m={"price": "1", "limits": "1"}, old={}))
    if database_url.startswith("sqlite"):
        await store.put_prices(PRICES, serving(0, "c", "core_2"))  # the first one cannot be there any more
        return
    await store.put_prices(PRICES, serving(0, "b", "core_2"))
    other = serving(0, "c", "core_3", same={"price": "1"}, m={"price": "2", "limits": "1"}, new={})
    refused = await refusal(store, other)
    assert "2 other live cores serve" in refused
    assert "('m' differs in price, 'new' is only here, 'old' is only there)" in refused
    assert "`version = 1`" in refused
    same = {"same": {"price": "1"}, "m": {"price": "1", "limits": "1"}, "old": {}}
    assert "(the order of the models)" in await refusal(store, serving(0, "c", "core_3", **same))
    assert "1 other live core serves" in await refusal(store, serving(0, "c", "core_1"))
    await store.retire_core("core_2")
    await store.renew("core_2", ttl_s=TTL_S)  # one that was under way
    await query("UPDATE cores SET heartbeat_us = heartbeat_us - 31000000 WHERE id = 'core_1'")
    await store.put_prices(PRICES, other)
    assert await store.newest_configuration() == Configuration(0, "c")


async def test_each_core_is_live_for_the_time_that_it_says(store, query, database_url) -> None:
    """Whoever looks: what a core with another `lease_ttl_s` said 31 s ago may hold for an hour, or for a second."""
    if database_url.startswith("sqlite"):
        pytest.skip("one core at a time")
    for core_id, ttl_s in (("core_long", 3_600.0), ("core_short", 1.0)):
        await store.put_prices(PRICES, replace(serving(0, "a", core_id), ttl_s=ttl_s))
        await store.register_core(core_id, ttl_s=ttl_s)
        await store.renew(core_id, ttl_s=ttl_s)
    others = [replace(serving(0, "b", "core_new"), ttl_s=ttl_s) for ttl_s in (1.0, TTL_S, 3_600.0)]
    assert all(["2 other live cores" in await refusal(store, other) for other in others])
    await query("UPDATE cores SET heartbeat_us = heartbeat_us - 2000000")
    assert all(["1 other live core" in await refusal(store, other) for other in others])
    await query("UPDATE cores SET heartbeat_us = heartbeat_us - 3600000000")
    await store.put_prices(PRICES, others[0])


async def test_of_files_without_a_version_that_come_at_once_one_is_served(store, query, database_url) -> None:
    """Of many cores that start together after the file was edited, those with its content; never two contents."""
    if database_url.startswith("sqlite"):
        pytest.skip("one core at a time")
    await store.put_prices(PRICES, serving(0, "before", "core_before"))
    await store.retire_core("core_before")
    asked = [(f"core_{number}", "odd" if number % 2 else "even") for number in range(8)]
    tried = await asyncio.gather(
        *(store.put_prices(PRICES, serving(0, content, core_id)) for core_id, content in asked), return_exceptions=True
    )
    newest = await store.newest_configuration()
    for (_, content), outcome in zip(asked, tried, strict=True):
        assert isinstance(outcome, ConfigurationRefused) == (content != newest.content_hash), outcome
    live = {row.id for row in await query("SELECT id FROM cores WHERE heartbeat_us > 0")}
    assert live == {core_id for core_id, content in asked if content == newest.content_hash}
