"""`worldrouter models`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from worldrouter.v1 import routing_pb2, types_pb2

pytestmark = pytest.mark.timeout(20)

MODEL = routing_pb2.Model(
    id="gpt-4o",
    display_name="GPT-4o",
    owned_by="openai",
    max_output_token_count=16_384,
    price=types_pb2.Price(
        id="price_1",
        input_pico_usd_per_token=2_500_000,
        output_pico_usd_per_token=10_000_000,
        cache_read_pico_usd_per_token=1_250_000,
        cache_write_pico_usd_per_token=2_600_000,
    ),
    public=True,
    streaming=True,
)


def test_prices_are_dollars_per_million_tokens(invoke: Callable[..., Any]) -> None:
    """JSON has each price as an exact decimal string and as the API's integer."""
    run = invoke("models", "--json")
    run.answer("RoutingService.ListModels", routing_pb2.ListModelsResponse(models=[MODEL]))
    (found,) = json.loads(run.result().stdout)
    assert (found["id"], found["public"], found["streaming"]) == ("gpt-4o", True, True)
    assert found["price"]["input_usd_per_million_tokens"] == "2.500000"
    assert found["price"]["output_pico_usd_per_token"] == 10_000_000
    assert found["price"]["id"] == "price_1"


def test_models_for_people_are_a_table(invoke: Callable[..., Any]) -> None:
    """One line a model; an unknown context length is a dash."""
    run = invoke("models", "--limit", "7")
    request = run.answer("RoutingService.ListModels", routing_pb2.ListModelsResponse(models=[MODEL]))
    assert request.page_size == 7
    line = run.result().stdout.splitlines()[1]
    assert line.split() == ["gpt-4o", "2.500000", "1.250000", "2.600000", "10.000000", "16384", "-", "yes", "yes"]


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_endpoints_are_listed_on_request(invoke: Callable[..., Any], form: list[str]) -> None:
    """--endpoints shows who serves the models."""
    endpoint = routing_pb2.Endpoint(name="openai", model_id="gpt-4o", provider="openai-eu", upstream_model="gpt-4o-1")
    run = invoke("models", "--endpoints", *form)
    run.answer("RoutingService.ListEndpoints", routing_pb2.ListEndpointsResponse(endpoints=[endpoint]))
    output = run.result().stdout
    if form:
        expected = {"model_id": "gpt-4o", "name": "openai", "provider": "openai-eu", "upstream_model": "gpt-4o-1"}
        assert json.loads(output) == [expected]
    else:
        assert output.splitlines()[1].split() == ["gpt-4o", "openai", "openai-eu", "gpt-4o-1"]


@pytest.mark.parametrize(("option", "method"), [([], "ListModels"), (["--endpoints"], "ListEndpoints")])
def test_errors_are_one_line(
    invoke: Callable[..., Any], trailers_of: Callable[..., Any], option: list[str], method: str
) -> None:
    """An API key that asks for endpoints is told so in one line."""
    run = invoke("models", *option)
    trailers = trailers_of(grpc.StatusCode.PERMISSION_DENIED, "Not yours.", "FORBIDDEN", "req_1")
    run.refuse(f"RoutingService.{method}", grpc.StatusCode.PERMISSION_DENIED, "Not yours.", trailers=trailers)
    result = run.result()
    assert (result.exit_code, result.stderr) == (1, "Error: Not yours (FORBIDDEN, request req_1)\n")
