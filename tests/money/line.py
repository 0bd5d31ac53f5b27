"""A core's line to its database, on which calls fail, answers get lost, and everything may hang."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from storage.errors import CommitUnknown, StoreUnavailable
from tests.money.loop import SteppedLoop

FAULTS = ("refused", "lost before", "lost", "hang", "hang after")
"""What may become of a call. "refused": nothing happened. "lost": it happened, the answer got lost. "lost before":
it did not, and nobody knows. "hang" and "hang after": it waits before or after its effect until `resume`."""


@dataclass
class Line:
    """Stands in for a store. The next calls meet the next `faults`; while `frozen` none gets out; `down`, all fail.

    `trouble_s` is when something last went wrong; `asking` is told of every call, by its name and what it is given.
    """

    store: Any
    loop: SteppedLoop
    asking: Callable[[str, tuple[Any, ...]], None]
    faults: deque[str] = field(default_factory=deque)
    trouble_s: float = float("-inf")
    frozen: asyncio.Event | None = None
    down: bool = False
    sent: dict[asyncio.Event, Callable[[], Awaitable[Any]]] = field(default_factory=dict)
    answered: list[asyncio.Event] = field(default_factory=list)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self.store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.asking(name, args)
            return await self._carry(lambda: method(*args, **kwargs))

        return call

    def resume(self) -> None:
        """Let go of what hangs."""
        for event in (*self.sent, *self.answered):
            event.set()

    def freeze(self) -> None:
        """Nothing gets out any more."""
        self.frozen = self.frozen or asyncio.Event()

    def thaw(self) -> None:
        if self.frozen is not None:
            self.trouble_s = self.loop.now_s
            self.frozen.set()
            self.frozen = None

    async def _carry(self, effect: Callable[[], Awaitable[Any]]) -> Any:
        await asyncio.sleep(0)
        while self.frozen is not None:
            await self.frozen.wait()
        fault = self.faults.popleft() if self.faults else ""
        if fault or self.down:
            self.trouble_s = self.loop.now_s
        if fault == "hang":
            await self._hang(effect)
        if fault == "refused" or (self.down and not fault):
            raise StoreUnavailable("no answer")
        if fault == "lost before":
            raise CommitUnknown("no answer")
        with self.loop.outside():
            result = await effect()
        if fault == "hang after":
            await self._hang(None)
        await asyncio.sleep(0)
        while self.frozen is not None:
            await self.frozen.wait()
        if fault == "lost":
            raise CommitUnknown("no answer")
        return result

    async def _hang(self, effect: Callable[[], Awaitable[Any]] | None) -> None:
        event = asyncio.Event()
        if effect is None:
            self.answered.append(event)
        else:
            self.sent[event] = effect
        await event.wait()
        self.trouble_s = self.loop.now_s
        self.sent.pop(event, None)
        if event in self.answered:
            self.answered.remove(event)
