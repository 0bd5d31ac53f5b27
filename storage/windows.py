"""How much of a limit per minute is in use: counts by slice of time, and what may be taken beside them.

A minute is RATE_SLICES slices. What is taken in a slice is in use until so many more have passed: no minute, whenever
it begins, sees more than the limit.
"""

from __future__ import annotations

from collections.abc import Sequence

from storage.limit_records import RATE_SLICES, RateAsk

Window = dict[int, int]
"""Units in use by the slice that they were taken in, counted since the Unix epoch; ascending."""

MAX_ENTRIES = 120
"""In a window that is larger, what was taken within a sixtieth of a minute was taken at the end of it."""
_SIXTIETH = RATE_SLICES // 60


def current(window: Window, slice_: int) -> Window:
    """Without what is in use no more. What was taken later than now, before the clock was set back, was taken now."""
    found: Window = {}
    for taken_in, units in window.items():
        if taken_in >= slice_ - RATE_SLICES:
            at = min(taken_in, slice_)
            found[at] = found.get(at, 0) + units
    return found


def exchange(window: Window, slice_: int, ask: RateAsk) -> tuple[Window, int]:
    """The window after one core's ask in this slice, and how many units the core got.

    What it brings back frees the slices that it was taken in, never more than they count; what it owes counts
    whether there is room or not.
    """
    left = current(window, slice_)
    for taken_in, units in ask.returned.items():
        entry = next((each for each in left if each >= taken_in), None)
        if entry is not None and taken_in >= slice_ - RATE_SLICES:
            left[entry] -= min(units, left[entry])
    taken = _fitting(ask.needs, ask.share, ask.amount - sum(left.values()) - ask.owed)
    left[slice_] = left.get(slice_, 0) + ask.owed + taken
    left = {taken_in: units for taken_in, units in left.items() if units}
    return _coarse(left) if len(left) > MAX_ENTRIES else left, taken


def _coarse(window: Window) -> Window:
    """The same in fewer entries."""
    lasts = {taken_in // _SIXTIETH: taken_in for taken_in in window}
    found: Window = {}
    for taken_in, units in window.items():
        last = lasts[taken_in // _SIXTIETH]
        found[last] = found.get(last, 0) + units
    return found


def _fitting(needs: Sequence[int], share: int, room: int) -> int:
    """Of the needs, in order, those that there is room for, and if that is all of them, what room is left of the
    share: set aside for nobody it would put off when all is free again."""
    taken = 0
    for need in needs:
        if need <= room - taken:
            taken += need
    if taken < sum(needs):
        return taken
    return taken + max(min(share, room - taken), 0)
