"""`python -m tests.bench.without PART COMMAND…`: the command line with a part of the router taken out, to be measured.

`metering`: nothing is held, no row is written, and no answer waits for one; keys are checked and requests are read as
ever. `background`: rows are written, but nothing follows them: no chain, no roll-ups, no audits.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

from core import engine
from core.chat import exchange
from core.chat.admission import Admission, Reserved
from core.cli import main
from core.money.auditor import Auditor
from core.money.meter import Estimate


class Done:
    """The future of a commit that nobody has to wait for."""

    def __await__(self) -> Iterator[None]:
        return iter(())

    def cancel(self) -> None:
        """Nothing to end."""


class NoMeter:
    """A meter that counts nothing."""

    settlement = committed = on_changed = None

    def __init__(self, **_: object) -> None:
        pass

    def finish(self, _: object) -> Done:
        """Over at once."""
        self.committed = Done()
        return self.committed

    def is_telling(self, _: object) -> bool:
        """Nothing is learned."""
        return False


def without_metering() -> None:
    """Admission holds nothing, the end writes nothing."""
    reserved = Reserved(None, Estimate(1, 1, most_input_tokens=1, most_output_tokens=1))

    async def reserve(*_: object) -> Reserved:
        return reserved

    Admission.reserve = reserve
    exchange.Meter = NoMeter


def without_background() -> None:
    """Tasks that come after the ledger never begin."""

    async def never(*_: object) -> None:
        await asyncio.get_running_loop().create_future()

    Auditor.run = never
    engine.roll_up_forever = never


if __name__ == "__main__":
    {"metering": without_metering, "background": without_background}[sys.argv.pop(1)]()
    main()
