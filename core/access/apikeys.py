"""The text of an API key: made, taken apart, hashed. Nothing here reads a clock, a file or a database.

`wlrouter_` + id part (26) + secret (36) + checksum (6), 77 characters in all. The id part is that of the key's
id, so that the key's record is found without a search. The secret is base62 from `secrets`: 214 bits, 190 even
to somebody who sees the last four characters. The checksum is the CRC-32 of everything before it in base62, as
GitHub does it: a mistyped key, and a random string, is told from a key without a look at any table
(https://github.blog/engineering/platform-security/behind-githubs-new-authentication-token-formats/).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from storage.records import SecretHash

KEY_PREFIX = "wlrouter_"
"""What every API key begins with."""
ID_PREFIX = "key_"
"""What the id of a key begins with; the id part of its text follows."""

_ID_LENGTH = 26
_SECRET_LENGTH = 36
_CHECKSUM_LENGTH = 6
_LENGTH = len(KEY_PREFIX) + _ID_LENGTH + _SECRET_LENGTH + _CHECKSUM_LENGTH
_SHOWN_LENGTH = len(KEY_PREFIX) + 10
_SUFFIX_LENGTH = 4
_HASH_BLOCK_BYTES = 64

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHAPE = re.compile(f"{KEY_PREFIX}[0-9a-hjkmnp-tv-z]{{{_ID_LENGTH}}}[0-9A-Za-z]{{{_SECRET_LENGTH + _CHECKSUM_LENGTH}}}")


class UnknownPepper(Exception):
    """A key was hashed under a pepper that this process does not have."""


class _KeyedHash:
    """HMAC-SHA-256 under one key (RFC 2104), whose two blocks are hashed once: `hmac` takes three times as long."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        block = (key if len(key) <= _HASH_BLOCK_BYTES else hashlib.sha256(key).digest()).ljust(_HASH_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def digest(self, text: str) -> bytes:
        """The digest of a text; what is no text of ASCII is nobody's key."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text.encode("ascii", "replace"))
        outer.update(inner.digest())
        return outer.digest()


@dataclass(frozen=True, slots=True)
class Peppers:
    """Secrets that keys are hashed under, by version: new hashes take `current`, old ones keep theirs."""

    current: int
    by_version: Mapping[int, bytes]
    _hashes: dict[int, _KeyedHash] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.current not in self.by_version:
            raise ValueError(f"there is no pepper of the current version {self.current}")
        if any(len(pepper) < 32 for pepper in self.by_version.values()):
            raise ValueError("a pepper needs at least 32 bytes")
        self._hashes.update((version, _KeyedHash(pepper)) for version, pepper in self.by_version.items())

    def hash(self, key: str) -> SecretHash:
        """What is stored of a key."""
        return SecretHash(self._hashes[self.current].digest(key), self.current)

    def matches(self, key: str, stored: SecretHash) -> bool:
        """Whether this is the key that was stored, in constant time. Raises UnknownPepper."""
        keyed = self._hashes.get(stored.pepper_version)
        if keyed is None:
            raise UnknownPepper(f"no pepper of version {stored.pepper_version}")
        return hmac.compare_digest(keyed.digest(key), stored.digest)


def make_key(key_id: str) -> str:
    """A new key for the record of this id ("key_" and 26 characters)."""
    body = KEY_PREFIX + key_id.removeprefix(ID_PREFIX)
    body += "".join(secrets.choice(_BASE62) for _ in range(_SECRET_LENGTH))
    return body + _checksum(body)


def key_id_of(key: str) -> str | None:
    """The id of the record that this key would have; None when it cannot be a key."""
    if len(key) != _LENGTH or _SHAPE.fullmatch(key) is None:
        return None
    if key[-_CHECKSUM_LENGTH:] != _checksum(key[:-_CHECKSUM_LENGTH]):
        return None
    return claimed_key_id(key)


def claimed_key_id(key: str) -> str:
    """The id of the record that this must match to be a key: quick, and says nothing of what is no key at all."""
    return ID_PREFIX + key[len(KEY_PREFIX) : len(KEY_PREFIX) + _ID_LENGTH]


def shown_prefix(key: str) -> str:
    """The first characters of a key, fit to be stored and shown: nothing of its secret."""
    return key[:_SHOWN_LENGTH]


def shown_suffix(key: str) -> str:
    """The last 4 characters of a key, fit to be stored and shown: part of its checksum."""
    return key[-_SUFFIX_LENGTH:]


def _checksum(body: str) -> str:
    rest = zlib.crc32(body.encode("ascii"))
    digits = []
    for _ in range(_CHECKSUM_LENGTH):
        rest, digit = divmod(rest, 62)
        digits.append(_BASE62[digit])
    return "".join(reversed(digits))
