"""The settle transaction on SQLite: one function, run in one hop to the thread of the writer's connection.

A hop costs more than all statements of a small batch, so there is exactly one. Each statement too has its price, as
Python's lock changes hands around it: what a batch assumes about the database is not asked first, but found out by
the statements that write.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache

from sqlalchemy import bindparam, func, select
from sqlalchemy.dialects import sqlite

from storage.records import Charge, Settlement
from storage.settle_statements import SettleStatements
from storage.settlement import (
    ROW_COLUMNS,
    HeldLease,
    Plan,
    Row,
    changed_before,
    foreseen,
    late_accounts,
    late_purses,
    named_leases,
    plan,
    unknown,
)
from storage.sqlite_writing import Rows, transaction


@cache
def _statements() -> SettleStatements:
    ids = select(func.json_each(bindparam("ids")).table_valued("value").c.value)
    return SettleStatements(sqlite.dialect(paramstyle="qmark"), lambda column: column.in_(ids))


class SettleTransaction:
    """Commits batches of settlements on a driver connection that is in autocommit mode.

    `tell` is given what nearly every batch commits: rows in the order of `ROW_COLUMNS` that follow each other in the
    ledger, and the id of the last one. Of a batch that is not as assumed it hears nothing.
    """

    def __init__(self, tell: Callable[[Sequence[Row], int], None]) -> None:
        self._tell = tell
        self._sql = _statements()
        self._rows = Rows("ledger", ROW_COLUMNS)

    def run(self, connection: sqlite3.Connection, batch: Sequence[Settlement], now_us: int) -> Mapping[str, Charge]:
        """Commit a batch, all or none; returns what `LedgerStore.settle` does.

        CommitFailed when the outcome is unknown; anything else means that nothing was changed.
        """
        changed: Mapping[str, Charge] = {}
        with transaction(connection):
            written = self._write_foreseen(connection, batch, now_us)
            if written is None:
                connection.execute("ROLLBACK")
                connection.execute("BEGIN IMMEDIATE")
                planned = self._plan(connection, batch, now_us)
                self._write(connection, planned)
                changed = planned.changed
        if written is not None:
            self._tell(*written)
        return changed

    def _write_foreseen(
        self, connection: sqlite3.Connection, batch: Sequence[Settlement], now_us: int
    ) -> tuple[Sequence[Row], int] | None:
        """Write without a look at what is there; the rows and the id of the last one. None, with some of it written,
        when it is not as assumed."""
        planned = foreseen(batch, now_us)
        try:
            last_id = None if planned is None else self._write(connection, planned)
        except (sqlite3.IntegrityError, OverflowError):
            return None
        return None if planned is None or last_id is None else (planned.rows, last_id)

    def _plan(self, connection: sqlite3.Connection, batch: Sequence[Settlement], now_us: int) -> Plan:
        found = connection.execute(self._sql.kept, _ids({row.request_id for row in batch}))
        kept = {ref: Charge(amount, shortfall) for ref, amount, shortfall in found}
        fresh = unknown(batch, kept)
        found = connection.execute(self._sql.leases, _ids(named_leases(fresh)))
        held = {id_: HeldLease(account, free, bool(active)) for id_, account, free, active in found}
        late = late_accounts(fresh, held)
        spendable = dict(connection.execute(self._sql.accounts, _ids(late)).fetchall()) if late else {}
        gone = late_purses(fresh, held)
        purses = dict(connection.execute(self._sql.purses, _ids(gone)).fetchall()) if gone else {}
        planned = plan(fresh, held, spendable, purses, now_us)
        planned.changed.update(changed_before(batch, kept))
        return planned

    def _write(self, connection: sqlite3.Connection, planned: Plan) -> int | None:
        """The id of the last row; None, with nothing but leases written, if a lease was not found as planned."""
        spent = [(amount, *lease) for lease, amount in planned.spent.items()]
        if spent and connection.executemany(self._sql.spend, spent).rowcount != len(spent):
            return None
        if planned.taken:
            connection.executemany(self._sql.charge, [(amount, id_) for id_, amount in planned.taken.items()])
        if planned.taken_of_purses:
            taken = [(amount, amount, id_) for id_, amount in planned.taken_of_purses.items()]
            connection.executemany(self._sql.charge_purse, taken)
        return self._rows.insert(connection, planned.rows)


def _ids(ids: Collection[str]) -> tuple[str]:
    return (json.dumps(list(ids)),)
