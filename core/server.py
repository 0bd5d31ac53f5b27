"""The core's composition root: opens the store, wires everything, serves gRPC, and stops in good order."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast
from urllib.parse import unquote, urlsplit

import grpc.aio
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer
from prometheus_client import CollectorRegistry
from worldrouter.calls.files import open_more_files
from worldrouter.calls.memory import reuse_memory
from worldrouter.v1 import (
    account_pb2_grpc,
    auth_pb2_grpc,
    chat_pb2_grpc,
    error_reason_pb2,  # noqa: F401  # reflection knows what was imported
    limit_pb2_grpc,
    maintenance_pb2_grpc,
    metering_pb2,
    metering_pb2_grpc,
    payment_pb2_grpc,
    raw_chat_pb2_grpc,
    relay_pb2_grpc,
    routing_pb2_grpc,
)

from core import configured, state
from core.access.auth import Authenticator, OperatorCredential
from core.access.guard import Guard
from core.access_log import AccessLog, AccessRecord, rfc3339
from core.call import Call
from core.engine import Engine
from core.home import Home
from core.ids import IdSource
from core.inprocess import InProcessServer
from core.metrics import Metrics
from core.money.top_ups import TopUpRules
from core.process.admin import AdminServer
from core.process.lifecycle import StopSignals
from core.process.line_writer import LineWriter
from core.process.listen import CannotListen, listen, make_server
from core.process.logs import hide, log_to
from core.redaction import Redaction
from core.relay.servicer import RelayServicer
from core.reload import Reloaded, Reloader, Source, source_of
from core.services.accounts import AccountServicer
from core.services.auditing import report_message
from core.services.catalog import RoutingServicer
from core.services.chat import CLIENT_GONE, ChatServicer, RawChatServicer
from core.services.keys import AuthServicer
from core.services.limits import LimitServicer
from core.services.maintenance import MaintenanceServicer
from core.services.metering import MeteringServicer
from core.services.payments import PaymentServicer
from core.services.repeats import forget
from core.settings import BadSettings, Settings, secret
from storage.errors import Duplicate, StoreError
from storage.interfaces import Store
from storage.restore import restore
from storage.store import open_store

_log = logging.getLogger(__name__)

EXIT_TIMEOUT_S = 5.0
RELAY_CLOSE_S = 1.0
"""For edges to take the last frames and close their streams."""
GC_THRESHOLD = 50_000
_OTHERWISE_LOGGED = frozenset(
    {
        "/worldrouter.v1.ChatService",
        "/worldrouter.v1.RawChatService",
        "/worldrouter.v1.RelayService",
        "/grpc.health.v1.Health",
        "/grpc.reflection.v1alpha.ServerReflection",
    }
)
_CREDENTIAL_HEADER = re.compile(r"(?i)auth|key|token|secret|cookie")
_OVERALL = ""
"""The health service's name for the server as a whole."""


def database_url(settings: Settings, home: Home) -> str:
    """The configured database, or the SQLite file in the state folder."""
    return settings.database.url or f"sqlite+aiosqlite:///{home.database}"


async def check_database(settings: Settings, home: Home) -> None:
    """StoreError unless a core can open the database: it answers, and its schema is this program's."""
    store = await open_store(database_url(settings, home))
    try:
        await state.warn_of_lost_pepper(home, store)
    finally:
        await store.close()


async def restore_database(settings: Settings, home: Home, backup: Path, *, replace: bool) -> None:
    """Put a backup in the place of the database. StoreError, OSError; see `storage.restore`."""
    await restore(database_url(settings, home), backup, replace=replace)


async def audit_database(settings: Settings, home: Home) -> metering_pb2.AuditResponse:
    """Audit a database that no core may have: on SQLite StoreError while one runs, as for `check_database`."""
    store = await open_store(database_url(settings, home))
    try:
        return report_message(await store.audit())
    finally:
        await store.close()


class CoreServer:
    """A core that serves. Made by `start`, ended by `stop`.

    `guard` holds the wrapped handlers, for an in-process server beside the port.
    """

    def __init__(
        self,
        settings: Settings,
        home: Home,
        store: Store,
        environment: Mapping[str, str],
        on_fatal: Callable[[], None],
        source: Source,
        on_reload: Callable[[Reloaded], None] | None,
    ) -> None:
        self._settings = settings
        self._environment = environment
        self._reloader = Reloader(source, environment, self._apply)
        self._on_reload = on_reload
        self._store = store
        self._ids = IdSource(_clock_us, os.urandom)
        self._peppers = state.peppers(home)
        self._operator_token = state.operator_token(home)
        self._lines = LineWriter(sys.stderr)
        self._access_log = AccessLog(self._lines, readable=self._lines.isatty())
        self._client = configured.http_client(settings)
        offer = configured.offer(settings, self._client, environment)
        self._health = HealthServicer()
        self._server = make_server(settings.core)
        self.metrics = Metrics()
        self.registry = CollectorRegistry()
        self.registry.register(self.metrics)
        self.engine = Engine(
            settings,
            store,
            offer,
            self._ids,
            self.metrics,
            observe=self._observe,
            client_gone=CLIENT_GONE,
            on_fatal=on_fatal,
        )
        self._authenticator = Authenticator(
            store,
            self._peppers,
            OperatorCredential(self._operator_token, settings.core.default_account),
            clock_us=_clock_us,
            monotonic_s=time.monotonic,
            on_revoked=self.engine.pipeline.cut_key,
            model_ids=offer.catalog.models,
            stream_total_s=settings.timeouts.total_s,
        )
        self._carried = InProcessServer()
        self._relay = RelayServicer(self._carried, self.engine.core_id)
        self._redaction = Redaction(secrets_of(settings, environment))
        self.guard = self._guard(environment)
        self.grpc_port = 0

    @classmethod
    async def start(
        cls,
        settings: Settings,
        home: Home,
        environment: Mapping[str, str],
        *,
        starting_balance: bool,
        on_fatal: Callable[[], None],
        source: Source | None = None,
        on_reload: Callable[[Reloaded], None] | None = None,
    ) -> CoreServer:
        """Open the database and serve. BadSettings, CannotListen, StoreError, with nothing left open.

        `on_fatal` is called when the core cannot go on; `stop` should follow. `source` is where the settings are loaded
        from again (None: from nowhere), `on_reload` is called when they were.
        """
        source = source or Source(config="", overrides={}, loaded=settings)
        store = await open_store(database_url(settings, home))
        try:
            await state.warn_of_lost_pepper(home, store)
            server = cls(settings, home, store, environment, on_fatal, source, on_reload)
            server.grpc_port = listen(server._server, settings.core, settings.tls)
            await server._make_default_account(starting_balance=starting_balance)
            await server._authenticator.refresh()
            await server.engine.start()
        except BaseException:
            await store.close()
            raise
        server.engine.keep(server._authenticator.run())
        server.engine.keep(forget(store))
        server.guard.install(server._carried)
        server.guard.install(server._server)
        await server._server.start()
        await server._health.set(_OVERALL, health_pb2.HealthCheckResponse.SERVING)
        return server

    def _guard(self, environment: Mapping[str, str]) -> Guard:
        """All servicers behind one guard, which stands in the server's place as far as generated code is concerned."""
        settings, store, ids = self._settings, self._store, self._ids
        default = settings.core.default_account
        guard = Guard(
            self._authenticator,
            ids,
            monotonic_s=time.monotonic,
            observer=self,
            support_contact=settings.core.support_contact,
            redact=self._redaction,
        )
        to = cast(grpc.aio.Server, guard)
        chat_pb2_grpc.add_ChatServiceServicer_to_server(ChatServicer(self.engine.pipeline), to)
        raw_chat_pb2_grpc.add_RawChatServiceServicer_to_server(RawChatServicer(self.engine.pipeline), to)
        routing_pb2_grpc.add_RoutingServiceServicer_to_server(RoutingServicer(self.engine.catalog), to)
        account_pb2_grpc.add_AccountServiceServicer_to_server(
            AccountServicer(store, self._authenticator, ids, clock_us=_clock_us, default_account_id=default), to
        )
        limit_pb2_grpc.add_LimitServiceServicer_to_server(LimitServicer(store, self._authenticator, ids), to)
        auth_pb2_grpc.add_AuthServiceServicer_to_server(
            AuthServicer(
                store, store, self._authenticator, self._peppers, ids, clock_us=_clock_us, default_account_id=default
            ),
            to,
        )
        rules = TopUpRules(settings.money.min_top_up_nano_usd, settings.money.fee_basis_points)
        metering_pb2_grpc.add_MeteringServiceServicer_to_server(
            MeteringServicer(store, store, store, store, ids, top_up_rules=rules), to
        )
        maintenance = MaintenanceServicer(store, self._reloader.reload)
        maintenance_pb2_grpc.add_MaintenanceServiceServicer_to_server(maintenance, to)
        payment_providers = configured.payment_providers(settings.payments, self._operator_token, environment)
        payment_pb2_grpc.add_PaymentServiceServicer_to_server(
            PaymentServicer(store, store, payment_providers, ids, rules=rules, default_account_id=default), to
        )
        relay_pb2_grpc.add_RelayServiceServicer_to_server(self._relay, to)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, to)
        reflecting = ReflectionServicer(guard.service_names)
        reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflecting, to)  # type: ignore[no-untyped-call]
        return guard

    def reload(self) -> None:
        """Load the configuration again, soon; the log says what came of it."""
        self.engine.keep(self._reloader.reload_anyhow())

    async def _apply(self, found: Reloaded) -> None:
        """Serve what these settings say; requests in flight keep what they came with. BadSettings, StoreError."""
        settings = found.settings
        offer = configured.offer(settings, self._client, self._environment)
        secrets = secrets_of(settings, self._environment)
        self._redaction.add(secrets)
        hide(secrets)
        await self.engine.exchange(offer, settings.version)
        self._authenticator.put_models(offer.catalog.models)
        if self._on_reload is not None:
            self._on_reload(found)

    async def _make_default_account(self, *, starting_balance: bool) -> None:
        account_id = self._settings.core.default_account
        with contextlib.suppress(Duplicate):
            await self._store.create_account(account_id, "Default account", "user")
        amount = self._settings.money.starting_balance_nano_usd
        if starting_balance and amount:
            await self._store.adjust(
                ref=f"starting-balance-{account_id}",
                account_id=account_id,
                amount_nano_usd=amount,
                note="starting balance",
            )

    def finished(self, method: str, call: Call | None, code: grpc.StatusCode, duration_s: float) -> None:
        """An RPC is over: what the guard reports. Chats have a line of their own, probes and refusals none."""
        self.metrics.finished(method, call, code, duration_s)
        service, _, name = method.rpartition("/")
        if call is None or service in _OTHERWISE_LOGGED:
            return
        self._access_log.write(
            AccessRecord(
                time=rfc3339(time.time()),
                request_id=call.request_id,
                method=name,
                status=code.name.lower(),
                account_id=call.caller.account_id,
                key_id=call.caller.key_id or "",
                client_request_id=call.client_request_id,
                duration_ms=int(duration_s * 1_000),
            )
        )

    def _observe(self, record: AccessRecord) -> None:
        self._access_log.write(record)
        self.metrics.chat(record)

    async def drain(self, left_s: Callable[[], float]) -> None:
        """Refuse new requests, and let those in flight end while time is left; `stop` does so too."""
        await self._health.set(_OVERALL, health_pb2.HealthCheckResponse.NOT_SERVING)
        self._relay.drain()
        await self.engine.drain(left_s)

    async def stop(self, left_s: Callable[[], float]) -> None:
        """Drain, flush, close."""
        await self.drain(left_s)
        await self.engine.stop(left_s)
        await self._client.close()
        await self._relay.closed(RELAY_CLOSE_S)
        await self._server.stop(0)
        await self._carried.stop(0)
        await self._store.close()
        self._access_log.flush()
        self._lines.close()


def settle_in_memory() -> None:
    """What is made at start stays: keep it out of the garbage collector's rounds, which then come less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


def end_by_force() -> None:
    """From here on the process ends within EXIT_TIMEOUT_S, whatever hangs."""
    faulthandler.dump_traceback_later(EXIT_TIMEOUT_S, exit=True)


def secrets_of(settings: Settings, environment: Mapping[str, str]) -> list[str]:
    """The values that must never be logged or told to a caller. BadSettings."""
    found = [unquote(urlsplit(settings.database.url or "").password or "")]
    for provider_name, provider in settings.providers.items():
        found.append(secret(f"providers.{provider_name}.api_key", provider.api_key, environment) or "")
        for name, value in provider.headers.items():
            if _CREDENTIAL_HEADER.search(name):
                found += [value, value.rpartition(" ")[2]]
    stripe = settings.payments.stripe
    for setting, reference in (("api_key", stripe.api_key), ("webhook_secret", stripe.webhook_secret)):
        found.append(secret(f"payments.stripe.{setting}", reference, environment) or "")
    return [each for each in found if each]


def run(config: Path | None, home: Home, overrides: Mapping[str, object]) -> int:
    """`worldrouter core`: serve until a signal; the exit status."""
    reuse_memory()
    open_more_files()
    try:
        source = source_of(config, os.environ, overrides, presets=False)
        settings = source.loaded
        configured.refuse_exposed_test_payments(settings, str(settings.edge.get("host", "127.0.0.1")))
        log_to(LineWriter(sys.stderr), secrets=secrets_of(settings, os.environ))
        uvloop.run(_serve(source, home))
    except (BadSettings, CannotListen, StoreError, OSError) as error:
        sys.stderr.write(f"worldrouter core: {error}\n")
        return 1
    return 0


async def _serve(source: Source, home: Home) -> None:
    settings = source.loaded
    signals = StopSignals(settings.timeouts.drain_s)
    server = await CoreServer.start(
        settings, home, os.environ, starting_balance=False, on_fatal=signals.hurry, source=source
    )
    signals.on_hangup = server.reload
    try:
        admin = await AdminServer.start([server.registry], settings.core.admin_host, settings.core.admin_port)
    except BaseException:
        await server.stop(lambda: 0.0)
        raise
    settle_in_memory()
    _log.info("serving gRPC on %s:%d, metrics on %s", settings.core.host, server.grpc_port, admin.url)
    await signals.wait()
    _log.info("stopping")
    await server.stop(signals.left_s)
    end_by_force()
    await admin.stop()


def _clock_us() -> int:
    return time.time_ns() // 1_000
