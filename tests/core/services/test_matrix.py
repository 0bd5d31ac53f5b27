"""Who may call what: every RPC with every credential, generated from the descriptors.

`rpc_target` is what is tested: to point this at another core, give it that core's channel and credentials.
"""

import asyncio
import importlib
import pkgutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
import worldrouter.v1
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from worldrouter.v1 import account_pb2, auth_pb2

from core.access.apikeys import make_key
from core.access.authorization import RPC_ROLES
from core.call import Role

C = grpc.StatusCode
REFUSED = {C.UNAUTHENTICATED, C.PERMISSION_DENIED}

OPEN = {
    "Health/Check",
    "Health/List",
    "Health/Watch",
    "PaymentService/GetTestPaymentPage",
    "PaymentService/HandleWebhook",
    "RelayService/Relay",
    "ServerReflection/ServerReflectionInfo",
}
FOR_KEYS = {
    "AuthService/VerifyApiKey",
    "ChatService/CreateChatCompletion",
    "ChatService/StreamChatCompletion",
    "MeteringService/GetBalance",
    "MeteringService/GetUsageRecord",
    "MeteringService/ListLedgerEntries",
    "MeteringService/ListUsageRecords",
    "MeteringService/SummarizeUsage",
    "RawChatService/CreateRawCompletion",
    "RawChatService/StreamRawCompletion",
    "RoutingService/GetModel",
    "RoutingService/ListModels",
}


@dataclass(frozen=True)
class RpcTarget:
    """A running core and one credential of each kind, as `authorization` metadata (None sends none)."""

    channel: grpc.aio.Channel
    credentials: dict[str, str | None]


def all_methods() -> dict[str, MethodDescriptor]:
    """Every RPC of ours, of health and of reflection, by "Service/Method"."""
    modules = [
        importlib.import_module(f"worldrouter.v1.{module.name}")
        for module in pkgutil.iter_modules(worldrouter.v1.__path__)
        if module.name.endswith("_pb2")
    ]
    files = [module.DESCRIPTOR for module in (*modules, health_pb2, reflection_pb2)]
    services = [service for file in files for service in file.services_by_name.values()]
    return {f"{service.name}/{method.name}": method for service in services for method in service.methods}


def path_of(method: MethodDescriptor) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


METHODS = all_methods()
CREDENTIALS = (
    "none",
    "empty",
    "garbage",
    "wrong checksum",
    "unknown key",
    "revoked key",
    "expired key",
    "other operator",
    "key",
    "service key",
    "operator",
)


@pytest.fixture
async def rpc_target(core) -> RpcTarget:
    service_account = await core.make_account("a-service", account_pb2.ACCOUNT_KIND_SERVICE)
    key, revoked = await core.make_key(), await core.make_key()
    service_key = await core.make_key(service_account)
    soon = Timestamp()
    soon.FromDatetime(datetime.now(UTC) + timedelta(milliseconds=100))
    expired = await core.make_key(expire_time=soon)
    await asyncio.sleep(0.1)
    await core.auth.RevokeApiKey(auth_pb2.RevokeApiKeyRequest(api_key_id=revoked.id), metadata=core.operator)
    credentials = {
        "none": None,
        "empty": "",
        "garbage": "Bearer garbage",
        "wrong checksum": f"Bearer {key.secret[:-1]}{'0' if key.secret[-1] != '0' else '1'}",
        "unknown key": f"Bearer {make_key('key_' + '0' * 26)}",
        "revoked key": f"Bearer {revoked.secret}",
        "expired key": f"Bearer {expired.secret}",
        "other operator": core.operator[0][1][:-1] + "X",
        "key": f"Bearer {key.secret}",
        "service key": f"Bearer {service_key.secret}",
        "operator": core.operator[0][1],
    }
    return RpcTarget(core.channel, credentials)


async def status_of(target: RpcTarget, method: MethodDescriptor, authorization: str | None) -> grpc.StatusCode:
    """How an empty request with this credential ends, or begins if it does not end by itself."""
    metadata = () if authorization is None else (("authorization", authorization),)
    call: Any
    if method.client_streaming:
        call = target.channel.stream_stream(path_of(method))(metadata=metadata)
        await call.done_writing()
    elif method.server_streaming:
        call = target.channel.unary_stream(path_of(method))(b"", metadata=metadata)
    else:
        call = target.channel.unary_unary(path_of(method))(b"", metadata=metadata)
        return await call.code()
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code()
    if not call.done():
        call.cancel()
    return C.OK


def wanted(name: str, credential: str) -> set[grpc.StatusCode]:
    """What the answer may be; an empty set means anything but a refusal."""
    if name in OPEN or credential == "operator":
        return set()
    if credential in ("key", "service key"):
        return set() if name in FOR_KEYS else {C.PERMISSION_DENIED}
    return {C.UNAUTHENTICATED}


@pytest.mark.parametrize("credential", CREDENTIALS)
async def test_every_rpc_with_this_credential(rpc_target: RpcTarget, credential: str) -> None:
    """Every RPC answers this credential as the table says: served, PERMISSION_DENIED or UNAUTHENTICATED."""
    assert set(rpc_target.credentials) == set(CREDENTIALS)
    authorization = rpc_target.credentials[credential]
    statuses = await asyncio.gather(*(status_of(rpc_target, method, authorization) for method in METHODS.values()))
    wrong = {}
    for name, status in zip(METHODS, statuses, strict=True):
        expected = wanted(name, credential)
        if (expected and status not in expected) or (not expected and status in {*REFUSED, C.UNKNOWN, C.INTERNAL}):
            wrong[name] = status
    assert wrong == {}


def test_the_table_lists_every_rpc_and_nothing_else() -> None:
    """The authorisation table has an entry for each RPC there is, and none for one that is not."""
    reflection_v1 = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    assert set(RPC_ROLES) == {path_of(method) for method in METHODS.values()} | {reflection_v1}


def test_the_table_says_what_was_decided() -> None:
    """The table's roles are those of the design: chats, models, own money for keys, the rest for the operator."""
    keys = {Role.API_KEY, Role.SERVICE_KEY, Role.OPERATOR}
    for name, method in METHODS.items():
        roles = set(Role) if name in OPEN else keys if name in FOR_KEYS else {Role.OPERATOR}
        assert RPC_ROLES[path_of(method)] == roles
