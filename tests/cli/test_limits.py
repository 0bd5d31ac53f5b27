"""`worldrouter limits`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from worldrouter.v1 import limit_pb2

pytestmark = pytest.mark.timeout(20)

SPEND = limit_pb2.Limit(
    id="limit_1",
    owner_id="org",
    measure=limit_pb2.LIMIT_MEASURE_SPEND,
    period=limit_pb2.LIMIT_PERIOD_MONTH,
    maximum=50_000_000_000,
    used=1_500_000_000,
)
SLOTS = limit_pb2.Limit(
    id="limit_2",
    owner_id="key_1",
    measure=limit_pb2.LIMIT_MEASURE_CONCURRENCY,
    period=limit_pb2.LIMIT_PERIOD_NOW,
    maximum=4,
)


def test_what_is_no_number_is_said_so(invoke: Callable[..., Any]) -> None:
    """In words for somebody who wrote a unit behind it."""
    said = invoke("limits", "set", "org", "--tokens", "100k").result().stderr
    assert "Invalid value for '--tokens': '100k' is not a valid whole number." in said


@pytest.mark.parametrize(
    ("options", "measure", "period", "amount"),
    [
        (["--usd", "50", "--per", "month"], "SPEND", "MONTH", 50_000_000_000),
        (["--usd", "0", "--per", "lifetime"], "SPEND", "LIFETIME", 0),
        (["--requests", "60"], "REQUESTS", "MINUTE", 60),
        (["--tokens", "1000"], "TOKENS", "MINUTE", 1000),
        (["--concurrency", "4"], "CONCURRENCY", "NOW", 4),
        (["--concurrency", "0"], "CONCURRENCY", "NOW", 0),
    ],
)
def test_set_sends_one_limit(
    invoke: Callable[..., Any], options: list[str], measure: str, period: str, amount: int
) -> None:
    """Each option is a measure with its period, in the unit of the measure."""
    run = invoke("limits", "set", "org", *options, "--json")
    request = run.answer("LimitService.SetLimit", SPEND)
    assert request == limit_pb2.SetLimitRequest(
        owner_id="org",
        measure=f"LIMIT_MEASURE_{measure}",
        period=f"LIMIT_PERIOD_{period}",
        maximum=amount,
        idempotency_key="new-id",
    )
    assert json.loads(run.result().stdout) == {
        "id": "limit_1",
        "owner_id": "org",
        "measure": "spend",
        "period": "month",
        "maximum": 50_000_000_000,
        "used": 1_500_000_000,
        "maximum_usd": "50.000000000",
        "used_usd": "1.500000000",
    }


@pytest.mark.parametrize(
    "options", [[], ["--usd", "1"], ["--per", "day"], ["--requests", "1", "--tokens", "1"], ["--requests", "-1"]]
)
def test_another_number_of_limits_is_wrong_usage(invoke: Callable[..., Any], options: list[str]) -> None:
    """One limit at a time, and money only over a period."""
    assert invoke("limits", "set", "org", *options).result().exit_code == 2


def test_list_prints_a_table(invoke: Callable[..., Any]) -> None:
    """Money is in USD, everything else a count."""
    run = invoke("limits", "list", "key_1", "--inherited")
    request = run.answer("LimitService.ListLimits", limit_pb2.ListLimitsResponse(limits=[SPEND, SLOTS]))
    assert (request.owner_id, request.inherited) == ("key_1", True)
    assert run.result().stdout.splitlines() == [
        "ID       OWNER  MEASURE      PER          MAXIMUM          USED",
        "limit_1  org    spend        month  50.000000 USD  1.500000 USD",
        "limit_2  key_1  concurrency  now                4             0",
    ]


def test_delete_names_the_limit_and_the_change(invoke: Callable[..., Any]) -> None:
    """`limits delete ID` says nothing when it worked."""
    run = invoke("limits", "delete", "limit_1", "--idempotency-key", "k")
    request = run.answer("LimitService.DeleteLimit", limit_pb2.DeleteLimitResponse())
    assert (request.limit_id, request.idempotency_key) == ("limit_1", "k")
    assert (run.result().exit_code, run.result().stdout) == (0, "")
