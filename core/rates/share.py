"""One core's part of one limit per minute: plain arithmetic, without a clock or a store."""

from __future__ import annotations

import asyncio

import msgspec

from storage.limit_records import RATE_SLICES, Limit, RateAsk, RateShare

SHARE_PARTS = 40
"""A core sets at most one of so many parts of a limit aside: four cores together strand a tenth of it."""
SHARE_S = 2.0
"""How long what a core sets aside lasts it at the pace of late; this and what follows for a minute of 60 seconds."""
IDLE_S = 2.0
"""When nothing was asked of a share for so long, what it has left goes back."""
ASK_AGAIN_S = 0.5
"""A core that was told that there is no room asks again after so long: others may have brought something back."""
_LEAST_S = 0.25
"""Less than this says nothing of a pace, and is not waited for."""


class Waiter(msgspec.Struct, eq=False):
    """A request that needs more than its core has at hand: it is told the slice of its units, None if it gets none."""

    need: int
    granted: asyncio.Future[int | None]


class Room(msgspec.Struct, frozen=True, gc=False):
    """What is left of a limit for everybody: `remaining` of `amount` units, all of them again after `reset_s`."""

    amount: int
    remaining: int
    reset_s: float


class Share:
    """What a core has of a limit: `free` units that are taken in the store and used by nobody.

    All times are seconds of one monotonic clock, `minute_s` is how long a minute lasts. `_room` is what the store had
    left when it was last asked, `_frees` when how much comes free of what is in use, `_lots` the slices that what is
    free was taken in, with how much: what came first is used first.
    """

    __slots__ = (
        "_ask_again_s",
        "_asked_s",
        "_frees",
        "_lots",
        "_owed",
        "_returned",
        "_room",
        "_second_s",
        "_slice",
        "_slice_s",
        "_target",
        "_used",
        "_used_s",
        "asking",
        "free",
        "limit",
        "waiters",
    )

    def __init__(self, limit: Limit, now_s: float, minute_s: float) -> None:
        self.limit = limit
        self._slice_s = minute_s / RATE_SLICES
        self._second_s = minute_s / 60
        self.free = 0
        self.waiters: list[Waiter] = []
        self.asking = False
        self._slice = 0
        self._room = limit.amount
        self._frees: list[tuple[float, int]] = []  # the last to come first
        self._lots: list[tuple[int, int]] = []  # the last to come last
        self._target = 0
        self._used = 0
        self._used_s = self._asked_s = now_s
        self._ask_again_s = float("-inf")
        self._returned: dict[int, int] = {}
        self._owed = 0

    # Requests

    def take(self, need: int, now_s: float) -> int:
        """Use so many of the `free` units; the slice that they were taken in."""
        self._used_s = now_s
        self.free -= need
        self._used += need
        return self._slice

    def wait_s(self, need: int, now_s: float) -> float | None:
        """How long until there is room for so many units; None when it is not known: the store is to be asked."""
        if now_s >= self._ask_again_s or need <= self.free + self._left(now_s):
            return None
        return self.room_in_s(need, now_s)

    def room_in_s(self, need: int, now_s: float) -> float:
        """How long until there is room for so many units, if nobody takes any until then."""
        missing = need - self.free - self._left(now_s)
        for free_s, units in reversed(self._frees):
            missing -= units
            if missing <= 0:
                return free_s - now_s
        return self._slice_s * RATE_SLICES if self._owed else 0.0  # it counts from when the store is told

    def wants_more(self, now_s: float) -> bool:
        """Whether it is time to ask for more, ahead of need."""
        return self.free * 2 < self._target and not self.asking and now_s >= self._ask_again_s

    def put_back(self, slice_: int, units: int) -> None:
        """Units of that slice were not used after all."""
        if slice_ == self._slice and self.free + units <= self._target:
            self.free += units
        else:
            self._returned[slice_] = self._returned.get(slice_, 0) + units

    def owe(self, units: int) -> None:
        """So many units were used beyond what was taken: out of those at hand, as far as they go."""
        paid = min(units, self.free)
        self.free -= paid
        self._used += paid
        self._owed += units - paid

    def left(self, now_s: float) -> Room:
        """What is left for everybody, as far as this core knows."""
        amount = self.limit.amount
        remaining = min(max(self.free + self._left(now_s), 0), amount)
        reset_s = self._frees[0][0] - now_s if remaining < amount and self._frees else 0.0
        return Room(amount, remaining, reset_s)

    def _left(self, now_s: float) -> int:
        """What nobody has set aside."""
        frees = self._frees
        while frees and frees[-1][0] <= now_s:
            self._room += frees.pop()[1]
        return self._room + sum(self._returned.values()) - self._owed

    # The store

    def rest(self, now_s: float) -> bool:
        """Bring back what an idle share has left; whether there is anything to tell the store."""
        if now_s - self._used_s >= IDLE_S * self._second_s:
            self._target = self._used = 0
            self._bring_back()
        return bool(self._returned or self._owed)

    def _bring_back(self) -> None:
        for slice_, units in self._free_lots():
            self._returned[slice_] = self._returned.get(slice_, 0) + units
        self.free = 0

    def _free_lots(self) -> list[tuple[int, int]]:
        """The lots of what is free still."""
        found: list[tuple[int, int]] = []
        left = self.free
        for slice_, units in reversed(self._lots):
            found.append((slice_, min(units, left)))
            left -= found[-1][1]
        return [lot for lot in reversed(found) if lot[1]]

    def is_forgettable(self, now_s: float) -> bool:
        """Whether nothing is lost without it."""
        if self.free or self.waiters or self.asking or self._returned or self._owed:
            return False
        return now_s - self._used_s > IDLE_S * self._second_s and (not self._frees or self._frees[0][0] <= now_s)

    def ask(self, now_s: float) -> RateAsk:
        """What to ask of the store now: for all who wait, and for a share that fits the pace of late.

        `told` or `failed` follows; until then it is `asking`.
        """
        self.waiters = [waiter for waiter in self.waiters if not waiter.granted.done()]
        needs = tuple(waiter.need for waiter in self.waiters)
        if needs:
            self._used_s = now_s
            self._bring_back()  # what none of them could use alone they may together with what others left
        pace = (self._used + sum(needs)) / max((now_s - self._asked_s) / self._second_s, _LEAST_S)
        self._target = min(self.limit.amount // SHARE_PARTS, int(pace * SHARE_S))
        self._used, self._asked_s, self.asking = 0, now_s, True
        returned, self._returned = self._returned, {}
        owed, self._owed = self._owed, 0
        return RateAsk(self.limit.id, self.limit.amount, needs, max(self._target - self.free, 0), returned, owed)

    def told(self, ask: RateAsk, got: RateShare, now_s: float) -> None:
        """The store's answer, which came now; whoever waited for it is served in order, or told that there is none."""
        self.asking = False
        began_s = now_s - got.into_us / 1e6
        self._frees = [
            (began_s + (slice_ + RATE_SLICES + 1 - got.slice) * self._slice_s, units)
            for slice_, units in sorted(got.used.items(), reverse=True)
        ]
        self._room = ask.amount - sum(got.used.values())
        self._slice = got.slice
        self._lots = [*self._free_lots(), (got.slice, got.taken)]
        self.free += got.taken
        self._ask_again_s = now_s
        if got.taken < sum(ask.needs) + ask.share:
            next_s = self._frees[-1][0] if self._frees else now_s
            wait_s = max(next_s - now_s, _LEAST_S * self._second_s)
            self._ask_again_s += min(wait_s, ASK_AGAIN_S * self._second_s)
        for waiter in self._served(ask):
            if waiter.need <= self.free:
                self.free -= waiter.need
                waiter.granted.set_result(self._slice)
            else:
                waiter.granted.set_result(None)

    def failed(self, ask: RateAsk, error: Exception, now_s: float) -> None:
        """The store did not answer. What was to be brought back is free again after a minute by itself; what was used
        beyond what was taken is told again, at worst twice."""
        self.asking = False
        self._owed += ask.owed
        self._ask_again_s = now_s + ASK_AGAIN_S * self._second_s
        for waiter in self._served(ask):
            waiter.granted.set_exception(error)

    def _served(self, ask: RateAsk) -> list[Waiter]:
        """Those whom an answer is for, and who still wait for it."""
        count = len(ask.needs)
        asked, self.waiters = self.waiters[:count], self.waiters[count:]
        return [waiter for waiter in asked if not waiter.granted.done()]
