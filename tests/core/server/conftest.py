"""A whole core behind its gRPC port, with scripted models."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from worldrouter.v1 import metering_pb2, metering_pb2_grpc, raw_chat_pb2, raw_chat_pb2_grpc

from core.home import Home
from core.reload import Source
from core.server import CoreServer
from core.settings import Settings, convert
from core.state import operator_token

DIALECT = raw_chat_pb2.DIALECT_OPENAI_CHAT
MODEL = {
    "id": "m",
    "max_output_tokens": 4_000,
    "price": {"input": 1_000_000, "output": 2_000_000},
    "endpoints": [{"provider": "script", "model": "up"}],
}


def made_settings(**changed: Any) -> Settings:
    tables: dict[str, Any] = {
        "core": {"grpc_port": 0},
        "providers": {"script": {"kind": "scripted"}},
        "models": [MODEL, MODEL | {"id": "dear", "price": {"input": 1, "output": 10**9}}],
        "timeouts": {"first_token_s": 5, "settle_s": 2, "drain_s": 5},
    }
    for name, table in changed.items():
        tables[name] = {**tables.get(name, {}), **table}
    return convert(tables)


@dataclass
class Core:
    """A running core and a channel to it, as the operator."""

    server: CoreServer
    channel: grpc.aio.Channel
    home: Home
    metadata: tuple[tuple[str, str], ...]

    @property
    def raw(self) -> Any:
        return raw_chat_pb2_grpc.RawChatServiceStub(self.channel)

    def unary(self, sent: bytes, **options: Any) -> Any:
        request = raw_chat_pb2.CreateRawCompletionRequest(dialect=DIALECT, body=sent)
        return self.raw.CreateRawCompletion(request, metadata=options.pop("metadata", self.metadata), **options)

    def stream(self, sent: bytes, *, as_body_asks: bool = False, **options: Any) -> Any:
        request = raw_chat_pb2.StreamRawCompletionRequest(dialect=DIALECT, body=sent, as_body_asks=as_body_asks)
        return self.raw.StreamRawCompletion(request, metadata=options.pop("metadata", self.metadata), **options)

    async def usage(self, request_id: str) -> Any:
        request = metering_pb2.GetUsageRecordRequest(request_id=request_id)
        stub = metering_pb2_grpc.MeteringServiceStub(self.channel)
        return await stub.GetUsageRecord(request, metadata=self.metadata)

    async def usage_soon(self, request_id: str) -> Any:
        """The record of a request that has just ended."""
        for _ in range(200):
            try:
                return await self.usage(request_id)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)
        raise AssertionError(f"no usage record of {request_id}")

    @staticmethod
    def info(error: grpc.aio.AioRpcError) -> tuple[ErrorInfo, RetryInfo | None, str]:
        """ErrorInfo and RetryInfo of an error, and the request id in its trailers."""
        trailers = dict(error.trailing_metadata() or ())
        status = Status.FromString(trailers["grpc-status-details-bin"])
        found, retry = ErrorInfo(), None
        for detail in status.details:
            if detail.Is(RetryInfo.DESCRIPTOR):
                retry = RetryInfo()
                detail.Unpack(retry)
            else:
                detail.Unpack(found)
        return found, retry, str(trailers["x-request-id"])

    @staticmethod
    async def rest_of(call: Any) -> tuple[list[Any], Any]:
        """The messages of a stream that are still to come, and the error at its end, if any."""
        events = []
        try:
            while (event := await call.read()) is not grpc.aio.EOF:
                events.append(event)
        except asyncio.CancelledError:
            return events, None
        except grpc.aio.AioRpcError as error:
            return events, error
        return events, None


Start = Callable[..., Any]


@pytest.fixture
def settings() -> Callable[..., Settings]:
    """A function that makes settings with these changes."""
    return made_settings


@pytest.fixture
def home(tmp_path: Path, migrated_file: Path) -> Home:
    """A state folder with a database."""
    made = Home(tmp_path / "home")
    made.create()
    shutil.copy(migrated_file, made.database)
    return made


@pytest.fixture
async def start(home: Home) -> AsyncIterator[Start]:
    """A function that starts a core in the test's state folder; stopped at the end, unless it was before."""
    async with AsyncExitStack() as stack:

        async def begin(configured: Settings | None = None, source: Source | None = None) -> Core:
            configured = configured or (source.loaded if source else made_settings())
            server = await CoreServer.start(
                configured,
                home,
                {},
                starting_balance=True,
                on_fatal=lambda: pytest.fail("a background task ended"),
                source=source,
            )
            stack.push_async_callback(server.stop, lambda: 0.0)
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}"))
            return Core(server, channel, home, (("authorization", f"Bearer {operator_token(home)}"),))

        yield begin


@pytest.fixture
async def core(start: Start) -> Core:
    """A running core with one scripted model."""
    return await start()


@pytest.fixture
def rows_of(home: Home) -> Callable[[str], list[tuple[Any, ...]]]:
    """A function that reads the core's database past the core."""

    def read(sql: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(f"file:{home.database}?mode=ro", uri=True)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    return read
