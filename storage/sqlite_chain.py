"""A step of the hash chain on SQLite: one function, run in one hop to the thread of the writer's connection.

All entries come as one JSON text: see `storage.sqlite_writing` for what a statement costs, as does every row it gives.
A step is not waited for until it is on the disk, as settlements wait behind it: what a crash undoes is chained again,
and comes out the same.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final

import msgspec

from storage.chain import CONTENT_FIELDS, CREDIT, DEBIT, Head, link
from storage.sqlite_writing import Rows, transaction, written_lazily

_FRESH: Final = f"""
    SELECT json_group_array(json_array({", ".join(CONTENT_FIELDS)})) FROM (
      SELECT * FROM ledger WHERE id > (SELECT value FROM revisions WHERE name = 'ledger_chain') ORDER BY id LIMIT ?
    )
"""
_HEADS: Final = """
    SELECT account_id, position, hash, debits, credits FROM ledger_heads
    WHERE account_id IN (SELECT value FROM json_each(?))
"""
_MOVE: Final = """
    INSERT INTO ledger_heads (account_id, position, hash, debits, credits) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (account_id) DO UPDATE SET
      position = excluded.position, hash = excluded.hash, debits = excluded.debits, credits = excluded.credits
"""
_REACHED: Final = "UPDATE revisions SET value = ? WHERE name = 'ledger_chain'"


class ChainTransaction:
    """Chains entries on a driver connection that is in autocommit mode."""

    def __init__(self) -> None:
        self._links = Rows("ledger_chain", ("ledger_id", "account_id", "position", "hash"))

    def run(self, connection: sqlite3.Connection, limit: int) -> int:
        """Chain the next entries, `limit` at most; how many. CommitFailed as `storage.sqlite_writing.transaction`.

        There is one writer: ids ascend in commit order, and behind the last one chained nothing is left.
        """
        with written_lazily(connection), transaction(connection):
            [[text]] = connection.execute(_FRESH, (limit,))
            # In the order of their ids, which an aggregate does not promise.
            entries: list[Sequence[Any]] = sorted(msgspec.json.decode(text), key=itemgetter(0))
            if entries:
                named = {row[place] for row in entries for place in (DEBIT, CREDIT)}
                heads = {id_: Head() for id_ in named}
                for account_id, *rest in connection.execute(_HEADS, (json.dumps(list(named)),)):
                    heads[account_id] = Head(*rest)
                self._links.insert(connection, link(entries, heads))
                moved = [(id_, head.position, head.hash, head.debits, head.credits) for id_, head in heads.items()]
                connection.executemany(_MOVE, moved)
                connection.execute(_REACHED, (entries[-1][0],))
        return len(entries)
