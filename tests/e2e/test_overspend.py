"""A thousand requests at once on a balance, or a budget, that pays for fifty: never more is held and spent than there
is.

The upstream is the witness: whatever it works on is held, whatever it has answered is spent.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

MILLI_USD = 1_000_000
BALANCE = 5_000 * MILLI_USD
"""What the default account starts with."""
TOKEN_NANO_USD = MILLI_USD
LIMIT_TOKENS, USED_TOKENS = 100, 20
HOLD = LIMIT_TOKENS * TOKEN_NANO_USD
COST = USED_TOKENS * TOKEN_NANO_USD
REQUESTS = 1_000
TRIES = 3
BOUNDS = ("balance", "budget")
POLL_S = 2.5
"""After which every core has heard of a limit."""
CONFIG = f"""
[timeouts]
admission_s = 60.0  # a thousand at once, on any machine

[providers.witness]
kind = "openai"
base_url = "%s"

[[models]]
id = "m"
max_output_tokens = 4000
price = {{ input = 0, output = {TOKEN_NANO_USD * 1_000} }}
endpoints = [{{ provider = "witness", model = "m" }}]
"""


class Witness:
    """An upstream that takes its time, and knows at every moment what is held and spent at least."""

    def __init__(self) -> None:
        self.working = self.answered = self.most = self.most_working = 0
        self.url = ""

    async def answer(self, _request: web.Request) -> web.Response:
        self.working += 1
        self.most = max(self.most, self.working * HOLD + self.answered * COST)
        self.most_working = max(self.most_working, self.working)
        await asyncio.sleep(random.uniform(0.05, 0.5))
        self.working -= 1
        self.answered += 1
        choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": USED_TOKENS, "total_tokens": 1 + USED_TOKENS}
        body = {"id": "a", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
        return web.json_response(body)


@pytest.fixture
async def witness() -> AsyncIterator[Witness]:
    made = Witness()
    app = web.Application()
    app.router.add_post("/v1/chat/completions", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=REQUESTS)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    yield made
    await runner.cleanup()


async def everybody_at_once(router: Any, key: str) -> Counter[str]:
    """What a thousand clients are told, each of which asks again when it cannot pay."""
    told: Counter[str] = Counter()
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"authorization": f"Bearer {key}"}
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": LIMIT_TOKENS}

    async def client(session: aiohttp.ClientSession) -> None:
        for _ in range(TRIES):
            async with session.post(f"{router.base_url}/chat/completions", json=body) as answer:
                found = json.loads(await answer.text())
            told["ok" if answer.status == 200 else found["error"]["code"]] += 1
            if answer.status == 200:
                return
            await asyncio.sleep(random.uniform(0, 1))

    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        await asyncio.gather(*(client(session) for _ in range(REQUESTS)))
    return told


async def check(router: Any, witness: Witness, bound: str) -> None:
    """Everybody asks, and what they are told, what the witness saw and what the account has fit together."""
    if bound == "balance":
        key = (await asyncio.to_thread(router.command, "keys", "create", "a thousand"))["secret"]
        refused = "insufficient_balance"
    else:
        rich = await asyncio.to_thread(router.account, 1_000)
        limit = ("limits", "set", rich.key_id, "--usd", str(BALANCE // 1_000 // MILLI_USD), "--per", "month")
        await asyncio.to_thread(router.command, *limit)
        await asyncio.sleep(POLL_S)
        key, refused = rich.key, "budget_exceeded"
    told = await everybody_at_once(router, key)
    await asyncio.to_thread(router.settle)
    assert set(told) == {"ok", refused}
    assert told["ok"] == witness.answered
    assert HOLD < witness.most <= BALANCE
    assert witness.most_working > BALANCE // HOLD // 2  # there was a crowd
    if bound == "balance":
        balance = await asyncio.to_thread(router.command, "balance")
        left = int(balance["balance_nano_usd"])
    else:
        [budget] = await asyncio.to_thread(router.command, "limits", "list", rich.key_id)
        left = BALANCE - int(budget["used"])
    assert left == BALANCE - told["ok"] * COST >= 0
    await asyncio.to_thread(router.command, "audit")  # it fails if something does not add up


@pytest.mark.parametrize("bound", BOUNDS)
async def test_a_thousand_at_once_on_sqlite(launcher: Any, witness: Witness, bound: str) -> None:
    """One core."""
    await check(await asyncio.to_thread(launcher.serve, CONFIG % witness.url), witness, bound)


@pytest.mark.parametrize("bound", BOUNDS)
async def test_a_thousand_at_once_over_four_cores(
    launcher: Any, witness: Witness, postgres_url: Any, bound: str
) -> None:
    """On PostgreSQL, behind one port."""
    environment = {"WORLDROUTER_DATABASE_URL": postgres_url()}
    home = launcher.home()
    migrated = launcher.run("migrate", home=home, environment=environment)
    assert await asyncio.to_thread(migrated.wait, 30) == 0
    config, options = CONFIG % witness.url, ("--workers", "4")
    router = await asyncio.to_thread(lambda: launcher.serve(config, *options, home=home, environment=environment))
    await check(router, witness, bound)
