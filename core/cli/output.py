"""What commands print: lines and tables for people, one line of JSON for scripts."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import click
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

# What spreadsheets begin formulas with (OWASP, "CSV Injection"), also after what another locale takes for the end of a
# cell. The apostrophe that is put before it says "text".
_FORMULA = re.compile(r"((?:^|[;,|\t\r\n\"'])\s*)([=+\-@\uff1d\uff0b\uff0d\uff20])")

Json = None | bool | int | str | Sequence["Json"] | Mapping[str, "Json"]
"""What JSON output is made of; no floats: amounts are integers and decimal strings."""


def printable(text: str) -> str:
    """The text without control characters, but for newlines and tabs: nothing in it moves a cursor."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def one_line(text: str) -> str:
    """The text without control characters, its white space folded into single spaces."""
    return " ".join(printable(text).split())


def print_json(value: Json) -> None:
    """Print one line of JSON, ASCII only."""
    click.echo(json.dumps(value))


def csv_line(cells: Sequence[str | int]) -> str:
    """One line of CSV (RFC 4180), its line break included. No spreadsheet takes a text in it for a formula."""
    line = io.StringIO()
    csv.writer(line).writerow([_FORMULA.sub(r"\1'\2", cell) if isinstance(cell, str) else cell for cell in cells])
    return line.getvalue()


def print_fields(fields: Mapping[str, str]) -> None:
    """Print one thing, a line a field."""
    width = max(map(len, fields))
    for name, value in fields.items():
        click.echo(f"{name:<{width}}  {one_line(value)}".rstrip())


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print rows under their columns; those named in `right` are numbers and end at the same place."""
    cells = [list(columns), *([one_line(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        aligned = (
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(columns, row, widths, strict=True)
        )
        click.echo("  ".join(aligned).rstrip())


def shown_time(time: Timestamp) -> str:
    """A time for people, to the second, in UTC."""
    return _datetime(time).strftime("%Y-%m-%d %H:%M:%SZ")


def exact_time(time: Timestamp) -> str:
    """A time in RFC 3339, to the microsecond, in UTC, for JSON."""
    return _datetime(time).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def enum_word(enum: EnumDescriptor, number: int) -> str:
    """A value of an enum in lower case without its prefix; "unknown" for one newer than this program."""
    value = enum.values_by_number.get(number)
    if value is None:
        return "unknown"
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return value.name.removeprefix(prefix).lower()


def _datetime(time: Timestamp) -> datetime:
    return time.ToDatetime(tzinfo=UTC)
