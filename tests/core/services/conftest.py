"""A core of the services of keys, accounts, money and catalog, on a Unix socket, over a real SQLite database."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer
from worldrouter.v1 import (
    account_pb2,
    account_pb2_grpc,
    auth_pb2,
    auth_pb2_grpc,
    chat_pb2,
    limit_pb2_grpc,
    maintenance_pb2_grpc,
    metering_pb2_grpc,
    payment_pb2_grpc,
    raw_chat_pb2,
    routing_pb2_grpc,
)

from core.access.apikeys import Peppers
from core.access.auth import Authenticator, OperatorCredential
from core.access.guard import Guard
from core.catalog import Catalog, Endpoint, Model, price_of
from core.ids import IdSource
from core.money.top_ups import TopUpRules
from core.payments.sandbox import Sandbox
from core.reload import Reloaded
from core.services.accounts import AccountServicer
from core.services.catalog import RoutingServicer
from core.services.keys import AuthServicer
from core.services.limits import LimitServicer
from core.services.maintenance import MaintenanceServicer
from core.services.metering import MeteringServicer
from core.services.payments import PaymentServicer
from core.settings import BadSettings
from storage.interfaces import Store
from storage.store import open_store

OPERATOR_TOKEN = "operator-token-0123456789-0123456789"
DEFAULT_ACCOUNT = "default"
SANDBOX_SECRET = b"s" * 32

Metadata = tuple[tuple[str, str], ...]


def clock_us() -> int:
    return time.time_ns() // 1000


def bearer(credential: str) -> Metadata:
    return (("authorization", f"Bearer {credential}"),)


class NoObserver:
    """Counts nothing."""

    def finished(self, method: str, call: Any, code: grpc.StatusCode, duration_s: float) -> None:
        pass


def make_model(model_id: str, *, public: bool, endpoints: int = 1) -> Model:
    price = price_of(model_id, input_pico_usd=1, output_pico_usd=2, cache_read_pico_usd=3, cache_write_pico_usd=4)
    return Model(
        id=model_id,
        display_name=model_id.upper(),
        owned_by="owner",
        created_s=1_700_000_000,
        max_output_tokens=1000,
        context_tokens=2000,
        price=price,
        public=public,
        streaming=True,
        max_image_tokens=4096,
        first_token_timeout_s=None,
        endpoints=tuple(Endpoint(f"e{n}", f"p{n}", f"up-{model_id}") for n in range(endpoints)),
    )


CATALOG = Catalog.of(
    [make_model(f"model-{n:02}", public=True, endpoints=1 + n % 3) for n in range(10)]
    + [make_model("model-055-hidden", public=False, endpoints=2)]
)


@dataclass
class Core:
    """A running core, as a test sees it."""

    channel: grpc.aio.Channel
    store: Store
    authenticator: Authenticator
    revoked: list[str]
    operator: Metadata

    @property
    def accounts(self) -> Any:
        return account_pb2_grpc.AccountServiceStub(self.channel)

    @property
    def auth(self) -> Any:
        return auth_pb2_grpc.AuthServiceStub(self.channel)

    @property
    def limits(self) -> Any:
        return limit_pb2_grpc.LimitServiceStub(self.channel)

    @property
    def metering(self) -> Any:
        return metering_pb2_grpc.MeteringServiceStub(self.channel)

    @property
    def maintenance(self) -> Any:
        return maintenance_pb2_grpc.MaintenanceServiceStub(self.channel)

    @property
    def payments(self) -> Any:
        return payment_pb2_grpc.PaymentServiceStub(self.channel)

    @property
    def routing(self) -> Any:
        return routing_pb2_grpc.RoutingServiceStub(self.channel)

    async def make_account(self, account_id: str, kind: Any = account_pb2.ACCOUNT_KIND_USER, **fields: Any) -> str:
        request = account_pb2.CreateAccountRequest(
            account_id=account_id, display_name="An account", kind=kind, **fields
        )
        return (await self.accounts.CreateAccount(request, metadata=self.operator)).id

    async def make_key(self, account_id: str = "", **fields: Any) -> auth_pb2.ApiKey:
        request = auth_pb2.CreateApiKeyRequest(account_id=account_id, display_name="A key", **fields)
        return await self.auth.CreateApiKey(request, metadata=self.operator)


@asynccontextmanager
async def run_core(store: Store, address: str) -> AsyncIterator[Core]:
    """A core over a store that others may use too, until the block ends."""
    peppers, revoked = Peppers(1, {1: b"p" * 32}), []
    authenticator = Authenticator(
        store,
        peppers,
        OperatorCredential(OPERATOR_TOKEN, DEFAULT_ACCOUNT),
        clock_us=clock_us,
        monotonic_s=time.monotonic,
        on_revoked=revoked.append,
        model_ids=CATALOG.models,
    )
    await authenticator.refresh()
    server = grpc.aio.server()
    make_guard(store, authenticator, peppers).install(server)
    server.add_insecure_port(address)
    await server.start()
    polling = asyncio.create_task(authenticator.run())
    try:
        async with grpc.aio.insecure_channel(address) as channel:
            yield Core(channel, store, authenticator, revoked, bearer(OPERATOR_TOKEN))
    finally:
        polling.cancel()
        with suppress(asyncio.CancelledError):
            await polling
        await server.stop(0)


async def refuse_reload() -> Reloaded:
    raise BadSettings("models[0].price: wanted one")


def make_guard(store: Store, authenticator: Authenticator, peppers: Peppers) -> Guard:
    """A guard that holds the real servicers, and dummies for the chat services."""
    ids = IdSource(clock_us, os.urandom)
    guard = Guard(authenticator, ids, monotonic_s=time.monotonic, observer=NoObserver())
    keys = AuthServicer(
        store, store, authenticator, peppers, ids, clock_us=clock_us, default_account_id=DEFAULT_ACCOUNT
    )
    accounts = AccountServicer(store, authenticator, ids, clock_us=clock_us, default_account_id=DEFAULT_ACCOUNT)
    limits = LimitServicer(store, authenticator, ids)
    metering = MeteringServicer(store, store, store, store, ids, top_up_rules=TopUpRules())
    payments = PaymentServicer(
        store,
        store,
        {"test": Sandbox("http://127.0.0.1:8080/", SANDBOX_SECRET)},
        ids,
        rules=TopUpRules(),
        default_account_id=DEFAULT_ACCOUNT,
    )
    payment_pb2_grpc.add_PaymentServiceServicer_to_server(payments, guard)
    auth_pb2_grpc.add_AuthServiceServicer_to_server(keys, guard)
    account_pb2_grpc.add_AccountServiceServicer_to_server(accounts, guard)
    limit_pb2_grpc.add_LimitServiceServicer_to_server(limits, guard)
    metering_pb2_grpc.add_MeteringServiceServicer_to_server(metering, guard)
    maintenance_pb2_grpc.add_MaintenanceServiceServicer_to_server(MaintenanceServicer(store, refuse_reload), guard)
    routing_pb2_grpc.add_RoutingServiceServicer_to_server(RoutingServicer(lambda: CATALOG), guard)
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), guard)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(ReflectionServicer(guard.service_names), guard)
    for file in (chat_pb2.DESCRIPTOR, raw_chat_pb2.DESCRIPTOR):
        for service in file.services_by_name.values():
            guard.add_registered_method_handlers(service.full_name, dummy_handlers(service))
    return guard


def dummy_handlers(service: ServiceDescriptor) -> dict[str, Any]:
    """Handlers that answer nothing, for services whose servicers are not under test here."""

    async def unary(request: bytes, context: Any) -> bytes:
        return b""

    async def stream(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b""

    return {
        method.name: grpc.unary_stream_rpc_method_handler(stream)
        if method.server_streaming
        else grpc.unary_unary_rpc_method_handler(unary)
        for method in service.methods
    }


@pytest.fixture
async def store(tmp_path: Path, migrated_file: Path) -> AsyncIterator[Store]:
    path = shutil.copy(migrated_file, tmp_path / "worldrouter.db")
    store = await open_store(f"sqlite+aiosqlite:///{path}")
    await store.create_account(DEFAULT_ACCOUNT, "Default", "user")
    yield store
    await store.close()


StartCore = Callable[[], Awaitable[Core]]


@pytest.fixture
async def start_core(store: Store, tmp_path: Path) -> AsyncIterator[StartCore]:
    """Starts cores on one database."""
    async with AsyncExitStack() as stack:
        count = 0

        async def start() -> Core:
            nonlocal count
            count += 1
            return await stack.enter_async_context(run_core(store, f"unix:{tmp_path}/{count}"))

        yield start


@pytest.fixture
async def core(start_core: StartCore) -> Core:
    return await start_core()


@dataclass(frozen=True)
class Failure:
    """How a call failed."""

    code: grpc.StatusCode
    reason: str
    param: str | None
    openai_code: str
    message: str
    retry_after_s: float | None


@pytest.fixture
def failure() -> Callable[[Any], Awaitable[Failure]]:
    """Awaits a call that must fail, and checks that its trailers are as every error's are."""

    async def of(call: Any) -> Failure:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        error = caught.value
        trailers = dict(error.trailing_metadata())
        details = Status.FromString(trailers["grpc-status-details-bin"]).details
        info, retry = ErrorInfo(), RetryInfo()
        assert details[0].Unpack(info)
        retry_after_s = None
        if details[1:]:
            assert details[1].Unpack(retry)
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
        assert info.domain == "worldrouter"
        assert info.metadata["request_id"] == trailers["x-request-id"]
        return Failure(
            code=error.code(),
            reason=info.reason,
            param=dict(info.metadata).get("param"),
            openai_code=info.metadata["code"],
            message=error.details() or "",
            retry_after_s=retry_after_s,
        )

    return of
