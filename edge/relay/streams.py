"""A stream to each core behind a channel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Set
from typing import Any

import grpc
import grpc.aio
from worldrouter.v1 import relay_pb2, relay_pb2_grpc

from edge.relay.stream import RelayStream, RpcOfStream

_LOGGER = logging.getLogger(__name__)

HELLO_TIMEOUT_S = 5.0
FIRST_LOOK_S = 0.05
LAST_LOOK_S = 5.0
"""Between two looks for cores: they become rarer as long as nothing changes."""
LOOK_UP_S = 30.0
"""Between two looks at which addresses the cores' name has: gRPC itself looks when a connection breaks, and only then
(https://github.com/grpc/grpc/blob/master/doc/naming.md)."""
CONNECT_S = 1.0
"""What a connection to a new address is given."""


class RelayStreams:
    """Streams over a channel that spreads RPCs over the cores: each that is opened may reach another core.

    It looks for cores again and again, as a channel does not tell which there are; a second stream to the same core
    is closed. A core that does not know the service (UNIMPLEMENTED) has no stream. `another` opens a channel to the
    same name, which looks it up anew: every `look_up_s` one is asked for, and kept as long as it has streams.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        loop: asyncio.AbstractEventLoop,
        another: Callable[[], grpc.aio.Channel] | None = None,
        look_up_s: float = LOOK_UP_S,
    ) -> None:
        self._stub = relay_pb2_grpc.RelayServiceStub(channel)
        self._loop = loop
        self._another = another
        self._look_up_s = look_up_s
        self._streams: list[RelayStream] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._channels: set[asyncio.Task[None]] = set()
        """One for each that was opened to look names up: it closes it."""
        self._changed = asyncio.Event()
        self._told_old = False
        self._looking = loop.create_task(self._look_forever())

    @property
    def core_ids(self) -> list[str]:
        """The cores that take calls."""
        return [stream.core_id for stream in self._streams if not stream.draining]

    def pick(self) -> RelayStream | None:
        """The stream with the fewest calls, in turn if several have as few; None without any."""
        streams = self._streams
        if len(streams) > 1:
            streams.append(streams.pop(0))
        found = None
        for stream in streams:
            if not (stream.draining or stream.full or (found and found.call_count <= stream.call_count)):
                found = stream
        return found

    async def close(self) -> None:
        """Close all streams. Calls under way are lost."""
        tasks = {self._looking, *self._tasks}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*self._channels, return_exceptions=True)

    async def _look_forever(self) -> None:
        delay_s = FIRST_LOOK_S
        looked_up_s = self._loop.time()
        while True:
            found = await self._look_around(self._stub)
            if self._another is not None and self._loop.time() - looked_up_s >= self._look_up_s:
                if await self._look_up(self._another()):
                    found = True  # and there may be more
                else:
                    looked_up_s = self._loop.time()
            if self._closing():  # grpc.aio may have swallowed the cancellation, in the task that prepares a call
                return
            delay_s = FIRST_LOOK_S if found else min(2 * delay_s, LAST_LOOK_S)
            try:
                async with asyncio.timeout(delay_s):
                    await self._changed.wait()
                self._changed.clear()
                delay_s = FIRST_LOOK_S
                await asyncio.sleep(delay_s)
            except TimeoutError:
                pass

    async def _look_up(self, channel: grpc.aio.Channel) -> bool:
        """Look over a channel that is new, and so knows the addresses of now; whether a core was found."""
        before = set(self._tasks)
        try:
            channel.get_state(try_to_connect=True)  # to addresses that are known it takes the connections there are
            await asyncio.sleep(CONNECT_S)
            return await self._look_around(relay_pb2_grpc.RelayServiceStub(channel))
        finally:
            self._begin(_close_after(self._tasks - before, channel), self._channels)

    async def _look_around(self, stub: relay_pb2_grpc.RelayServiceAsyncStub) -> bool:
        """Look until a core is found, at most once more than there are streams; whether one was.

        In a row, for the channel takes its cores in turn: beside other RPCs at a steady pace, single looks could come
        to the same core each time.
        """
        for _ in range(len(self._streams) + 1):
            if await self._look(stub):
                return True
            if self._closing():
                break
        return False

    async def _look(self, stub: relay_pb2_grpc.RelayServiceAsyncStub) -> bool:
        """Open a stream, and keep it if it leads to a core without one; whether it does."""
        rpc: RpcOfStream = stub.Relay()
        timer = self._loop.call_later(HELLO_TIMEOUT_S, rpc.cancel)
        try:
            response = await rpc.read()
            if not (isinstance(response, relay_pb2.RelayResponse) and response.HasField("hello")):
                rpc.cancel()
                return False
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED and not self._told_old:
                self._told_old = True
                _LOGGER.info("a core does not know RelayService: its calls go by an RPC each")
            return False
        except asyncio.CancelledError:
            rpc.cancel()
            if self._closing():
                raise
            return False  # it was the timer
        finally:
            timer.cancel()
        stream = RelayStream(self._loop, rpc, response.hello)
        new = not response.draining and stream.core_id not in self.core_ids
        if new:
            self._streams.append(stream)
            _LOGGER.info("calls go to %s over one stream", stream.core_id)
        else:
            stream.close()
        self._begin(self._run(stream), self._tasks)
        return new

    def _begin(self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        task = self._loop.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _run(self, stream: RelayStream) -> None:
        try:
            await stream.run()
        finally:
            if stream in self._streams:
                self._streams.remove(stream)
                self._changed.set()

    def _closing(self) -> bool:
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0


async def _close_after(tasks: Set[asyncio.Task[None]], channel: grpc.aio.Channel) -> None:
    try:
        if tasks:
            await asyncio.wait(tasks)
    finally:
        await channel.close()
