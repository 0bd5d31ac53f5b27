"""Changes that may be repeated: sent with an idempotency key, which the message of a failure names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol, TypeVar

import click
import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from core.cli.client import CallFailed, Core
from core.cli.options import Decorator
from core.cli.output import exact_time

MAYBE_DONE: Final = (
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "UNKNOWN",
    "INTERNAL",
    "CANCELLED",
    "SERVICE_UNAVAILABLE",
    "INTERNAL_ERROR",
)
"""Reasons, of WorldRouter and of gRPC, that leave open whether a change was committed."""


class Repeatable(Protocol):
    """A request with an idempotency key."""

    idempotency_key: str


Request = TypeVar("Request", bound=Repeatable)
Response = TypeVar("Response")

repeat_option: Decorator = click.option(
    "--idempotency-key",
    metavar="KEY",
    help="Name of this change: the same one again, within 7 days, changes nothing.  [default: a new one]",
)
"""The option --idempotency-key of changes that move no money."""


def change(
    core: Core,
    method: grpc.UnaryUnaryMultiCallable[Request, Response],
    request: Request,
    *,
    maybe_done: str = "it may have been done all the same",
    ends: Timestamp | None = None,
) -> Response:
    """Call a method that changes something; a failure that leaves open whether it did says how to repeat it. `ends` is
    the time that the request means, of one that says how long from now."""
    try:
        return core.call(method, request)
    except CallFailed as error:
        if error.reason not in MAYBE_DONE:
            raise
        again = f"repeat it with --idempotency-key {request.idempotency_key}"
        if ends is not None and ends.ToNanoseconds():
            again += f" --expires-in {exact_time(ends)}"
        raise click.ClickException(f"{error.message}; {maybe_done}: {again}") from error


def named(given: Mapping[str, bool]) -> list[str]:
    """The fields of a mask, by whether their options were given. A usage error when none was."""
    paths = [field for field, is_given in given.items() if is_given]
    if not paths:
        raise click.UsageError("nothing to change: give at least one option")
    return paths
