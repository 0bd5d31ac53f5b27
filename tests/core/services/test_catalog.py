"""RoutingService over a real server."""

from typing import Any

import grpc
from worldrouter.v1 import routing_pb2, types_pb2

C = grpc.StatusCode
PUBLIC = [f"model-{number:02}" for number in range(10)]
ALL = sorted([*PUBLIC, "model-055-hidden"])


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


async def follow(rpc: Any, make: Any, field: str, metadata: Any) -> list[Any]:
    """All rows of a list, page by page."""
    rows, token = [], ""
    while True:
        page = await rpc(make(page_size=3, page_token=token), metadata=metadata)
        rows += getattr(page, field)
        token = page.next_page_token
        if not token:
            return rows


async def test_a_key_lists_the_public_models(core) -> None:
    """A key sees the public models by ID, the operator all of them, each once over all pages."""
    key = bearer((await core.make_key()).secret)
    for metadata, wanted in ((key, PUBLIC), (core.operator, ALL)):
        rows = await follow(core.routing.ListModels, routing_pb2.ListModelsRequest, "models", metadata)
        assert [model.id for model in rows] == wanted


async def test_a_model_says_what_it_is(core) -> None:
    """A model carries what the catalog says of it, its price too."""
    key = bearer((await core.make_key()).secret)
    model = await core.routing.GetModel(routing_pb2.GetModelRequest(model_id="model-01"), metadata=key)
    assert model.price.id.startswith("price_")
    model.price.id = ""
    assert model.price == types_pb2.Price(
        input_pico_usd_per_token=1,
        output_pico_usd_per_token=2,
        cache_read_pico_usd_per_token=3,
        cache_write_pico_usd_per_token=4,
    )
    assert (model.id, model.display_name, model.owned_by) == ("model-01", "MODEL-01", "owner")
    assert model.create_time.seconds == 1_700_000_000
    assert (model.max_output_token_count, model.context_token_count) == (1000, 2000)
    assert model.public
    assert model.streaming


async def test_a_model_that_may_not_be_seen_does_not_exist(core, failure) -> None:
    """To a key a hidden model, a misspelt one and one that never was are NOT_FOUND alike; the operator sees it."""
    key = bearer((await core.make_key()).secret)
    for model_id in ("model-055-hidden", "MODEL-01", "none\x00"):
        request = routing_pb2.GetModelRequest(model_id=model_id)
        assert (await failure(core.routing.GetModel(request, metadata=key))).code is C.NOT_FOUND
    request = routing_pb2.GetModelRequest(model_id="model-055-hidden")
    assert not (await core.routing.GetModel(request, metadata=core.operator)).public
    empty = core.routing.GetModel(routing_pb2.GetModelRequest(), metadata=key)
    assert (await failure(empty)).code is C.INVALID_ARGUMENT


async def test_endpoints_list_in_the_order_of_trying(core, failure) -> None:
    """Endpoints come by model and then in their order, of one model or of all, each once over all pages."""
    rows = await follow(core.routing.ListEndpoints, routing_pb2.ListEndpointsRequest, "endpoints", core.operator)
    seen = [(row.model_id, row.name) for row in rows]
    assert seen == sorted(seen)
    assert [row.model_id for row in rows if row.name == "e0"] == ALL
    assert len(rows) == sum(1 + number % 3 for number in range(10)) + 2
    assert (rows[0].provider, rows[0].upstream_model) == ("p0", "up-model-00")

    def of_model(**fields: Any) -> Any:
        return routing_pb2.ListEndpointsRequest(model_id="model-02", **fields)

    one = await follow(core.routing.ListEndpoints, of_model, "endpoints", core.operator)
    assert [row.name for row in one] == ["e0", "e1", "e2"]
    none = routing_pb2.ListEndpointsRequest(model_id="none")
    assert (await failure(core.routing.ListEndpoints(none, metadata=core.operator))).code is C.NOT_FOUND


async def test_a_list_of_models_is_all_that_a_key_sees(core, failure) -> None:
    """A key sees what its list and those above it allow, of the public models; the rest does not exist for it."""
    await core.make_account("org", allowed_models=["model-0*"])
    await core.make_account("team", parent_id="org", allowed_models=["model-01", "model-02", "model-055-hidden"])
    key = bearer((await core.make_key("team", allowed_models=["model-02", "model-03", "model-055*"])).secret)
    rows = await follow(core.routing.ListModels, routing_pb2.ListModelsRequest, "models", key)
    assert [model.id for model in rows] == ["model-02"]
    for model_id in ("model-01", "model-03", "model-055-hidden"):
        request = routing_pb2.GetModelRequest(model_id=model_id)
        assert (await failure(core.routing.GetModel(request, metadata=key))).code is C.NOT_FOUND
