"""How what is left is told."""

from __future__ import annotations

import pytest

from core.rates.headers import duration, rate_headers
from core.rates.share import Room


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (-1.0, "0s"),
        (0.000_1, "1ms"),
        (0.012, "12ms"),
        (0.999_5, "1s"),
        (1.5, "1.5s"),
        (59.25, "59.25s"),
        (60.0, "1m0s"),
        (61.001, "1m1.001s"),
        (360.0, "6m0s"),
    ],
)
def test_durations_are_written_as_go_does(seconds: float, text: str) -> None:
    """Rounded up to the millisecond: whoever waits so long has waited long enough."""
    assert duration(seconds) == text


def test_the_tightest_limit_is_told() -> None:
    """The one with the least room, whatever it allows in all."""
    rooms = [Room(1_000, 7, 3.0), Room(10, 9, 0.5), Room(500, 8, 60.0)]
    assert dict(rate_headers("tokens", rooms)) == {
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "7",
        "x-ratelimit-reset-tokens": "3s",
    }
