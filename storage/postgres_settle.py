"""The settle transaction on PostgreSQL: a batch in few round trips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
from sqlalchemy import ColumnElement, Text, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql import asyncpg as dialects

from storage.records import Charge, Settlement
from storage.settle_statements import CommitFailed, SettleStatements, known_refs, sql
from storage.settlement import (
    HeldLease,
    Plan,
    changed_before,
    late_accounts,
    late_purses,
    named_leases,
    plan,
    unknown,
)

DRIVER_FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""What asyncpg raises: for the server, for itself, for a state it did not expect, and for the network."""


class SettleTransaction:
    """Commits batches of settlements on a driver connection that nobody else uses meanwhile."""

    def __init__(self, now_us: ColumnElement[int]) -> None:
        """`now_us` is the database's clock."""
        dialect = dialects.dialect()  # type: ignore[no-untyped-call]
        ids = func.any(bindparam("ids", type_=ARRAY(Text)))
        self._sql = SettleStatements(dialect, lambda column: column == ids)
        refs = known_refs(lambda column: column == ids).scalar_subquery()
        # One round trip for both. (ids) → (now, [request id])
        self._now_and_known = sql(dialect, select(now_us, func.array(refs)), "ids")

    async def run(self, connection: Any, batch: Sequence[Settlement]) -> Mapping[str, Charge]:
        """Commit a batch, all or none; returns what `LedgerStore.settle` does.

        After an exception the connection must be dropped. CommitFailed when the outcome is unknown; anything else
        means that nothing was changed.
        """
        await connection.execute("BEGIN")
        planned = await self._plan(connection, batch)
        await self._write(connection, planned)
        try:
            await connection.execute("COMMIT")
        except DRIVER_FAILURES as error:
            raise CommitFailed(str(error)) from error
        return planned.changed

    async def _plan(self, connection: Any, batch: Sequence[Settlement]) -> Plan:
        found = await connection.fetchrow(self._now_and_known, [row.request_id for row in batch])
        now_us, known = found
        fresh = unknown(batch, set(known))
        named = named_leases(fresh)
        locked = await connection.fetch(self._sql.leases, named) if named else []
        held = {id_: HeldLease(account, free, active) for id_, account, free, active in locked}
        late = late_accounts(fresh, held)
        spendable = dict(await connection.fetch(self._sql.accounts, late)) if late else {}
        gone = late_purses(fresh, held)
        purses = dict(await connection.fetch(self._sql.purses, gone)) if gone else {}
        planned = plan(fresh, held, spendable, purses, now_us)
        if known:
            kept = {ref: Charge(*charge) for ref, *charge in await connection.fetch(self._sql.kept, known)}
            planned.changed.update(changed_before(batch, kept))
        return planned

    async def _write(self, connection: Any, planned: Plan) -> None:
        if planned.spent:
            spent = [(amount, *lease) for lease, amount in planned.spent.items()]
            await connection.executemany(self._sql.spend, spent)
        if planned.taken:
            taken = [(amount, id_) for id_, amount in planned.taken.items()]
            await connection.executemany(self._sql.charge, taken)
        if planned.taken_of_purses:
            given = [(amount, amount, id_) for id_, amount in planned.taken_of_purses.items()]
            await connection.executemany(self._sql.charge_purse, given)
        await connection.executemany(self._sql.insert, planned.rows)
