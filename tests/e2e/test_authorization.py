"""Who may call what, at a running router over TCP: every RPC with every credential, and the edge's routes."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
import worldrouter.v1
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from worldrouter.v1.account_pb2 import ACCOUNT_KIND_SERVICE, CreateAccountRequest
from worldrouter.v1.auth_pb2 import CreateApiKeyRequest, RevokeApiKeyRequest, RotateApiKeyRequest, VerifyApiKeyRequest

C = grpc.StatusCode
REVOKED_WITHIN_S = 2.0
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


def make_credentials(router: Any) -> dict[str, str | None]:
    """One of each kind, as `authorization` metadata; None sends none."""
    operator = router.operator
    service = operator.accounts.CreateAccount(CreateAccountRequest(display_name="service", kind=ACCOUNT_KIND_SERVICE))
    service_key = operator.auth.CreateApiKey(CreateApiKeyRequest(account_id=service.id, display_name="service"))
    account, revoked, rotated = router.account(), router.account(), router.account()
    operator.auth.RevokeApiKey(RevokeApiKeyRequest(api_key_id=revoked.key_id))
    operator.auth.RotateApiKey(RotateApiKeyRequest(api_key_id=rotated.key_id, grace_period=Duration()))
    soon = Timestamp()
    soon.FromDatetime(datetime.now(UTC) + timedelta(milliseconds=100))
    expired = operator.auth.CreateApiKey(
        CreateApiKeyRequest(account_id=account.id, display_name="expired", expire_time=soon)
    )
    time.sleep(0.1)
    key, token = account.key, router.operator_token
    return {
        "none": None,
        "empty": "",
        "no scheme": key,
        "garbage": "Bearer garbage",
        "basic": "Basic b3BlcmF0b3I6",
        "wrong checksum": f"Bearer {key[:-1]}{'0' if key[-1] != '0' else '1'}",
        "revoked": f"Bearer {revoked.key}",
        "rotated away": f"Bearer {rotated.key}",
        "expired": f"Bearer {expired.secret}",
        "another operator": f"Bearer {token[:-1]}{'0' if token[-1] != '0' else '1'}",
        "key": f"bearer {key}",
        "service key": f"Bearer {service_key.secret}",
        "operator": f"Bearer {token}",
    }


async def status_of(channel: grpc.aio.Channel, method: MethodDescriptor, authorization: str | None) -> grpc.StatusCode:
    """How an empty request with this credential ends, or begins if it does not end by itself."""
    path = f"/{method.containing_service.full_name}/{method.name}"
    metadata = () if authorization is None else (("authorization", authorization),)
    call: Any
    if method.client_streaming:
        call = channel.stream_stream(path)(metadata=metadata)
        await call.done_writing()
    elif method.server_streaming:
        call = channel.unary_stream(path)(b"", metadata=metadata)
    else:
        return await channel.unary_unary(path)(b"", metadata=metadata).code()
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code()
    call.cancel()
    return C.OK


def is_right(name: str, credential: str, status: grpc.StatusCode) -> bool:
    """Whether the table says so. An empty request that is let in ends anyhow, but for a refusal or a bug."""
    let_in = status not in (C.UNAUTHENTICATED, C.PERMISSION_DENIED, C.UNKNOWN, C.INTERNAL, C.UNIMPLEMENTED)
    if name == "Health/List":  # grpcio's own health service has none
        return status is C.UNIMPLEMENTED
    if name in OPEN or credential == "operator":
        return let_in
    if credential in ("key", "service key"):
        return let_in if name in FOR_KEYS else status is C.PERMISSION_DENIED
    return status is C.UNAUTHENTICATED


async def test_every_rpc_with_every_credential(scripted_router: Any) -> None:
    """Each is served, PERMISSION_DENIED or UNAUTHENTICATED, as the table says."""
    methods, credentials = all_methods(), make_credentials(scripted_router)
    async with grpc.aio.insecure_channel(scripted_router.grpc) as channel:
        for credential, authorization in credentials.items():
            found = await asyncio.gather(*(status_of(channel, each, authorization) for each in methods.values()))
            wrong = {n: s for n, s in zip(methods, found, strict=True) if not is_right(n, credential, s)}
            assert wrong == {}, credential


async def test_every_route_with_every_credential(scripted_router: Any) -> None:
    """Over HTTP every route of /v1 needs a key that is valid now; the edge itself knows none."""
    credentials = make_credentials(scripted_router)
    routes = [("POST", "/chat/completions"), ("GET", "/models"), ("GET", "/models/free")]
    async with aiohttp.ClientSession() as session:
        for name, authorization in credentials.items():
            headers = {} if authorization is None else {"authorization": authorization}
            valid = name in ("key", "service key", "operator")
            for method, route in routes:
                url = f"{scripted_router.base_url}{route}"
                async with session.request(
                    method, url, data=b"{}" if method == "POST" else None, headers=headers
                ) as answer:
                    wanted = (400 if method == "POST" else 200) if valid else 401
                    assert answer.status == wanted, (name, route)


@pytest.mark.parametrize("topology", ["scripted_router", pytest.param("scripted_apart", marks=pytest.mark.slow)])
async def test_a_revoked_key_is_refused_and_its_streams_are_cut(request: pytest.FixtureRequest, topology: str) -> None:
    """Within two seconds of RevokeApiKey new requests are 401 and a running stream ends with that error."""
    router = request.getfixturevalue(topology)
    account = router.account(usd=10)
    headers = {"authorization": f"Bearer {account.key}"}
    asked = {"model": "scripted", "messages": [{"role": "user", "content": "one"}]}
    slow = {**asked, "stream": True, "script": {"token_count": 2000, "chunk_delay_ms": 10}}
    url = f"{router.base_url}/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=slow, headers=headers) as stream:
        await stream.content.readany()
        router.operator.auth.RevokeApiKey(RevokeApiKeyRequest(api_key_id=account.key_id))
        async with asyncio.timeout(REVOKED_WITHIN_S):
            text = await stream.text()
        async with session.post(url, json=asked, headers=headers) as answer:
            assert answer.status == 401
    assert "[DONE]" not in text
    assert '"code":"invalid_api_key"' in text.rpartition("data: ")[2]


async def test_who_may_verify_keys(scripted_router: Any) -> None:
    """An ordinary key verifies itself, another one's not; a key of a service account verifies all."""
    credentials = make_credentials(scripted_router)
    other = scripted_router.account()
    request = VerifyApiKeyRequest(secret=other.key)
    async with grpc.aio.insecure_channel(scripted_router.grpc) as channel:
        verify = channel.unary_unary("/worldrouter.v1.AuthService/VerifyApiKey")
        for name, code in (("key", C.PERMISSION_DENIED), ("service key", C.OK), ("operator", C.OK)):
            metadata = (("authorization", str(credentials[name])),)
            assert await verify(request.SerializeToString(), metadata=metadata).code() is code, name
        own = VerifyApiKeyRequest(secret=str(credentials["key"]).partition(" ")[2])
        metadata = (("authorization", str(credentials["key"])),)
        assert await verify(own.SerializeToString(), metadata=metadata).code() is C.OK
