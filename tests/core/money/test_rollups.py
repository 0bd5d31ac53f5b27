"""The task that keeps the roll-ups going."""

from __future__ import annotations

import asyncio
import logging

import pytest

from core.money.rollups import roll_up_forever
from storage.errors import StoreUnavailable


class FailingStore:
    """Fails in every way, then works."""

    def __init__(self) -> None:
        self.calls = 0
        self.worked = asyncio.Event()

    async def roll_up_usage(self) -> int:
        self.calls += 1
        if self.calls == 1:
            raise StoreUnavailable("the database is away")
        if self.calls == 2:
            raise ValueError("a bug")
        self.worked.set()
        return 0


async def test_a_failure_is_logged_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it is, the next look comes; the process goes on."""
    store = FailingStore()
    with caplog.at_level(logging.ERROR):
        task = asyncio.create_task(roll_up_forever(store, every_s=0))
        await asyncio.wait_for(store.worked.wait(), 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [record.message for record in caplog.records] == [
        "Usage could not be rolled up: the database is away",
        "Usage could not be rolled up",
    ]
