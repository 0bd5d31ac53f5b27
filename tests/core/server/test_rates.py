"""Limits per minute of a whole core: in its metadata, its trailers, and at its end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from worldrouter.v1 import limit_pb2, limit_pb2_grpc

pytestmark = pytest.mark.slow

BODY = b'{"model": "m", "messages": [{"role": "user", "content": "one two"}], "max_tokens": 5}'


async def limited(core: Any, maximum: int) -> None:
    """Limit the default account, which the operator acts on, and wait until the core knows."""
    stub = limit_pb2_grpc.LimitServiceStub(core.channel)
    request = limit_pb2.SetLimitRequest(
        owner_id="default", measure="LIMIT_MEASURE_REQUESTS", period="LIMIT_PERIOD_MINUTE", maximum=maximum
    )
    await stub.SetLimit(request, metadata=core.metadata)
    await asyncio.sleep(1.5)


async def test_limits_travel_as_metadata(core: Any) -> None:
    """With every answer at its beginning, with a refusal at its end."""
    await limited(core, 1)
    call = core.unary(BODY)
    told = dict(await call.initial_metadata())
    await call
    assert (told["x-ratelimit-limit-requests"], told["x-ratelimit-remaining-requests"]) == ("1", "0")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await core.unary(BODY)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(caught.value.trailing_metadata() or ())
    assert trailers["x-ratelimit-remaining-requests"] == "0"
    info, retry, _ = core.info(caught.value)
    assert info.reason == "RATE_LIMIT_EXCEEDED"
    assert retry is not None
    assert 50 < retry.retry_delay.seconds <= 60


async def test_a_core_that_stops_leaves_nothing_aside(start: Any, rows_of: Callable[[str], list[Any]]) -> None:
    """What it had taken ahead of need is back; what was used stays counted, for the next one too."""
    core = await start()
    await limited(core, 4_000)
    for _ in range(20):
        await core.unary(BODY)
    await core.server.stop(lambda: 1.0)
    ((used,),) = rows_of("SELECT used FROM rate_windows")
    assert sum(json.loads(used).values()) == 20
