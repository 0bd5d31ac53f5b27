"""Bodies that no client should send, over real HTTP: refused or answered, quickly, and nothing stays behind."""

from __future__ import annotations

import io
import json
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from worldrouter.client import Client
from worldrouter.v1.metering_pb2 import GetBalanceRequest

from tests.core.conftest import NOT_CONSERVED
from tests.hostile.bodies import body

SEED = 4
P99_LIMIT_S = 0.050
LONGEST_LIMIT_S = 0.25
"""For the heavy ones, of which there are fewer than one in a hundred: up to 10 MB, on their way included."""
MEMORY_LIMIT_BYTES = 50 << 20
LEASES_BACK_S = 10.0
ERROR_FIELDS = {"message", "type", "param", "code", "request_id"}


def memory_bytes(pid: int) -> int:
    """Resident memory of a process."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)
    assert found is not None
    return int(found[1]) * 1024


async def complaint(answer: aiohttp.ClientResponse) -> str:
    """What is wrong with an answer; nothing when it is as it must be."""
    content = await answer.read()
    request_id = answer.headers.get("x-request-id")
    if answer.status == 200 and request_id:
        if answer.content_type == "text/event-stream":
            return "" if content.endswith(b"data: [DONE]\n\n") else f"a stream without an end: {content[-200:]!r}"
        return "" if json.loads(content)["choices"] else "no choices"
    if not 400 <= answer.status < 500 or answer.content_type != "application/json":
        return f"{answer.status} {answer.content_type}: {content[:500]!r}"
    error = json.loads(content)["error"]
    if set(error) < ERROR_FIELDS or error["request_id"] != request_id or not error["message"]:
        return f"no proper error: {error} with request id {request_id}"
    return ""


async def bounce(router: Any, first: int, last: int) -> list[float]:
    """Send the bodies of these numbers, one after the other; the seconds that each took."""
    took_s = []
    url, headers = f"{router.base_url}/chat/completions", {"authorization": f"Bearer {router.key}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        for index in range(first, last):
            sent = body(SEED, index)
            began_s = time.perf_counter()
            try:
                async with session.post(url, data=io.BytesIO(sent)) as answer:
                    wrong = await complaint(answer)
            except aiohttp.ClientError as error:
                wrong = repr(error)
            took_s.append(time.perf_counter() - began_s)
            replay = f"python -m tests.hostile.bodies {SEED} {index}"
            assert not wrong, f"{wrong}\n{len(sent)} bytes: {sent[:2_000]!r}\nonce more: {replay}"
    return took_s


def nothing_stays(router: Any) -> None:
    """No request runs, nothing is held, and every account's money adds up."""
    router.settle()
    assert router.metric("worldrouter_held_nano_usd") == 0
    deadline_s = time.monotonic() + LEASES_BACK_S
    with Client(router.grpc, router.key, plaintext=True) as client:
        while client.metering.GetBalance(GetBalanceRequest()).held_nano_usd:
            assert time.monotonic() < deadline_s, "the leases of an idle account are not given back"
            time.sleep(0.1)
    (database,) = router.home.glob("*.db")
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        assert connection.execute(NOT_CONSERVED).fetchall() == []
    finally:
        connection.close()
    assert router.complaints() == []


async def hold_out(router: Any, count: int, *, patience: int) -> None:
    await bounce(router, 0, 300)  # the memory of a router that has worked
    before_bytes = memory_bytes(router.process.pid)
    took_s = sorted(await bounce(router, 300, 300 + count))
    grown_bytes = memory_bytes(router.process.pid) - before_bytes
    nothing_stays(router)
    p99_s = took_s[int(len(took_s) * 0.99)]
    print(f"p99 {p99_s * 1e3:.1f} ms, longest {took_s[-1] * 1e3:.0f} ms, memory {grown_bytes / 2**20:+.1f} MiB")  # noqa: T201
    assert p99_s <= P99_LIMIT_S * patience
    assert took_s[-1] <= LONGEST_LIMIT_S * patience
    assert grown_bytes <= MEMORY_LIMIT_BYTES


async def test_hostile_bodies_bounce(scripted_router: Any) -> None:
    """200 or an OpenAI error below 500, soon (other tests run beside it), and no trace of them afterwards."""
    await hold_out(scripted_router, 300, patience=10)


@pytest.mark.measured
@pytest.mark.timeout(900)
async def test_ten_thousand_hostile_bodies_bounce(scripted_router: Any) -> None:
    """The same of 10,000, at once."""
    await hold_out(scripted_router, 9_700, patience=1)
