"""What a core says of its configuration beside the newest one that its database knows, over a real store."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from core.agreement import Agreement
from core.catalog import Catalog
from storage.errors import ConfigurationRefused
from storage.records import Configuration, Serving

TTL_S = 30.0
NOTHING = Catalog.of([])
HASH = NOTHING.configuration(0).content_hash


@pytest.mark.parametrize(("version", "content"), [(0, "other"), (1, HASH), (1, "other")])
async def test_a_core_is_outdated_while_others_serve_something_else(
    store: Any, caplog: pytest.LogCaptureFixture, version: int, content: str
) -> None:
    """Another content without a version, as after a long sleep, or a newer version, be it of the same content; it warns
    once of each, though it was refused another, and is not outdated as soon as it serves that."""
    agreement = Agreement(store, "core_1", ttl_s=TTL_S)
    await agreement.enter(NOTHING, 0)
    await agreement.check()
    assert not agreement.outdated
    await store.put_prices([], Serving("core_2", Configuration(version, content, {}), TTL_S))
    for _ in range(2):
        await agreement.check()
        assert agreement.outdated
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    if content != HASH and version:
        with pytest.raises(ConfigurationRefused):
            await agreement.enter(NOTHING, version)
        version += 1
        await store.put_prices([], Serving("core_2", Configuration(version, HASH, {}), TTL_S))
        await agreement.check()
        assert len(caplog.records) == 2
    await agreement.enter(NOTHING, version)
    assert not agreement.outdated
    await agreement.check()
    assert not agreement.outdated
