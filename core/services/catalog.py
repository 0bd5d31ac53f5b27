"""RoutingService: which models there are and which endpoints serve them."""

from __future__ import annotations

import bisect
from collections.abc import Callable

from google.protobuf.timestamp_pb2 import Timestamp
from worldrouter.v1 import routing_pb2, routing_pb2_grpc, types_pb2

from core.call import current_call
from core.catalog import Catalog, Endpoint, Model, may_use
from core.errors import InvalidRequest
from core.services import Context, fields
from core.services.paging import Number, Pager, Word


class RoutingServicer(routing_pb2_grpc.RoutingServiceServicer):
    """The catalog: its public part for API keys, all of it for the operator."""

    def __init__(self, catalog: Callable[[], Catalog]) -> None:
        """`catalog` is asked for the present one."""
        self._catalog = catalog

    async def ListModels(
        self, request: routing_pb2.ListModelsRequest, context: Context
    ) -> routing_pb2.ListModelsResponse:
        """List the models that the caller may see, by ID."""
        pager = Pager(["ListModels"], tuple[Word], request.page_size, request.page_token)
        caller = current_call.get().caller
        seen = [model for model in self._catalog().models.values() if may_use(caller, model)]
        start = bisect.bisect_right(seen, pager.after[0], key=lambda model: model.id) if pager.after else 0
        page = pager.page(seen[start : start + pager.limit], lambda model: (model.id,))
        return routing_pb2.ListModelsResponse(
            models=map(_model_message, page.items), next_page_token=page.next_page_token
        )

    async def GetModel(self, request: routing_pb2.GetModelRequest, context: Context) -> routing_pb2.Model:
        """Get a model that the caller may see."""
        return _model_message(self._model(request.model_id))

    async def ListEndpoints(
        self, request: routing_pb2.ListEndpointsRequest, context: Context
    ) -> routing_pb2.ListEndpointsResponse:
        """List endpoints by model, in the order in which they are tried."""
        models = [self._model(request.model_id)] if request.model_id else self._catalog().models.values()
        rows = [(model.id, order, endpoint) for model in models for order, endpoint in enumerate(model.endpoints)]
        scope = ["ListEndpoints", request.model_id]
        pager = Pager(scope, tuple[Word, Number], request.page_size, request.page_token)
        start = bisect.bisect_right(rows, pager.after, key=lambda row: row[:2]) if pager.after else 0
        page = pager.page(rows[start : start + pager.limit], lambda row: row[:2])
        return routing_pb2.ListEndpointsResponse(
            endpoints=[_endpoint_message(model_id, endpoint) for model_id, _, endpoint in page.items],
            next_page_token=page.next_page_token,
        )

    def _model(self, model_id: str) -> Model:
        """The model of this ID. Raises InvalidRequest when it is empty, NotFound."""
        if not model_id:
            raise InvalidRequest("model_id is required.", param="model_id")
        model = self._catalog().models.get(model_id)
        if model is None or not may_use(current_call.get().caller, model):
            raise fields.not_found("model_id", model_id)
        return model


def _model_message(model: Model) -> routing_pb2.Model:
    return routing_pb2.Model(
        id=model.id,
        display_name=model.display_name,
        owned_by=model.owned_by,
        create_time=Timestamp(seconds=model.created_s),
        max_output_token_count=model.max_output_tokens,
        context_token_count=model.context_tokens,
        price=types_pb2.Price(
            id=model.price.id,
            input_pico_usd_per_token=model.price.input_pico_usd,
            output_pico_usd_per_token=model.price.output_pico_usd,
            cache_read_pico_usd_per_token=model.price.cache_read_pico_usd,
            cache_write_pico_usd_per_token=model.price.cache_write_pico_usd,
        ),
        public=model.public,
        streaming=model.streaming,
    )


def _endpoint_message(model_id: str, endpoint: Endpoint) -> routing_pb2.Endpoint:
    return routing_pb2.Endpoint(
        name=endpoint.name,
        model_id=model_id,
        provider=endpoint.provider,
        upstream_model=endpoint.upstream_model,
    )
