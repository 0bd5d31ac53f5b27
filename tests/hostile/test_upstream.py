"""A hostile upstream behind a real router: the right error, a charge within the hold, nothing left, the next works."""

from __future__ import annotations

import asyncio
import io
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.e2e.conftest import Launcher, nearly_at_once
from tests.hostile.far_end import CONFIG, SECRET, FarEnd
from tests.hostile.plays import CUT_LATE, LATE, SCENES, Outcome, Scene
from tests.hostile.test_bodies import memory_bytes, nothing_stays

TIMEOUTS = """
[timeouts]
first_token_s = 1.0
between_chunks_s = 0.7
total_s = 2.0
"""
ENDS_WITHIN_S = 5.0
HELD_NANO_USD = 4_000 * 2_000 + 200 * 1_000
"""The longest answer, and more input than the requests have."""
MEMORY_LIMIT_BYTES = 50 << 20  # one answer may have 59 MB
FILLER = "y" * (3 << 20)

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def far() -> AsyncIterator[FarEnd]:
    async with FarEnd().serving() as made:
        yield made


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory, far: FarEnd) -> Iterator[Any]:
    """A router in front of it. At the end nothing of all that happened may be left."""
    launcher = Launcher(tmp_path_factory.mktemp("upstream"))
    router = launcher.serve(CONFIG % far.port + TIMEOUTS, environment={"FAR_END_KEY": SECRET})
    router.key = router.account(usd=1000).key
    yield router
    nothing_stays(router)
    launcher.close()


def charges(router: Any) -> list[int]:
    """Every amount that was charged, in nanodollars."""
    (database,) = router.home.glob("*.db")
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return [row[0] for row in connection.execute("SELECT amount FROM ledger WHERE kind = 'usage' ORDER BY id")]


async def ask(router: Any, *, stream: bool, filler: str = "") -> tuple[Outcome, bytes]:
    """One request: the status, the code of the error that it met, and the body."""
    body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "a word"}], "filler": filler}
    if not stream:
        del body["stream"]
    headers = {"authorization": f"Bearer {router.key}"}
    async with (
        aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=20)) as session,
        session.post(f"{router.base_url}/chat/completions", data=io.BytesIO(json.dumps(body).encode())) as answer,
    ):
        content = await answer.read()
        if not (stream and answer.status == 200):
            found = json.loads(content)
            assert ("error" in found) == (answer.status != 200)
            return (answer.status, found["error"]["code"] if "error" in found else ""), content
    *events, last, empty = [each for each in content.split(b"\n\n") if not each.startswith(b":")]
    assert empty == b""
    assert not any(b"[DONE]" in each for each in events)
    if last == b"data: [DONE]":
        finishes = [choice["finish_reason"] for each in events for choice in json.loads(each[6:])["choices"]]
        assert finishes[-1] == "stop"
        return (200, ""), content
    return (200, json.loads(last.removeprefix(b"data: "))["error"]["code"]), content


CASES = [
    pytest.param(
        scene,
        stream,
        id=f"{scene.name}-{'stream' if stream else 'whole'}",
        marks=pytest.mark.slow,
    )
    for scene in SCENES
    for stream, outcome in ((False, scene.whole), (True, scene.stream))
    if outcome is not None
]


@pytest.mark.parametrize(("scene", "stream"), CASES)
async def test_hostile_upstream(routed: Any, far: FarEnd, scene: Scene, stream: bool) -> None:
    """The caller gets what is said of the scene, in time, and so does the next one, whose upstream behaves."""
    far.play = scene.play
    before = len(charges(routed))
    began_s = time.monotonic()
    outcome, content = await ask(routed, stream=stream, filler=FILLER if "unread" in scene.play.__name__ else "")
    assert time.monotonic() - began_s < ENDS_WITHIN_S
    assert outcome == (scene.stream if stream else scene.whole), content[-500:]
    assert SECRET.encode() not in content
    far.play = far.behave
    assert (await ask(routed, stream=stream))[0] == (200, "")
    while len(charged := charges(routed)[before:]) < 2:
        assert time.monotonic() - began_s < 2 * ENDS_WITHIN_S
        await asyncio.sleep(0.02)
    assert len(charged) == 2
    assert all(0 <= amount <= HELD_NANO_USD for amount in charged)
    assert outcome != (200, "") or charged[0] > 0
    assert outcome[0] == 200 or charged[0] == 0


@pytest.mark.slow
async def test_nothing_leaks(routed: Any, far: FarEnd) -> None:
    """Of all these, six at once, only idle connections stay; an answer that fails leaves its memory at once."""
    far.play = far.behave
    await ask(routed, stream=True)  # what is made once is there
    before, before_bytes = routed.descriptors(), memory_bytes(routed.process.pid)
    for scene in SCENES:
        far.play = scene.play
        kinds = [stream for stream, outcome in ((False, scene.whole), (True, scene.stream)) if outcome]
        if not {LATE, CUT_LATE} & {scene.whole, scene.stream}:
            await asyncio.gather(*(ask(routed, stream=stream) for stream in kinds * 3))
    far.play = far.behave
    await ask(routed, stream=True)
    routed.settle()
    await nearly_at_once(lambda: memory_bytes(routed.process.pid) - before_bytes < MEMORY_LIMIT_BYTES)
    assert len(far.writers) <= 6
    await nearly_at_once(lambda: routed.descriptors() <= before + 6)
