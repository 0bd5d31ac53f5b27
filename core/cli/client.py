"""The core as the command line sees it: one channel, one credential, errors as one line."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Generic, NoReturn, Protocol, Self, TypeVar, cast

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from worldrouter.client import Client, error_info

from core.cli.output import one_line

CALL_TIMEOUT_S = 30.0
"""For calls that do not wait for a model."""
ANSWER_TIMEOUT_S = 1800.0
"""For a whole answer; the core's own limits are tighter."""
PAGE_SIZE = 1000

Metadata = Sequence[tuple[str, str | bytes]]
Request = TypeVar("Request")
Response = TypeVar("Response")
ResponseMade = TypeVar("ResponseMade", covariant=True)
Item = TypeVar("Item")


class CallFailed(click.ClickException):
    """The core answered with an error, or nothing did; exit status 1.

    `reason` is a name of `worldrouter.v1.ErrorReason` without its prefix, or the gRPC status where
    WorldRouter gave none.
    """

    def __init__(self, message: str, *, reason: str, request_id: str) -> None:
        named = f"{reason}, request {request_id}" if request_id else reason
        super().__init__(f"{one_line(message)} ({named})")
        self.reason = reason
        self.request_id = request_id


def is_local(target: str) -> bool:
    """Whether a channel target never leaves this machine: a Unix socket, or a loopback address."""
    if target.startswith(("unix:", "unix-abstract:")):
        return True
    address = target.removeprefix("ipv4:").removeprefix("ipv6:").removeprefix("dns:").lstrip("/")
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Core:
    """A running core at `target`. Every call carries the credential and raises CallFailed when it fails.

    Without TLS `credentials` the connection is plain text.
    """

    def __init__(self, target: str, credential: str, credentials: grpc.ChannelCredentials | None) -> None:
        self.target = target
        # A core that drains still lists, revokes and tells of its health.
        plaintext = credentials is None
        self._client = Client(target, credential, credentials=credentials, plaintext=plaintext, follow_health=False)
        self.accounts = self._client.accounts
        self.auth = self._client.auth
        self.chat = self._client.chat
        self.limits = self._client.limits
        self.metering = self._client.metering
        self.maintenance = self._client.maintenance
        self.payments = self._client.payments
        self.routing = self._client.routing
        health = health_pb2_grpc.HealthStub(self._client.channel)
        self.check_health: grpc.UnaryUnaryMultiCallable[
            health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
        ] = health.Check  # type: ignore[attr-defined]  # its type stubs leave the methods out

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Response:
        """Call once and wait for the answer, `timeout_s` seconds at most."""
        try:
            return method(request, timeout=timeout_s)
        except grpc.RpcError as error:
            self._fail(error)

    def stream(self, method: grpc.UnaryStreamMultiCallable[Request, Response], request: Request) -> Answer[Response]:
        """Begin a streamed answer."""
        call = method(request, timeout=ANSWER_TIMEOUT_S)
        return Answer(call, self._fail)

    def _fail(self, error: grpc.RpcError) -> NoReturn:
        raise call_failed(error, self.target) from error


class StreamedCall(Protocol[ResponseMade]):
    """What grpc returns for a streamed answer, and has no public name for."""

    def __iter__(self) -> Iterator[ResponseMade]: ...

    def initial_metadata(self) -> tuple[tuple[str, str | bytes], ...]: ...

    def cancel(self) -> bool: ...


class Answer(Generic[Response]):
    """A streamed answer: its messages, and what came before them. Whole when the iteration ends by itself."""

    def __init__(self, call: StreamedCall[Response], fail: Callable[[grpc.RpcError], NoReturn]) -> None:
        self._call = call
        self._fail = fail

    def __iter__(self) -> Iterator[Response]:
        try:
            yield from self._call
        except grpc.RpcError as error:
            self._fail(error)

    def header(self, name: str) -> str:
        """A value of the initial metadata, empty when there is none; waits for it."""
        return _value(self._call.initial_metadata(), name)

    def cancel(self) -> None:
        """Stop the answer, as a client does that goes away. Safe to repeat and after the end."""
        self._call.cancel()


def collect(fetch: Callable[[int, str], tuple[Sequence[Item], str]], limit: int) -> list[Item]:
    """The first `limit` items of a list that comes in pages; `fetch` takes page size and page token."""
    found: list[Item] = []
    token = ""
    while len(found) < limit:
        items, token = fetch(min(limit - len(found), PAGE_SIZE), token)
        found += items
        if not token:
            break
    return found[:limit]


def call_failed(error: grpc.RpcError, target: str) -> CallFailed:
    """What a failed call means, in one line. By the reason of WorldRouter's ErrorInfo, else by the status."""
    call = cast(grpc.Call, error)
    message = (call.details() or "no details given").rstrip(". ")
    request_id = _value(call.trailing_metadata(), "x-request-id") or _value(call.initial_metadata(), "x-request-id")
    info = error_info(error)
    if info is not None:
        return CallFailed(message, reason=info.reason, request_id=info.request_id or request_id)
    status = call.code().name
    if status == "UNAVAILABLE":
        # In the middle of a call the library says no more than "Socket closed".
        refused = message != "Socket closed" and message.endswith("Socket closed")
        hint = "; perhaps it wants TLS (--ca), or a certificate of ours too (--cert, --client-key)" if refused else ""
        message = f"cannot reach the core at {target}; is the router running? {message}{hint}"
    elif status == "DEADLINE_EXCEEDED":
        message = f"the core at {target} did not answer in time"
    return CallFailed(message, reason=status, request_id=request_id)


def _value(metadata: Metadata | None, name: str) -> str:
    found = next((value for key, value in metadata or () if key == name), "")
    return found if isinstance(found, str) else ""
