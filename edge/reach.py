"""The log tells when no core can be reached: else an edge with a wrong address is silent until the first request."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

_LOGGER = logging.getLogger(__name__)

CHECK_TIMEOUT_S = 2.0
PATIENCE_S = 0.25
"""After which another core is asked beside one that is silent."""
GRACE_S = 3.0
"""A core that starts beside the edge, or starts anew, is not worth a word."""
LOOK_S = 1.0


class Reach:
    """Whether a core that serves is reachable over a channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub: Any = health_pb2_grpc.HealthStub(channel)  # its type stubs leave the methods out

    async def obstacle(self) -> str:
        """Why there is none, in gRPC's words; empty if there is one. Takes up to CHECK_TIMEOUT_S.

        The first core that answers decides. A frozen one, whose turn it is as often as others', speaks for none.
        """
        calls: list[Any] = []
        asked: set[asyncio.Task[str]] = set()
        try:
            async with asyncio.timeout(CHECK_TIMEOUT_S):
                while True:
                    calls.append(self._stub.Check(health_pb2.HealthCheckRequest(), timeout=CHECK_TIMEOUT_S))
                    asked.add(asyncio.create_task(_said(calls[-1])))
                    done, _ = await asyncio.wait(asked, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED)
                    if done:
                        return min(task.result() for task in done)
        except TimeoutError:
            return "no core answers"
        finally:
            for call in calls:
                call.cancel()

    async def tell(
        self, target: str, stopping: asyncio.Event, *, grace_s: float = GRACE_S, look_s: float = LOOK_S
    ) -> None:
        """Log once that `target` has not been reached for `grace_s`, and once when it is again, until `stopping`."""
        reached_s, lost = time.monotonic(), False
        while True:
            why = await self.obstacle()
            if stopping.is_set():
                return
            if not why:
                reached_s = time.monotonic()
                if lost:
                    _LOGGER.info("the core at %s is reached", target)
                lost = False
            elif not lost and time.monotonic() - reached_s >= grace_s:
                lost = True
                _LOGGER.warning("cannot reach a core at %s: %s", target, why)
            await asyncio.sleep(look_s)


async def _said(call: Any) -> str:
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return error.details() or str(error.code().name)
    return "" if answer.status == health_pb2.HealthCheckResponse.SERVING else "it does not serve"
