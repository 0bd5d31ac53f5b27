"""A command line whose far end is the test: grpcio-testing's channel, or a real server on loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc_testing
import pytest
from click.testing import CliRunner, Result
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from worldrouter.v1 import (
    account_pb2,
    auth_pb2,
    chat_pb2,
    limit_pb2,
    maintenance_pb2,
    metering_pb2,
    payment_pb2,
    routing_pb2,
)

from core.cli import cli
from core.cli.session import Session
from core.home import Home, Ready

TOKEN = "operator-token-of-the-tests"
NOW = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
FILES = (
    account_pb2,
    auth_pb2,
    chat_pb2,
    limit_pb2,
    maintenance_pb2,
    metering_pb2,
    payment_pb2,
    routing_pb2,
    health_pb2,
)


def descriptor(name: str) -> MethodDescriptor:
    """The method of a name such as "AccountService.CreateAccount"."""
    service, _, method = name.partition(".")
    (found,) = (f.DESCRIPTOR.services_by_name[service] for f in FILES if service in f.DESCRIPTOR.services_by_name)
    return found.methods_by_name[method]


def error_trailers(code: grpc.StatusCode, message: str, reason: str, request_id: str) -> tuple[Any, ...]:
    """The trailers of an error of WorldRouter's."""
    info = error_details_pb2.ErrorInfo(reason=reason, domain="worldrouter", metadata={"request_id": request_id})
    status = status_pb2.Status(code=code.value[0], message=message)
    status.details.add().Pack(info)
    return (("x-request-id", request_id), ("grpc-status-details-bin", status.SerializeToString()))


class Invocation:
    """A command that runs in a thread, while the test answers its calls."""

    def __init__(self, channel: grpc_testing.Channel, session: Session, arguments: Any, input: str | None) -> None:
        self._channel = channel
        self._outcome: Result | None = None
        self.metadata: dict[str, str] = {}

        def run() -> None:
            self._outcome = CliRunner().invoke(cli, arguments, obj=session, input=input, prog_name="worldrouter")

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def answer(self, method: str, response: object, *, trailers: tuple[Any, ...] = ()) -> Any:
        """Answer the next call of a unary method; returns the request."""
        metadata, request, call = self._channel.take_unary_unary(descriptor(method))
        self.metadata = dict(metadata)
        call.terminate(response, trailers, grpc.StatusCode.OK, "")
        return request

    def refuse(self, method: str, code: grpc.StatusCode, message: str, *, trailers: tuple[Any, ...] = ()) -> Any:
        """Let the next call of a unary method fail; returns the request."""
        _, request, call = self._channel.take_unary_unary(descriptor(method))
        call.terminate(None, trailers, code, message)
        return request

    def stream(self, method: str) -> tuple[Any, Any]:
        """The request of the next call of a streaming method, and the call to answer."""
        metadata, request, call = self._channel.take_unary_stream(descriptor(method))
        self.metadata = dict(metadata)
        return request, call

    def result(self) -> Result:
        """What the command came to, once it has ended."""
        self._thread.join(10)
        assert self._outcome is not None, "the command has not ended"
        return self._outcome


Invoke = Callable[..., Invocation]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A state folder of a router that runs, with the operator's token."""
    home = Home(tmp_path / "home")
    home.create()
    home.operator_token.write_text(TOKEN + "\n")
    home.operator_token.chmod(0o600)
    home.write_ready(Ready(http="http://127.0.0.1:1", grpc="127.0.0.1:1", pid=1))
    return home


@pytest.fixture
def session(home: Home) -> Session:
    """A session whose time and ids are the test's."""
    clock_s = iter(range(1000))
    return Session(
        home=home,
        now=lambda: NOW,
        new_id=lambda: "new-id",
        monotonic_s=lambda: float(next(clock_s)),
        stdin_is_terminal=lambda: False,
    )


@pytest.fixture
def invoke(session: Session, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Start a command; the test answers its calls, and asks for its result before it ends."""
    channel = grpc_testing.channel([], grpc_testing.strict_real_time())
    monkeypatch.setattr(grpc, "insecure_channel", lambda target, options: channel)

    def start(*arguments: str, input: str | None = None, **changes: Any) -> Invocation:
        return Invocation(channel, replace(session, **changes), arguments, input)

    return start


@pytest.fixture
def trailers_of() -> Callable[..., tuple[Any, ...]]:
    """Makes the trailers of an error of WorldRouter's."""
    return error_trailers


@pytest.fixture
def serve_grpc() -> Iterator[Callable[..., str]]:
    """Serve generated servicers on a real socket, a free port of loopback by default; answers the target."""
    servers = []

    def start(
        add: Callable[[grpc.Server], None],
        *,
        address: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
    ) -> str:
        server = grpc.server(ThreadPoolExecutor(4))
        servers.append(server)
        add(server)
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
        server.start()
        return address.replace(":0", f":{port}")

    yield start
    for server in servers:
        server.stop(None).wait(5)
