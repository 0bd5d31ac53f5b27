"""Clients of WorldRouter's gRPC API: the generated stubs, with the key added to every call.

    from worldrouter.client import Client, error_info
    from worldrouter.v1.chat_pb2 import ChatCompletionParams, ChatMessage, CreateChatCompletionRequest

    params = ChatCompletionParams(model="…", messages=[ChatMessage(role="user", content="Hello")])
    with Client("router.example:50051", "wlrouter_…") as client:
        try:
            answer = client.chat.CreateChatCompletion(CreateChatCompletionRequest(params=params), timeout=60)
        except grpc.RpcError as error:
            print(error_info(error))

`AsyncClient` is the same for asyncio. Both are safe to share: make one for a process and keep it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, cast

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from worldrouter.v1.account_pb2_grpc import AccountServiceStub
from worldrouter.v1.auth_pb2_grpc import AuthServiceStub
from worldrouter.v1.chat_pb2_grpc import ChatServiceStub
from worldrouter.v1.limit_pb2_grpc import LimitServiceStub
from worldrouter.v1.maintenance_pb2_grpc import MaintenanceServiceStub
from worldrouter.v1.metering_pb2_grpc import MeteringServiceStub
from worldrouter.v1.payment_pb2_grpc import PaymentServiceStub
from worldrouter.v1.raw_chat_pb2_grpc import RawChatServiceStub
from worldrouter.v1.routing_pb2_grpc import RoutingServiceStub

if TYPE_CHECKING:  # these names exist for type checkers only
    from worldrouter.v1.account_pb2_grpc import AccountServiceAsyncStub
    from worldrouter.v1.auth_pb2_grpc import AuthServiceAsyncStub
    from worldrouter.v1.chat_pb2_grpc import ChatServiceAsyncStub
    from worldrouter.v1.limit_pb2_grpc import LimitServiceAsyncStub
    from worldrouter.v1.maintenance_pb2_grpc import MaintenanceServiceAsyncStub
    from worldrouter.v1.metering_pb2_grpc import MeteringServiceAsyncStub
    from worldrouter.v1.payment_pb2_grpc import PaymentServiceAsyncStub
    from worldrouter.v1.raw_chat_pb2_grpc import RawChatServiceAsyncStub
    from worldrouter.v1.routing_pb2_grpc import RoutingServiceAsyncStub

MAX_MESSAGE_BYTES: Final = 64 * 2**20
"""Largest message, sent or received: an answer may have 59 MiB, and one that is not taken was charged all the same. The
core's own limit on a request is lower: 10 MiB by default."""

_Stub = TypeVar("_Stub")
_Metadata = Iterable[tuple[str, str | bytes]]

# The core sends initial metadata just before it calls an upstream, and gRPC retries only until then, so a chat
# that is sent again was never begun. Not so for other services: CreateApiKey twice makes two keys.
_RETRIED: Final = ("ChatService", "RawChatService", "RoutingService")
_SERVICE_CONFIG: Final = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": ""},
        "methodConfig": [
            {
                "name": [{"service": f"worldrouter.v1.{service}"} for service in _RETRIED],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.1s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)


class Client:
    """WorldRouter for threads. A context manager; `close` ends calls that still run.

    `target` is "host:port", a gRPC name such as "dns:///host:port" (all addresses are used in turn) or
    "unix:/path". The connection is TLS with the system's authorities, or with `credentials`
    (`grpc.ssl_channel_credentials`, for a private authority or a client certificate). `plaintext` is for loopback
    and Unix sockets: it sends the key unencrypted. `max_message_bytes` limits a message either way.

    Calls go to cores that say they are healthy: one that is about to stop gets no more. Without `follow_health` they
    go there too; it refuses chats, and answers all else.

    Calls take gRPC's own arguments, `timeout` in seconds and `metadata` among them, and raise `grpc.RpcError`.
    """

    def __init__(
        self,
        target: str,
        key: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        plaintext: bool = False,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        follow_health: bool = True,
    ) -> None:
        options = _options(max_message_bytes, plaintext=plaintext, follow_health=follow_health)
        if plaintext:
            self.channel = grpc.insecure_channel(target, options)
        else:
            self.channel = grpc.secure_channel(target, credentials or grpc.ssl_channel_credentials(), options)
        self.chat = _with_key(ChatServiceStub(self.channel), key)
        self.raw_chat = _with_key(RawChatServiceStub(self.channel), key)
        self.routing = _with_key(RoutingServiceStub(self.channel), key)
        self.auth = _with_key(AuthServiceStub(self.channel), key)
        self.accounts = _with_key(AccountServiceStub(self.channel), key)
        self.metering = _with_key(MeteringServiceStub(self.channel), key)
        self.maintenance = _with_key(MaintenanceServiceStub(self.channel), key)
        self.limits = _with_key(LimitServiceStub(self.channel), key)
        self.payments = _with_key(PaymentServiceStub(self.channel), key)

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """WorldRouter for asyncio: `Client` with stubs whose calls are awaited or iterated. Make it inside the loop.

    gRPC goes on with a stream whose `async for` was left, and it is charged to its end: `cancel()` the call then.
    """

    def __init__(
        self,
        target: str,
        key: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        plaintext: bool = False,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        follow_health: bool = True,
    ) -> None:
        options = _options(max_message_bytes, plaintext=plaintext, follow_health=follow_health)
        if plaintext:
            self.channel = grpc.aio.insecure_channel(target, options)
        else:
            self.channel = grpc.aio.secure_channel(target, credentials or grpc.ssl_channel_credentials(), options)
        self.chat: ChatServiceAsyncStub = _with_key(ChatServiceStub(self.channel), key)
        self.raw_chat: RawChatServiceAsyncStub = _with_key(RawChatServiceStub(self.channel), key)
        self.routing: RoutingServiceAsyncStub = _with_key(RoutingServiceStub(self.channel), key)
        self.auth: AuthServiceAsyncStub = _with_key(AuthServiceStub(self.channel), key)
        self.accounts: AccountServiceAsyncStub = _with_key(AccountServiceStub(self.channel), key)
        self.metering: MeteringServiceAsyncStub = _with_key(MeteringServiceStub(self.channel), key)
        self.maintenance: MaintenanceServiceAsyncStub = _with_key(MaintenanceServiceStub(self.channel), key)
        self.limits: LimitServiceAsyncStub = _with_key(LimitServiceStub(self.channel), key)
        self.payments: PaymentServiceAsyncStub = _with_key(PaymentServiceStub(self.channel), key)

    async def close(self, grace_s: float | None = None) -> None:
        """Close the channel; running calls get `grace_s` seconds to end."""
        await self.channel.close(grace_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """Why a call failed. Decide by `reason`, not by the status code: gRPC itself uses those too.

    `reason` is a name of `ErrorReason` without its prefix, for example "INSUFFICIENT_BALANCE"; `param` the field at
    fault and `code` OpenAI's error code, None where they do not apply; `retry_after_s` the seconds after which to
    try again, None when WorldRouter did not say. `metadata` is everything that came with the reason.
    """

    reason: str
    request_id: str | None
    param: str | None
    code: str | None
    retry_after_s: float | None
    metadata: Mapping[str, str]


def error_info(error: grpc.RpcError) -> ErrorInfo | None:
    """What WorldRouter says about a failed call; None when the failure is not WorldRouter's (no connection, …)."""
    trailers = cast(_Metadata, error.trailing_metadata() or ())  # grpc's stubs know no tuples here
    status = status_pb2.Status()
    try:
        status.ParseFromString(next((value for key, value in trailers if key == "grpc-status-details-bin"), b""))
    except DecodeError:
        return None
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    found = {
        message.DESCRIPTOR.name for detail in status.details for message in (info, retry) if detail.Unpack(message)
    }
    if info.domain != "worldrouter":
        return None
    return ErrorInfo(
        reason=info.reason,
        request_id=info.metadata.get("request_id"),
        param=info.metadata.get("param"),
        code=info.metadata.get("code"),
        retry_after_s=retry.retry_delay.ToTimedelta().total_seconds() if "RetryInfo" in found else None,
        metadata=dict(info.metadata),
    )


def _options(max_message_bytes: int, *, plaintext: bool, follow_health: bool) -> Sequence[tuple[str, Any]]:
    return (
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        # A request that does not fit is never retried: room for the largest, and for its metadata.
        ("grpc.per_rpc_retry_buffer_size", max_message_bytes + 2**16),
        # Notices a dead connection while a model thinks in silence. The core allows a ping every 10 seconds.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # By default a core that was away for long is missed for two minutes more.
        ("grpc.max_reconnect_backoff_ms", 2_000),
        ("grpc.inhibit_health_checking", 0 if follow_health else 1),
        # A proxy from the environment is no way to a core on this machine.
        ("grpc.enable_http_proxy", 0 if plaintext else 1),
        ("grpc.service_config", _SERVICE_CONFIG),
    )


def _with_key(stub: _Stub, key: str) -> _Stub:
    # Neither of gRPC's own ways will do: call credentials are refused on plain text, and interceptors break the
    # cancellation of asyncio's streams (grpc#25449). A stub's methods are plain attributes, made for each stub.
    for name, call in vars(stub).items():
        setattr(stub, name, _Keyed(call, key))
    return stub


class _Keyed:
    """A method of a stub, sync or asyncio, that sends the key, unless the caller sends a credential of its own."""

    def __init__(self, call: Any, key: str) -> None:
        self._call = call
        self._key = ("authorization", f"Bearer {key}")

    def __call__(
        self, request: Any, timeout: float | None = None, metadata: _Metadata | None = None, **more: Any
    ) -> Any:
        return self._call(request, timeout=timeout, metadata=self._add(metadata), **more)

    def with_call(
        self, request: Any, timeout: float | None = None, metadata: _Metadata | None = None, **more: Any
    ) -> Any:
        """The synchronous stub's: the answer together with its call, for the metadata."""
        return self._call.with_call(request, timeout=timeout, metadata=self._add(metadata), **more)

    def future(self, request: Any, timeout: float | None = None, metadata: _Metadata | None = None, **more: Any) -> Any:
        """The synchronous stub's: a future of the answer."""
        return self._call.future(request, timeout=timeout, metadata=self._add(metadata), **more)

    def _add(self, metadata: _Metadata | None) -> tuple[tuple[str, str | bytes], ...]:
        given = tuple(metadata or ())
        return given if any(name == "authorization" for name, _ in given) else (*given, self._key)
