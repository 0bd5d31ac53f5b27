"""The catalog as OpenAI's model objects."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import grpc
import pytest
from worldrouter.v1 import routing_pb2, types_pb2

from edge.models import usd


def model(model_id: str, **more: Any) -> Any:
    """A catalog entry."""
    return routing_pb2.Model(id=model_id, owned_by="acme", max_output_token_count=4096, **more)


PRICE = types_pb2.Price(
    input_pico_usd_per_token=2_500_000,
    output_pico_usd_per_token=10_000_000,
    cache_read_pico_usd_per_token=37_500,
)


async def test_the_list(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """The list has OpenAI's fields, and name, lengths and prices beside; the key is the core's to judge."""

    async def list_models(request: Any, context: Any) -> Any:
        await core.admit(context)
        full = model("gpt-4o", display_name="GPT-4o", context_token_count=128_000, price=PRICE)
        full.create_time.seconds = 1_715_367_049
        return routing_pb2.ListModelsResponse(models=[full, model("tiny")])

    core.list_models = list_models
    async with http.get(f"{edge.url}/v1/models", headers={"Authorization": "Bearer k"}) as answer:
        assert answer.status == 200
        assert answer.headers["x-request-id"] == "01k9zz2w8x5qv3d7m4t6c1b0ra"
        listed = await answer.json()
    assert core.calls[0].metadata["authorization"] == "Bearer k"
    assert listed["object"] == "list"
    assert listed["data"][0] == {
        "id": "gpt-4o",
        "object": "model",
        "created": 1_715_367_049,
        "owned_by": "acme",
        "name": "GPT-4o",
        "context_length": 128_000,
        "max_output_tokens": 4096,
        "pricing": {
            "prompt": "0.0000025",
            "completion": "0.00001",
            "input_cache_read": "0.0000000375",
            "input_cache_write": "0",
        },
    }
    assert (listed["data"][1]["name"], listed["data"][1]["context_length"]) == ("tiny", None)


async def test_all_pages_are_listed(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """The list goes on as long as there are pages."""

    async def list_models(request: Any, context: Any) -> Any:
        page = int(request.page_token or 0)
        following = str(page + 1) if page < 2 else ""
        return routing_pb2.ListModelsResponse(models=[model(f"m{page}")], next_page_token=following)

    core.list_models = list_models
    async with http.get(f"{edge.url}/v1/models") as answer:
        assert [found["id"] for found in (await answer.json())["data"]] == ["m0", "m1", "m2"]


@pytest.mark.parametrize(
    ("path", "model_id"),
    [
        ("gpt-4o", "gpt-4o"),
        ("openai/gpt-4o", "openai/gpt-4o"),
        ("openai%2Fgpt-4o", "openai/gpt-4o"),
        ("a/b/c:free", "a/b/c:free"),
        ("with%20blank", "with blank"),
    ],
)
async def test_one_model(core: Any, edge: Any, http: aiohttp.ClientSession, path: str, model_id: str) -> None:
    """A model's id may contain slashes, escaped or not."""

    async def get_model(request: Any, context: Any) -> Any:
        return model(request.model_id)

    core.get_model = get_model
    async with http.get(aiohttp.client.URL(f"{edge.url}/v1/models/{path}", encoded=True)) as answer:
        assert (answer.status, (await answer.json())["id"]) == (200, model_id)


async def test_a_model_that_is_not_there(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """The core's NOT_FOUND is a 404 with its request id."""

    async def get_model(request: Any, context: Any) -> Any:
        await core.fail(context, grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "No model x.", {"param": "model"})

    core.get_model = get_model
    async with http.get(f"{edge.url}/v1/models/x") as answer:
        error = (await answer.json())["error"]
        assert answer.status == 404
    assert (error["code"], error["param"], error["message"]) == ("not_found", "model", "No model x.")
    assert error["request_id"] == "01k9zz2w8x5qv3d7m4t6c1b0ra"


@pytest.mark.parametrize(
    ("pico_usd", "text"),
    [
        (0, "0"),
        (1, "0.000000000001"),
        (37_500, "0.0000000375"),
        (10**12, "1"),
        (10**13, "10"),
        (2**63 - 1, "9223372.036854775807"),
    ],
)
def test_prices_are_exact_decimal_strings(pico_usd: int, text: str) -> None:
    """Picodollars become dollars without a float in between."""
    assert usd(pico_usd) == text


async def test_a_client_that_goes_away_ends_its_call(core: Any, edge: Any, connect: Any) -> None:
    """As of a chat: the core hears of it, and it is counted as no answer."""

    async def list_models(request: Any, context: Any) -> Any:
        await asyncio.sleep(30)

    core.list_models = list_models
    client = await connect(edge)
    await client.send(b"GET /v1/models HTTP/1.1\r\nHost: e\r\n\r\n")
    async with asyncio.timeout(5):
        while not core.calls:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.005)
        client.abort()
        await core.calls[0].ended.wait()
        while edge.metric("worldrouter_edge_in_flight"):  # noqa: ASYNC110 - the core may hear of it before
            await asyncio.sleep(0.005)
    assert edge.metric("worldrouter_edge_client_disconnects_total") == 1
    labels = {"route": "models", "status": "499", "stream": "false"}
    assert edge.metric("worldrouter_edge_requests_total", **labels) == 1
