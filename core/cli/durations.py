"""Lengths of time as people write them: 90d, 12h, 30m, 45s."""

from __future__ import annotations

import re
from datetime import timedelta
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
