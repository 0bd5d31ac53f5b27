"""What the store takes and gives of limits: their definitions, what is left of their periods, shares of rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

LimitMeasure = Literal["spend", "requests", "tokens", "concurrency"]
"""What a limit counts: nanodollars charged, requests, tokens (input and output), requests that run at once."""
LimitPeriod = Literal["lifetime", "month", "day", "minute", "now"]
"""Over what a limit counts: spend by lifetime, calendar month or day (UTC), requests and tokens by minute,
concurrency by now."""


class Limit(msgspec.Struct, frozen=True, gc=False):
    """A bound on what an account (with all below it) or a key may use. `amount` is in the measure's unit, 0 or more.

    `id` stays the same when the amount is changed; `owner_id` is an account's or a key's.
    """

    id: str
    owner_id: str
    measure: LimitMeasure
    period: LimitPeriod
    amount: int


RATE_SLICES = 6_000
"""Slices of a minute: what is taken of a limit per minute is in use until so many slices later have passed."""
RATE_SLICE_US = 10_000
"""How long a slice lasts."""


class RateAsk(msgspec.Struct, frozen=True):
    """What a core asks of a limit of `amount` units per minute, all counts 0 or more.

    `needs` are those of requests that wait, in order: each is met whole or not at all; `share` is wanted beside them.
    `returned` are units that were taken and not used, by the slice that they were taken in; `owed` were used beyond
    what was taken.
    """

    limit_id: str
    amount: int
    needs: tuple[int, ...] = ()
    share: int = 0
    returned: Mapping[int, int] = msgspec.field(default_factory=dict)
    owed: int = 0


class RateShare(msgspec.Struct, frozen=True):
    """What a core got: `taken` units in the slice of this number, which began `into_us` ago by the database's clock.

    `used` is what all cores have in use since, by slice.
    """

    limit_id: str
    taken: int
    slice: int
    into_us: int
    used: Mapping[int, int]


PURSE_PREFIX = "purse_"
"""What ids of purses begin with, and no other id."""


def is_purse(owner_id: str) -> bool:
    """Whether the owner of a lease is a purse; else it is an account."""
    return owner_id.startswith(PURSE_PREFIX)


@dataclass(frozen=True, slots=True)
class Purse:
    """What a limit allows in its present period, which is over in `left_us` (None: never) and then at `ends_us`.

    `available` is what no core has of it; below 0, leases have so much more than the amount was lowered to.
    """

    id: str
    limit_id: str
    amount: int
    available: int
    ends_us: int | None
    left_us: int | None
