"""Credentials that cannot be keys are told apart without a look at anything, and quickly."""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random

from core.access.apikeys import Peppers, make_key
from core.access.auth import Authenticator, OperatorCredential
from core.errors import InvalidApiKey
from storage.limit_records import Limit
from storage.records import Account, ApiKey

SEED = 4
CPU_LIMIT_S = 20e-6
"""For each key, of CPU time."""
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
KEY = make_key("key_01m80c3xwk5gc1zwqh0nes95qb")
ODD = ("\x00", "é", "\u2028", "\U0001f600", "\ud800", "\n", "%", "'", " ", "\uff10")


class CountingStore:
    """Has no keys, and counts how often it is asked."""

    def __init__(self) -> None:
        self.queries = 0

    async def keys_changed_since(self, seq: int, limit: int) -> list[ApiKey]:
        self.queries += 1
        return []

    async def accounts_changed_since(self, seq: int, limit: int) -> list[Account]:
        return []

    async def limits(self, owner_ids: Sequence[str]) -> list[Limit]:
        return []


def malformed(random: Random, text: str) -> str | None:
    """An `authorization` that holds no key: of the right shape, nearly so, or not at all. `text` is any base62."""
    at = random.randrange(len(KEY))
    start = random.randrange(10_000)
    noise = text[start : start + random.choice((0, 1, 20, 68, 68, 68, 100, 600, 5_000))]
    match random.randrange(10):
        case 0 | 1:
            return f"Bearer wlrouter_{noise}"
        case 2:
            return f"Bearer wlrouter_{KEY[9:35]}{noise[:42]}"
        case 3:
            return f"Bearer {KEY[:at]}{random.choice(BASE62.replace(KEY[at], ''))}{KEY[at + 1 :]}"
        case 4:
            return f"Bearer {KEY[:at]}{random.choice(ODD)}{KEY[at + 1 :]}"
        case 5:
            return f"Bearer {KEY[:at]}{random.choice(('', 'xx'))}{KEY[at + 1 :]}"
        case 6:
            return f"Bearer {random.choice((KEY.swapcase(), noise))}"
        case 7:
            return f"Bearer {random.choice(ODD) * random.choice((1, 77, 512))}"
        case 8:
            return random.choice(("Basic ", "Bearer:", "", " ", "bearer\t", "Bearer", "Token ")) + KEY
        case _:
            return random.choice((None, "", " ", "Bearer", "Bearer ", f"Bearer {KEY} {KEY}"))


async def refuse(count: int) -> None:
    """Check so many; only the check itself is measured."""
    store, random, cpu_s = CountingStore(), Random(SEED), 0.0
    text = "".join(random.choices(BASE62, k=15_000))
    authenticator = Authenticator(
        store,
        Peppers(1, {1: b"p" * 32}),
        OperatorCredential("o" * 43, "default"),
        clock_us=lambda: time.time_ns() // 1_000,
        monotonic_s=time.monotonic,
        on_revoked=lambda key_id: None,
        model_ids=(),
    )
    await authenticator.refresh()
    admitted = 0
    while count:
        batch = [malformed(random, text) for _ in range(min(count, 10_000))]
        count -= len(batch)
        began_s = time.process_time()
        for authorization in batch:
            try:
                await authenticator.authenticate(authorization)
            except InvalidApiKey:
                continue
            admitted += 1
        cpu_s = max(cpu_s, (time.process_time() - began_s) / len(batch))
    print(f"{cpu_s * 1e6:.1f} us each in the slowest batch")  # noqa: T201
    assert admitted == 0
    assert store.queries == 1  # the load at start
    assert cpu_s <= CPU_LIMIT_S


async def test_malformed_keys_cost_microseconds() -> None:
    """No database query, and 20 us of CPU at most."""
    await refuse(50_000)


async def test_a_million_malformed_keys_cost_microseconds() -> None:
    """The same of a million."""
    await refuse(1_000_000)
