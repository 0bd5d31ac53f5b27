"""Every RPC of a core, and how to call one with bytes that no generated client would send."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

import grpc
import grpc.aio
import worldrouter.v1
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tests.hostile.frames import frame

C = grpc.StatusCode
FINE = {
    *(C.OK, C.INVALID_ARGUMENT, C.UNAUTHENTICATED, C.PERMISSION_DENIED, C.NOT_FOUND, C.ABORTED, C.ALREADY_EXISTS),
    *(C.FAILED_PRECONDITION, C.RESOURCE_EXHAUSTED),
}
"""What a caller's mistake may come to."""


TIMEOUT_S = 60.0


class NotFine(Exception):
    """An answer that no caller's mistake should have; the text tells how to make it again."""


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


@dataclass(frozen=True)
class Shot:
    """A frame for an RPC, which its seed makes, sent as somebody; `key` None: as nobody."""

    seed: str
    method: MethodDescriptor
    role: str
    key: str | None
    raw: bytes

    @classmethod
    def of(cls, seed: str, method: MethodDescriptor, roles: Iterable[tuple[str, str | None]]) -> list[Shot]:
        """The same frame as each of these."""
        raw = frame(Random(seed), method.input_type)
        return [cls(seed, method, role, key, raw) for role, key in roles]

    @property
    def path(self) -> str:
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    def __str__(self) -> str:
        return f"frame {self.seed!r} to {self.path} as {self.role}: {self.raw[:500]!r}"


async def fire(channel: grpc.aio.Channel, shot: Shot) -> C:
    """Send it; the status, NotFine for a wrong one. A stream without an end is left after its first message."""
    metadata = () if shot.key is None else (("authorization", f"Bearer {shot.key}"),)
    method = shot.method
    if method.client_streaming:
        call: Any = channel.stream_stream(shot.path)(iter([shot.raw]), metadata=metadata, timeout=TIMEOUT_S)
    elif method.server_streaming:
        call = channel.unary_stream(shot.path)(shot.raw, metadata=metadata, timeout=TIMEOUT_S)
    else:
        call = channel.unary_unary(shot.path)(shot.raw, metadata=metadata, timeout=TIMEOUT_S)
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
    if code not in FINE:
        raise NotFine(answer)
    if not any(name == "x-request-id" and value for name, value in seen):
        raise NotFine(f"no request id: {answer}")
    return code
