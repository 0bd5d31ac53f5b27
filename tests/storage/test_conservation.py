"""No money appears or vanishes, whatever is done in whatever order, on both databases."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import BeyondPayment, IdempotencyConflict, Missing, StoreError, Unaffordable
from storage.records import Once

ACCOUNTS = st.sampled_from(("acc_a", "acc_b"))
LEASES = st.integers(0, 3)
AMOUNTS = st.integers(0, 60)

operations = st.one_of(
    st.tuples(st.just("top_up"), ACCOUNTS, st.integers(1, 200), st.integers(0, 10), st.integers(0, 2)),
    st.tuples(st.just("refund"), st.integers(0, 2), st.integers(1, 150), st.booleans(), st.integers(0, 2)),
    st.tuples(st.just("adjust"), ACCOUNTS, st.integers(1, 200), st.integers(0, 2)),
    st.tuples(st.just("acquire"), LEASES, ACCOUNTS, AMOUNTS, AMOUNTS, st.sampled_from((0.0, 30.0))),
    st.tuples(st.just("extend"), LEASES, AMOUNTS, AMOUNTS, st.integers(1, 4)),
    st.tuples(st.just("give_back"), LEASES, AMOUNTS, st.integers(1, 4)),
    st.tuples(
        st.just("settle"),
        st.lists(
            st.tuples(st.integers(0, 9), st.none() | LEASES, ACCOUNTS, AMOUNTS),
            min_size=1,
            max_size=5,
        ),
    ),
    st.tuples(st.just("close"), LEASES),
    st.tuples(st.just("renew")),
    st.tuples(st.just("reap")),
)


class Player:
    """Carries out operations; `prefix` keeps the ids of one example apart from those of others."""

    def __init__(self, store: Any, settlement: Any, prefix: str) -> None:
        self.store, self.settlement, self.prefix = store, settlement, prefix

    def id(self, name: object) -> str:
        return f"{self.prefix}{name}"

    async def begin(self) -> None:
        await self.store.register_core("core_1")
        for name in ("acc_a", "acc_b"):
            await self.store.create_account(self.id(name), "Somebody", "user")

    async def play(self, operation: tuple[Any, ...]) -> None:
        name, *rest = operation
        try:
            await getattr(self, name)(*rest)
        except Missing:
            pass
        except (BeyondPayment, Unaffordable, IdempotencyConflict):
            pass
        except StoreError as error:  # a seq out of order, or more given back than there is: nothing happens
            assert type(error) is StoreError  # noqa: PT017

    async def top_up(self, account: str, amount: int, fee: int, key: int) -> None:
        await self.store.top_up(
            payment_id=self.id(f"pay_{key}"),
            account_id=self.id(account),
            amount_nano_usd=amount,
            fee_nano_usd=fee,
            once=Once("top-ups", self.id(key), b""),
        )

    async def refund(self, payment: int, amount: int, keep_fee: bool, key: int) -> None:
        await self.store.refund(
            refund_id=self.id(f"refund_{key}"),
            payment_id=self.id(f"pay_{payment}"),
            amount_nano_usd=amount,
            keep_fee=keep_fee,
            once=Once("refunds", self.id(key), b"%d %d %d" % (payment, amount, keep_fee)),
        )

    async def adjust(self, account: str, amount: int, ref: int) -> None:
        await self.store.adjust(ref=self.id(ref), account_id=self.id(account), amount_nano_usd=amount, note="")

    async def acquire(self, lease: int, account: str, want: int, chunk: int, ttl_s: float) -> None:
        await self.store.acquire(
            lease_id=self.id(lease),
            account_id=self.id(account),
            core_id="core_1",
            want_nano_usd=want,
            chunk_nano_usd=chunk,
            ttl_s=ttl_s,
        )

    async def extend(self, lease: int, want: int, chunk: int, seq: int) -> None:
        await self.store.extend(lease_id=self.id(lease), seq=seq, want_nano_usd=want, chunk_nano_usd=chunk)

    async def give_back(self, lease: int, amount: int, seq: int) -> None:
        await self.store.give_back(lease_id=self.id(lease), seq=seq, amount_nano_usd=amount)

    async def settle(self, rows: list[tuple[int, int | None, str, int]]) -> None:
        await self.store.settle(
            [
                self.settlement(
                    self.id(f"req_{request}"),
                    None if lease is None else self.id(lease),
                    amount,
                    account_id=self.id(account),
                )
                for request, lease, account, amount in rows
            ]
        )

    async def close(self, lease: int) -> None:
        await self.store.close_lease(self.id(lease))

    async def renew(self) -> None:
        await self.store.renew("core_1", ttl_s=30.0)

    async def reap(self) -> None:
        await self.store.reap()


@pytest.fixture
def games() -> count[int]:
    """Numbers of examples."""
    return count()


@pytest.mark.slow
@settings(
    max_examples=20,
    deadline=None,
    # The store is shared by all examples: their ids keep them apart.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(played=st.lists(operations, min_size=10, max_size=25))
async def test_money_is_conserved(store, settlement, audit, games, played) -> None:
    """After any sequence of operations every account has what the ledger says, and nobody is overdrawn."""
    player = Player(store, settlement, f"{next(games)}-")
    await player.begin()
    for operation in played:
        await player.play(operation)
    await audit(player.prefix)
