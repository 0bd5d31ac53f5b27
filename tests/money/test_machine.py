"""Whatever happens to customers, cores, databases and clocks, in any order: the money is right after every step.

`scripts/prove-money` runs more of it, and plants bugs that it must find.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.money.backends import Memory, Postgres, Sqlite
from tests.money.loop import SteppedLoop
from tests.money.machine import play

SLOW = (pytest.mark.slow, pytest.mark.timeout(1_200))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Faults are logged, a hundred thousand of them."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize(
    ("runs", "number"), [(20, 0), *(pytest.param(500, number, marks=SLOW) for number in range(1, 5))]
)
def test_money_is_right_in_memory(stepped_loop: SteppedLoop, runs: int, number: int) -> None:
    """Three cores on a store in memory, which does what the databases do (`test_memory.py`)."""
    play(Memory(stepped_loop), runs=runs, number=number)


@pytest.mark.parametrize("runs", [2, pytest.param(100, marks=SLOW)])
def test_money_is_right_on_sqlite(stepped_loop: SteppedLoop, migrated_file: Path, tmp_path: Path, runs: int) -> None:
    """One core at a time on a real file."""
    play(Sqlite(stepped_loop, migrated_file, tmp_path), runs=runs, number=runs)


@pytest.mark.parametrize("runs", [5, pytest.param(100, marks=SLOW)])
def test_money_is_right_on_postgresql(stepped_loop: SteppedLoop, migrated_postgres_url: str, runs: int) -> None:
    """Three cores on a real server."""
    play(Postgres(stepped_loop, migrated_postgres_url), runs=runs, number=runs)
