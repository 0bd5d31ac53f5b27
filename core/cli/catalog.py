"""`worldrouter models`: the catalog."""

from __future__ import annotations

import click
from worldrouter.v1 import routing_pb2

from core.cli.client import Core, collect
from core.cli.money import exact_price
from core.cli.options import client_command, json_option, limit_option
from core.cli.output import Json, print_json, print_table
from core.cli.session import Session


@click.command()
@click.option("--endpoints", is_flag=True, help="Show the endpoints that serve them, in the order of trying.")
@limit_option
@json_option
@client_command
def models(session: Session, endpoints: bool, limit: int, as_json: bool) -> None:
    """List the models of the catalog with their prices.

    Prices are in USD per million tokens; a request costs the sum, rounded up to a whole nanodollar.

    \b
    Examples:
      worldrouter models
      worldrouter models --endpoints
      worldrouter models --json | jq -r '.[].id'
    """
    with session.connect() as core:
        if endpoints:
            _print_endpoints(_endpoints(core, limit), as_json)
        else:
            _print_models(list_models(core, limit), as_json)


def list_models(core: Core, limit: int) -> list[routing_pb2.Model]:
    """The first `limit` models that the credential may see, by ID."""

    def page(size: int, token: str) -> tuple[list[routing_pb2.Model], str]:
        request = routing_pb2.ListModelsRequest(page_size=size, page_token=token)
        answer = core.call(core.routing.ListModels, request)
        return list(answer.models), answer.next_page_token

    return collect(page, limit)


def cheapest_model(core: Core) -> routing_pb2.Model:
    """The model to use when none is named: of those that stream the one of the lowest price."""
    streaming = [model for model in list_models(core, limit=1000) if model.streaming]
    if not streaming:
        raise click.ClickException("the catalog has no model that streams: set a provider's key, or configure one")

    def dearness(model: routing_pb2.Model) -> tuple[int, str]:
        return model.price.input_pico_usd_per_token + model.price.output_pico_usd_per_token, model.id

    return min(streaming, key=dearness)


def _endpoints(core: Core, limit: int) -> list[routing_pb2.Endpoint]:
    def page(size: int, token: str) -> tuple[list[routing_pb2.Endpoint], str]:
        request = routing_pb2.ListEndpointsRequest(page_size=size, page_token=token)
        answer = core.call(core.routing.ListEndpoints, request)
        return list(answer.endpoints), answer.next_page_token

    return collect(page, limit)


def _print_models(found: list[routing_pb2.Model], as_json: bool) -> None:
    if as_json:
        print_json([_model_json(model) for model in found])
        return
    prices = ["USD/M IN", "USD/M CACHED", "USD/M CACHE WRITE", "USD/M OUT"]
    columns = ["MODEL", *prices, "MAX OUT", "CONTEXT", "PUBLIC", "STREAMS"]
    rows = [
        [
            model.id,
            exact_price(model.price.input_pico_usd_per_token),
            exact_price(model.price.cache_read_pico_usd_per_token),
            exact_price(model.price.cache_write_pico_usd_per_token),
            exact_price(model.price.output_pico_usd_per_token),
            str(model.max_output_token_count),
            str(model.context_token_count or "-"),
            "yes" if model.public else "no",
            "yes" if model.streaming else "no",
        ]
        for model in found
    ]
    print_table(columns, rows, right=columns[1:7])


def _print_endpoints(found: list[routing_pb2.Endpoint], as_json: bool) -> None:
    rows = [[e.model_id, e.name, e.provider, e.upstream_model] for e in found]
    if as_json:
        names = ("model_id", "name", "provider", "upstream_model")
        print_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        print_table(["MODEL", "ENDPOINT", "PROVIDER", "UPSTREAM MODEL"], rows)


def _model_json(model: routing_pb2.Model) -> dict[str, Json]:
    prices = {
        "input": model.price.input_pico_usd_per_token,
        "output": model.price.output_pico_usd_per_token,
        "cache_read": model.price.cache_read_pico_usd_per_token,
        "cache_write": model.price.cache_write_pico_usd_per_token,
    }
    dollars: dict[str, Json] = {f"{n}_usd_per_million_tokens": exact_price(p) for n, p in prices.items()}
    picodollars: dict[str, Json] = {f"{n}_pico_usd_per_token": p for n, p in prices.items()}
    return {
        "id": model.id,
        "name": model.display_name,
        "owned_by": model.owned_by,
        "price": {"id": model.price.id, **dollars, **picodollars},
        "max_output_token_count": model.max_output_token_count,
        "context_token_count": model.context_token_count,
        "public": model.public,
        "streaming": model.streaming,
    }
