"""The leases of one core in the store: got, extended, given back, renewed, closed.

Every change is one transaction there, and safe to repeat when its reply is lost: by a lease's ID, and by the number of
its last change, the store knows what it has done already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from storage.errors import Missing, StoreUnavailable
from storage.interfaces import LeaseStore

T = TypeVar("T")
REPEAT_AFTER_S = (0.02, 0.1, 0.3)
"""Pauses before a change of a lease is tried again; together less than an admission may take."""


@dataclass(slots=True)
class OpenLease:
    """A lease as this core sees it. `spent` runs ahead of the store's by the `unsettled` charges."""

    id: str
    granted: int
    spent: int
    seq: int
    held: int = 0
    unsettled: int = 0
    lost: bool = False

    @property
    def free(self) -> int:
        """What may be held."""
        return self.granted - self.spent - self.held


class Leases:
    """Changes of this core's leases. `changing` are the IDs of those that are being got or closed just now."""

    def __init__(
        self,
        store: LeaseStore,
        *,
        core_id: str,
        chunk_nano_usd: int,
        ttl_s: float,
        clock: Callable[[], float],
        new_lease_id: Callable[[], str],
    ) -> None:
        """`chunk_nano_usd` is what an account with enough is asked for at once."""
        self._store = store
        self._core_id = core_id
        self._chunk_nano_usd = chunk_nano_usd
        self._ttl_s = ttl_s
        self._clock = clock
        self._new_lease_id = new_lease_id
        self.changing: set[str] = set()

    async def acquire(self, account_id: str, want_nano_usd: int) -> OpenLease | None:
        """A new lease of at least so much; None when the account cannot pay. StoreError."""
        lease_id, asked_s = self._new_lease_id(), self._clock()
        self.changing.add(lease_id)
        try:
            got = await repeated(
                lambda: self._store.acquire(
                    lease_id=lease_id,
                    account_id=account_id,
                    core_id=self._core_id,
                    want_nano_usd=want_nano_usd,
                    chunk_nano_usd=self._chunk_nano_usd,
                    ttl_s=self._ttl_s,
                )
            )
        finally:
            self.changing.discard(lease_id)
        if got is not None and self._clock() - asked_s > self._ttl_s / 2:
            # No renewal has noticed if it was closed since. If it was not, a renewal closes it: nobody knows it.
            raise StoreUnavailable(f"the answer that granted {lease_id} is too old")
        return None if got is None else OpenLease(got.id, got.granted_nano_usd, 0, got.seq)

    async def extend(self, lease: OpenLease, want_nano_usd: int) -> bool | None:
        """Move at least so much more into a lease, and whether the account could pay for it; None when the lease is
        closed. StoreError."""
        try:
            got = await repeated(
                lambda: self._store.extend(
                    lease_id=lease.id,
                    seq=lease.seq + 1,
                    want_nano_usd=want_nano_usd,
                    chunk_nano_usd=self._chunk_nano_usd,
                )
            )
        except Missing:
            return None
        if got is not None:
            lease.granted, lease.seq = got.granted_nano_usd, got.seq
        return got is not None

    async def give_back(self, lease: OpenLease, amount_nano_usd: int) -> bool:
        """Return so much of a lease to its account; False when the lease is closed. StoreError."""
        try:
            got = await self._store.give_back(lease_id=lease.id, seq=lease.seq + 1, amount_nano_usd=amount_nano_usd)
        except Missing:
            return False
        lease.granted, lease.seq = got.granted_nano_usd, got.seq
        return True

    async def renew(self) -> Sequence[str]:
        """Renew all leases of this core that are not closed; their IDs. StoreError."""
        return await self._store.renew(self._core_id, ttl_s=self._ttl_s)

    async def close(self, lease_id: str) -> None:
        """Return what is left of a lease to its account. StoreError."""
        self.changing.add(lease_id)
        try:
            await self._store.close_lease(lease_id)
        finally:
            self.changing.discard(lease_id)


async def repeated(change: Callable[[], Awaitable[T]]) -> T:
    """Make a change of a lease, again if the store fails or its reply is lost: all of them are safe to repeat."""
    for pause_s in REPEAT_AFTER_S:
        try:
            return await change()
        except StoreUnavailable:
            await asyncio.sleep(pause_s)
    return await change()
