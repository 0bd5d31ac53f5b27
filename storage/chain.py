"""What the ledger's hash chain is made of; pure.

Every entry is in the chain of one account: of the account it debits, or of the one it credits where the house
pays (its accounts begin with "house_"). An entry's hash is SHA-256 over the hash before it in its chain (32 zero
bytes before the first) and its content: a JSON array of its fields in the order of `CONTENT_FIELDS`, in UTF-8,
without white space, with nothing escaped that need not be, integers in full, 0 and 1 for booleans. Entries are
chained in the order in which they were seen, which need not be that of their ids.

Whoever can write the database can compute a chain anew; it proves as much as the copies kept elsewhere of an
earlier state of it, which exports are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec

from storage.settlement import ROW_COLUMNS

CONTENT_FIELDS = ("id", *ROW_COLUMNS)
"""Columns of `ledger`, all of them, in the order of an entry's content."""

DEBIT, CREDIT, AMOUNT = map(CONTENT_FIELDS.index, ("debit_account", "credit_account", "amount"))
"""Where in an entry's content these are."""

FLAG_FIELDS = frozenset({"estimated", "streamed"})
"""Those that are booleans where a database has them."""

GENESIS = bytes(32)
"""What stands before the first hash of a chain."""

_HOUSE_PREFIX = "house_"
_encode = msgspec.json.Encoder().encode


def content_of(row: Sequence[Any]) -> bytes:
    """The content of an entry from its columns, in the order of `CONTENT_FIELDS`, flags as integers."""
    return _encode(row)


def owner_of(debit_account: str, credit_account: str) -> str:
    """The account in whose chain an entry is."""
    return credit_account if debit_account.startswith(_HOUSE_PREFIX) else debit_account


def next_hash(before: bytes, content: bytes) -> bytes:
    """The hash of an entry behind the one of hash `before`."""
    return sha256(before + content).digest()


@dataclass(slots=True)
class Head:
    """The end of an account's chain, and the sums of all chained entries that debit or credit the account."""

    position: int = 0
    hash: bytes = GENESIS
    debits: int = 0
    credits: int = 0


Link = tuple[int, str, int, bytes]
"""A row of `ledger_chain`: ledger id, account, position, hash."""


def link(entries: Iterable[Sequence[Any]], heads: Mapping[str, Head]) -> list[Link]:
    """Chain entries, given by their columns, behind the heads of the accounts that they name, which move on."""
    links: list[Link] = []
    for row in entries:
        debit, credit, amount = row[DEBIT], row[CREDIT], row[AMOUNT]
        owner = owner_of(debit, credit)
        head = heads[owner]
        head.position += 1
        head.hash = next_hash(head.hash, content_of(row))
        links.append((row[0], owner, head.position, head.hash))
        heads[debit].debits += amount
        heads[credit].credits += amount
    return links
