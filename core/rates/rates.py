"""Limits per minute in the hands of one core.

A core takes units of a limit from the store ahead of need, a small part of it that lasts a second or two, so that a
request most often takes what it needs without a wait. Limits that are too small for that, and what is larger than such
a part, are asked of the store by the request itself: that is at most SHARE_PARTS times a minute, or a refusal, which is
remembered.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence

import msgspec

from core.errors import RateLimited, RequestTooLarge, ServiceUnavailable, WorldRouterError
from core.money.limit_texts import none_text, owner_text
from core.rates.headers import duration, rate_headers
from core.rates.share import Share, Waiter
from storage.errors import StoreError
from storage.interfaces import RateStore
from storage.limit_records import RATE_SLICE_US, RATE_SLICES, Limit, RateShare

_log = logging.getLogger(__name__)

MAX_ASKS = 256
"""Limits of one transaction."""
FORGET_EVERY_S = 60.0
_LEAST_RETRY_S = 0.05


class Counted(msgspec.Struct, frozen=True, eq=False):
    """Units that a request has of one limit, and the slice that they were taken in."""

    share: Share
    units: int
    slice: int


class Passed(msgspec.Struct, frozen=True, eq=False):
    """A request that its limits let through, and what it was counted as."""

    rates: Rates
    counted: tuple[Counted, ...]

    def headers(self) -> tuple[tuple[str, str], ...]:
        """What is left, as `x-ratelimit-…`."""
        return self.rates.headers([each.share for each in self.counted])

    def ended(self, token_count: int) -> None:
        """The request used so many tokens, rather than what was expected; to be said once."""
        for counted in self.counted:
            if counted.share.limit.measure == "tokens":
                self.rates.correct(counted, token_count)


class Rates:
    """What this core has of all limits per minute. Keep `run()` as a task, and call `tick` about once a second.

    `clock` is monotonic, in seconds; a request waits `timeout_s` for the store at most.
    """

    def __init__(
        self, store: RateStore, *, clock: Callable[[], float], timeout_s: float, slice_us: int = RATE_SLICE_US
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._clock = clock
        self._timeout_s = timeout_s
        self._slice_us = slice_us
        self._minute_s = slice_us / 1e6 * RATE_SLICES
        self._shares: dict[str, Share] = {}
        self._due: dict[str, Share] = {}
        self._wake = asyncio.Event()
        self._asking = asyncio.Lock()
        self._forgot_s = clock()

    async def admit(self, limits: Sequence[Limit], *, token_count: int, least_token_count: int) -> Passed | None:
        """Count a request and the tokens that it is expected to take in all limits per minute; None without any.

        RateLimited when one has no room now, without a time to try again if it never has any; RequestTooLarge when
        `least_token_count` is more than one ever has: then it counts in none of them. ServiceUnavailable when the
        store does not answer.
        """
        now_s = self._clock()
        wanted: list[tuple[Share, int]] = []
        at_hand = True
        for limit in limits:
            if limit.measure == "requests":
                need = 1
            elif limit.measure == "tokens":
                need = token_count
                if need > limit.amount > 0:
                    need = _fitting(limit, token_count, least_token_count)
            else:
                continue
            if limit.amount == 0:
                raise RateLimited(none_text(limit))
            share = self._share(limit, now_s)
            at_hand = at_hand and share.free >= need
            wanted.append((share, need))
        if not wanted:
            return None
        if at_hand:
            return Passed(self, tuple([Counted(share, need, self._take(share, need, now_s)) for share, need in wanted]))
        self._refuse_if_known(wanted, now_s)
        return Passed(self, await self._wait(wanted, now_s))

    def headers(self, shares: Sequence[Share]) -> tuple[tuple[str, str], ...]:
        """`x-ratelimit-…` of the tightest of these limits, for requests and for tokens."""
        now_s = self._clock()
        found: tuple[tuple[str, str], ...] = ()
        for unit in ("requests", "tokens"):
            rooms = [share.left(now_s) for share in shares if share.limit.measure == unit]
            if rooms:
                found += rate_headers(unit, rooms)
        return found

    def correct(self, counted: Counted, units: int) -> None:
        """Exchange what was counted for what was used."""
        limit = counted.share.limit
        share = self._shares.setdefault(limit.id, counted.share)
        if units < counted.units:
            share.put_back(counted.slice, counted.units - units)
        elif units > counted.units:
            share.owe(units - counted.units)
            if share.wants_more(self._clock()):
                self._ask_for(share)

    def tick(self) -> None:
        """Have what is unused brought back, and what is beyond told; called about once a second."""
        now_s = self._clock()
        for share in tuple(self._shares.values()):
            if share.rest(now_s) and not share.asking:
                self._ask_for(share)
            elif share.is_forgettable(now_s):
                del self._shares[share.limit.id]
        self._wake.set()  # for what happens now and then

    async def run(self) -> None:
        """Ask the store for what is due, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._ask_all()
            await self._forget()

    async def close(self) -> None:
        """Bring everything back, when nothing runs any more and nobody waits."""
        async with self._asking:  # after whatever is under way
            self._due = {limit_id: share for limit_id, share in self._shares.items() if share.rest(math.inf)}
        await self._ask_all()

    async def _ask_all(self) -> None:
        async with self._asking:
            while self._due:
                await self._exchange([self._due.pop(limit_id) for limit_id in tuple(self._due)[:MAX_ASKS]])

    def _share(self, limit: Limit, now_s: float) -> Share:
        share = self._shares.get(limit.id)
        if share is None:
            share = self._shares[limit.id] = Share(limit, now_s, self._minute_s)
        elif share.limit is not limit:
            share.limit = limit
        return share

    def _take(self, share: Share, need: int, now_s: float) -> int:
        """Take what is at hand, and see to it that there is more."""
        slice_ = share.take(need, now_s)
        if share.wants_more(now_s):
            self._ask_for(share)
        return slice_

    def _ask_for(self, share: Share) -> None:
        self._due[share.limit.id] = share
        self._wake.set()

    def _refuse_if_known(self, wanted: Sequence[tuple[Share, int]], now_s: float) -> None:
        """RateLimited, with the longest of the waits, when it is known of a limit that it has no room."""
        waits = [(wait_s, share) for share, need in wanted if (wait_s := share.wait_s(need, now_s)) is not None]
        if waits:
            raise self._refusal(waits, wanted)

    async def _wait(self, wanted: Sequence[tuple[Share, int]], now_s: float) -> tuple[Counted, ...]:
        """Take what is at hand and have the store asked for the rest; all of it or nothing."""
        counted: list[Counted] = []
        waiting: list[tuple[Share, Waiter]] = []
        for share, need in wanted:
            if share.free >= need:
                counted.append(Counted(share, need, self._take(share, need, now_s)))
                continue
            waiter = Waiter(need, self._loop.create_future())
            share.waiters.append(waiter)
            waiting.append((share, waiter))
            self._ask_for(share)
        try:
            async with asyncio.timeout(self._timeout_s):
                for _, waiter in waiting:
                    await waiter.granted
        except TimeoutError:
            _undo(counted, waiting)
            raise _unavailable() from None
        except BaseException:
            _undo(counted, waiting)
            raise
        granted = [(share, waiter.need, waiter.granted.result()) for share, waiter in waiting]
        if any(slice_ is None for *_, slice_ in granted):
            _undo(counted, waiting)
            now_s = self._clock()
            refused = [(share.room_in_s(need, now_s), share) for share, need, slice_ in granted if slice_ is None]
            raise self._refusal(refused, wanted)
        return (*counted, *(Counted(share, need, slice_) for share, need, slice_ in granted if slice_ is not None))

    def _refusal(self, refused: Sequence[tuple[float, Share]], wanted: Sequence[tuple[Share, int]]) -> RateLimited:
        """What to tell a request that limits have no room for until then: the one that takes longest."""
        wait_s, share = max(refused, key=lambda found: found[0])
        wait_s = max(wait_s, _LEAST_RETRY_S)
        limit = share.limit
        refusal = RateLimited(
            f"Rate limit reached: {owner_text(limit)} has a limit of {limit.amount} {limit.measure} per minute. "
            f"Try again in {duration(wait_s)}.",
            retry_after_s=wait_s,
        )
        refusal.left = self.headers([share for share, _ in wanted])
        return refusal

    async def _exchange(self, shares: Sequence[Share]) -> None:
        """Ask the store for some limits, and tell all who wait for them."""
        began_s = self._clock()
        asks = [share.ask(began_s) for share in shares]
        failure: WorldRouterError | None = None
        got: list[RateShare] = []
        try:
            got = await self._store.exchange_rates(asks, slice_us=self._slice_us)
        except StoreError as error:
            failure = _unavailable()
            _log.error("Limits per minute could not be asked for: %s", error)
        except Exception as error:  # whatever it was: without answers nobody is admitted for good
            failure = _unavailable()
            _log.exception("Limits per minute could not be asked for", exc_info=error)
        now_s = self._clock()
        for index, (share, ask) in enumerate(zip(shares, asks, strict=True)):
            if failure is not None:
                share.failed(ask, failure, now_s)
            else:
                share.told(ask, got[index], now_s)
            if share.waiters:
                self._ask_for(share)

    async def _forget(self) -> None:
        """Now and then, remove what no core needs any more."""
        if self._clock() - self._forgot_s < FORGET_EVERY_S:
            return
        self._forgot_s = self._clock()
        try:
            await self._store.forget_rates()
        except Exception as error:  # whatever it was: this task must not end
            _log.error("Old windows of limits could not be removed: %r", error)


def _undo(counted: Sequence[Counted], waiting: Sequence[tuple[Share, Waiter]]) -> None:
    """Put back what a request has, and wait no more."""
    for each in counted:
        each.share.put_back(each.slice, each.units)
    for share, waiter in waiting:
        granted = waiter.granted
        if granted.cancel() or granted.cancelled() or granted.exception() is not None:
            continue
        slice_ = granted.result()
        if slice_ is not None:
            share.put_back(slice_, waiter.need)


def _fitting(limit: Limit, token_count: int, least_token_count: int) -> int:
    """What to count of a request that is expected to take more than the limit allows; RequestTooLarge if it must."""
    if least_token_count <= limit.amount:
        return min(token_count, limit.amount)
    raise RequestTooLarge(
        f"This request may take {least_token_count} tokens, and {owner_text(limit)} has a limit of {limit.amount} "
        "tokens per minute: it never fits. Send less, or set a lower output limit."
    )


def _unavailable() -> ServiceUnavailable:
    return ServiceUnavailable("The database does not answer.", retry_after_s=1)
