"""`worldrouter usage summary`, `export` and `rebuild`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from worldrouter.v1 import metering_pb2, types_pb2

from core.cli.output import csv_line

pytestmark = pytest.mark.timeout(20)


def summed(**changes: Any) -> metering_pb2.UsageSummary:
    made = metering_pb2.UsageSummary(
        day="2026-05-01",
        model_id="smollm2",
        request_count=3,
        failed_request_count=1,
        prompt_token_count=12,
        cached_token_count=4,
        completion_token_count=34,
        cost_nano_usd=12_345,
    )
    made.MergeFrom(metering_pb2.UsageSummary(**changes))
    return made


def test_a_summary_is_a_table_by_day_and_model(invoke: Callable[..., Any]) -> None:
    """Of the last thirty days and the credential's own account, unless told otherwise."""
    run = invoke("usage", "summary")
    answer = metering_pb2.SummarizeUsageResponse(summaries=[summed()])
    request = run.answer("MeteringService.SummarizeUsage", answer)
    assert (request.first_day, request.last_day) == ("2026-04-05", "2026-05-04")
    assert (request.account_id, request.all_accounts) == ("", False)
    assert list(request.group_by) == [metering_pb2.USAGE_DIMENSION_DAY, metering_pb2.USAGE_DIMENSION_MODEL]
    header, line = run.result().stdout.splitlines()
    assert run.result().stderr == "Of 2026-04-05 to 2026-05-04, UTC.\n"
    assert header.split() == ["DAY", "MODEL", "REQUESTS", "FAILED", "IN", "CACHED", "OUT", "USD"]
    assert line.split() == ["2026-05-01", "smollm2", "3", "1", "12", "4", "34", "0.000012"]


def test_a_summary_follows_the_pages(invoke: Callable[..., Any]) -> None:
    """All of them, in one JSON array of exact amounts."""
    days = ("--since", "2026-01-01", "--until", "2026-01-31")
    run = invoke("usage", "summary", "--by", "key,account", *days, "--all-accounts", "--key", "k", "--json")
    page = metering_pb2.SummarizeUsageResponse(summaries=[summed(api_key_id="")], next_page_token="more")
    request = run.answer("MeteringService.SummarizeUsage", page)
    assert (request.first_day, request.last_day, request.all_accounts) == ("2026-01-01", "2026-01-31", True)
    assert request.api_key_id == "k"
    last = metering_pb2.SummarizeUsageResponse(summaries=[summed(api_key_id="key_1", account_id="acct_1")])
    assert run.answer("MeteringService.SummarizeUsage", last).page_token == "more"
    first, second = json.loads(run.result().stdout)
    assert (first["api_key_id"], second["api_key_id"], second["account_id"]) == ("", "key_1", "acct_1")
    assert (first["cost_usd"], first["cost_nano_usd"]) == ("0.000012345", 12_345)
    assert "day" not in first


def test_a_summary_in_csv(invoke: Callable[..., Any]) -> None:
    """A heading and a line a group; the heading also when there is none."""
    run = invoke("usage", "summary", "--by", "model", "--csv")
    run.answer("MeteringService.SummarizeUsage", metering_pb2.SummarizeUsageResponse(summaries=[summed()]))
    [row] = csv.DictReader(io.StringIO(run.result().stdout))
    assert (row["model_id"], row["request_count"], row["cost_usd"]) == ("smollm2", "3", "0.000012345")
    run = invoke("usage", "summary", "--by", "model", "--csv")
    run.answer("MeteringService.SummarizeUsage", metering_pb2.SummarizeUsageResponse())
    assert run.result().stdout.startswith("model_id,request_count,")


@pytest.mark.parametrize(
    "arguments",
    [["--by", "colour"], ["--by", "day,day"], ["--by", ""], ["--since", "yesterday"], ["--until", "2026-02-30"]],
)
def test_a_question_that_is_none_is_wrong_usage(invoke: Callable[..., Any], arguments: list[str]) -> None:
    """Said before anything is asked of the core."""
    result = invoke("usage", "summary", *arguments).result()
    assert (result.exit_code, result.stdout) == (2, "")


def test_an_export_is_every_record_page_by_page(invoke: Callable[..., Any]) -> None:
    """One line a request under one heading: counts, the exact amount twice, the time."""
    run = invoke("usage", "export", "--account", "acct_1", "--key", "key_1", "--csv")
    record = metering_pb2.UsageRecord(
        request_id="req_1",
        account_id="acct_1",
        client_request_id='=HYPERLINK("http://evil")',
        usage=types_pb2.Usage(prompt_token_count=12),
        cost_nano_usd=5,
        shortfall_nano_usd=6,
        time_to_first_token_ms=0,
        streamed=True,
    )
    page = metering_pb2.ListUsageRecordsResponse(records=[record], next_page_token="more")
    request = run.answer("MeteringService.ListUsageRecords", page)
    assert (request.account_id, request.api_key_id) == ("acct_1", "key_1")
    assert (request.first_day, request.page_size) == ("2026-04-05", 1000)
    last = metering_pb2.ListUsageRecordsResponse(records=[metering_pb2.UsageRecord(request_id="req_0")])
    assert run.answer("MeteringService.ListUsageRecords", last).page_token == "more"
    first, second = csv.DictReader(io.StringIO(run.result().stdout))
    assert first["client_request_id"] == '\'=HYPERLINK("http://evil")'
    assert (first["cost_usd"], first["cost_nano_usd"], first["prompt_token_count"]) == ("0.000000005", "5", "12")
    assert (first["shortfall_usd"], first["shortfall_nano_usd"]) == ("0.000000006", "6")
    assert (first["time_to_first_token_ms"], first["streamed"]) == ("0", "true")
    assert (second["request_id"], second["time_to_first_token_ms"], second["streamed"]) == ("req_0", "", "false")


def test_an_export_in_json_is_a_line_a_request(invoke: Callable[..., Any]) -> None:
    """So that it can be read line by line."""
    run = invoke("usage", "export", "--json", "--all-accounts")
    records = [metering_pb2.UsageRecord(request_id=f"req_{n}") for n in range(2)]
    request = run.answer("MeteringService.ListUsageRecords", metering_pb2.ListUsageRecordsResponse(records=records))
    assert request.all_accounts
    assert [json.loads(line)["request_id"] for line in run.result().stdout.splitlines()] == ["req_0", "req_1"]


def test_a_rebuild_says_what_was_done(invoke: Callable[..., Any]) -> None:
    """How many entries were gone through."""
    run = invoke("usage", "rebuild")
    run.answer("MeteringService.RebuildUsageSummaries", metering_pb2.RebuildUsageSummariesResponse(entry_count=4))
    assert run.result().stdout == "4 ledger entries were gone through.\n"


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", " =1", "a;=1", "a\n=1", "a,@x", "\uff1d1", '"=1']
)
def test_no_text_is_a_formula(text: str) -> None:
    """However a spreadsheet takes the line apart, no cell begins with what starts a formula."""
    [[cell, number]] = csv.reader(io.StringIO(csv_line([text, -5]), newline=""))
    assert cell.replace("'", "", 1) == text
    assert number == "-5"
    for separator in ("\n", "\r", "\t", ";", ",", "|"):
        for part in cell.split(separator):
            assert not part.lstrip(' "\t\r').startswith(("=", "+", "-", "@", "\uff1d"))


@pytest.mark.parametrize("text", ["", "req_1", "a-b", "a=b", 'say "hi", please', "2026-05-01"])
def test_other_text_stays_as_it_is(text: str) -> None:
    """Quoted where CSV wants it, and nothing else."""
    assert list(csv.reader(io.StringIO(csv_line([text, "x"]), newline=""))) == [[text, "x"]]
