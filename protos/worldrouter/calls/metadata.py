"""Which metadata may travel: what gRPC's core lets through a socket.

Rules: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md (Custom-Metadata). The keys that the core
keeps to itself were observed on grpcio 1.85.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import grpc.aio

Entries = tuple[tuple[str, str | bytes], ...]
"""Metadata as it was admitted: pairs of key and value, bytes for keys that end in "-bin", else text."""

_KEY_CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz_-."

KEPT_BY_CORE = frozenset(
    {
        "content-length",
        "content-type",
        "endpoint-load-metrics-bin",
        "grpc-accept-encoding",
        "grpc-encoding",
        "grpc-internal-encoding-request",
        "grpc-message",
        "grpc-server-stats-bin",
        "grpc-status",
        "grpc-tags-bin",
        "grpc-timeout",
        "grpc-trace-bin",
        "lb-cost-bin",
        "te",
        "x-envoy-peer-metadata",
    }
)
"""Keys that never reach the other side's application."""

KEPT_FROM_REQUESTS = KEPT_BY_CORE | {"grpc-previous-rpc-attempts", "user-agent"}
"""The same for a request: its user agent is the library's."""


_USUAL_KEYS = frozenset({"authorization", "x-request-id"})
"""Of nearly every call: known to be legal."""


class IllegalMetadata(grpc.aio.InternalError):
    """A key or value has characters that gRPC does not carry; over a socket, a private subclass of the same."""


def admit(metadata: Iterable[tuple[str, str | bytes]], dropped: frozenset[str] = KEPT_BY_CORE) -> Entries:
    """The entries that arrive at the other side. Raises IllegalMetadata, or TypeError for a value of a wrong type."""
    entries: list[tuple[str, str | bytes]] = []
    for key, value in metadata:
        if key not in _USUAL_KEYS and (not key or key.strip(_KEY_CHARACTERS)):
            raise IllegalMetadata(f"Metadata key {key!r} is invalid")
        if key[-4:] == "-bin":
            if not isinstance(value, bytes):
                raise TypeError(f'Binary metadata key="{key}" expected bytes, got {type(value)}')
        else:
            if isinstance(value, bytes):
                value = value.decode("latin-1")
            elif not isinstance(value, str):
                raise TypeError(f"Expected str, not {type(value)}")
            if not (value.isascii() and value.isprintable()):
                raise IllegalMetadata(f"Metadata value for key {key!r} is invalid")
        if key not in dropped:
            entries.append((key, value))
    return tuple(entries)


class ReceivedMetadata(grpc.aio.Metadata):
    """Entries as they were admitted; the library's index of them is made when somebody looks a key up."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries

    def __getattr__(self, name: str) -> Any:
        if name != "_metadata":
            raise AttributeError(name)
        super().__init__(*self._entries)
        return self.__dict__["_metadata"]

    def __iter__(self) -> Iterator[tuple[str, str | bytes]]:
        """The entries, or what they have been changed to."""
        return super().__iter__() if "_metadata" in self.__dict__ else iter(self._entries)
