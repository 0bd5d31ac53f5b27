"""A step of the hash chain on SQLite: one function, run in one hop to the thread of the writer's connection."""

from __future__ import annotations

import json
import sqlite3
from typing import Final

from storage.chain import CONTENT_FIELDS, CREDIT, DEBIT, Head, link

_FRESH: Final = f"""
    SELECT {", ".join(CONTENT_FIELDS)} FROM ledger WHERE id > (SELECT value FROM revisions WHERE name = 'ledger_chain')
    ORDER BY id LIMIT ?
"""
_HEADS: Final = """
    SELECT account_id, position, hash, debits, credits FROM ledger_heads
    WHERE account_id IN (SELECT value FROM json_each(?))
"""
_LINK: Final = "INSERT INTO ledger_chain (ledger_id, account_id, position, hash) VALUES (?, ?, ?, ?)"
_MOVE: Final = """
    INSERT INTO ledger_heads (account_id, position, hash, debits, credits) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (account_id) DO UPDATE SET
      position = excluded.position, hash = excluded.hash, debits = excluded.debits, credits = excluded.credits
"""
_REACHED: Final = "UPDATE revisions SET value = ? WHERE name = 'ledger_chain'"


def chain(connection: sqlite3.Connection, limit: int) -> int:
    """Chain the next entries, `limit` at most, in the transaction that is open; how many.

    There is one writer: ids ascend in commit order, and behind the last one chained nothing is left.
    """
    entries = connection.execute(_FRESH, (limit,)).fetchall()
    if entries:
        named = {row[place] for row in entries for place in (DEBIT, CREDIT)}
        found = connection.execute(_HEADS, (json.dumps(list(named)),))
        heads = {account_id: Head(*rest) for account_id, *rest in found}
        connection.executemany(_LINK, link(entries, heads))
        moved = [(id_, head.position, head.hash, head.debits, head.credits) for id_, head in heads.items()]
        connection.executemany(_MOVE, moved)
        connection.execute(_REACHED, (entries[-1][0],))
    return len(entries)
