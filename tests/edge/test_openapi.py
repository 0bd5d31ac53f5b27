"""The description of the API at /openapi.json."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from aiohttp import web
from openapi_spec_validator import OpenAPIV31SpecValidator

from edge.app import CHAT
from edge.errors import OWN, REASONS
from edge.openapi import OPERATIONS, document


@pytest.fixture
async def described(edge: Any, http: aiohttp.ClientSession) -> Any:
    """The document as it is served, without a key."""
    async with http.get(f"{edge.url}/openapi.json") as answer:
        assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
        assert answer.headers["x-request-id"]
        return await answer.json()


def test_it_is_valid(described: Any) -> None:
    """It is what OpenAPI 3.1 and JSON Schema call valid, its examples and defaults too."""
    OpenAPIV31SpecValidator(described).validate()
    assert described["openapi"].startswith("3.1.")


def test_every_route_is_described_and_nothing_else(edge: Any, described: Any) -> None:
    """The document has the routes of the application, and there is no description without a route."""
    app = edge.server._runner.app
    assert CHAT in app
    routes = {f"{route.method} {route.resource.canonical}" for route in app.router.routes() if route.method != "HEAD"}
    routes -= {"GET /test-pay/{payment_id}", "POST /test-pay/{payment_id}"}  # a page, for people
    found = {f"{method.upper()} {path}" for path, methods in described["paths"].items() for method in methods}
    assert found == routes == set(OPERATIONS)


def test_a_route_without_a_description_is_a_bug() -> None:
    """An edge with one does not start."""

    async def handler(request: web.Request) -> web.StreamResponse:
        raise NotImplementedError

    app = web.Application()
    app.router.add_get("/v1/new", handler)
    with pytest.raises(KeyError, match="GET /v1/new"):
        document(app.router)


def test_every_error_is_described(described: Any) -> None:
    """Each status of the tables with all its codes; a chat's are all but those that only routes and resources have."""
    responses = described["components"]["responses"]
    statuses = {row[0] for row in REASONS.values()} | OWN.keys()
    assert responses.keys() == {f"Error{status}" for status in statuses}
    for status, _, code in [*REASONS.values(), *((status, *row[:2]) for status, row in OWN.items())]:
        assert f"`{code}`" in responses[f"Error{status}"]["description"]
    chat = described["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert chat.keys() == {"200", *map(str, statuses - {404, 405, 409})}


RATE_LIMITS = {
    f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")
}


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (400, {"x-request-id"}),
        (401, {"x-request-id", "WWW-Authenticate"}),
        (405, {"x-request-id", "Allow"}),
        (429, {"x-request-id", "Retry-After", *RATE_LIMITS}),
        (502, {"x-request-id", "x-should-retry"}),
        (503, {"x-request-id", "Retry-After"}),
    ],
)
def test_headers_of_errors(described: Any, status: int, headers: set[str]) -> None:
    """Each status has the headers that its answers carry."""
    assert described["components"]["responses"][f"Error{status}"]["headers"].keys() == headers


def test_who_needs_a_key(described: Any) -> None:
    """Everything under /v1, and nothing else."""
    assert described["security"] == [{"key": []}]
    for path, methods in described["paths"].items():
        for operation in methods.values():
            assert ("security" in operation) == (not path.startswith("/v1/")), path
            assert operation.get("security", []) == []
