"""What one request needs of all that bind it: its payer's money, and a part of every limit above it.

A limit on spend is a further budget that the request's money is held from, one on concurrency a supply of slots, of
which it holds one; both are leased from their purses as money is from accounts (`core.money.escrow`). A request gets
all of it or none. While all leases at hand have enough, that is arithmetic without an await.

Which purse is a limit's depends on its period, and that on the database's clock: the store says which it is, and for
how long, which is counted here by a clock that only passes.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from core.errors import ServiceUnavailable
from core.money.escrow import Escrow, Hold, OutOfFunds
from core.money.leases import repeated
from storage.errors import Missing, StoreError
from storage.interfaces import PurseStore
from storage.limit_records import Limit, Purse

RECHECK_S = 3_600.0
"""After which time the store is asked again which purse is a limit's: clocks run apart."""
GONE_RECHECK_S = 1.0
"""The same for a limit that was deleted, which its callers have not heard of yet."""
ATTEMPTS = 3
"""To hold all that a request needs, of leases that may be closed meanwhile."""
SLOTS_IDLE_S = 2.0
"""Slots that were free for so long go back, though others of the same limit are in use."""


class OverLimit(OutOfFunds):
    """A limit has not enough left; `purse` is its present period."""

    def __init__(self, limit: Limit, purse: Purse, funds: OutOfFunds) -> None:
        super().__init__(funds.payable_nano_usd, funds.held_nano_usd)
        self.limit = limit
        self.purse = purse


class Chain(msgspec.Struct, frozen=True, gc=False):
    """What a request holds: of its payer (None for a free model), the same of each budget, and slots.

    Its money ends with `charge` or `release`, its slots with `release_slots` or `release`.
    """

    money: Hold | None
    budgets: tuple[Hold, ...]
    slots: tuple[Hold, ...]

    @property
    def named(self) -> tuple[tuple[str, str], ...]:
        """The budgets, as a settlement names them."""
        return tuple((hold.lease.id, hold.account_id) for hold in self.budgets)

    @property
    def is_lost(self) -> bool:
        """Whether a lease is closed that something is held of."""
        return any(hold.lease.lost for hold in (*self._paying(), *self.slots))

    def charge(self, actual_nano_usd: int) -> tuple[int, int]:
        """As `Escrow.charge`; no more than every lease has. Slots stay."""
        charge = actual_nano_usd
        for hold in self._paying():
            lease = hold.lease
            lease.held -= hold.amount_nano_usd
            lease.unsettled += 1
            if not lease.lost:
                charge = min(charge, max(lease.free, hold.amount_nano_usd))
        for hold in self._paying():
            if not hold.lease.lost:
                hold.lease.spent += charge
        return charge, actual_nano_usd - charge

    def settled(self, given_back_nano_usd: int) -> None:
        """The charge is committed, but for a part that the store could not take, of which the leases know nothing."""
        for hold in self._paying():
            hold.lease.unsettled -= 1
        self.refund(given_back_nano_usd)

    def refund(self, charge_nano_usd: int) -> None:
        """A charge was given up before it could be committed: its money is free again."""
        for hold in self._paying():
            if not hold.lease.lost:
                hold.lease.spent -= charge_nano_usd

    def release_slots(self) -> None:
        """The request has ended."""
        for hold in self.slots:
            hold.lease.held -= hold.amount_nano_usd

    def release(self) -> None:
        """The request is not admitted after all."""
        for hold in (*self._paying(), *self.slots):
            hold.lease.held -= hold.amount_nano_usd

    def _paying(self) -> tuple[Hold, ...]:
        return self.budgets if self.money is None else (self.money, *self.budgets)


@dataclass(slots=True)
class _Known:
    """A limit as this core knows it: its purse (None: it is gone), asked for when its callers knew it with this amount,
    and right until then. `least_free` are the slots that stayed free since the last look; `asking` while one asks."""

    purse: Purse | None = None
    asked_amount: int = -1
    until_s: float = float("-inf")
    least_free: int = sys.maxsize
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Funds:
    """Holds from payers and limits."""

    def __init__(self, escrow: Escrow, store: PurseStore, *, clock: Callable[[], float]) -> None:
        self._escrow = escrow
        self._store = store
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._swept_s = clock()

    def try_hold(self, payer_id: str, amount_nano_usd: int, limits: Sequence[Limit]) -> Chain | None:
        """All that the request needs, from the leases at hand; None, and nothing is held, when one has not enough.

        ServiceUnavailable as `Escrow.try_hold`.
        """
        taken = _Taken()
        now_s = self._clock()
        try:
            for limit in _binding(limits, amount_nano_usd):
                known = self._known.get(limit.id)
                if known is None or not _is_right(known, limit, now_s):
                    break
                if known.purse is None:
                    continue
                hold = self._escrow.try_hold(known.purse.id, _need(limit, amount_nano_usd))
                if hold is None:
                    break
                taken.add(limit, known, hold)
            else:
                money = self._escrow.try_hold(payer_id, amount_nano_usd) if amount_nano_usd else None
                if money is not None or not amount_nano_usd:
                    return taken.chain(money)
        except BaseException:
            taken.chain(None).release()
            raise
        taken.chain(None).release()
        return None

    async def hold(self, payer_id: str, amount_nano_usd: int, limits: Sequence[Limit]) -> Chain:
        """All that the request needs, from leases that are got or extended for it if need be.

        OverLimit when a limit has not enough left, OutOfFunds when the payer has not, ServiceUnavailable when the
        store does not answer; then, and when the caller is cancelled, nothing is held.
        """
        for _ in range(ATTEMPTS):
            chain = await self._hold(payer_id, amount_nano_usd, limits)
            if not chain.is_lost:
                return chain
            chain.release()  # of a purse that was closed while another was waited for, nothing is held any more
        raise ServiceUnavailable("The ledger's database does not answer.", retry_after_s=1)

    async def _hold(self, payer_id: str, amount_nano_usd: int, limits: Sequence[Limit]) -> Chain:
        taken = _Taken()
        try:
            for limit in _binding(limits, amount_nano_usd):
                known = await self._right(limit)
                if known.purse is None:
                    continue
                try:
                    hold = await self._escrow.hold(known.purse.id, _need(limit, amount_nano_usd))
                except OutOfFunds as funds:
                    raise OverLimit(limit, known.purse, funds) from None
                taken.add(limit, known, hold)
            return taken.chain(await self._escrow.hold(payer_id, amount_nano_usd) if amount_nano_usd else None)
        except BaseException:
            taken.chain(None).release()
            raise

    async def _right(self, limit: Limit) -> _Known:
        """The limit's present purse."""
        known = self._known.setdefault(limit.id, _Known())
        if _is_right(known, limit, self._clock()):
            return known
        async with known.asking:
            if _is_right(known, limit, self._clock()):
                return known
            asked_s = self._clock()
            try:
                purse = known.purse = await repeated(lambda: self._store.purse(limit.id))
            except Missing:
                known.purse, known.until_s = None, asked_s + GONE_RECHECK_S
            except StoreError:
                raise ServiceUnavailable("The ledger's database does not answer.", retry_after_s=1) from None
            else:
                left_s = RECHECK_S if purse.left_us is None else purse.left_us / 1_000_000
                known.until_s = asked_s + min(left_s, RECHECK_S)
                # Lowered: slots come free by and by, but what a budget's holds have is promised.
                lacks = max(-purse.available, 0)
                self._escrow.take_back(purse.id, lacks, held=limit.measure == "concurrency")
            known.asked_amount = limit.amount
            return known

    def give_back_idle(self) -> None:
        """Return slots that nobody needed for a while, and forget limits that were not asked for; called about once a
        second, beside that of the escrow."""
        now_s = self._clock()
        if now_s - self._swept_s < SLOTS_IDLE_S:
            return
        self._swept_s = now_s
        for limit_id, known in tuple(self._known.items()):
            if known.purse is not None and 0 < known.least_free < sys.maxsize:
                self._escrow.return_free(known.purse.id, known.least_free)
            known.least_free = sys.maxsize
            if now_s >= known.until_s and not known.asking.locked():
                del self._known[limit_id]


@dataclass(slots=True)
class _Taken:
    """Holds on their way into a chain."""

    budgets: list[Hold] = field(default_factory=list)
    slots: list[Hold] = field(default_factory=list)

    def add(self, limit: Limit, known: _Known, hold: Hold) -> None:
        """One more."""
        if limit.measure == "spend":
            self.budgets.append(hold)
        else:
            self.slots.append(hold)
            known.least_free = min(known.least_free, hold.lease.free)

    def chain(self, money: Hold | None) -> Chain:
        """All of them."""
        return Chain(money, tuple(self.budgets), tuple(self.slots))


def _binding(limits: Sequence[Limit], amount_nano_usd: int) -> list[Limit]:
    """The limits that the request needs something of; slots first, for their refusal means the shortest wait."""
    budgets = [limit for limit in limits if limit.measure == "spend"] if amount_nano_usd else []
    return [limit for limit in limits if limit.measure == "concurrency"] + budgets


def _need(limit: Limit, amount_nano_usd: int) -> int:
    return amount_nano_usd if limit.measure == "spend" else 1


def _is_right(known: _Known, limit: Limit, now_s: float) -> bool:
    return known.asked_amount == limit.amount and now_s < known.until_s
