"""kill -9 of the core under load: every balance is the sum of its ledger, every complete answer is charged once."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest

CLIENTS = 16
KILLS = 8
ACCOUNTS = 3
CHUNK_NANO_USD = 20_000_000
CONFIG = f"""
[money]
chunk_nano_usd = {CHUNK_NANO_USD}  # small, so that leases change all the time
"""


@dataclass
class Seen:
    """What the clients saw: request ids of complete answers, and streams that ended with neither [DONE] nor error."""

    complete: set[str] = field(default_factory=set)
    errors: Counter[str] = field(default_factory=Counter)
    silent_ends: list[str] = field(default_factory=list)


async def ask_until_it_ends(router: Any, key: str, seen: Seen) -> None:
    """Ask again and again, streamed and not, until there is no router any more."""
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                await ask(session, router, key, seen)
            except (aiohttp.ClientError, ConnectionError):
                return


async def ask(session: aiohttp.ClientSession, router: Any, key: str, seen: Seen) -> None:
    stream = random.random() < 0.7
    script = {"token_count": random.randint(1, 40), "chunk_delay_ms": random.choice([0, 1, 5, 20])}
    body = {
        "model": "scripted",
        "messages": [{"role": "user", "content": "one two three"}],
        "stream": stream,
        "max_tokens": 4000,
        "script": script,
    }
    headers = {"authorization": f"Bearer {key}", "x-request-id": uuid4().hex}
    async with session.post(f"{router.base_url}/chat/completions", json=body, headers=headers) as answer:
        text = await answer.read()
    request_id = answer.headers["x-request-id"]
    if stream and answer.status == 200:
        last = text.rstrip().rpartition(b"data: ")[2]
        if last == b"[DONE]":
            seen.complete.add(request_id)
        elif b'"error"' in last:
            seen.errors[json.loads(last)["error"]["code"]] += 1
        else:
            seen.silent_ends.append(request_id)
    elif answer.status == 200:
        seen.complete.add(request_id)
    else:
        seen.errors[json.loads(text)["error"]["code"]] += 1


async def load_and_kill(router: Any, keys: list[str], seen: Seen) -> None:
    """Load the router and kill its core in the middle of it."""
    clients = [asyncio.create_task(ask_until_it_ends(router, keys[at % ACCOUNTS], seen)) for at in range(CLIENTS)]
    await asyncio.sleep(random.uniform(0.3, 0.9))
    router.process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(router.process.wait, 10)
    if len(router.processes) > 1:  # an edge lives on, and tells its clients
        await asyncio.sleep(0.5)
        for client in clients:
            client.cancel()
    await asyncio.wait_for(asyncio.gather(*clients, return_exceptions=True), 20)


def audit(database: Path, seen: Seen) -> None:
    """The books, read from the file itself."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as books:
        rows = books.execute(
            "SELECT id, available, credit_limit,"
            " (SELECT coalesce(sum(amount), 0) FROM ledger WHERE credit_account = accounts.id),"
            " (SELECT coalesce(sum(amount), 0) FROM ledger WHERE debit_account = accounts.id)"
            " FROM accounts WHERE kind = 'user'"
        ).fetchall()
        assert len(rows) == 1 + ACCOUNTS
        for account, available, credit_limit, credits, debits in rows:
            assert available == credits - debits, account
            assert available + credit_limit >= 0, account
        assert books.execute("SELECT count(*) FROM leases WHERE state = 'active'").fetchone() == (0,)
        charges = books.execute(
            "SELECT ref, client_request_id, status, amount FROM ledger WHERE kind = 'usage'"
        ).fetchall()
    charged = {ref for ref, _, status, amount in charges if status == "complete" and amount > 0}
    assert seen.complete <= charged
    assert max(Counter(ref for ref, *_ in charges).values()) == 1
    assert max(Counter(asked for _, asked, _, amount in charges if amount).values()) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_kill_9_of_everything_in_mid_stream(launcher: Any, scripted_config: str) -> None:
    """After each kill the next start finds the books in order; no complete answer lacks its charge."""
    home, seen, keys = launcher.home(), Seen(), []
    for _ in range(KILLS):
        router = await asyncio.to_thread(launcher.serve, scripted_config + CONFIG, home=home)
        keys = keys or [router.account(usd=100).key for _ in range(ACCOUNTS)]
        await load_and_kill(router, keys, seen)
    router = await asyncio.to_thread(launcher.serve, scripted_config + CONFIG, home=home)
    assert await asyncio.to_thread(router.stop) == [0]
    assert len(seen.complete) > 10 * KILLS
    audit(home / "worldrouter.db", seen)


@pytest.mark.slow
async def test_kill_9_of_the_core_behind_an_edge(launcher: Any, scripted_config: str) -> None:
    """An edge tells every stream of a core that died by an error event, serves 503, and goes on with the next core."""
    seen = Seen()
    config = scripted_config + CONFIG
    router = await asyncio.to_thread(launcher.apart, config)
    keys = [router.account(usd=100).key for _ in range(ACCOUNTS)]
    for _ in range(5):
        await load_and_kill(router, keys, seen)
        port = router.grpc.rpartition(":")[2]
        options = ["--grpc-port", port, "--config", str(router.home.parent / "worldrouter.toml")]
        router.processes[0] = launcher.run("core", *options, home=router.home)
        await is_ready(router.http)
    async with aiohttp.ClientSession() as session:
        for key in keys:
            await ask(session, router, key, seen)
    assert await asyncio.to_thread(router.stop, signal.SIGTERM) == [0, 0]
    assert seen.silent_ends == []
    assert set(seen.errors) == {"service_unavailable"}
    audit(router.home / "worldrouter.db", seen)


async def is_ready(http: str) -> None:
    """Wait until the edge says so."""
    deadline_s = time.monotonic() + 20
    async with aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{http}/readyz") as answer:
                if answer.status == 200:
                    return
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.05)
