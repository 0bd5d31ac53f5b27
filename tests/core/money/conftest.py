"""An escrow over a real store."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from core.money.escrow import Escrow, EscrowSettings

CHUNK_NANO_USD = 1_000_000_000
CORE = "core_1"


@pytest.fixture
async def escrow(store: Any, clock: Any, conserved: Callable[[], None]) -> AsyncIterator[Escrow]:
    """An escrow of a registered core, over a real store. Whatever a test did, the money adds up afterwards."""
    await store.register_core(CORE)
    numbers = itertools.count()
    yield Escrow(
        store,
        core_id=CORE,
        settings=EscrowSettings(CHUNK_NANO_USD, lease_ttl_s=30.0, idle_s=2.0),
        clock=clock,
        new_lease_id=lambda: f"lease_{next(numbers)}",
    )
    conserved()


@pytest.fixture
def fund(store: Any) -> Callable[..., Awaitable[None]]:
    """A function that makes an account with a balance in nanodollars."""

    async def make(account_id: str, nano_usd: int) -> None:
        await store.create_account(account_id, account_id, "user")
        if nano_usd:
            await store.adjust(ref=f"start-{account_id}", account_id=account_id, amount_nano_usd=nano_usd, note="x")

    return make
