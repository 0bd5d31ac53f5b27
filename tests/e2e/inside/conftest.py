"""A router inside the test's own event loop, for what cannot be seen or made to happen from outside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from worldrouter.v1.auth_pb2 import CreateApiKeyRequest
from worldrouter.v1.auth_pb2_grpc import AuthServiceStub

from core.home import Home
from core.inprocess import InProcessServer
from core.server import CoreServer, database_url
from core.settings import convert
from core.state import operator_token
from edge.app import make_app
from edge.server import EdgeServer
from edge.settings import EdgeSettings
from storage.migrate import migrate

SETTINGS = {
    "core": {"grpc_port": 0, "support_contact": "support@router.example"},
    "providers": {"script": {"kind": "scripted"}},
    "models": [
        {
            "id": "scripted",
            "max_output_tokens": 4000,
            "price": {"input": 1_000_000, "output": 2_000_000},
            "endpoints": [{"provider": "script", "model": "upstream-name"}],
        }
    ],
}


@dataclass
class InsideRouter:
    """Core and edge as `worldrouter serve` puts them together, and a key."""

    core: CoreServer
    http: str
    grpc: str
    key: str


@pytest.fixture
async def inside(tmp_path: Path) -> AsyncIterator[InsideRouter]:
    settings, home = convert(SETTINGS), Home(tmp_path / "home")
    home.create()
    await migrate(database_url(settings, home))
    async with AsyncExitStack() as last:
        core = await CoreServer.start(settings, home, {}, starting_balance=True, on_fatal=lambda: None)
        last.push_async_callback(core.stop, lambda: 0.0)
        server = InProcessServer()
        core.guard.install(server)
        channel = server.channel()
        edge_settings = EdgeSettings(port=0, support_contact="support@router.example")
        edge = await EdgeServer.start(make_app(channel, edge_settings, CollectorRegistry()), edge_settings)
        last.push_async_callback(edge.stop, 0.0)
        operator = (("authorization", f"Bearer {operator_token(home)}"),)
        made = await AuthServiceStub(channel).CreateApiKey(
            CreateApiKeyRequest(display_name="inside"), metadata=operator
        )
        yield InsideRouter(core, edge.url, f"127.0.0.1:{core.grpc_port}", made.secret)
