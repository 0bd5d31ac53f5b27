"""What a whole router answers is what its description says."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest
from openapi_schema_validator import OAS31Validator

BODY = {"model": "scripted", "messages": [{"role": "user", "content": "one two three"}]}


class Described:
    """The document of a router, and a client that holds answers to it."""

    def __init__(self, document: Any, session: aiohttp.ClientSession, router: Any) -> None:
        self._document = document
        self._session = session
        self._router = router

    def check(self, value: object, schema: str) -> None:
        """Raises for what is not of this schema, and when anything at all would be."""
        validator = OAS31Validator({**self._document, "$ref": f"#/components/schemas/{schema}"})
        validator.validate(value)
        assert not validator.is_valid({})

    async def ask(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> Any:
        """The status and text of an answer, whose headers and media type are described too."""
        headers = {"Authorization": f"Bearer {key or self._router.key}"}
        async with self._session.request(method, f"{self._router.http}{path}", json=body, headers=headers) as answer:
            of_path = self._document["paths"]["/v1/models/{model_id}" if path.startswith("/v1/models/") else path]
            found = of_path[method.lower()]["responses"][str(answer.status)]
            if "$ref" in found:
                found = self._document["components"]["responses"][found["$ref"].rpartition("/")[2]]
            ours = {name for name in answer.headers if name.lower().startswith(("x-", "retry", "www"))}
            passed_on = {"X-Accel-Buffering"}
            assert {name.lower() for name in ours - passed_on} <= {name.lower() for name in found["headers"]}
            assert answer.content_type in found["content"]
            return answer.status, await answer.text()


@pytest.fixture
async def described(scripted_router: Any) -> Any:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{scripted_router.http}/openapi.json") as answer:
            document = await answer.json()
        yield Described(document, session, scripted_router)


async def test_answers(described: Described) -> None:
    """Whole answers, models and health are of their schemas."""
    tools = {"script": {"text": "", "tool_calls": [{"name": "f", "arguments": "{}"}]}, "n": 2}
    for body in (BODY, {**BODY, **tools}, {**BODY, "max_tokens": 3, "api_base": "x"}):
        status, text = await described.ask("POST", "/v1/chat/completions", body)
        assert status == 200
        described.check(json.loads(text), "ChatCompletion")
    for path, schema in (("/v1/models", "ModelList"), ("/v1/models/scripted", "ModelObject"), ("/readyz", "Health")):
        status, text = await described.ask("GET", path)
        assert status == 200
        described.check(json.loads(text), schema)


async def test_streams(described: Described) -> None:
    """So are all events of a stream, and the error that ends one."""
    for script, last in (({}, "[DONE]"), ({"fault": "cut", "fault_after": 2}, "ErrorBody")):
        body = {**BODY, "stream": True, "stream_options": {"include_usage": True}, "script": script}
        status, text = await described.ask("POST", "/v1/chat/completions", body)
        assert status == 200
        *chunks, end = [event.removeprefix("data: ") for event in text.split("\n\n")[:-1]]
        assert len(chunks) >= 2
        for chunk in chunks:
            described.check(json.loads(chunk), "ChatCompletionChunk")
        if last == "ErrorBody":
            described.check(json.loads(end), last)
        else:
            assert end == last


async def test_errors(described: Described) -> None:
    """And every error."""
    wanted = {400: {**BODY, "n": 0}, 401: BODY, 429: {**BODY, "script": {"status": 429, "retry_after_s": 9}}}
    wanted |= {502: {**BODY, "script": {"status": 500}}, 402: BODY}
    poor = described._router.account().key
    for status, body in wanted.items():
        key = {401: "none", 402: poor}.get(status)
        found, text = await described.ask("POST", "/v1/chat/completions", body, key=key)
        assert found == status
        described.check(json.loads(text), "ErrorBody")
