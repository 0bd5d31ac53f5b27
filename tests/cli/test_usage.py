"""`worldrouter usage`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from worldrouter.v1 import metering_pb2, types_pb2

pytestmark = pytest.mark.timeout(20)


def record(**changes: Any) -> metering_pb2.UsageRecord:
    made = metering_pb2.UsageRecord(
        request_id="req_1",
        account_id="acct_1",
        model_id="smollm2",
        endpoint="embedded",
        status=metering_pb2.COMPLETION_STATUS_COMPLETE,
        finish_reason="stop",
        usage=types_pb2.Usage(prompt_token_count=12, completion_token_count=34, total_token_count=46),
        cost_nano_usd=12_345,
        attempt_count=1,
        duration_ms=250,
    )
    made.MergeFrom(metering_pb2.UsageRecord(**changes))
    return made


def test_one_request_in_json_has_its_exact_cost(invoke: Callable[..., Any]) -> None:
    """`usage REQUEST_ID --json` prints the cost as a decimal string and as an integer."""
    run = invoke("usage", "req_1", "--json")
    assert run.answer("MeteringService.GetUsageRecord", record(time_to_first_token_ms=0)).request_id == "req_1"
    found = json.loads(run.result().stdout)
    assert (found["cost_usd"], found["cost_nano_usd"]) == ("0.000012345", 12_345)
    assert (found["request_id"], found["status"], found["time_to_first_token_ms"]) == ("req_1", "complete", 0)
    assert found["usage"]["prompt_token_count"] == 12
    assert found["usage"]["estimated"] is False


def test_the_id_of_a_completion_names_its_request(invoke: Callable[..., Any]) -> None:
    """The `chatcmpl-` that OpenAI's ids begin with is taken off."""
    run = invoke("usage", "chatcmpl-req_1")
    assert run.answer("MeteringService.GetUsageRecord", record()).request_id == "req_1"
    lines = run.result().stdout.splitlines()
    assert "cost           0.000012 USD" in lines
    assert "input          12 tokens, 0 of them cached" in lines
    assert "first token    none came" in lines
    assert "key            the operator's" in lines
    run = invoke("usage", "req_1")
    written = types_pb2.Usage(cache_write_token_count=5)
    run.answer("MeteringService.GetUsageRecord", record(shortfall_nano_usd=2_000, usage=written))
    lines = run.result().stdout.splitlines()
    assert "cost           0.000012 USD; 0.000002 USD beyond what was held were not charged" in lines
    assert "input          12 tokens, 0 of them cached, 5 written to the cache" in lines


def test_a_failed_request_shows_why(invoke: Callable[..., Any]) -> None:
    """The status stands beside the reason of the failure; an absent first token is null in JSON."""
    failed = record(status=metering_pb2.COMPLETION_STATUS_UPSTREAM_FAILED, error_reason="UPSTREAM_ERROR")
    run = invoke("usage", "req_1")
    run.answer("MeteringService.GetUsageRecord", failed)
    assert "status         upstream_failed UPSTREAM_ERROR" in run.result().stdout.splitlines()
    run = invoke("usage", "req_1", "--json")
    run.answer("MeteringService.GetUsageRecord", failed)
    assert json.loads(run.result().stdout)["time_to_first_token_ms"] is None


def test_the_list_is_of_one_account(invoke: Callable[..., Any]) -> None:
    """Without a request id the account's requests are listed, page by page; those of a key, if it is named."""
    run = invoke("usage", "--account", "acct_1", "--key", "key_1", "--limit", "1500", "--json")
    page = metering_pb2.ListUsageRecordsResponse(records=[record()], next_page_token="more")
    request = run.answer("MeteringService.ListUsageRecords", page)
    assert (request.account_id, request.api_key_id, request.page_size) == ("acct_1", "key_1", 1000)
    last = metering_pb2.ListUsageRecordsResponse(records=[record(request_id="req_0")])
    assert run.answer("MeteringService.ListUsageRecords", last).page_token == "more"
    assert [found["request_id"] for found in json.loads(run.result().stdout)] == ["req_1", "req_0"]


def test_the_list_for_people_is_a_table(invoke: Callable[..., Any]) -> None:
    """One line a request: tokens in and out, cost, time."""
    run = invoke("usage")
    run.answer("MeteringService.ListUsageRecords", metering_pb2.ListUsageRecordsResponse(records=[record()]))
    header, line = run.result().stdout.splitlines()
    assert header.split() == ["REQUEST", "TIME", "MODEL", "STATUS", "IN", "OUT", "USD", "MS"]
    assert line.split()[4:] == ["complete", "12", "34", "0.000012", "250"]


def test_an_empty_list_is_an_empty_array(invoke: Callable[..., Any]) -> None:
    """A script gets JSON also when there is nothing; people get the heading."""
    run = invoke("usage", "--json")
    run.answer("MeteringService.ListUsageRecords", metering_pb2.ListUsageRecordsResponse())
    assert json.loads(run.result().stdout) == []


def test_an_unknown_request_is_an_error(invoke: Callable[..., Any], trailers_of: Callable[..., Any]) -> None:
    """A request id that the ledger does not have is one line and exit status 1."""
    run = invoke("usage", "req_9", "--json")
    trailers = trailers_of(grpc.StatusCode.NOT_FOUND, "There is no such request.", "NOT_FOUND", "req_1")
    run.refuse(
        "MeteringService.GetUsageRecord", grpc.StatusCode.NOT_FOUND, "There is no such request.", trailers=trailers
    )
    result = run.result()
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: There is no such request (NOT_FOUND, request req_1)\n"
