"""When the periods of limits begin and end: calendar days and months in UTC; pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from storage.limit_records import LimitPeriod

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def period_around(period: LimitPeriod, now_us: int) -> tuple[int, int | None]:
    """The period's start and end (None: never) around a moment, in microseconds since the Unix epoch.

    What has no calendar ("lifetime", "now") has begun with the epoch. ValueError for "minute", which is a rate.
    """
    if period in ("lifetime", "now"):
        return 0, None
    if period == "minute":
        raise ValueError("a rate has no period of its own")
    now = _EPOCH + now_us * _MICROSECOND
    start = now.replace(hour=0, minute=0, second=0, microsecond=0)
    end = start + timedelta(days=1)
    if period == "month":
        start = start.replace(day=1)
        end = (start + timedelta(days=31)).replace(day=1)
    return (start - _EPOCH) // _MICROSECOND, (end - _EPOCH) // _MICROSECOND
