"""The core as the command line sees it: one channel, one credential, errors as one line."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, NoReturn, Protocol, Self, TypeVar, cast

import click
import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_health.v1 import health_pb2_grpc  # type: ignore[import-untyped]
from worldrouter.v1 import (
    account_pb2_grpc,
    auth_pb2_grpc,
    chat_pb2_grpc,
    metering_pb2_grpc,
    routing_pb2_grpc,
)

from core.cli.output import one_line

CALL_TIMEOUT_S = 30.0
"""For calls that do not wait for a model."""
ANSWER_TIMEOUT_S = 1800.0
"""For a whole answer; the core's own limits are tighter."""
MAX_MESSAGE_BYTES = 32 * 2**20
PAGE_SIZE = 1000

Metadata = Sequence[tuple[str, str | bytes]]
Request = TypeVar("Request")
Response = TypeVar("Response")
ResponseMade = TypeVar("ResponseMade", covariant=True)
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Tls:
    """What TLS needs, in PEM: the authority that vouches for the core, our own certificate, its key."""

    authority: bytes | None
    certificate: bytes | None
    private_key: bytes | None


class CallFailed(click.ClickException):
    """The core answered with an error, or nothing did; exit status 1.

    `reason` is a name of `worldrouter.v1.ErrorReason` without its prefix, or the gRPC status where
    WorldRouter gave none; `answered` is False when no WorldRouter answered at all.
    """

    def __init__(self, message: str, *, reason: str, request_id: str, answered: bool) -> None:
        named = f"{reason}, request {request_id}" if request_id else reason
        super().__init__(f"{one_line(message)} ({named})")
        self.reason = reason
        self.request_id = request_id
        self.answered = answered


def open_channel(target: str, tls: Tls | None) -> grpc.Channel:
    """A channel to a core; nothing is sent before the first call."""
    options: list[tuple[str, object]] = [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # A proxy from the environment is no way to a core on this machine.
        ("grpc.enable_http_proxy", 0 if is_local(target) else 1),
    ]
    if tls is None:
        return grpc.insecure_channel(target, options)
    credentials = grpc.ssl_channel_credentials(tls.authority, tls.private_key, tls.certificate)
    return grpc.secure_channel(target, credentials, options)


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
    """A running core. Every call carries the credential and raises CallFailed when it fails."""

    def __init__(self, channel: grpc.Channel, credential: str, target: str) -> None:
        self._channel = channel
        self._metadata = (("authorization", f"Bearer {credential}"),)
        self.target = target
        self.accounts = account_pb2_grpc.AccountServiceStub(channel)
        self.auth = auth_pb2_grpc.AuthServiceStub(channel)
        self.metering = metering_pb2_grpc.MeteringServiceStub(channel)
        self.routing = routing_pb2_grpc.RoutingServiceStub(channel)
        self.chat = chat_pb2_grpc.ChatServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def call(
        self,
        method: grpc.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Response:
        """Call once and wait for the answer, `timeout_s` seconds at most."""
        try:
            return method(request, timeout=timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            self._fail(error)

    def stream(self, method: grpc.UnaryStreamMultiCallable[Request, Response], request: Request) -> Answer[Response]:
        """Begin a streamed answer."""
        call = method(request, timeout=ANSWER_TIMEOUT_S, metadata=self._metadata)
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
    trailers = call.trailing_metadata()
    message = (call.details() or "no details given").rstrip(". ")
    request_id = _value(trailers, "x-request-id") or _value(call.initial_metadata(), "x-request-id")
    info = _error_info(trailers)
    if info is not None:
        request_id = info.metadata.get("request_id", "") or request_id
        return CallFailed(message, reason=info.reason, request_id=request_id, answered=True)
    status = call.code().name
    if status == "UNAVAILABLE":
        message = f"cannot reach the core at {target}; is the router running? {message}"
    elif status == "DEADLINE_EXCEEDED":
        message = f"the core at {target} did not answer in time"
    return CallFailed(message, reason=status, request_id=request_id, answered=False)


def _error_info(trailers: Metadata | None) -> error_details_pb2.ErrorInfo | None:
    """WorldRouter's ErrorInfo among the trailers; None when there is none that can be read."""
    details = next((value for key, value in trailers or () if key == "grpc-status-details-bin"), None)
    if not isinstance(details, bytes):
        return None
    info = error_details_pb2.ErrorInfo()
    try:
        for detail in status_pb2.Status.FromString(details).details:
            if detail.Unpack(info) and info.domain == "worldrouter":
                return info
    except DecodeError:
        return None
    return None


def _value(metadata: Metadata | None, name: str) -> str:
    found = next((value for key, value in metadata or () if key == name), "")
    return found if isinstance(found, str) else ""
