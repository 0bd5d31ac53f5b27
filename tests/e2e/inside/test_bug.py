"""A bug of ours: bland outside, named inside."""

from __future__ import annotations

import logging
from typing import Any, NoReturn

import aiohttp
import grpc
import pytest
from worldrouter.client import AsyncClient, error_info
from worldrouter.v1.metering_pb2 import COMPLETION_STATUS_INTERNAL_ERROR, GetUsageRecordRequest
from worldrouter.v1.raw_chat_pb2 import CreateRawCompletionRequest

BODY = b'{"model": "scripted", "messages": [{"role": "user", "content": "secret prompt"}]%s}'


class BuggyProvider:
    """A provider with a bug in it."""

    def send(self, body: bytes, *, stream: bool) -> NoReturn:
        raise ZeroDivisionError("an inner detail")


@pytest.mark.parametrize("more", [b"", b', "stream": true'], ids=["whole", "streamed"])
async def test_a_bug_is_a_bland_500(inside: Any, caplog: pytest.LogCaptureFixture, more: bytes) -> None:
    """HTTP 500 names the request and whom to write to; the log has the trace; nothing is charged."""
    inside.core.engine.pipeline.offer.providers["script"] = BuggyProvider()
    headers = {"authorization": f"Bearer {inside.key}"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{inside.http}/v1/chat/completions", data=BODY % more, headers=headers) as answer,
    ):
        assert answer.status == 500
        error = (await answer.json())["error"]
    assert (error["type"], error["code"], error["param"]) == ("server_error", "internal_error", None)
    assert error["request_id"] == answer.headers["x-request-id"]
    assert error["request_id"] in error["message"]
    assert "support@router.example" in error["message"]
    assert "inner detail" not in error["message"]
    (logged,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert error["request_id"] in logged.getMessage()
    assert "ZeroDivisionError" in caplog.text
    assert "secret prompt" not in caplog.text
    async with AsyncClient(inside.grpc, inside.key, plaintext=True) as client:
        await inside.core.engine.ledger.drained()
        found = await client.metering.GetUsageRecord(GetUsageRecordRequest(request_id=error["request_id"]))
    assert (found.status, found.cost_nano_usd) == (COMPLETION_STATUS_INTERNAL_ERROR, 0)


async def test_a_bug_over_grpc(inside: Any) -> None:
    """INTERNAL with INTERNAL_ERROR and the request id, and no inner detail."""
    inside.core.engine.pipeline.offer.providers["script"] = BuggyProvider()
    async with AsyncClient(inside.grpc, inside.key, plaintext=True) as client:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.raw_chat.CreateRawCompletion(CreateRawCompletionRequest(dialect=1, body=BODY % b""))
    info = error_info(caught.value)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert info is not None
    assert (info.reason, info.code) == ("INTERNAL_ERROR", "internal_error")
    assert info.request_id in (caught.value.details() or "")
    assert "inner detail" not in str(caught.value)
