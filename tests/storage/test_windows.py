"""The arithmetic of limits per minute."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from storage.limit_records import RATE_SLICES, RateAsk
from storage.windows import MAX_ENTRIES, current, exchange

AMOUNT = 50
STEPS = st.lists(
    st.tuples(
        st.integers(0, RATE_SLICES // 2),  # slices that pass
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
    now = last = 1_000_000
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
        in_use = sum(units for slice_, units in kept.items() if slice_ >= now - RATE_SLICES)
        assert in_use == sum(current(window, now).values()) <= AMOUNT
        assert all(units > 0 for units in window.values())


def test_needs_are_met_whole_and_in_order() -> None:
    """One that is too large keeps no smaller one from its units; the share gets what is left once all are met."""
    _, taken = exchange({}, 100, RateAsk("l", 10, (4, 7, 5), share=9))
    assert taken == 4 + 5
    _, taken = exchange({}, 100, RateAsk("l", 10, (4, 5), share=9))
    assert taken == 4 + 5 + 1
    _, taken = exchange({100: 8}, 100, RateAsk("l", 10, (4, 3), share=0))
    assert taken == 0


def test_units_are_in_use_for_a_minute() -> None:
    """And not a slice longer."""
    window, taken = exchange({}, 100, RateAsk("l", 10, (10,)))
    assert taken == 10
    assert exchange(window, 100 + RATE_SLICES, RateAsk("l", 10, (1,)))[1] == 0
    assert exchange(window, 101 + RATE_SLICES, RateAsk("l", 10, (10,)))[1] == 10


def test_what_is_owed_counts_beyond_the_limit() -> None:
    """Then there is no room until as much came free."""
    window, _ = exchange({}, 100, RateAsk("l", 10, (6,), owed=8))
    assert window == {100: 8}
    window, taken = exchange(window, 130, RateAsk("l", 10, (3,), owed=7))
    assert (window, taken) == ({100: 8, 130: 7}, 0)
    assert exchange(window, 101 + RATE_SLICES, RateAsk("l", 10, (4, 3)))[1] == 3


def test_more_is_never_brought_back_than_was_taken() -> None:
    """Nor anything of a slice that is over."""
    now = 2 * RATE_SLICES
    assert exchange({now - 5: 5}, now, RateAsk("l", 10, returned={now - 5: 9}))[0] == {}
    assert exchange({now - 5: 5}, now, RateAsk("l", 10, returned={now - RATE_SLICES - 1: 9}))[0] == {now - 5: 5}


def test_a_clock_that_is_set_back_keeps_nothing_for_longer_than_a_minute() -> None:
    """What was taken in the future was taken now."""
    window, taken = exchange({900_000: 10}, 100, RateAsk("l", 10, (1,)))
    assert (window, taken) == ({100: 10}, 0)
    assert exchange(window, 101 + RATE_SLICES, RateAsk("l", 10, (10,)))[1] == 10


def test_a_lower_limit_has_no_room_until_enough_came_free() -> None:
    """What is in use beyond it stays so."""
    assert exchange({100: 10}, 110, RateAsk("l", 4, (1,), share=1)) == ({100: 10}, 0)


def test_a_busy_window_stays_small() -> None:
    """What is not told apart any more is free a sixtieth of a minute late at most, and can still be brought back."""
    window: dict[int, int] = {}
    took = range(10 * RATE_SLICES, 11 * RATE_SLICES, 7)
    for slice_ in took:
        window, taken = exchange(window, slice_, RateAsk("l", 10**6, (3,)))
        assert taken == 3
        assert len(window) <= MAX_ENTRIES
    assert sum(window.values()) == 3 * len(took)
    assert list(window) == sorted(window)
    window, _ = exchange(window, took[-1], RateAsk("l", 10**6, returned={took[0]: 3, took[5]: 2}))
    assert sum(window.values()) == 3 * len(took) - 5
    half = took[len(took) // 2] + RATE_SLICES
    left = sum(current(window, half).values())
    assert 3 * len(took) // 2 <= left <= 3 * (len(took) // 2 + RATE_SLICES // 60 // 7 + 1)
