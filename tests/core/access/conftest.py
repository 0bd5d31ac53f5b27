"""A clock that stands still, a key store in memory that can fail, and a server on a Unix socket."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from core.access import auth as auth_module
from core.access.apikeys import Peppers, make_key, shown_prefix, shown_suffix
from core.access.auth import Authenticator, OperatorCredential
from core.access.guard import Guard
from core.ids import IdSource
from core.inprocess import InProcessServer
from storage.errors import StoreUnavailable
from storage.limit_records import Limit
from storage.records import Account, AccountKind, ApiKey

OPERATOR_TOKEN = "operator-token-0123456789-0123456789"
MODEL_IDS = ("large", "large-2", "small", "tiny")


class Clock:
    """Wall clock and monotonic clock, moved by hand."""

    def __init__(self) -> None:
        self.s = 1_800_000_000.0

    def us(self) -> int:
        return int(self.s * 1_000_000)

    def monotonic_s(self) -> float:
        return self.s


class Keys:
    """A store of keys, accounts and limits in memory, as far as an authenticator sees one."""

    def __init__(self) -> None:
        self.records: dict[str, ApiKey] = {}
        self.accounts: dict[str, Account] = {}
        self.limits_: dict[str, list[Limit]] = {}
        self.seq = 0
        self.put_account("acct_a")
        self.load_count = 0
        self.failing = False
        self.before_load: Callable[[], Awaitable[None]] | None = None

    def put(self, record: ApiKey) -> ApiKey:
        self.seq += 1
        self.records[record.id] = replace(record, seq=self.seq)
        return self.records[record.id]

    def put_account(self, account_id: str, *, limits: Sequence[Limit] = (), **fields: Any) -> None:
        """Make or change an account, with all its limits."""
        self.seq += 1
        known = self.accounts.get(account_id) or Account(account_id, "n", "user", 0, 0)
        self.accounts[account_id] = replace(known, **fields, seq=self.seq)
        self.limits_[account_id] = list(limits)

    async def accounts_changed_since(self, seq: int, limit: int) -> list[Account]:
        changed = sorted((a for a in self.accounts.values() if a.seq > seq), key=lambda a: a.seq)
        return changed[:limit]

    async def limits(self, owner_ids: Sequence[str]) -> list[Limit]:
        return [limit for owner_id in owner_ids for limit in self.limits_.get(owner_id, ())]

    async def keys_changed_since(self, seq: int, limit: int) -> list[ApiKey]:
        self.load_count += 1
        if self.before_load is not None:
            await self.before_load()
        if self.failing:
            raise StoreUnavailable("gone")
        changed = sorted((r for r in self.records.values() if r.seq > seq), key=lambda r: r.seq)
        return changed[:limit]


@dataclass
class Auth:
    """An authenticator over a store in memory, and what it reported."""

    clock: Clock
    keys: Keys
    peppers: Peppers
    authenticator: Authenticator
    revoked: list[str] = field(default_factory=list)

    def add(
        self,
        *,
        account_id: str = "acct_a",
        kind: AccountKind = "user",
        expires_us: int | None = None,
        allowed_models: tuple[str, ...] = (),
    ) -> tuple[str, ApiKey]:
        """Put a new key into the store; its text and its record."""
        key_id = f"key_{len(self.keys.records):026}"
        key = make_key(key_id)
        record = ApiKey(
            id=key_id,
            account_id=account_id,
            account_kind=kind,
            display_name="n",
            secret=self.peppers.hash(key),
            secret_prefix=shown_prefix(key),
            secret_suffix=shown_suffix(key),
            old_secret=None,
            old_secret_expires_us=None,
            created_us=self.clock.us(),
            expires_us=expires_us,
            revoked_us=None,
            seq=0,
            allowed_models=allowed_models,
        )
        return key, self.keys.put(record)

    async def poll(self) -> None:
        """Let the authenticator poll a few times."""
        task = asyncio.create_task(self.authenticator.run())
        await asyncio.sleep(0.05)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    async def revoked_after(self, seconds: int) -> list[str]:
        """What has been reported once so much time has gone by."""
        self.clock.s += seconds
        await self.poll()
        return self.revoked

    def rotate(self, record: ApiKey, *, grace_s: float) -> tuple[str, ApiKey]:
        """Give a key a new secret; its text and its record."""
        key = make_key(record.id)
        grace_us = int(grace_s * 1_000_000)
        changed = replace(
            record,
            secret=self.peppers.hash(key),
            old_secret=record.secret,
            old_secret_expires_us=self.clock.us() + grace_us,
        )
        return key, self.keys.put(changed)


@pytest.fixture
def operator_token() -> str:
    return OPERATOR_TOKEN


@pytest.fixture
async def auth(monkeypatch: pytest.MonkeyPatch) -> Auth:
    monkeypatch.setattr(auth_module, "POLL_INTERVAL_S", 0.01)
    clock, keys, peppers = Clock(), Keys(), Peppers(2, {1: b"1" * 32, 2: b"2" * 32})
    revoked: list[str] = []
    authenticator = Authenticator(
        keys,
        peppers,
        OperatorCredential(OPERATOR_TOKEN, "acct_default"),
        clock_us=clock.us,
        monotonic_s=clock.monotonic_s,
        on_revoked=revoked.append,
        model_ids=MODEL_IDS,
    )
    await authenticator.refresh()
    return Auth(clock, keys, peppers, authenticator, revoked)


@pytest.fixture
def ids() -> IdSource:
    return IdSource(lambda: time.time_ns() // 1000, os.urandom)


Serve = Callable[[Guard], Awaitable[grpc.aio.Channel]]


@pytest.fixture(params=["socket", "in-process"])
async def serve(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Serve]:
    """Serves what a guard holds, on a Unix socket or within the process; answers a channel to it."""
    async with AsyncExitStack() as stack:

        async def start(guard: Guard) -> grpc.aio.Channel:
            within = InProcessServer()
            server = within if request.param == "in-process" else grpc.aio.server()
            guard.install(server)
            if server is within:
                stack.push_async_callback(server.stop, 0)
                return await stack.enter_async_context(within.channel())
            address = f"unix:{tmp_path}/s"
            server.add_insecure_port(address)
            await server.start()
            stack.push_async_callback(server.stop, 0)
            return await stack.enter_async_context(grpc.aio.insecure_channel(address))

        yield start


@pytest.fixture
def over_socket(request: pytest.FixtureRequest) -> bool:
    """Whether `serve` uses a socket."""
    return "in-process" not in request.node.name
