"""The store in memory that the money's state machine runs on does what the databases do, call by call."""

from __future__ import annotations

import time
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.errors import StoreError
from tests.money.books import ACCOUNTS, LEASES, LEDGER, Books
from tests.money.memory import MemoryStore
from tests.storage.test_conservation import Player, operations


class Told(Player):
    """Says what became of an operation."""

    async def tell(self, operation: tuple[Any, ...]) -> str:
        name, *rest = operation
        try:
            await getattr(self, name)(*rest)
        except StoreError as error:
            return type(error).__name__
        return "ok"


def of_game(books: Books, prefix: str) -> tuple[Any, ...]:
    """What the books say of one game, in an order of their own."""
    accounts = {id_: row for id_, row in books.accounts.items() if id_.startswith(prefix)}
    leases = {id_: lease for id_, lease in books.leases.items() if id_.startswith(prefix)}
    rows = [row for row in books.rows if row.ref.startswith(prefix)]
    told = [(row.ref, row.kind, row.debit, row.credit, row.amount, row.shortfall, row.status) for row in rows]
    return accounts, leases, sorted(told)


@pytest.fixture
def games() -> count[int]:
    """Numbers of examples."""
    return count()


@pytest.mark.slow
@settings(
    max_examples=30,
    deadline=None,
    # The store is shared by all examples: their ids keep them apart.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(played=st.lists(operations, min_size=10, max_size=25))
async def test_memory_is_like_a_database(store, settlement, query, games, played) -> None:
    """The same answers, and the same books in the end."""
    prefix = f"{next(games)}-"
    memory = MemoryStore(lambda: time.time_ns() // 1_000)
    real, model = Told(store, settlement, prefix), Told(memory, settlement, prefix)
    await real.begin()
    await model.begin()
    for operation in played:
        if operation[0] == "refund":
            continue  # of a payment: no part of the state machine
        assert await model.tell(operation) == await real.tell(operation), operation
    books = Books.of(await query(ACCOUNTS), await query(LEASES), await query(LEDGER))
    assert of_game(Books.of_memory(memory), prefix) == of_game(books, prefix)
