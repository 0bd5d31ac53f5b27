"""A step of the hash chain on SQLite: one function, run in one hop to the thread of the writer's connection.

All entries come as one JSON text: see `storage.sqlite_writing` for what a statement costs, as does every row it gives.
A step is not waited for until it is on the disk, as settlements wait behind it: what a crash undoes is chained again,
and comes out the same.

Under load the rows of settlements need not be read for that: they are at hand in the thread that has just written them,
which chains them whenever enough have gathered. All else in the ledger, and what could not be chained so, is read.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, Final

import msgspec

from storage.chain import CONTENT_FIELDS, CREDIT, DEBIT, FLAG_FIELDS, Head, link
from storage.settlement import Row
from storage.sqlite_writing import Rows, transaction, written_lazily

AT_HAND: Final = 256
"""Rows that are chained together as they are at hand."""

_FRESH: Final = f"""
    SELECT json_group_array(json_array({", ".join(CONTENT_FIELDS)})) FROM (
      SELECT * FROM ledger WHERE id > (SELECT value FROM revisions WHERE name = 'ledger_chain') ORDER BY id LIMIT ?
    )
"""
_FLAGS = tuple(map(CONTENT_FIELDS.index, FLAG_FIELDS))

_HEADS: Final = """
    SELECT account_id, position, hash, debits, credits FROM ledger_heads
    WHERE account_id IN (SELECT value FROM json_each(?))
"""
_MOVE: Final = """
    INSERT INTO ledger_heads (account_id, position, hash, debits, credits) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (account_id) DO UPDATE SET
      position = excluded.position, hash = excluded.hash, debits = excluded.debits, credits = excluded.credits
"""
_CHAINED: Final = "SELECT value FROM revisions WHERE name = 'ledger_chain'"

_REACHED: Final = "UPDATE revisions SET value = ? WHERE name = 'ledger_chain'"


class ChainTransaction:
    """Chains entries on a driver connection that is in autocommit mode."""

    def __init__(self) -> None:
        self._links = Rows("ledger_chain", ("ledger_id", "account_id", "position", "hash"))
        self._at_hand: list[tuple[Sequence[Row], int]] = []
        self._count = 0

    def run(self, connection: sqlite3.Connection, limit: int) -> int:
        """Chain the next entries, `limit` at most; how many. CommitFailed as `storage.sqlite_writing.transaction`.

        There is one writer: ids ascend in commit order, and behind the last one chained nothing is left.
        """
        with written_lazily(connection), transaction(connection):
            [[text]] = connection.execute(_FRESH, (limit,))
            # In the order of their ids, which an aggregate does not promise.
            entries: list[Sequence[Any]] = sorted(msgspec.json.decode(text), key=itemgetter(0))
            if entries:
                self._append(connection, entries)
        return len(entries)

    def keep(self, rows: Sequence[Row], last_id: int) -> None:
        """Rows were committed to the ledger: keep them at hand. The last one has this id, the others those before."""
        self._at_hand.append((rows, last_id))
        self._count += len(rows)

    def follow(self, connection: sqlite3.Connection) -> bool:
        """Chain what is at hand, once there is enough, if it is what comes next in the ledger; whether it did.
        Raises as `run`."""
        if self._count < AT_HAND:
            return False
        at_hand, self._at_hand, self._count = self._at_hand, [], 0
        with written_lazily(connection), transaction(connection):
            [[chained]] = connection.execute(_CHAINED)
            entries = [entry for rows, last_id in at_hand for entry in _entries(rows, last_id) if entry[0] > chained]
            if entries and entries[-1][0] == chained + len(entries):
                self._append(connection, entries)
                return True
        return False

    def _append(self, connection: sqlite3.Connection, entries: Sequence[Sequence[Any]]) -> None:
        named = {row[place] for row in entries for place in (DEBIT, CREDIT)}
        heads = {id_: Head() for id_ in named}
        for account_id, *rest in connection.execute(_HEADS, (json.dumps(list(named)),)):
            heads[account_id] = Head(*rest)
        self._links.insert(connection, link(entries, heads))
        moved = [(id_, head.position, head.hash, head.debits, head.credits) for id_, head in heads.items()]
        connection.executemany(_MOVE, moved)
        connection.execute(_REACHED, (entries[-1][0],))


def _entries(rows: Sequence[Row], last_id: int) -> Iterator[Sequence[Any]]:
    """Rows with their ids, flags as integers, as SQLite gives them back."""
    for id_, row in enumerate(rows, last_id - len(rows) + 1):
        entry = [id_, *row]
        for place in _FLAGS:
            entry[place] = int(entry[place])
        yield entry
