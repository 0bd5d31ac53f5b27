"""What the log says of a core that cannot be reached."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from edge.channel import open_channel
from edge.reach import Reach
from edge.settings import EdgeSettings


@pytest.mark.slow
async def test_a_core_out_of_reach_is_told_once(core: Any, caplog: pytest.LogCaptureFixture) -> None:
    """With gRPC's reason, after a grace; once more when it is reached; and so again when it stops serving."""
    caplog.set_level("INFO", "edge.reach")
    await core.server.stop(0)
    channel, stopping = open_channel(EdgeSettings(core=core.target, relay=False)), asyncio.Event()
    telling = asyncio.create_task(Reach(channel).tell(core.target, stopping, grace_s=0.15, look_s=0.01))

    async def told(count: int) -> None:
        async with asyncio.timeout(5):
            while len(caplog.records) < count:  # noqa: ASYNC110 - a log has no event
                await asyncio.sleep(0.01)

    await asyncio.sleep(0.1)
    assert not caplog.records
    await told(1)
    await asyncio.sleep(0.1)
    core.server = grpc.aio.server()
    core.server.add_insecure_port(core.target)
    await core.start(core.server)
    await told(2)
    await core.set_health(serving=False)
    await told(3)
    stopping.set()
    await telling
    await channel.close()
    first, second, third = [record.getMessage() for record in caplog.records]
    assert first.startswith(f"cannot reach a core at {core.target}: connections to all backends failing; ")
    assert second == f"the core at {core.target} is reached"
    assert third.startswith(f"cannot reach a core at {core.target}: ")
