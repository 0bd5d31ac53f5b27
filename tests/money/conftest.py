"""The loop of the state machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.money.loop import SteppedLoop


@pytest.fixture
def stepped_loop() -> Iterator[SteppedLoop]:
    """A loop without waiting."""
    loop = SteppedLoop()
    yield loop
    loop.close()
