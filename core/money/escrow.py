"""Money in the hands of one core: leases from the store, holds from the leases.

A lease is a part of an account's balance that only this core may spend; it is durable. A hold is a part of a
lease that one request may spend; it lives in memory, so a crash leaves none behind. Taking a hold from a lease
that has enough free is plain arithmetic without an await; otherwise requests wait together for one change of the
lease (single flight per account). `leases` makes these changes in the store.

What limits allow is leased from their purses all the same: where an account is named, it may be a purse.

Free money goes back to the account when the account has been idle here for a while. A core that could not renew
its leases for half their life stops admitting: by then another core's reaper may be about to close them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import msgspec

from core.errors import ServiceUnavailable
from core.money.leases import Leases, OpenLease
from storage.errors import StoreError
from storage.interfaces import AccountStore, LeaseStore
from storage.limit_records import is_purse

_log = logging.getLogger(__name__)

MAX_NANO_USD = 2**63 - 1
"""What no account has more of: amounts are 64 bits in the database."""

STOPPED_RETRY_S = 60.0
"""When a request of a stopped account may try again."""


class EscrowStore(AccountStore, LeaseStore, Protocol):
    """What escrow needs of the store."""


@dataclass(frozen=True, slots=True)
class EscrowSettings:
    """`chunk_nano_usd` is the usual lease; times in seconds."""

    chunk_nano_usd: int = 1_000_000_000
    lease_ttl_s: float = 30.0
    idle_s: float = 2.0


class OutOfFunds(Exception):
    """The account cannot pay the hold.

    `payable_nano_usd` is the largest hold it could pay now, `held_nano_usd` what running requests hold of it.
    """

    def __init__(self, payable_nano_usd: int, held_nano_usd: int) -> None:
        super().__init__(f"{payable_nano_usd} nUSD payable, {held_nano_usd} held")
        self.payable_nano_usd = payable_nano_usd
        self.held_nano_usd = held_nano_usd


class Hold(msgspec.Struct, frozen=True, gc=False):
    """Money set aside for one request, until `Escrow.charge`."""

    account_id: str
    lease: OpenLease
    amount_nano_usd: int


@dataclass(slots=True)
class _Waiter:
    amount: int
    granted: asyncio.Future[Hold]


@dataclass(slots=True)
class _Account:
    """One account's escrow here. `changing` while the store changes its lease, `due` is what must be tried before
    anybody gets a hold."""

    id: str
    used_s: float
    lease: OpenLease | None = None
    waiters: list[_Waiter] = field(default_factory=list)
    changing: bool = False
    due: _Change | None = None

    @property
    def free(self) -> int:
        """What may be granted: nothing before what is due has gone back."""
        return self.lease.free if self.lease is not None and self.due is None else 0


_Change = Callable[[_Account], Awaitable[None]]


class Escrow:
    """All leases of one core."""

    def __init__(
        self,
        store: EscrowStore,
        *,
        core_id: str,
        settings: EscrowSettings,
        clock: Callable[[], float],
        new_lease_id: Callable[[], str],
    ) -> None:
        self._store: AccountStore = store
        self._leases = Leases(
            store,
            core_id=core_id,
            chunk_nano_usd=settings.chunk_nano_usd,
            ttl_s=settings.lease_ttl_s,
            clock=clock,
            new_lease_id=new_lease_id,
        )
        self._settings = settings
        self._clock = clock
        self._accounts: dict[str, _Account] = {}
        self._renewed_s = clock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.stopped: frozenset[str] = frozenset()
        """Accounts that get no holds: what they have is in doubt."""

    @property
    def held_nano_usd(self) -> int:
        """The sum of all holds of accounts."""
        known = self._accounts.values()
        return sum(each.lease.held for each in known if each.lease is not None and not is_purse(each.id))

    def try_hold(self, account_id: str, amount_nano_usd: int) -> Hold | None:
        """A hold from the lease at hand, without waiting; None when it has not enough free.

        ServiceUnavailable when the leases could not be renewed for half their life, or the account is stopped.
        """
        now_s = self._clock()
        if now_s - self._renewed_s > self._settings.lease_ttl_s / 2:
            raise ServiceUnavailable("The ledger's database does not answer.", retry_after_s=1)
        if account_id in self.stopped:
            raise ServiceUnavailable("The balance of this account is being checked.", retry_after_s=STOPPED_RETRY_S)
        account = self._accounts.get(account_id)
        if account is None or account.lease is None or account.waiters or account.due is not None:
            return None
        if account.lease.free < amount_nano_usd:
            return None
        account.used_s = now_s
        return _take(account, amount_nano_usd)

    async def hold(self, account_id: str, amount_nano_usd: int) -> Hold:
        """A hold, from a lease that is got or extended for it if need be. OutOfFunds when the account cannot pay.

        ServiceUnavailable when the store does not answer or the account is stopped. A cancelled caller leaves no hold
        behind.
        """
        hold = self.try_hold(account_id, amount_nano_usd)
        if hold is not None:
            return hold
        account = self._accounts.setdefault(account_id, _Account(account_id, self._clock()))
        account.used_s = self._clock()
        waiter = _Waiter(amount_nano_usd, asyncio.get_running_loop().create_future())
        account.waiters.append(waiter)
        if not account.changing:
            self._spawn(account, self._serve)
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self.release(waiter.granted.result())
            raise

    def charge(self, hold: Hold, actual_nano_usd: int) -> tuple[int, int]:
        """End a hold with what the request cost: (charge, shortfall).

        The charge is at most the hold and what its lease has free; the house pays the rest. Of a lease that this
        core has lost the store takes what the account still has. `settled` must follow when the charge is
        committed.
        """
        lease = hold.lease
        lease.held -= hold.amount_nano_usd
        lease.unsettled += 1
        if lease.lost:
            return actual_nano_usd, 0
        charge = min(actual_nano_usd, max(lease.free, hold.amount_nano_usd))
        lease.spent += charge
        return charge, actual_nano_usd - charge

    def release(self, hold: Hold) -> None:
        """End a hold that cost nothing and leaves no row."""
        hold.lease.held -= hold.amount_nano_usd

    def settled(self, hold: Hold) -> None:
        """A charge of this hold is committed."""
        hold.lease.unsettled -= 1

    def refund(self, hold: Hold, charge_nano_usd: int) -> None:
        """A charge was given up before it could be committed: its money is free again."""
        if not hold.lease.lost:
            hold.lease.spent -= charge_nano_usd

    async def renew(self) -> None:
        """Heartbeat: renew all leases; drop those that the store has closed, close those that nobody here knows.

        The latter come of an acquisition whose outcome stayed unknown: renewed for ever, their money were stuck.
        """
        asked_s = self._clock()
        asked = [account for account in self._accounts.values() if account.lease is not None]
        known = {account.lease.id for account in asked if account.lease is not None}
        alive = set(await self._leases.renew())
        self._renewed_s = asked_s
        for account in asked:
            lease = account.lease
            if lease is not None and lease.id in known and lease.id not in alive:
                _log.warning("A lease was closed by another core: %s of account %s", lease.id, account.id)
                _lose(account)
        known |= {account.lease.id for account in self._accounts.values() if account.lease is not None}
        for orphan in alive - known - self._leases.changing:
            await self._leases.close(orphan)

    def give_back_idle(self) -> None:
        """Return free money of accounts that have been idle for a while; called about once a second."""
        due_s = self._clock() - self._settings.idle_s
        for account in list(self._accounts.values()):
            if account.used_s > due_s or account.changing or account.waiters:
                continue
            if account.lease is None:
                del self._accounts[account.id]
            elif account.lease.held == 0 and account.lease.unsettled == 0:
                self._spawn(account, self._close)
            else:
                self.return_free(account.id, account.lease.free)

    def return_free(self, account_id: str, amount: int) -> None:
        """Return free money of an account, at most this amount, though it is in use; unless its lease is changing."""
        account = self._accounts.get(account_id)
        if account is None or account.lease is None or account.changing:
            return
        lease, amount = account.lease, min(account.lease.free, amount)
        if amount > 0:
            lease.granted -= amount  # at once, so that nobody takes a hold on it meanwhile
            self._spawn(account, partial(self._give_back, lease=lease, amount=amount))

    def take_back(self, account_id: str, amount: int, *, held: bool) -> None:
        """Return at most this amount of an account's lease before anybody gets a hold, and what running requests hold
        of it as soon as it comes free. If so said, return what is `held` too: then nobody gets a hold until so much
        has come free, of holds that end without a charge. Takes the place of what was said before: 0 calls it off."""
        account = self._accounts.get(account_id)
        if account is None or account.lease is None:
            return
        account.due = partial(self._take_back, amount=amount, held=held) if amount else None
        if not account.changing and amount:
            self._spawn(account, self._serve)

    async def close(self) -> None:
        """Return everything, leases that nobody here knows among it.

        At shutdown, after the ledger is drained and nothing is held any more. StoreError.
        """
        while self._tasks:
            await asyncio.gather(*self._tasks)
        self._accounts.clear()
        for lease_id in await self._leases.renew():
            await self._leases.close(lease_id)

    def _spawn(self, account: _Account, change: _Change) -> None:
        account.changing = True
        task = asyncio.get_running_loop().create_task(self._change(account, change))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _change(self, account: _Account, change: _Change) -> None:
        """Run one change of an account's lease at a time, then serve whoever began to wait meanwhile."""
        try:
            await change(account)
            await self._serve(account)
        except Exception as error:
            self._fail_waiters(account, error)
        finally:
            account.changing = False

    async def _serve(self, account: _Account) -> None:
        while True:
            change, account.due = account.due, None
            if change is not None:
                await change(account)
            if not account.waiters:
                return
            await self._serve_waiters(account)

    def _fail_waiters(self, account: _Account, error: Exception) -> None:
        if isinstance(error, StoreError):
            _log.error("A lease of account %s could not be changed: %s", account.id, error)
        else:
            _log.exception("A lease of account %s could not be changed", account.id, exc_info=error)
        refusal = ServiceUnavailable("The ledger's database does not answer.", retry_after_s=1)
        for waiter in account.waiters:
            if not waiter.granted.done():
                waiter.granted.set_exception(refusal)
        account.waiters = []

    async def _serve_waiters(self, account: _Account) -> None:
        """Get what all waiters need in one change; if the account cannot pay, serve those it can, in order."""
        account.waiters = [waiter for waiter in account.waiters if not waiter.granted.done()]
        want = sum(waiter.amount for waiter in account.waiters) - account.free
        if want > 0 and not await self._grow(account, want):
            await self._ration(account)
            return
        self._grant_in_order(account)

    async def _ration(self, account: _Account) -> None:
        balance = await self._store.balance(account.id)
        if account.due is not None and account.lease is not None and account.lease.free > 0:
            return  # it goes back first
        payable = 0
        if balance is not None:
            payable = max(balance.available_nano_usd + balance.credit_limit_nano_usd, 0)
        left = payable + account.free
        fitting = 0
        refused: list[_Waiter] = []
        for waiter in account.waiters:
            if waiter.amount <= left - fitting:
                fitting += waiter.amount
            else:
                refused.append(waiter)
        if fitting > max(account.free, 0) and not await self._grow(account, fitting - account.free):
            return  # another core was faster: look again
        for waiter in refused:
            account.waiters.remove(waiter)
            if not waiter.granted.done():
                held = balance.held_nano_usd - account.free if balance is not None else 0
                waiter.granted.set_exception(OutOfFunds(left - fitting, max(held, 0) + fitting))
        self._grant_in_order(account)

    def _grant_in_order(self, account: _Account) -> None:
        while account.waiters:
            waiter = account.waiters[0]
            if not waiter.granted.done():
                if account.free < waiter.amount or account.lease is None:
                    return
                waiter.granted.set_result(_take(account, waiter.amount))
            account.waiters.pop(0)
        account.used_s = self._clock()

    async def _grow(self, account: _Account, want: int) -> bool:
        """Move at least this much more into the account's lease; False when the account cannot pay."""
        if want > MAX_NANO_USD:
            return False
        if account.lease is not None:
            due = account.due
            extended = await self._leases.extend(account.lease, want)
            if extended and account.due is due:
                account.due = None  # who has enough to give asks for nothing back
            if extended is not None:
                return extended
            _lose(account)
        account.lease = await self._leases.acquire(account.id, want)
        return account.lease is not None

    async def _take_back(self, account: _Account, *, amount: int, held: bool) -> None:
        lease = account.lease
        if lease is None:
            return
        due = min(amount, lease.granted - lease.spent)
        amount = due if held else min(due, max(lease.free, 0))
        if due > amount:
            account.due = account.due or partial(self._take_back, amount=due - amount, held=False)
        if amount <= 0:
            return
        lease.granted -= amount
        try:
            await self._give_back(account, lease=lease, amount=amount)
        except StoreError:
            lease.granted += amount  # if it went back all the same, the next attempt will be told
            account.due = partial(self._take_back, amount=due, held=held)
            raise

    async def _give_back(self, account: _Account, *, lease: OpenLease, amount: int) -> None:
        if not await self._leases.give_back(lease, amount):
            _lose(account)

    async def _close(self, account: _Account) -> None:
        lease = account.lease
        if lease is None or lease.held or lease.unsettled:
            return  # it has come into use since this was decided
        # First, so that nobody takes a hold on it meanwhile. It does not come back when the store fails: it may be
        # closed all the same. If it is not, it is one of those that nobody knows, and `renew` closes it.
        account.lease = None
        await self._leases.close(lease.id)


def _take(account: _Account, amount_nano_usd: int) -> Hold:
    lease = account.lease
    assert lease is not None
    lease.held += amount_nano_usd
    return Hold(account.id, lease, amount_nano_usd)


def _lose(account: _Account) -> None:
    if account.lease is not None:
        account.lease.lost = True
        account.lease = None
