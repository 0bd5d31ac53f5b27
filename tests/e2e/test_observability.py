"""What an operator sees of a router that works: metrics on the admin port, one line a request."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import aiohttp
import pytest

PROMPT = "an unmistakable prompt"
ANSWER = "an unmistakable answer"


@pytest.fixture(params=["scripted_router", pytest.param("scripted_apart", marks=pytest.mark.slow)])
def watched(request: pytest.FixtureRequest) -> Any:
    """A router in one process, and one apart."""
    return request.getfixturevalue(request.param)


@pytest.fixture
async def session(watched: Any) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {watched.key}"}) as session:
        yield session


async def ask(session: aiohttp.ClientSession, router: Any, **more: Any) -> str:
    """One chat, read to its end; its request id."""
    body = {"model": "scripted", "messages": [{"role": "user", "content": PROMPT}], **more}
    headers = {"x-request-id": "theirs"}
    async with session.post(f"{router.base_url}/chat/completions", json=body, headers=headers) as answer:
        await answer.read()
        return answer.headers["x-request-id"]


@pytest.mark.parametrize("topology", ["serve", pytest.param("apart", marks=pytest.mark.slow)])
async def test_metrics(launcher: Any, scripted_config: str, topology: str) -> None:
    """Requests, tokens, cost, times, overhead, in flight, upstream errors and the ledger's commits are counted."""
    watched = await asyncio.to_thread(getattr(launcher, topology), scripted_config)
    key = watched.account(usd=100).key
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:
        await use_and_count(watched, session)
    assert watched.complaints() == []


async def use_and_count(watched: Any, session: aiohttp.ClientSession) -> None:
    script = {"text": ANSWER, "first_delay_ms": 60, "chunk_delay_ms": 10}
    await ask(session, watched, script=script)
    await ask(session, watched, script=script, stream=True)
    await ask(session, watched, script={"status": 500})
    slow = asyncio.create_task(ask(session, watched, script={"head_delay_ms": 700}))
    await asyncio.sleep(0.3)
    metric = watched.metric
    assert metric("worldrouter_requests_in_flight") == 1
    assert metric("worldrouter_held_nano_usd") > 0
    assert metric("worldrouter_edge_in_flight") == 1
    await slow
    await asyncio.to_thread(watched.settle)
    assert metric("worldrouter_requests_total", model="scripted", provider="script", status="complete") == 3
    assert metric("worldrouter_requests_total", status="complete", stream="true") == 1
    assert (
        metric("worldrouter_upstream_errors_total", model="scripted", provider="script", reason="UPSTREAM_ERROR") == 1
    )
    assert metric("worldrouter_tokens_total", model="scripted", kind="prompt") == 3 * 3
    assert metric("worldrouter_tokens_total", model="scripted", kind="completion") == 3 * 3
    assert metric("worldrouter_cost_nano_usd_total", model="scripted") == 9 * 1_000 + 9 * 2_000
    assert 3 * 0.06 < metric("worldrouter_time_to_first_token_seconds_sum", model="scripted") < 3
    assert metric("worldrouter_time_per_output_token_seconds_count", model="scripted") == 1
    assert 0.005 < metric("worldrouter_time_per_output_token_seconds_sum", model="scripted") < 0.1
    assert 0 < metric("worldrouter_overhead_seconds_sum") < 0.2
    assert metric("worldrouter_overhead_seconds_count") == 4
    assert metric("worldrouter_requests_in_flight") == metric("worldrouter_ledger_queue_rows") == 0
    assert metric("worldrouter_held_nano_usd") == 0
    assert metric("worldrouter_ledger_commit_rows_sum") == 4
    assert metric("worldrouter_ledger_commit_seconds_count") >= 1
    assert metric("worldrouter_edge_requests_total", route="chat", status="200") == 3
    assert metric("worldrouter_edge_requests_total", route="chat", status="502") == 1
    assert metric("worldrouter_edge_request_seconds_count", route="chat") == 4


async def test_metrics_name_nobody(watched: Any, session: aiohttp.ClientSession) -> None:
    """No label carries a key, an account or a request, and every family has a help text."""
    request_id = await ask(session, watched)
    labels = {value for sample in watched.samples() for value in sample.labels.values()}
    assert not {value for value in labels if value.startswith(("key_", "acct_", "wlrouter_")) or request_id in value}
    async with session.get(f"{watched.admin[0]}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    families = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert families == {line.split()[2] for line in lines if line.startswith("# HELP") and len(line.split()) > 3}


def test_the_admin_port_is_another(watched: Any) -> None:
    """Metrics are on the admin port alone, on loopback; its liveness answers."""
    for admin in watched.admin:
        assert admin.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{admin}/healthz", timeout=10) as answer:
            assert answer.status == 200
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"{watched.http}/metrics", timeout=10)
    assert caught.value.code == 404
    caught.value.close()


def lines_of(router: Any, request_id: str) -> list[dict[str, Any]]:
    """What the log says of a request; lines are written together, a moment later."""
    deadline_s = time.monotonic() + 2
    while True:
        found = [line for line in router.log() if request_id in json.dumps(line)]
        if found or time.monotonic() > deadline_s:
            return list(found)
        time.sleep(0.05)


async def test_the_access_log(watched: Any, session: aiohttp.ClientSession) -> None:
    """One JSON line for a request: who, what, how it ended, tokens, cost, times; no prompt, no answer, no key."""
    request_id = await ask(session, watched, stream=True, script={"text": ANSWER, "first_delay_ms": 40})
    (line,) = lines_of(watched, request_id)
    assert line["key_id"] in watched.key.replace("wlrouter_", "key_")
    known = {
        "method": "chat",
        "status": "complete",
        "model": "scripted",
        "endpoint": "script",
        "provider": "script",
        "client_request_id": "theirs",
        "finish_reason": "stop",
        "stream": True,
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "cost_nano_usd": 9_000,
        "attempts": 1,
    }
    assert known.items() <= line.items()
    assert line["account_id"].startswith("acct_")
    assert abs(datetime.fromisoformat(line["time"]).timestamp() - time.time()) < 10
    assert line["time"].endswith("+00:00")
    assert 30 <= line["ttft_ms"] <= line["duration_ms"] < 1_000
    assert 0 < line["overhead_ms"] < line["duration_ms"]
    everything = json.dumps(watched.log())
    assert PROMPT not in everything
    assert ANSWER not in everything
    assert watched.key not in everything


async def test_the_access_log_of_failures(watched: Any, session: aiohttp.ClientSession) -> None:
    """Each failure has its one line too: refused, failed, without a valid key, without a route."""
    failed = await ask(session, watched, script={"status": 500})
    refused = await ask(session, watched, model="nothing")
    (line,) = lines_of(watched, failed)
    assert (line["status"], line["error_reason"]) == ("upstream_failed", "UPSTREAM_ERROR")
    (line,) = lines_of(watched, refused)
    assert (line["status"], line["error_reason"]) == ("refused", "MODEL_NOT_FOUND")
    async with aiohttp.ClientSession() as nobody:
        stranger = await ask(nobody, watched)
    (line,) = lines_of(watched, stranger)
    assert "UNAUTHENTICATED" in line["message"]
    async with session.get(f"{watched.base_url}/nothing") as answer:
        lost = answer.headers["x-request-id"]
    (line,) = lines_of(watched, lost)
    assert "404" in line["message"]
