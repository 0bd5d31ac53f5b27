"""Lengths of time as people write them: 90d, 12h, 30m, 45s; and the ends of such."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final

import click

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SHAPE = re.compile(r"([0-9]{1,9})([smhd])")


def parse_duration(text: str) -> timedelta:
    """The length of time that a whole number and a unit (s, m, h, d) mean. Raises ValueError."""
    parts = _SHAPE.fullmatch(text)
    if parts is None:
        raise ValueError(f"{text!r} is not a length of time such as 90d, 12h, 30m or 45s")
    return timedelta(seconds=int(parts[1]) * _SECONDS[parts[2]])


class DurationType(click.ParamType[timedelta]):
    """A command line value that is a length of time."""

    name = "duration"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Parse the value; a usage error when it is not a length of time."""
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def parse_end(text: str) -> timedelta | datetime:
    """When something ends: after a length of time, or at a time with its zone (RFC 3339). Raises ValueError."""
    try:
        return parse_duration(text)
    except ValueError as error:
        try:
            end = datetime.fromisoformat(text)
        except ValueError:
            end = None
        if end is None or end.tzinfo is None:
            raise ValueError(f"{error}, nor a time such as 2027-01-31T00:00:00Z") from None
        return end


def end_of(given: timedelta | datetime, now: datetime) -> datetime:
    """The time that is meant now."""
    return now + given if isinstance(given, timedelta) else given


class EndType(click.ParamType[timedelta | datetime]):
    """A command line value that says when something ends."""

    name = "duration|time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> timedelta | datetime:
        """Parse the value; a usage error when it is neither a length of time nor a time."""
        try:
            return parse_end(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
