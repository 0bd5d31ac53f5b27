"""`worldrouter serve`: model, core and edge in one process and one event loop. The only module that sees both halves.

The edge's channel is the core's in-process one; the gRPC port is open too, for internal services.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tomllib
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry
from worldrouter.v1 import auth_pb2, auth_pb2_grpc

from core.admin import AdminServer
from core.embedded.defaults import wants_embedded_model, with_embedded_model, with_presets
from core.embedded.model import MODEL_ID, ModelServerError
from core.embedded.model_server import ModelServer
from core.home import Home, Ready
from core.inprocess import InProcessServer
from core.lifecycle import StopSignals
from core.listen import CannotListen, refuse_taken
from core.logs import log_to
from core.server import CoreServer, database_url, end_by_force, provider_secrets, settle_in_memory
from core.settings import BadSettings, Settings, load
from core.state import operator_token
from core.welcome import welcome
from edge.app import make_app
from edge.server import CannotListen as EdgeCannotListen
from edge.server import EdgeServer
from edge.settings import BadSetting, EdgeSettings, load_settings
from storage.interfaces import StoreError
from storage.migrate import migrate

_log = logging.getLogger(__name__)

FIRST_KEY_NAME = "first key"
RESTART_DELAY_S = 1.0


def run(config: Path | None, home: Home, overrides: Mapping[str, object]) -> int:
    """Serve until a signal; the exit status."""
    try:
        http_port = {"port": overrides["http_port"]} if "http_port" in overrides else {}
        host = {"host": overrides["host"]} if "host" in overrides else {}
        edge = load_settings(_edge_table(config), os.environ, {**http_port, **host})
        of_core = {name: value for name, value in overrides.items() if name not in ("http_port", "host")}
        settings = with_presets(load(config, os.environ, of_core), os.environ)
        log_to(sys.stderr, secrets=provider_secrets(settings, os.environ))
        uvloop.run(_serve(settings, edge, home))
    except (BadSettings, BadSetting, CannotListen, EdgeCannotListen, ModelServerError, StoreError, OSError) as error:
        sys.stderr.write(f"worldrouter serve: {error}\n")
        return 1
    return 0


def _edge_table(config: Path | None) -> dict[str, object]:
    if config is None:
        return {}
    try:
        table = tomllib.loads(config.read_text()).get("edge", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{config}: {error}") from None
    return dict(table)


async def _serve(settings: Settings, edge_settings: EdgeSettings, home: Home) -> None:
    signals = StopSignals(settings.timeouts.drain_s)
    home.remove_ready()
    refuse_taken(edge_settings.host, edge_settings.port)
    refuse_taken(settings.core.host, settings.core.grpc_port)
    refuse_taken(settings.core.admin_host, settings.core.admin_port)
    if not settings.database.url:
        await migrate(database_url(settings, home))
    async with AsyncExitStack() as last:
        upstreams: dict[str, str] = {}
        if wants_embedded_model(settings):
            model = await _start_model(settings, home, last)
            upstreams[MODEL_ID] = model.base_url
            settings = with_embedded_model(settings, model.base_url)
        core = await CoreServer.start(settings, home, os.environ, starting_balance=True)
        last.push_async_callback(core.stop, signals.left_s)
        inside = InProcessServer()
        core.guard.install(inside)
        channel = inside.channel()
        registry = CollectorRegistry()
        edge = await EdgeServer.start(make_app(channel, edge_settings, registry), edge_settings)
        last.push_async_callback(_stop_edge, edge, signals)
        admin = await AdminServer.start([core.registry, registry], settings.core.admin_host, settings.core.admin_port)
        last.push_async_callback(admin.stop)
        secret = await _first_key(auth_pb2_grpc.AuthServiceStub(channel), operator_token(home))
        grpc_address = f"{settings.core.host}:{core.grpc_port}"
        settle_in_memory()
        sys.stdout.write(welcome(edge.url, grpc_address, admin.url, list(core.model_ids), secret))
        sys.stdout.flush()
        home.write_ready(Ready(edge.url, grpc_address, os.getpid(), upstreams, [admin.url]))
        last.callback(home.remove_ready)
        await signals.wait()
        _log.info("stopping")
    end_by_force()


async def _start_model(settings: Settings, home: Home, last: AsyncExitStack) -> ModelServer:
    """Start the model's server, restart it when it ends by itself, and stop it last of all."""
    model = ModelServer(
        log_path=home.logs / "model.log",
        threads=settings.embedded.threads,
        progress=lambda text: _say(text),
    )
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
    return model


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


async def _stop_edge(edge: EdgeServer, signals: StopSignals) -> None:
    edge.hasten(signals.left_s())
    stopping = asyncio.get_running_loop().create_task(edge.stop(signals.left_s()))
    while not stopping.done():
        await asyncio.wait([stopping], timeout=0.25)
        edge.hasten(signals.left_s())
    await stopping


async def _first_key(stub: auth_pb2_grpc.AuthServiceAsyncStub, token: str) -> str | None:
    """The secret of a first key, made when the database has none at all."""
    metadata = (("authorization", f"Bearer {token}"),)
    listed = await stub.ListApiKeys(auth_pb2.ListApiKeysRequest(page_size=1), metadata=metadata)
    if listed.api_keys:
        return None
    made = await stub.CreateApiKey(auth_pb2.CreateApiKeyRequest(display_name=FIRST_KEY_NAME), metadata=metadata)
    return made.secret
