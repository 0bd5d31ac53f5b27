"""Protobuf frames that no generated client would send, to every RPC with every credential, over TCP."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import pkgutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import grpc
import grpc.aio
import pytest
import worldrouter.v1
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from worldrouter.v1.account_pb2 import ACCOUNT_KIND_SERVICE, CreateAccountRequest
from worldrouter.v1.auth_pb2 import CreateApiKeyRequest

from edge.relay.channel import RelayChannel
from tests.hostile.frames import frame

C = grpc.StatusCode
SEED = 4
AT_ONCE = 8
FINE = {
    *(C.OK, C.INVALID_ARGUMENT, C.UNAUTHENTICATED, C.PERMISSION_DENIED, C.NOT_FOUND, C.ABORTED, C.ALREADY_EXISTS),
    *(C.FAILED_PRECONDITION, C.RESOURCE_EXHAUSTED),
}
"""What a caller's mistake may come to."""


def all_methods() -> list[MethodDescriptor]:
    """Every RPC of ours, of health and of reflection; but for Health/List, which grpcio's own service has not."""
    modules = [
        importlib.import_module(f"worldrouter.v1.{module.name}")
        for module in pkgutil.iter_modules(worldrouter.v1.__path__)
        if module.name.endswith("_pb2")
    ]
    files = [module.DESCRIPTOR for module in (*modules, health_pb2, reflection_pb2)]
    services = [service for file in files for service in file.services_by_name.values()]
    return [each for service in services for each in service.methods if each.full_name != "grpc.health.v1.Health.List"]


def credentials(router: Any) -> Mapping[str, str | None]:
    """One of each kind."""
    operator = router.operator
    service = operator.accounts.CreateAccount(CreateAccountRequest(display_name="s", kind=ACCOUNT_KIND_SERVICE))
    service_key = operator.auth.CreateApiKey(CreateApiKeyRequest(account_id=service.id, display_name="s"))
    return {
        "anonymous": None,
        "API key": router.account(usd=1000).key,
        "service key": service_key.secret,
        "operator": router.operator_token,
    }


@dataclass(frozen=True)
class Shot:
    """One frame on its way; `str` tells how to make it again."""

    number: int
    method: MethodDescriptor
    role: str
    key: str | None

    @property
    def path(self) -> str:
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @property
    def raw(self) -> bytes:
        return frame(Random(f"{SEED}:{self.number}"), self.method.input_type)

    def __str__(self) -> str:
        return f"frame {self.number} to {self.path} as {self.role}: {self.raw[:500]!r}"


def shots(router: Any, count: int) -> Iterable[Shot]:
    targets = itertools.cycle(itertools.product(all_methods(), credentials(router).items()))
    return (Shot(number, method, *who) for number, (method, who) in zip(range(count), targets, strict=False))


async def fire(channel: grpc.aio.Channel, shot: Shot) -> C:
    """Send it; the status. A stream that does not end by itself is left after its first message."""
    metadata = () if shot.key is None else (("authorization", f"Bearer {shot.key}"),)
    method = shot.method
    if method.client_streaming:
        call: Any = channel.stream_stream(shot.path)(iter([shot.raw]), metadata=metadata, timeout=30)
    elif method.server_streaming:
        call = channel.unary_stream(shot.path, bytes, bytes)(shot.raw, metadata=metadata, timeout=30)
    else:
        call = channel.unary_unary(shot.path, bytes, bytes)(shot.raw, metadata=metadata, timeout=30)
    try:
        if not method.server_streaming:
            await call
        elif method.name == "Watch":
            await call.read()
            if not call.done():
                call.cancel()
                return C.OK
        else:
            while await call.read() is not grpc.aio.EOF:
                pass
    except grpc.aio.AioRpcError:
        pass
    seen = (*(await call.initial_metadata() or ()), *(await call.trailing_metadata() or ()))
    code: C = await call.code()
    answer = f"{code.name} {await call.details()!r} for {shot}"
    assert code in FINE, answer
    assert any(name == "x-request-id" and value for name, value in seen), f"no request id: {answer}"
    return code


def plainly(target: str) -> grpc.aio.Channel:
    """Each RPC by itself."""
    return grpc.aio.insecure_channel(target)


def relayed(target: str) -> grpc.aio.Channel:
    """All that one stream can carry on one stream."""
    return RelayChannel(grpc.aio.insecure_channel(target), "/")


async def survive(router: Any, count: int, connect: Callable[[str], grpc.aio.Channel]) -> None:
    left, codes = iter(shots(router, count)), Counter[C]()

    async def one_after_the_other(channel: grpc.aio.Channel) -> None:
        for shot in left:
            codes[await fire(channel, shot)] += 1

    async with connect(router.grpc) as channel:
        while isinstance(channel, RelayChannel) and not (channel.streams and channel.streams.core_ids):  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)
        await asyncio.gather(*(one_after_the_other(channel) for _ in range(AT_ONCE)))
    assert codes.total() == count
    assert {C.OK, C.INVALID_ARGUMENT, C.UNAUTHENTICATED, C.PERMISSION_DENIED, C.NOT_FOUND} <= set(codes)
    router.settle()
    assert router.process.poll() is None
    assert router.metric("worldrouter_held_nano_usd") == 0
    assert router.complaints() == []


@pytest.mark.parametrize("connect", [plainly, pytest.param(relayed, marks=pytest.mark.slow)])
async def test_hostile_frames_are_refused(scripted_router: Any, connect: Callable[[str], grpc.aio.Channel]) -> None:
    """Answered or refused as the caller's mistake, with a request id; the router works on."""
    await survive(scripted_router, 1_500, connect)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_ten_thousand_hostile_frames_are_refused(scripted_router: Any) -> None:
    """The same of 10,000 for each credential, which is a hundred times every RPC."""
    await survive(scripted_router, 40_000, plainly)
