"""The task that removes what nobody will ask for again."""

from __future__ import annotations

import asyncio

import pytest

from core.money.purging import KEPT_S, purge_forever
from storage.errors import StoreUnavailable


class Store:
    """Answers with these counts or errors, then with 0."""

    def __init__(self, *answers: int | Exception) -> None:
        self._answers = list(answers)
        self.asked: list[int] = []

    async def purge(self, *, older_than_s: int) -> int:
        self.asked.append(older_than_s)
        answer = self._answers.pop(0) if self._answers else 0
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_it_goes_on_until_there_is_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """Again and again, a week being left, whatever fails; the log says how much went."""
    caplog.set_level("INFO")
    store = Store(256, 256, 3, 0, StoreUnavailable("gone"), ValueError("odd"), 1)
    purging = asyncio.create_task(purge_forever(store, first_s=0, every_s=0, pause_s=0))
    async with asyncio.timeout(2):
        while len(store.asked) < 8:  # noqa: ASYNC110  # of a task without an end
            await asyncio.sleep(0)
    purging.cancel()
    assert set(store.asked) == {KEPT_S} == {7 * 86_400}
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("Removed 515 rows")
    assert said[1:3] == ["Old leases and cores could not be removed: gone", "Old leases and cores could not be removed"]
    assert said[3].startswith("Removed 1 rows")
