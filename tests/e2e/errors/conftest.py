"""What a client sees of a failure, over HTTP and over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc
import pytest
from worldrouter.client import AsyncClient, error_info


@dataclass(frozen=True)
class Seen:
    """A failure as a client saw it; `headers` over HTTP, `reason` over gRPC."""

    status: int | grpc.StatusCode
    message: str
    code: str | None
    param: str | None
    request_id: str
    reason: str = ""
    type: str = ""
    retry_after_s: float | None = None
    more: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


async def read_to_end(call: Any) -> None:
    if not hasattr(call, "read"):
        await call
    while hasattr(call, "read") and await call.read() is not grpc.aio.EOF:
        pass


class Witness:
    """Makes failures into `Seen`, and checks on the way what all of them have in common."""

    def __init__(self, router: Any, session: aiohttp.ClientSession) -> None:
        self._router = router
        self._session = session

    async def post(self, body: bytes, key: str | None) -> Seen:
        """A chat over HTTP that fails."""
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        async with self._session.post(
            f"{self._router.base_url}/chat/completions", data=body, headers=headers
        ) as answer:
            return await self.over_http(answer)

    async def over_http(self, answer: aiohttp.ClientResponse) -> Seen:
        """The error of an answer, which is JSON with one request id, whatever it is."""
        assert answer.content_type == "application/json"
        error = (await answer.json())["error"]
        assert answer.headers["x-request-id"] == error["request_id"]
        known = {"message", "type", "param", "code", "request_id"}
        assert known <= set(error)
        retry_after = answer.headers.get("retry-after")
        assert (answer.headers.get("x-should-retry") == "false") == (answer.status in (502, 504))
        assert answer.headers.get("www-authenticate") == ("Bearer" if answer.status == 401 else None)
        return Seen(
            answer.status,
            **{name: error[name] for name in known},
            retry_after_s=None if retry_after is None else int(retry_after),
            more={name: value for name, value in error.items() if name not in known},
            headers=dict(answer.headers),
        )

    async def over_grpc(self, call: Any) -> Seen:
        """The error of a call; its request id is in the trailers too."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await read_to_end(call)
        info = error_info(caught.value)
        assert info is not None, caught.value
        assert dict(caught.value.trailing_metadata())["x-request-id"] == info.request_id
        return Seen(
            caught.value.code(),
            caught.value.details() or "",
            info.code,
            info.param,
            info.request_id or "",
            reason=info.reason,
            retry_after_s=info.retry_after_s,
            more={k: v for k, v in info.metadata.items() if k not in ("code", "param", "request_id")},
        )


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def service(scripted_router: Any) -> AsyncIterator[AsyncClient]:
    """A gRPC client with the key of an ordinary account."""
    async with AsyncClient(scripted_router.grpc, scripted_router.key, plaintext=True) as client:
        yield client


@pytest.fixture
def witness(scripted_router: Any, http: aiohttp.ClientSession) -> Witness:
    return Witness(scripted_router, http)
