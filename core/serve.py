"""`worldrouter serve`: model, core and edge in one process and one event loop. The only module that sees both halves.

The edge's channel is the core's in-process one; the gRPC port is open too, for internal services. With several
workers each is such a process, but for the model; `core.process.workers` keeps them, and this one only starts what
they share.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import uvloop
from prometheus_client import CollectorRegistry
from worldrouter.calls.files import open_more_files
from worldrouter.calls.memory import reuse_memory
from worldrouter.v1 import auth_pb2, auth_pb2_grpc

from core.configured import refuse_exposed_test_payments
from core.embedded.ahead import model_server
from core.embedded.defaults import wants_embedded_model, with_embedded_model
from core.embedded.model import MODEL_ID, ModelServerError
from core.embedded.model_server import ModelServer
from core.engine import LAST_WORDS_S
from core.home import Home, Ready, WorkerProcess
from core.inprocess import InProcessServer
from core.process.admin import AdminServer
from core.process.lifecycle import StopSignals
from core.process.line_writer import LineWriter
from core.process.listen import CannotListen, refuse_taken
from core.process.logs import log_to
from core.process.welcome import welcome
from core.process.workers import Order, Started, WorkerFailed, Workers
from core.reload import Reloaded, Source, source_of
from core.server import (
    CoreServer,
    check_database,
    database_url,
    end_by_force,
    secrets_of,
    settle_in_memory,
)
from core.settings import BadSettings, Settings
from core.state import operator_token, peppers
from edge.app import make_app
from edge.server import CannotListen as EdgeCannotListen
from edge.server import EdgeServer, bind
from edge.settings import BadSetting, EdgeSettings, load_settings
from storage.errors import StoreError
from storage.migrate import migrate
from storage.url import SQLITE, parse

_log = logging.getLogger(__name__)

FIRST_KEY_NAME = "first key"
RESTART_DELAY_S = 1.0
MAX_PORT = 65_535
_EDGE_OPTIONS: Mapping[str, str] = {"host": "host", "http_port": "port", "cors_origins": "cors_origins"}
"""Options of the command line that are settings of the edge, and their names there."""
REFUSALS = (
    BadSettings,
    BadSetting,
    CannotListen,
    EdgeCannotListen,
    ModelServerError,
    StoreError,
    WorkerFailed,
    OSError,
)
"""Why a router does not start; the message is for whoever starts it."""


def run(config: Path | None, home: Home, overrides: Mapping[str, object], model: ModelServer | None = None) -> int:
    """Serve until a signal; the exit status. `model` may have begun already."""
    reuse_memory()
    open_more_files()
    try:
        of_edge = {name: overrides[option] for option, name in _EDGE_OPTIONS.items() if option in overrides}
        of_core = {name: value for name, value in overrides.items() if name not in _EDGE_OPTIONS}
        source = source_of(config, os.environ, of_core, presets=True)
        settings = source.loaded
        log_to(LineWriter(sys.stderr), secrets=secrets_of(settings, os.environ))
        edge = load_settings(settings.edge, os.environ, of_edge)
        refuse_exposed_test_payments(settings, edge.host)
        settings = _with_test_page(settings, edge)
        serve = _alone if settings.core.workers == 1 else _keep_workers
        uvloop.run(serve(settings, edge, home, source, model))
    except REFUSALS as error:
        sys.stderr.write(f"worldrouter serve: {error}\n")
        return 1
    return 0


def _with_test_page(settings: Settings, edge: EdgeSettings) -> Settings:
    """The settings with the test payments' page where this edge will be, unless they say where it is."""
    payments = settings.payments
    if payments.test.page_url or not edge.port:
        return settings
    host = f"[{edge.host}]" if ":" in edge.host else edge.host
    page = msgspec.structs.replace(payments.test, page_url=f"http://{host}:{edge.port}")
    return msgspec.structs.replace(settings, payments=msgspec.structs.replace(payments, test=page))


async def _alone(
    settings: Settings, edge_settings: EdgeSettings, home: Home, source: Source, model: ModelServer | None
) -> None:
    """Everything in this process."""
    signals = StopSignals(settings.timeouts.drain_s)
    home.remove_stale_ready()
    refuse_taken(edge_settings.host, edge_settings.port, "HTTP")
    _refuse_taken_ports(settings)
    if not settings.database.url:
        await migrate(database_url(settings, home))
    async with AsyncExitStack() as last:
        settings, source, upstreams = await _with_model(settings, source, home, model, last)
        started = await _start(settings, source, edge_settings, home, signals, last, first_key=True)
        itself = WorkerProcess(os.getpid(), started.grpc, started.admin)
        _say_welcome(settings, started, [itself])
        _write_ready(home, started.http, upstreams, [itself])
        last.callback(home.remove_ready)
        await signals.wait()
        _log.info("stopping")
    end_by_force()


async def _keep_workers(
    settings: Settings, edge_settings: EdgeSettings, home: Home, source: Source, model: ModelServer | None
) -> None:
    """Several processes with edge and core; here only what they share. They end with this one."""
    workers = Workers()
    signals = StopSignals(settings.timeouts.drain_s, workers.forward)
    _refuse_what_only_one_can_have(settings, home)
    await check_database(settings, home)
    home.remove_stale_ready()
    async with AsyncExitStack() as last:
        reserved = last.enter_context(_reserve(edge_settings))
        edge_settings = msgspec.structs.replace(edge_settings, port=reserved.getsockname()[1])
        for number in range(settings.core.workers):
            _refuse_taken_ports(_numbered(settings, number))
        # Made once, here: workers that made them at the same time would not agree.
        operator_token(home)
        peppers(home)
        settings, source, upstreams = await _with_model(settings, source, home, model, last)
        last.push_async_callback(workers.stop, signals.left_s)
        started = await workers.start(_orders(settings, source, edge_settings, home))
        if not workers.stopping:
            _say_welcome(settings, started[0], workers.running)
            tell = functools.partial(_write_ready, home, started[0].http, upstreams)
            tell(workers.running)
            last.callback(home.remove_ready)
            workers.keep(tell)
            signals.on_hangup = workers.reload
        await signals.wait()
        _log.info("stopping %d workers", settings.core.workers)


async def work(order: Order, report: Callable[[Started | Reloaded], None]) -> None:
    """Be one of several workers until a signal; `report` is called once it serves, and when its configuration was
    loaded again. Raises REFUSALS."""
    settings, home = order.settings, Home(Path(order.home))
    edge_settings = msgspec.convert(order.edge, EdgeSettings)
    log_to(LineWriter(sys.stderr), secrets=secrets_of(settings, os.environ))
    signals = StopSignals(settings.timeouts.drain_s)
    async with AsyncExitStack() as last:
        started = await _start(
            settings,
            order.source,
            edge_settings,
            home,
            signals,
            last,
            first_key=order.first_key,
            shared=True,
            on_reload=report,
        )
        report(started)
        await signals.wait()
        _log.info("stopping")
    end_by_force()


async def _start(
    settings: Settings,
    source: Source,
    edge_settings: EdgeSettings,
    home: Home,
    signals: StopSignals,
    last: AsyncExitStack,
    *,
    first_key: bool,
    shared: bool = False,
    on_reload: Callable[[Reloaded], None] | None = None,
) -> Started:
    """Start core, edge and admin port; `last` stops them. `shared` is the HTTP port. Raises REFUSALS."""
    core = await CoreServer.start(
        settings,
        home,
        os.environ,
        starting_balance=True,
        on_fatal=signals.hurry,
        source=source,
        on_reload=on_reload,
    )
    last.push_async_callback(core.stop, signals.left_s)
    inside = InProcessServer()
    core.guard.install(inside)
    channel = inside.channel()
    registry = CollectorRegistry()
    admin = await AdminServer.start([core.registry, registry], settings.core.admin_host, settings.core.admin_port)
    last.push_async_callback(admin.stop)
    edge = await EdgeServer.start(make_app(channel, edge_settings, registry), edge_settings, shared=shared)
    last.push_async_callback(_drain, core, edge, signals)
    secret = await _first_key(auth_pb2_grpc.AuthServiceStub(channel), operator_token(home)) if first_key else None
    settle_in_memory()
    signals.on_hangup = core.reload
    host = f"[{settings.core.host}]" if ":" in settings.core.host else settings.core.host
    return Started(edge.url, f"{host}:{core.grpc_port}", admin.url, secret)


def _refuse_what_only_one_can_have(settings: Settings, home: Home) -> None:
    count = settings.core.workers
    if parse(database_url(settings, home)).drivername == SQLITE:
        raise BadSettings(
            f"core.workers: {count}: a SQLite database belongs to one process, which is one worker; "
            "for more set database.url to a PostgreSQL database"
        )
    if settings.core.grpc_socket:
        raise BadSettings(f"core.grpc_socket: {settings.core.grpc_socket!r}: {count} workers cannot share a socket")


def _reserve(edge_settings: EdgeSettings) -> socket.socket:
    """The HTTP port, bound for the workers to share and not listened on. CannotListen.

    First bound as nobody's to share: a port that somebody else listens on is refused even if that one shares it.
    Then only sockets that share can be bound beside it, for which SO_REUSEADDR must not be enough.
    """
    reserved = bind(edge_settings.host, edge_settings.port)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return reserved


def _numbered(settings: Settings, number: int) -> Settings:
    """The settings of one worker, counted from 0: its ports follow the first one's. BadSettings."""
    ports = {}
    for name in ("grpc_port", "admin_port"):
        first = getattr(settings.core, name)
        ports[name] = first + number if first else 0
        if ports[name] > MAX_PORT:
            raise BadSettings(f"core.{name}: {first}: {settings.core.workers} workers need ports up to {ports[name]}")
    return msgspec.structs.replace(settings, core=msgspec.structs.replace(settings.core, **ports))


def _refuse_taken_ports(settings: Settings) -> None:
    refuse_taken(settings.core.host, settings.core.grpc_port)
    refuse_taken(settings.core.admin_host, settings.core.admin_port, "metrics")


def _orders(settings: Settings, source: Source, edge_settings: EdgeSettings, home: Home) -> list[Order]:
    return [
        Order(
            home=str(home.path),
            settings=_numbered(settings, number),
            source=source,
            edge=msgspec.to_builtins(edge_settings),
            first_key=number == 0,
            parent=os.getpid(),
        )
        for number in range(settings.core.workers)
    ]


def _say_welcome(settings: Settings, started: Started, workers: Sequence[WorkerProcess]) -> None:
    models = sorted(model.id for model in settings.models)
    grpc, admin = [each.grpc for each in workers], [each.admin for each in workers]
    example = MODEL_ID if MODEL_ID in models else None
    sys.stdout.write(welcome(started.http, grpc, admin, models, started.secret, example))
    sys.stdout.flush()


def _write_ready(home: Home, http: str, upstreams: dict[str, str], workers: Sequence[WorkerProcess]) -> None:
    admin = [each.admin for each in workers]
    home.write_ready(Ready(http, workers[0].grpc, os.getpid(), upstreams, admin, list(workers)))


async def _with_model(
    settings: Settings, source: Source, home: Home, model: ModelServer | None, last: AsyncExitStack
) -> tuple[Settings, Source, dict[str, str]]:
    """The settings and their source with the embedded model, which is started if it is wanted, and its upstream.

    ModelServerError.
    """
    if not wants_embedded_model(settings):
        return settings, source, {}
    url = await _start_model(model or model_server(settings, home), last)
    return with_embedded_model(settings, url), msgspec.structs.replace(source, model_url=url), {MODEL_ID: url}


async def _start_model(model: ModelServer, last: AsyncExitStack) -> str:
    """Start the model's server, restart it when it ends by itself, and stop it last of all. Its base URL."""
    await model.start()

    async def keep() -> None:
        while True:
            status = await model.wait()
            _log.error("The embedded model's server ended with status %d; starting it again", status)
            await asyncio.sleep(RESTART_DELAY_S)
            try:
                await model.start()
            except ModelServerError as error:
                _log.error("The embedded model's server could not be started: %s", error)

    async def stop() -> None:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await model.stop()

    keeper = asyncio.get_running_loop().create_task(keep())
    last.push_async_callback(stop)
    return model.base_url


async def _drain(core: CoreServer, edge: EdgeServer, signals: StopSignals) -> None:
    """Drain both together, and stop the edge: the core ends what takes too long, the edge passes its last words on."""

    def left_s() -> float:
        return signals.left_s() + LAST_WORDS_S

    draining = asyncio.get_running_loop().create_task(core.drain(signals.left_s))
    edge.hasten(left_s())
    stopping = asyncio.get_running_loop().create_task(edge.stop(left_s()))
    while not stopping.done():
        await asyncio.wait([stopping], timeout=0.25)
        edge.hasten(left_s())
    await stopping
    await draining


async def _first_key(stub: auth_pb2_grpc.AuthServiceAsyncStub, token: str) -> str | None:
    """The secret of a first key, made when the database has none at all."""
    metadata = (("authorization", f"Bearer {token}"),)
    listed = await stub.ListApiKeys(auth_pb2.ListApiKeysRequest(page_size=1), metadata=metadata)
    if listed.api_keys:
        return None
    made = await stub.CreateApiKey(auth_pb2.CreateApiKeyRequest(display_name=FIRST_KEY_NAME), metadata=metadata)
    return made.secret
