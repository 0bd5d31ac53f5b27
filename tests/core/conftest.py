"""A real SQLite store with faults on demand, clocks moved by hand, the check that no money is lost, and a whole
pipeline over scripted upstreams."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.access_log import AccessRecord
from core.call import Call, Caller, Policy, Role
from core.catalog import Catalog, Endpoint, Model, price_of
from core.chat.admission import Admission
from core.chat.dispatch import TimeLimits
from core.chat.exchange import Exchange
from core.chat.offer import Offer
from core.chat.pipeline import Pipeline
from core.money.escrow import Escrow, EscrowSettings, Hold
from core.money.funds import Funds
from core.money.ledger import LedgerWriter
from core.money.ratios import TextRatios
from core.providers.script import Script
from core.providers.scripted import ScriptedProvider
from core.rates.rates import Rates
from storage.errors import CommitUnknown, StoreUnavailable
from storage.interfaces import Store
from storage.records import Settlement
from storage.store import open_store

NOT_CONSERVED = """
    SELECT a.id, a.available, a.credit_limit FROM accounts a WHERE a.kind <> 'house' AND (
      a.available + a.credit_limit < 0 OR a.available
      + (SELECT coalesce(sum(granted - spent), 0) FROM leases l WHERE l.account_id = a.id AND l.state = 'active')
      + (SELECT coalesce(sum(amount), 0) FROM ledger WHERE debit_account = a.id)
      <> (SELECT coalesce(sum(amount), 0) FROM ledger WHERE credit_account = a.id))
"""
NOT_WHOLE = """
    SELECT p.id, p.amount, p.available, p.spent FROM purses p WHERE p.available + p.spent
      + (SELECT coalesce(sum(granted), 0) FROM leases l WHERE l.account_id = p.id AND l.state = 'active') <> p.amount
"""


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that no event announces."""
    for _ in range(2_000):
        if condition():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not happen in time")


class FakeClock:
    """Seconds, moved by hand."""

    def __init__(self, now_s: float = 1_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class FaultyStore:
    """A store whose next calls of a method fail as its list of `faults` says; `calls` counts them by method.

    "refused": unavailable, nothing happened. "lost": it happened, but the answer got lost. "lost before": neither.
    "hang" waits for `resume` first, "hang after" at last, "hang, then refused" in vain. "bug": no error of a store;
    "bug after": nor that, when it had happened.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.faults: dict[str, list[str]] = {}
        self.calls: Counter[str] = Counter()
        self.batches: list[list[Any]] = []
        self.resume = asyncio.Event()
        self._under_way = 0
        self._hanging = 0

    async def available(self, account_id: str = "a") -> int:
        """What the account has that is in no lease, in nanodollars."""
        found = await self._store.balance(account_id)
        assert found is not None
        return found.available_nano_usd

    async def settled(self, escrow: Escrow, hold: Hold, charge: int, request_id: str) -> None:
        """Commit a charge as the ledger writer would."""
        await self.settle([self.settlement(hold, charge, request_id)])
        escrow.settled(hold)

    @staticmethod
    def settlement(hold: Hold, charge: int, request_id: str) -> Settlement:
        """A row for a charge."""
        numbers = dict.fromkeys(
            ("prompt_tokens", "cached_tokens", "cache_write_tokens", "completion_tokens", "reasoning_tokens"), 0
        )
        texts = dict.fromkeys(("client_request_id", "endpoint", "finish_reason", "error_reason"), "")
        return Settlement(
            request_id=request_id,
            account_id=hold.account_id,
            lease_id=hold.lease.id,
            amount_nano_usd=charge,
            shortfall_nano_usd=0,
            key_id=None,
            model_id="m",
            price_id="p",
            estimated=False,
            status="complete",
            attempts=1,
            streamed=False,
            ttft_ms=None,
            duration_ms=1,
            core_id="core_1",
            **numbers,
            **texts,
        )

    async def called(self, name: str, times: int = 1) -> None:
        """Wait until a method was called so often, and the last call has got as far as its fault lets it."""
        await until(lambda: self.calls[name] >= times)
        await self.still()

    async def still(self) -> None:
        """Wait until no call, but for those that hang, is under way."""
        for _ in range(20):
            await asyncio.sleep(0)
        await until(lambda: self._under_way <= self._hanging)
        for _ in range(20):
            await asyncio.sleep(0)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            self._under_way += 1
            try:
                return await self._faulty(name, method, args, kwargs)
            finally:
                self._under_way -= 1

        return call

    async def _faulty(self, name: str, method: Any, args: Any, kwargs: Any) -> Any:
        if name == "settle":
            self.batches.append(list(args[0]))
        pending = self.faults.get(name)
        fault = pending.pop(0) if pending else "ok"
        if fault in ("hang", "hang, then refused"):
            await self._hang()
        if fault in ("refused", "hang, then refused"):
            raise StoreUnavailable("no answer")
        if fault == "lost before":
            raise CommitUnknown("no answer")
        if fault == "bug":
            raise RuntimeError("a bug")
        result = await method(*args, **kwargs)
        if fault == "hang after":
            await self._hang()
        if fault == "lost":
            raise CommitUnknown("no answer")
        if fault == "bug after":
            raise RuntimeError("a bug")
        return result

    async def _hang(self) -> None:
        self._hanging += 1
        await self.resume.wait()
        self._hanging -= 1


@pytest.fixture
def faulty() -> Callable[[Store], FaultyStore]:
    """A function that puts a store's faults at the test's command."""
    return FaultyStore


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture
def database(tmp_path: Path, migrated_file: Path) -> Path:
    """A SQLite database of the test's own."""
    return Path(shutil.copy(migrated_file, tmp_path / "core.db"))


@pytest.fixture
async def store(database: Path) -> AsyncIterator[FaultyStore]:
    """A store on `database`; its faults are at the test's command."""
    opened = await open_store(f"sqlite+aiosqlite:///{database}")
    yield FaultyStore(opened)
    await opened.close()


@pytest.fixture
def rows(database: Path) -> Callable[[str], list[tuple[Any, ...]]]:
    """A function that reads the database past the store."""

    def read(sql: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    return read


@pytest.fixture
def conserved(rows: Callable[[str], list[tuple[Any, ...]]]) -> Callable[[], None]:
    """A function that checks the equation of every account and purse, and that no lease has spent more than it was
    granted."""

    def check() -> None:
        assert rows(NOT_CONSERVED) == []
        assert rows(NOT_WHOLE) == []
        assert rows("SELECT id FROM leases WHERE spent > granted OR spent < 0") == []

    return check


@dataclass
class Router:
    """A pipeline over four scripted providers, p1 to p4, and what it did. Account "a" has 100 USD.

    Answers of p3, which the model "drained" asks first, are drained.
    """

    pipeline: Pipeline
    providers: dict[str, ScriptedProvider]
    escrow: Escrow
    rates: Rates
    store: Any
    clock: Any
    records: list[AccessRecord]
    changes: list[tuple[Settlement, Settlement]]
    rows: Callable[[str], list[tuple[Any, ...]]]
    numbers: Any = field(default_factory=lambda: itertools.count(1))

    def scripted(self, provider: str, **script: Any) -> ScriptedProvider:
        """Exchange a provider for one that answers so."""
        made = self.providers[provider] = ScriptedProvider(msgspec.convert(script, Script), record=True)
        return made

    def open(
        self,
        body: Mapping[str, Any] | bytes,
        *,
        stream: bool,
        role: Role = Role.API_KEY,
        policy: Policy | None = None,
    ) -> Exchange:
        """Begin an exchange; the body is completed to a small request for model "m"."""
        if not isinstance(body, bytes):
            plain = {"model": "m", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 100}
            body = json.dumps(
                {name: value for name, value in (plain | dict(body)).items() if value is not None}
            ).encode()
        call = Call(f"req{next(self.numbers)}", "mine", Caller(role, "a", "key_1", policy=policy))
        return self.pipeline.open(call, body, stream=stream)

    async def unary(self, body: Mapping[str, Any] | bytes, **options: Any) -> dict[str, Any]:
        """Drive a whole answer as a servicer does."""
        with self.open(body, stream=False, **options) as exchange:
            await exchange.admit()
            exchange.metadata()
            found: dict[str, Any] = json.loads(await exchange.complete())
            return found

    async def stream(self, body: Mapping[str, Any] | bytes, **options: Any) -> AsyncIterator[list[bytes]]:
        """Drive a stream as a servicer does; each item is one message of chunks, the last one those of the end."""
        with self.open(body, stream=True, **options) as exchange:
            await exchange.admit()
            exchange.metadata()
            chunks = await exchange.start()
            while chunks:
                yield chunks
                chunks = await exchange.read()
            yield await exchange.finish()

    async def chunks(self, body: Mapping[str, Any] | bytes, **options: Any) -> list[dict[str, Any]]:
        """All chunks of a stream."""
        return [json.loads(each) async for some in self.stream(body, **options) for each in some]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for something that no event announces."""
        await until(condition)

    async def running(self, count: int = 1) -> None:
        """Wait until so many calls to upstreams run, and whatever they deliver without a delay is delivered."""
        await self.until(lambda: self.open_calls >= count)
        for _ in range(100):
            await asyncio.sleep(0)

    async def settling(self) -> None:
        """Wait until a settlement is queued, and its commit tried."""
        await self.until(lambda: self.pipeline.ledger.depth and self.store.calls["settle"])

    async def settled(self) -> None:
        """Wait until everything is in the ledger."""
        async with asyncio.timeout(10):
            await self.pipeline.ledger.drained()

    async def row(self, request_id: str = "req1") -> dict[str, Any]:
        """The ledger's row of a request."""
        await self.settled()
        found = await self.store.usage_record(request_id)
        assert found is not None
        return {name: getattr(found.settlement, name) for name in found.settlement.__struct_fields__}

    @property
    def open_calls(self) -> int:
        """Calls to upstreams that are neither read to their end nor closed."""
        return sum(provider.open_calls for provider in self.providers.values())


def _model(model_id: str, *, endpoints: Sequence[int] = (1,), nano_usd: int = 1_000, **changed: Any) -> Model:
    pico = nano_usd * 1_000
    price = price_of(
        model_id,
        input_pico_usd=pico,
        output_pico_usd=2 * pico,
        cache_read_pico_usd=pico // 2,
        cache_write_pico_usd=pico,
    )
    fields: dict[str, Any] = {
        "display_name": model_id,
        "owned_by": "o",
        "created_s": 0,
        "max_output_tokens": 10_000,
        "context_tokens": 0,
        "public": True,
        "streaming": True,
        "max_image_tokens": 4_096,
        "first_token_timeout_s": None,
        "endpoints": tuple(Endpoint(f"e{n}", f"p{n}", f"up{n}") for n in endpoints),
    }
    return Model(id=model_id, price=price, **(fields | changed))


@pytest.fixture
async def router(
    store: FaultyStore, clock: FakeClock, rows: Any, conserved: Callable[[], None]
) -> AsyncIterator[Router]:
    """A pipeline at work. Afterwards no call, hold, task or request is left, and the money adds up."""
    await store.register_core("core_1")
    await store.create_account("a", "a", "user")
    await store.adjust(ref="start", account_id="a", amount_nano_usd=100_000_000_000, note="x")
    numbers, records = itertools.count(), list[AccessRecord]()
    changes: list[tuple[Settlement, Settlement]] = []
    providers = {f"p{n}": ScriptedProvider(record=True) for n in range(1, 5)}
    escrow = Escrow(
        store,  # type: ignore[arg-type]
        core_id="core_1",
        settings=EscrowSettings(),
        clock=clock,
        new_lease_id=lambda: f"lease_{next(numbers)}",
    )
    funds = Funds(escrow, store, clock=clock)  # type: ignore[arg-type]
    pipeline: Pipeline
    ledger = LedgerWriter(
        store,  # type: ignore[arg-type]
        clock=clock,
        in_flight=lambda: pipeline.in_flight,
        observe_commit=lambda rows, seconds: None,
        settle_timeout_s=5.0,
    )
    ratios = TextRatios()
    rates = Rates(store, clock=clock, timeout_s=1.0)  # type: ignore[arg-type]
    pipeline = Pipeline(
        offer=Offer(
            catalog=Catalog.of(
                [
                    _model("m"),
                    _model("two", endpoints=(1, 2)),
                    _model("four", endpoints=(1, 2, 3, 4)),
                    _model("drained", endpoints=(3, 4)),
                    _model("free", nano_usd=0),
                    _model("dear", nano_usd=1_000_000_000),
                    _model("hidden", public=False),
                    _model("unstreamed", streaming=False),
                    _model("slow", first_token_timeout_s=300.0),
                ]
            ),
            providers=providers,
            limit_fields={"p1": "max_tokens", "p2": "max_completion_tokens", "p3": "max_tokens", "p4": "max_tokens"},
            drained_providers=frozenset({"p3"}),
        ),
        limits=TimeLimits(first_token_s=60.0, between_chunks_s=60.0, total_s=900.0),
        escrow=escrow,
        ledger=ledger,
        ratios=ratios,
        admission=Admission(escrow, funds, ledger, ratios, rates, timeout_s=1.0, credits_url=None),
        core_id="core_1",
        clock=clock,
        wall_clock=lambda: 1_800_000_000.5,
        observe=records.append,
        observe_changed=lambda asked, charged: changes.append((asked, charged)),
        client_gone=(asyncio.CancelledError, GeneratorExit),
        tidy=lambda: None,
    )
    tasks = [asyncio.ensure_future(work) for work in (ledger.run(), rates.run())]
    made = Router(pipeline, providers, escrow, rates, store, clock, records, changes, rows)
    yield made
    store.faults.clear()
    store.resume.set()
    await made.settled()
    assert (made.open_calls, pipeline.in_flight) == (0, 0)
    assert [account.id for account in escrow._accounts.values() if account.lease and account.lease.held] == []
    await escrow.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    conserved()
