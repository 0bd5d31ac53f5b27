"""The openai SDK for Node, and a typed gRPC client in Node; the scripts are in node/."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

HERE = Path(__file__).parents[1]
PROTOS = HERE.parents[1] / "protos"
CALLS = [
    {"id": "call_a", "name": "get_weather", "arguments": '{"city": "Paris, the capital of France"}'},
    {"id": "call_b", "name": "get_time", "arguments": '{"zone": "Europe/Paris", "format": "24h"}'},
]
pytestmark = pytest.mark.skipif(
    not (HERE / "node" / "node_modules").is_dir() or shutil.which("node") is None,
    reason="Node, or what scripts/setup-node installs, is not there",
)


def run_node(script: str, *arguments: str) -> Any:
    """What a script of node/ prints."""
    done = subprocess.run(
        ["node", str(HERE / "node" / script), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def sdk(scripted_router: Any) -> Any:
    """What the SDK got."""
    return run_node("sdk.mjs", scripted_router.base_url, scripted_router.key, scripted_router.account().key)


@pytest.fixture(scope="module")
def grpc_client(scripted_router: Any) -> Any:
    """What the gRPC client got."""
    return run_node("grpc.mjs", scripted_router.grpc, scripted_router.key, str(PROTOS))


def test_a_whole_and_a_streamed_answer(sdk: Any) -> None:
    """Both say the same, have a request id, and a stream finishes once."""
    assert sdk["whole"]["text"] == sdk["streamed"]["text"] == "one two three"
    assert sdk["whole"]["id"] == f"chatcmpl-{sdk['whole']['requestID']}"
    assert sdk["whole"]["usage"]["total_tokens"] == 6
    assert sdk["streamed"]["requestID"]
    assert sdk["streamed"]["finish"] == ["stop"]


def test_usage_of_a_stream(sdk: Any) -> None:
    """With include_usage the last chunk alone has usage, and no choices."""
    *chunks, last = sdk["chunks"]
    assert all(chunk == {"choices": 1, "usage": None} for chunk in chunks)
    assert last["choices"] == 0
    assert last["usage"]["total_tokens"] == 6


def test_tool_calls(sdk: Any) -> None:
    """Two calls come whole, and from their deltas."""
    assert sdk["wholeCalls"] == sdk["streamedCalls"]["calls"] == CALLS
    assert sdk["streamedCalls"]["finish"] == ["tool_calls"]


def test_models(sdk: Any) -> None:
    """`models.list()` and `retrieve()` work."""
    assert sdk["models"] == ["dear", "free", "scripted", "unstreamed"]
    assert sdk["model"] == "free"


@pytest.mark.parametrize(
    ("name", "error_class", "status", "code"),
    [
        ("model", "BadRequestError", 400, "model_not_found"),
        ("key", "AuthenticationError", 401, "invalid_api_key"),
        ("balance", "APIError", 402, "insufficient_balance"),
        ("route", "NotFoundError", 404, "not_found"),
        ("limit", "RateLimitError", 429, "rate_limit_exceeded"),
        ("upstream", "InternalServerError", 502, "upstream_error"),
        ("early", "InternalServerError", 502, "upstream_error"),
        ("late", "APIError", None, "upstream_error"),
    ],
)
def test_errors(sdk: Any, name: str, error_class: str, status: int | None, code: str) -> None:
    """Each failure is the SDK's own class, with code and request id."""
    found = sdk["failures"][name]
    assert (found["class"], found["status"], found["code"]) == (error_class, status, code)
    assert found["named"]
    assert found["requestID"] in (found["named"], None if status is None else found["named"])
    if name == "model":
        assert (found["param"], found["type"]) == ("model", "invalid_request_error")


def test_a_typed_answer_over_grpc(grpc_client: Any) -> None:
    """A whole answer is typed, and its request id names the charge it tells."""
    whole, record = grpc_client["whole"]["answer"], grpc_client["record"]
    assert whole["choices"][0]["message"]["content"] == "one two three"
    assert whole["choices"][0]["finish_reason"] == "stop"
    assert whole["id"] == f"chatcmpl-{grpc_client['whole']['requestId']}"
    assert whole["usage"]["total_token_count"] == "6"
    assert whole["cost_nano_usd"] == record["cost_nano_usd"] == "9000"
    assert record["status"] == "COMPLETION_STATUS_COMPLETE"


def test_a_typed_stream_over_grpc(grpc_client: Any) -> None:
    """A stream is started, deltas, finished; the deltas of a tool call add up."""
    started, *deltas, finished = grpc_client["streamed"]
    assert started["event"] == "started"
    assert {event["event"] for event in deltas} == {"deltas"}
    assert finished["finished"]["finish_reasons"] == ["tool_calls"]
    pieces = [
        call
        for event in deltas
        for chunk in event["deltas"]["chunks"]
        for choice in chunk["choices"]
        for call in choice["delta"]["tool_calls"]
    ]
    assert "".join(piece["function"]["arguments"] for piece in pieces) == '{"a": 1}'
    assert [piece["id"] for piece in pieces if "id" in piece] == ["call_a"]


def test_money_over_grpc(grpc_client: Any) -> None:
    """The balance of the key's own account is told in nanodollars."""
    balance = grpc_client["balance"]
    assert int(balance["balance_nano_usd"]) == int(balance["available_nano_usd"]) + int(balance["held_nano_usd"])
    assert int(balance["balance_nano_usd"]) > 900 * 10**9


def test_error_details_over_grpc(grpc_client: Any) -> None:
    """A failed call carries an ErrorInfo with reason and request id, which is in the trailers too."""
    for name, code, reason in (
        ("refused", "INVALID_ARGUMENT", "MODEL_NOT_FOUND"),
        ("broken", "UNAVAILABLE", "UPSTREAM_ERROR"),
    ):
        found, info = grpc_client[name], ErrorInfo()
        assert found["code"] == code
        (detail,) = Status.FromString(base64.b64decode(found["details"])).details
        assert detail.Unpack(info)
        assert (info.domain, info.reason) == ("worldrouter", reason)
        assert info.metadata["request_id"] == found["requestId"]
