"""`/openapi.json`: the API as its routes, its errors and its headers are, taken from where they are made."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
from aiohttp import web

from edge import schemas
from edge.answer import ANSWER_HEADERS, FOR_CLIENTS
from edge.errors import OWN, RATE_LIMIT_PREFIX, REASONS, REQUEST_ID, RETRIED, Problem
from edge.models import ModelList, ModelObject
from edge.payments import PAGE_PATH

STATUSES = tuple(sorted({row[0] for row in REASONS.values()} | OWN.keys()))
"""Of all errors."""
_ALWAYS = (400, 417, 500)
"""Errors of any route: what is no HTTP, an expectation that is not met, a bug."""
_NO_CHAT = (404, 405, 409)
_DOCUMENTED = (schemas.ChatCompletionRequest, schemas.ChatCompletionChunk, schemas.Event, schemas.ErrorBody)
_EXAMPLE_ID = "01k9zz2w8x5qv3d7m4t6c1b0ra"
_EXAMPLE: Mapping[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello."}]}
_OPTIONS_WANT_STREAM: Mapping[str, Any] = {
    "if": {"required": ["stream_options"], "properties": {"stream_options": {"type": "object"}}},
    "then": {"required": ["stream"], "properties": {"stream": {"const": True}}},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What the document says of a route. `errors` are statuses; without an `answer` it is an object of any form."""

    id: str
    tag: str
    summary: str
    errors: Collection[int]
    answer: type[msgspec.Struct] | None
    headers: Collection[str] = (REQUEST_ID,)
    parameters: Mapping[str, str] | None = None
    """Meaning of what the path names."""
    is_chat: bool = False
    needs_key: bool = True


OPERATIONS: Mapping[str, Operation] = {
    "POST /v1/chat/completions": Operation(
        id="createChatCompletion",
        tag="Chat",
        summary="Answer a chat, whole or as a stream",
        errors=[status for status in STATUSES if status not in _NO_CHAT],
        answer=schemas.ChatCompletion,
        headers=[name for name in ANSWER_HEADERS if name == REQUEST_ID or name.startswith(FOR_CLIENTS)],
        is_chat=True,
    ),
    "GET /v1/models": Operation(
        id="listModels",
        tag="Models",
        summary="List the models that the key may use",
        errors=(*_ALWAYS, 401, 403, 503, 504),
        answer=ModelList,
    ),
    "GET /v1/models/{model_id}": Operation(
        id="getModel",
        tag="Models",
        summary="Describe a model",
        errors=(*_ALWAYS, 401, 403, 404, 503, 504),
        answer=ModelObject,
        parameters={"model_id": "ID of the model. A slash in it may be sent as it is."},
    ),
    "POST /webhooks/{provider}": Operation(
        id="takeWebhook",
        tag="Payments",
        summary="Take the webhook of a payment provider, which is known by its signature",
        errors=(*_ALWAYS, 404, 408, 409, 413, 415, 503, 504),
        answer=None,
        parameters={"provider": "Name of the provider."},
        needs_key=False,
    ),
    "GET /healthz": Operation(
        id="isAlive", tag="Service", summary="Is it alive?", errors=_ALWAYS, answer=schemas.Health, needs_key=False
    ),
    "GET /readyz": Operation(
        id="isReady",
        tag="Service",
        summary="Can it serve requests?",
        errors=(*_ALWAYS, 503),
        answer=schemas.Health,
        needs_key=False,
    ),
    "GET /openapi.json": Operation(
        id="getDescription", tag="Service", summary="This document", errors=_ALWAYS, answer=None, needs_key=False
    ),
}
"""By method and path. Every route of the API has one, but for the HEAD that comes with each GET; pages have none."""


def document(router: web.UrlDispatcher) -> dict[str, Any]:
    """The OpenAPI document of these routes. KeyError for one that is not among the `OPERATIONS`."""
    paths: dict[str, dict[str, Any]] = {}
    for route in router.routes():
        if route.method != "HEAD" and route.resource is not None and route.resource.canonical != PAGE_PATH:
            path = route.resource.canonical
            paths.setdefault(path, {})[route.method.lower()] = _operation(OPERATIONS[f"{route.method} {path}"])
    types = {*_DOCUMENTED, *(operation.answer for operation in OPERATIONS.values() if operation.answer)}
    _, components = msgspec.json.schema_components(sorted(types, key=str), ref_template=f"{schemas.REFERENCE}{{name}}")
    components["ChatCompletionRequest"].update(_OPTIONS_WANT_STREAM)
    components["ErrorObject"]["properties"]["type"]["enum"] = sorted(
        {row[1] for row in REASONS.values()} | {row[0] for row in OWN.values()}
    )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "WorldRouter",
            "version": "1",
            "description": "One API key and one OpenAI-compatible endpoint in front of many model providers.",
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "An API key."}},
            "schemas": components,
            "headers": {name: _header(name) for name in ANSWER_HEADERS},
            "responses": {f"Error{status}": _error(status) for status in STATUSES},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    content = {"application/json": {"schema": _schema(operation.answer)}}
    described: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": {
            "200": {
                "description": "The answer.",
                "headers": _headers(operation.headers),
                "content": {**content, "text/event-stream": {"schema": _schema(schemas.Event)}}
                if operation.is_chat
                else content,
            },
            **{str(status): {"$ref": f"#/components/responses/Error{status}"} for status in sorted(operation.errors)},
        },
    }
    if operation.parameters:
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "description": meaning, "schema": {"type": "string"}}
            for name, meaning in operation.parameters.items()
        ]
    if operation.is_chat:
        body = {"schema": _schema(schemas.ChatCompletionRequest), "example": _EXAMPLE}
        described["requestBody"] = {"required": True, "content": {"application/json": body}}
    if not operation.needs_key:
        described["security"] = []
    return described


def _error(status: int) -> dict[str, Any]:
    """The answer of every error with this status, as `Problem` would write it."""
    kinds = {code: kind for row_status, kind, code in REASONS.values() if row_status == status}
    phrase = message = HTTPStatus(status).phrase
    if status in OWN:
        kind, code, message = OWN[status]
        kinds[code] = kind
    code, kind = next(iter(kinds.items()))
    problem = Problem(status, kind, code, message, _EXAMPLE_ID, retry_after_s=1 if status in RETRIED else None)
    headers = [name for name in problem.headers() if name in ANSWER_HEADERS]
    if status == 429:
        headers += [name for name in ANSWER_HEADERS if name.startswith(RATE_LIMIT_PREFIX)]
    return {
        "description": f"{phrase}: " + ", ".join(f"`{code}`" for code in kinds),
        "headers": _headers([*headers, "Allow"] if status == 405 else headers),
        "content": {
            "application/json": {"schema": _schema(schemas.ErrorBody), "example": msgspec.json.decode(problem.body())}
        },
    }


def _schema(kind: type[msgspec.Struct] | None) -> dict[str, str]:
    return {"$ref": f"{schemas.REFERENCE}{kind.__name__}"} if kind else {"type": "object"}


def _headers(names: Collection[str]) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _header(name: str) -> dict[str, Any]:
    kind, meaning = ANSWER_HEADERS[name]
    return {"description": meaning, "required": name == REQUEST_ID, "schema": {"type": kind}}
