"""A step of the hash chain on PostgreSQL: one core at a time, in few round trips."""

from __future__ import annotations

from typing import Any, Final

from storage.chain import CONTENT_FIELDS, CREDIT, DEBIT, FLAG_FIELDS, Head, link

_CHAIN_LOCK: Final = 0x776C72636861696E
"""Key of the advisory lock that lets one core chain at a time: "wlrchain" in ASCII."""

LONGEST_TRANSACTION_S: Final = 60
"""More than a transaction can last that adds entries: its statements and its idle moments have limits."""

# An entry that is visible took its id before its commit, at most LONGEST_TRANSACTION_S after its transaction began.
# Whoever took a smaller id had begun by then: if none that had is running now, none will commit one any more.
_BEGIN: Final = f"""
    SELECT pg_try_advisory_xact_lock({_CHAIN_LOCK}), value, least(now(), (
      SELECT min(xact_start) FROM pg_stat_activity
      WHERE datname = current_database() AND backend_xid IS NOT NULL AND pid <> pg_backend_pid()
    )) - interval '{LONGEST_TRANSACTION_S} seconds'
    FROM revisions WHERE name = 'ledger_chain'
"""
_BELOW: Final = "SELECT value FROM revisions WHERE name = 'ledger_chain'"
_FRESH: Final = f"""
    SELECT {", ".join(f"{name}::int" if name in FLAG_FIELDS else name for name in CONTENT_FIELDS)} FROM ledger
    WHERE id > $1 AND (SELECT ledger_id FROM ledger_chain WHERE ledger_id = ledger.id) IS NULL
    ORDER BY id LIMIT $2
"""
_HEADS: Final = "SELECT account_id, position, hash, debits, credits FROM ledger_heads WHERE account_id = ANY($1)"
_LINK: Final = """
    INSERT INTO ledger_chain (ledger_id, account_id, position, hash)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bytea[])
"""
_MOVE: Final = """
    INSERT INTO ledger_heads (account_id, position, hash, debits, credits)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[])
    ON CONFLICT (account_id) DO UPDATE SET
      position = excluded.position, hash = excluded.hash, debits = excluded.debits, credits = excluded.credits
"""
_REACHED: Final = """
    UPDATE revisions SET value = (
      SELECT coalesce(max(id), $1) FROM ledger
      WHERE id > $1 AND id <= $2 AND created_us < extract(epoch FROM $3::timestamptz) * 1000000
    ) WHERE name = 'ledger_chain'
"""


async def chain(connection: Any, limit: int) -> int:
    """Chain the next entries, `limit` at most, in the transaction that is open; how many.

    0 also when another core is at it. Ids can become visible out of their order: an entry is chained when it is
    seen, and what is new is sought from where none can come late any more.
    """
    locked, below, settled_before = await connection.fetchrow(_BEGIN)
    if not locked:
        return 0
    # Apart: what the statement before saw may be older than its lock.
    below = await connection.fetchval(_BELOW)
    entries = [tuple(row) for row in await connection.fetch(_FRESH, below, limit)]
    if entries:
        named = {row[place] for row in entries for place in (DEBIT, CREDIT)}
        heads = {id_: Head() for id_ in named}
        for account_id, *rest in await connection.fetch(_HEADS, list(named)):
            heads[account_id] = Head(*rest)
        links = link(entries, heads)
        await connection.execute(_LINK, *map(list, zip(*links, strict=True)))
        moved = ((id_, head.position, head.hash, head.debits, head.credits) for id_, head in heads.items())
        await connection.execute(_MOVE, *map(list, zip(*moved, strict=True)))
        await connection.execute(_REACHED, below, entries[-1][0], settled_before)
    return len(entries)
