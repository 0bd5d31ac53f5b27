"""Where the protos are, buf, and a tiny server that answers as the core does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from worldrouter.v1 import auth_pb2, auth_pb2_grpc, chat_pb2, chat_pb2_grpc, raw_chat_pb2, raw_chat_pb2_grpc, types_pb2

Buf = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).parents[2]


@pytest.fixture(scope="session")
def buf(root: Path) -> Buf:
    """Runs buf in the checkout and gives what it printed and its exit code."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).with_name("buf"), *arguments]
        return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)

    return run


@dataclass
class FakeCore(
    chat_pb2_grpc.ChatServiceServicer, raw_chat_pb2_grpc.RawChatServiceServicer, auth_pb2_grpc.AuthServiceServicer
):
    """Answers every chat with its own words, after failing as often as `failures` says; keeps the metadata."""

    failures: int = 0
    seen: list[dict[str, str]] = field(default_factory=list)
    address: str = ""
    health: HealthServicer = field(default_factory=HealthServicer)

    def CreateChatCompletion(self, request: Any, context: grpc.ServicerContext) -> chat_pb2.ChatCompletion:
        self._begin(context)
        message = chat_pb2.ChatMessage(role="assistant", content=request.params.messages[-1].content)
        return chat_pb2.ChatCompletion(model=request.params.model, choices=[chat_pb2.ChatChoice(message=message)])

    def StreamChatCompletion(
        self, request: Any, context: grpc.ServicerContext
    ) -> Iterator[chat_pb2.StreamChatCompletionResponse]:
        self._begin(context)
        event = chat_pb2.StreamChatCompletionResponse
        yield event(started=types_pb2.CompletionStarted(model=request.params.model))
        for word in request.params.messages[-1].content.split():
            delta = chat_pb2.ChoiceDelta(delta=chat_pb2.MessageDelta(content=word))
            yield event(deltas=chat_pb2.CompletionDeltas(chunks=[chat_pb2.ChatCompletionChunk(choices=[delta])]))
        yield event(finished=types_pb2.CompletionFinished(cost_nano_usd=7))

    def CreateRawCompletion(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._begin(context)
        return raw_chat_pb2.CreateRawCompletionResponse(body=request.body)

    def StreamRawCompletion(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        raise NotImplementedError

    def CreateApiKey(self, request: Any, context: grpc.ServicerContext) -> auth_pb2.ApiKey:
        self._begin(context)
        return auth_pb2.ApiKey(id="key_1")

    def _unused(self, request: Any, context: grpc.ServicerContext) -> Any:
        raise NotImplementedError

    GetApiKey = ListApiKeys = UpdateApiKey = RotateApiKey = RevokeApiKey = VerifyApiKey = _unused

    def _begin(self, context: grpc.ServicerContext) -> None:
        self.seen.append(dict(context.invocation_metadata()))
        if self.failures:
            self.failures -= 1
            fail(context)


def fail(context: grpc.ServicerContext) -> None:
    """End the call as the core does when it is draining."""
    info = error_details_pb2.ErrorInfo(domain="worldrouter", reason="SERVICE_UNAVAILABLE")
    info.metadata.update({"request_id": "req_1", "code": "service_unavailable"})
    retry = error_details_pb2.RetryInfo()
    retry.retry_delay.FromMilliseconds(1500)
    status = status_pb2.Status(code=grpc.StatusCode.UNAVAILABLE.value[0], message="draining")
    for detail in (retry, info):
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.UNAVAILABLE, "draining")


@pytest.fixture
def start_core() -> Iterator[Callable[..., FakeCore]]:
    """Starts a FakeCore on a free port of loopback; with server credentials it speaks TLS."""
    servers: list[grpc.Server] = []

    def start(credentials: grpc.ServerCredentials | None = None) -> FakeCore:
        server = grpc.server(ThreadPoolExecutor(max_workers=4))
        servers.append(server)
        core = FakeCore()
        chat_pb2_grpc.add_ChatServiceServicer_to_server(core, server)
        raw_chat_pb2_grpc.add_RawChatServiceServicer_to_server(core, server)
        auth_pb2_grpc.add_AuthServiceServicer_to_server(core, server)
        health_pb2_grpc.add_HealthServicer_to_server(core.health, server)
        if credentials is None:
            core.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        else:
            core.address = f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
        server.start()
        return core

    yield start
    for server in servers:
        server.stop(None).wait(5)


@pytest.fixture
def core(start_core: Callable[..., FakeCore]) -> FakeCore:
    """A FakeCore on plain text."""
    return start_core()
