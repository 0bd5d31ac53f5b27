"""Who acts in the state machine: a core, and a customer's request to it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from core.catalog import Model, price_of
from core.money.escrow import Escrow, Hold
from core.money.funds import Chain, Funds
from core.money.ledger import LedgerWriter
from core.money.meter import Meter
from storage.records import Settlement
from tests.money.line import Line

MODEL = Model(
    id="m",
    display_name="m",
    owned_by="o",
    created_s=0,
    max_output_tokens=100,
    context_tokens=0,
    # A token costs a nanodollar.
    price=price_of("m", input_pico_usd=0, output_pico_usd=1_000, cache_read_pico_usd=0, cache_write_pico_usd=0),
    public=True,
    streaming=True,
    max_image_tokens=0,
    first_token_timeout_s=None,
    endpoints=(),
)


@dataclass
class Core:
    """A process: its line, its money, its writer.

    `renewed_s` is when its last good renewal began, `closed` are leases that it has known since then to be closed.
    """

    id: str
    line: Line
    escrow: Escrow
    funds: Funds
    ledger: LedgerWriter
    renewed_s: float
    closed: set[str] = field(default_factory=set)
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    admissions: list[asyncio.Task[None]] = field(default_factory=list)
    maintenance: asyncio.Task[None] | None = None
    alive: bool = True
    stopping: bool = False

    @property
    def runs(self) -> bool:
        return self.alive and self.line.frozen is None


@dataclass
class Request:
    """What a customer asked. `answer` is what became of it: "done", "failed" or "gone"."""

    id: str
    core: Core
    meter: Meter
    hold: Hold
    chain: Chain | None = None
    cost: int = 0
    finished_s: float | None = None
    future: asyncio.Future[None] | None = None
    answer: str = ""

    @property
    def holds(self) -> tuple[Hold, ...]:
        """Of its money, of budgets and of slots."""
        return (self.hold,) if self.chain is None else (self.hold, *self.chain.budgets, *self.chain.slots)

    @property
    def settlement(self) -> Settlement:
        assert self.meter.settlement is not None
        return self.meter.settlement
