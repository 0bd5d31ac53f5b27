"""A caller who was told that the charge failed is not charged, though the core dies before it gives anything back."""

from __future__ import annotations

from pathlib import Path

from tests.money.backends import Backend, Postgres, Sqlite
from tests.money.loop import SteppedLoop
from tests.money.world import ACCOUNTS, SETTLE_TIMEOUT_S, World


async def charged(backend: Backend) -> int:
    """What a request is charged whose first commit did not happen, which nobody knew in time; then its core dies."""
    world = World(backend, await backend.fresh(), chunk=25)
    try:
        await world.begin(200, 0)
        core = world.cores[0]
        world.admit(core, ACCOUNTS[0], 20)
        await world.calm(0)
        core.line.faults.append("lost before")
        core.line.down = True
        world.finish(world.requests[0], 20, "complete")
        await world.pass_time(SETTLE_TIMEOUT_S)
        world.sweep(core)
        await world.calm(0)
        assert world.requests[0].answer == "failed"
        core.line.down = False
        core.line.faults.extend(["", *["refused"] * 100])  # one call gets through
        await world.pass_time(1.0)
        world.kill(core, lands=False)
        await world.calm(0)
        await world.check()
        return (await backend.books()).usage()[world.requests[0].id].amount
    finally:
        await world.close()
        await backend.close()


def test_on_sqlite(stepped_loop: SteppedLoop, migrated_file: Path, tmp_path: Path) -> None:
    """The attempt that follows finds nothing, and leaves a row of amount 0."""
    assert stepped_loop.run_until_complete(charged(Sqlite(stepped_loop, migrated_file, tmp_path))) == 0


def test_on_postgresql(stepped_loop: SteppedLoop, migrated_postgres_url: str) -> None:
    """The same."""
    assert stepped_loop.run_until_complete(charged(Postgres(stepped_loop, migrated_postgres_url))) == 0
