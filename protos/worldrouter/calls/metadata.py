"""Which metadata may travel: what gRPC's core lets through a socket.

Rules: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md (Custom-Metadata). The keys that the core
keeps to itself, and what it says of metadata that are too large, were observed on grpcio 1.85.1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Final
from urllib.parse import quote

import grpc.aio

Entries = tuple[tuple[str, str | bytes], ...]
"""Metadata as it was admitted: pairs of key and value, bytes for keys that end in "-bin", else text."""

MAX_METADATA_BYTES: Final = 16 * 1024
"""Of all keys and values one way and ENTRY_WEIGHT_BYTES for each entry: as much is refused, as by gRPC's core
(`grpc.absolute_max_metadata_size`), which counts its own entries too, some 600 bytes. Above 8 KiB
(`grpc.max_metadata_size`) a socket refuses at random, the likelier the larger; without one all of that passes."""
ENTRY_WEIGHT_BYTES: Final = 32
"""RFC 9113, 6.5.2."""

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


_UNQUOTED = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
"""What stays as it is in a status' details; all else becomes three characters for each byte of UTF-8."""
_USUAL_KEYS = frozenset({"authorization", "x-request-id"})
"""Of nearly every call: known to be legal."""


class IllegalMetadata(grpc.aio.InternalError):
    """A key or value has characters that gRPC does not carry; over a socket, a private subclass of the same."""


class MetadataTooLarge(Exception):
    """All of them are MAX_METADATA_BYTES or more; the text is the status' details. Its code is RESOURCE_EXHAUSTED."""


def admit(metadata: Collection[tuple[str, str | bytes]], dropped: frozenset[str] = KEPT_BY_CORE) -> Entries:
    """The entries that arrive at the other side.

    Raises IllegalMetadata, MetadataTooLarge, or TypeError for a value of a wrong type.
    """
    entries: list[tuple[str, str | bytes]] = []
    size_bytes = ENTRY_WEIGHT_BYTES * len(metadata)
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
        size_bytes += len(key) + len(value)
        if key not in dropped:
            entries.append((key, value))
    if size_bytes >= MAX_METADATA_BYTES:
        raise MetadataTooLarge(_refusal(metadata, size_bytes))
    return tuple(entries)


def admit_trailing(metadata: Collection[tuple[str, str | bytes]], details: str) -> Entries:
    """The same for what travels beside a status' details, which count too: they are an entry that the core keeps."""
    if not details:
        return admit(metadata)
    return admit((("grpc-message", quote(details, safe=_UNQUOTED, errors="replace")), *metadata))


def _refusal(metadata: Collection[tuple[str, str | bytes]], size_bytes: int) -> str:
    """What gRPC's core says; behind the sum it lists the sizes of all entries."""
    found = str(size_bytes)
    for key, value in reversed(tuple(metadata)):
        for name, part in (("value", value), ("key", key)):
            length = len(part) + isinstance(part, bytes)  # a binary value has a byte before it
            if length >= MAX_METADATA_BYTES:
                found = f"{name} length {length}"
    return f"received metadata size exceeds hard limit ({found} vs. {MAX_METADATA_BYTES})"


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
