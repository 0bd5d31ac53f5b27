"""The openai SDK for Python, synchronous and asyncio, behind one face."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import openai
import pytest


class Sdk(Protocol):
    """Either client, as far as the tests need it."""

    async def create(self, **asked: Any) -> Any:
        """A whole answer."""

    async def stream(self, **asked: Any) -> list[Any]:
        """All chunks, each looked at as the quickstart does."""

    async def models(self) -> Any: ...

    async def model(self, model_id: str) -> Any: ...

    async def post(self, path: str) -> Any: ...

    async def close(self) -> None: ...


class SyncSdk:
    def __init__(self, **settings: Any) -> None:
        self.client = openai.OpenAI(**settings)

    async def create(self, **asked: Any) -> Any:
        return await asyncio.to_thread(self.client.chat.completions.create, **asked)

    async def stream(self, **asked: Any) -> list[Any]:
        return await asyncio.to_thread(self._stream, **asked)

    def _stream(self, **asked: Any) -> list[Any]:
        return list(self.client.chat.completions.create(stream=True, **asked))

    async def models(self) -> Any:
        return await asyncio.to_thread(self.client.models.list)

    async def model(self, model_id: str) -> Any:
        return await asyncio.to_thread(self.client.models.retrieve, model_id)

    async def post(self, path: str) -> Any:
        return await asyncio.to_thread(self.client.post, path, cast_to=object)

    async def close(self) -> None:
        self.client.close()


class AsyncSdk:
    def __init__(self, **settings: Any) -> None:
        self.client = openai.AsyncOpenAI(**settings)

    async def create(self, **asked: Any) -> Any:
        return await self.client.chat.completions.create(**asked)

    async def stream(self, **asked: Any) -> list[Any]:
        return [chunk async for chunk in await self.client.chat.completions.create(stream=True, **asked)]

    async def models(self) -> Any:
        return await self.client.models.list()

    async def model(self, model_id: str) -> Any:
        return await self.client.models.retrieve(model_id)

    async def post(self, path: str) -> Any:
        return await self.client.post(path, cast_to=object)

    async def close(self) -> None:
        await self.client.close()


@pytest.fixture(params=[SyncSdk, AsyncSdk], ids=["sync", "async"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Sdk]]:
    """Makes clients, by default with the router's own key and without retries."""
    made: list[Sdk] = []

    def connect(router: Any, key: str = "", *, max_retries: int = 0) -> Sdk:
        made.append(request.param(base_url=router.base_url, api_key=key or router.key, max_retries=max_retries))
        return made[-1]

    yield connect
    for sdk in made:
        await sdk.close()


@pytest.fixture
def sdk(router: Any, connect: Callable[..., Sdk]) -> Sdk:
    """Talks to the real model."""
    return connect(router)


@pytest.fixture
def scripted(scripted_router: Any, connect: Callable[..., Sdk]) -> Sdk:
    """Talks to scripted models."""
    return connect(scripted_router)
