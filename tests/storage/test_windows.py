"""The arithmetic of limits per minute."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from storage.records import RATE_SLICES, RateAsk
from storage.windows import current, exchange

AMOUNT = 50
STEPS = st.lists(
    st.tuples(
        st.integers(0, 40),  # slices that pass
        st.lists(st.integers(0, 60), max_size=3),  # needs
        st.integers(0, 10),  # share
        st.integers(0, 30),  # units brought back of what was taken last
    ),
    max_size=30,
)


@given(STEPS)
def test_no_minute_sees_more_than_the_limit(steps: list[tuple[int, list[int], int, int]]) -> None:
    """Whatever is asked for and brought back, in any RATE_SLICES slices no more is kept than the limit."""
    window: dict[int, int] = {}
    kept: dict[int, int] = {}
    now = last = 1_000
    for passed, needs, share, back in steps:
        now += passed
        back = min(back, kept.get(last, 0))
        if back:
            kept[last] -= back
        ask = RateAsk("l", AMOUNT, tuple(needs), share, {last: back} if back else {})
        window, taken = exchange(window, now, ask)
        assert 0 <= taken <= sum(needs) + share
        kept[now] = kept.get(now, 0) + taken
        last = now
        in_use = sum(units for slice_, units in kept.items() if slice_ > now - RATE_SLICES)
        assert in_use == sum(current(window, now).values()) <= AMOUNT
        assert all(units > 0 for units in window.values())


def test_needs_are_met_whole_and_in_order() -> None:
    """One that is too large keeps no smaller one from its units; the share gets what is left."""
    _, taken = exchange({}, 100, RateAsk("l", 10, (4, 7, 5), share=9))
    assert taken == 4 + 5 + 1
    _, taken = exchange({100: 8}, 100, RateAsk("l", 10, (4, 3), share=0))
    assert taken == 0


def test_units_are_in_use_for_a_minute() -> None:
    """And not a slice longer."""
    window, taken = exchange({}, 100, RateAsk("l", 10, (10,)))
    assert taken == 10
    assert exchange(window, 100 + RATE_SLICES - 1, RateAsk("l", 10, (1,)))[1] == 0
    assert exchange(window, 100 + RATE_SLICES, RateAsk("l", 10, (10,)))[1] == 10


def test_what_is_owed_counts_beyond_the_limit() -> None:
    """Then there is no room until as much came free."""
    window, _ = exchange({}, 100, RateAsk("l", 10, (6,), owed=8))
    assert window == {100: 8}
    window, taken = exchange(window, 130, RateAsk("l", 10, (3,), owed=7))
    assert (window, taken) == ({100: 8, 130: 7}, 0)
    assert exchange(window, 160, RateAsk("l", 10, (4, 3)))[1] == 3


def test_more_is_never_brought_back_than_was_taken() -> None:
    """Nor anything of a slice that is over."""
    assert exchange({100: 5}, 110, RateAsk("l", 10, returned={100: 9, 40: 9}))[0] == {}


def test_a_clock_that_is_set_back_keeps_nothing_for_longer_than_a_minute() -> None:
    """What was taken in the future was taken now."""
    window, taken = exchange({9_000: 10}, 100, RateAsk("l", 10, (1,)))
    assert (window, taken) == ({100: 10}, 0)
    assert exchange(window, 100 + RATE_SLICES, RateAsk("l", 10, (10,)))[1] == 10


def test_a_lower_limit_has_no_room_until_enough_came_free() -> None:
    """What is in use beyond it stays so."""
    assert exchange({100: 10}, 110, RateAsk("l", 4, (1,), share=1)) == ({100: 10}, 0)
