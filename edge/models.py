"""`GET /v1/models`: the catalog as OpenAI's objects, with what users of routers look for beside."""

from __future__ import annotations

from typing import Literal

import grpc
import msgspec
from aiohttp import web
from worldrouter.v1 import routing_pb2, routing_pb2_grpc, types_pb2

from edge.answer import answer_headers
from edge.chat import call_metadata, whole_answer
from edge.connection import Connection

PAGE_SIZE = 1000
CALL_TIMEOUT_S = 10.0
_PICO_USD_PER_USD = 10**12


def usd(pico_usd: int) -> str:
    """A price of `pico_usd` picodollars in dollars, as a decimal string; no floats."""
    whole, rest = divmod(pico_usd, _PICO_USD_PER_USD)
    return f"{whole}.{rest:012d}".rstrip("0").rstrip(".")


class Pricing(msgspec.Struct):
    """US dollars per token, as decimals in text."""

    prompt: str
    completion: str
    input_cache_read: str
    input_cache_write: str


class ModelObject(msgspec.Struct, kw_only=True):
    """OpenAI's model object, and name, lengths in tokens (null: not known) and pricing."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    name: str
    context_length: int | None
    max_output_tokens: int | None
    pricing: Pricing


class ModelList(msgspec.Struct, kw_only=True):
    """OpenAI's list of models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


def pricing(price: types_pb2.Price) -> Pricing:
    """A price as the API shows it."""
    return Pricing(
        prompt=usd(price.input_pico_usd_per_token),
        completion=usd(price.output_pico_usd_per_token),
        input_cache_read=usd(price.cache_read_pico_usd_per_token),
        input_cache_write=usd(price.cache_write_pico_usd_per_token),
    )


def model_object(model: routing_pb2.Model) -> ModelObject:
    """A model as the API shows it."""
    return ModelObject(
        id=model.id,
        created=model.create_time.seconds,
        owned_by=model.owned_by,
        name=model.display_name or model.id,
        context_length=model.context_token_count or None,
        max_output_tokens=model.max_output_token_count or None,
        pricing=pricing(model.price),
    )


class Models:
    """The model routes over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = routing_pb2_grpc.RoutingServiceStub(channel)

    async def list(self, request: web.Request, connection: Connection) -> web.StreamResponse:
        """All models that the key may see."""
        data: list[ModelObject] = []
        page_token = ""
        while True:
            asked = routing_pb2.ListModelsRequest(page_size=PAGE_SIZE, page_token=page_token)
            call = self._stub.ListModels(asked, metadata=call_metadata(request.headers), timeout=CALL_TIMEOUT_S)
            page = await whole_answer(connection, call)
            data.extend(map(model_object, page.models))
            page_token = page.next_page_token
            if not page_token:
                return await _json(ModelList(data=data), call)

    async def get(self, request: web.Request, connection: Connection) -> web.StreamResponse:
        """One model."""
        asked = routing_pb2.GetModelRequest(model_id=request.match_info["model_id"])
        call = self._stub.GetModel(asked, metadata=call_metadata(request.headers), timeout=CALL_TIMEOUT_S)
        return await _json(model_object(await whole_answer(connection, call)), call)


async def _json(content: msgspec.Struct, call: grpc.aio.Call) -> web.Response:
    headers = answer_headers({"Content-Type": "application/json"}, await call.initial_metadata(), None)
    return web.Response(body=msgspec.json.encode(content), headers=headers)
