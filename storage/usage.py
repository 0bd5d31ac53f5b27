"""Usage summed up by day: roll-ups that follow the ledger, and questions answered from them and from what is newer.

`usage_daily` holds the sums of all usage entries up to an id that `revisions` names. Behind it, the roll-up goes on
only to where no entry can show up late any more, and what it adds up never changes: two cores that add up the same
entries differ in nothing, and the one that moves the id first has written them. A question sums `usage_daily` and the
entries behind that id in one statement, which sees one moment; so its answer is exact, however far the roll-up is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Subquery,
    Text,
    case,
    cast,
    delete,
    func,
    literal,
    null,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.database import AnyRow, AnySelect, OverDatabase
from storage.ledger import keys_of, usage_record_of, used_by
from storage.tables import USAGE_EPOCH, USAGE_REVISION, api_keys, ledger, revisions, usage_daily
from storage.usage_records import UsageBounds, UsageDimension, UsageQuery, UsageRecord, UsageSum

US_PER_DAY: Final = 86_400_000_000
STEP_ENTRIES: Final = (4_000, 64_000)
"""Least and most entries that one step adds up."""
STEP_ROWS: Final = 8_000
"""Rows that a step's transaction should write at most: on SQLite settlements wait for it, some 10 ms per thousand."""
KEYS_AT_ONCE: Final = 100
"""Keys that one statement asks for: SQLite puts 500 together at most (https://www.sqlite.org/limits.html)."""
MAX_COUNTED: Final = 10**12
"""Most tokens that one entry adds to a sum: far beyond any model, and far from overflowing 64 bits in all."""

_UNFAILED = ("complete", "client_gone")
_TOKENS = ("prompt_tokens", "cached_tokens", "cache_write_tokens", "completion_tokens", "reasoning_tokens")
_SUMS = ("requests", "failed_requests", *_TOKENS, "amount", "shortfall")
_KEY = ("day", "account_id", "key_id", "model_id")
_COLUMNS: Final[dict[UsageDimension, str]] = {
    "day": "day",
    "account": "account_id",
    "api_key": "key_id",
    "model": "model_id",
}


class SqlUsage(OverDatabase):
    """`UsageStore` over a database."""

    async def roll_up_usage(self) -> int:
        """Add entries to the roll-ups that are not in them yet and that can be; how many entries were looked at.

        In small transactions: who is cancelled has lost nothing. Less when another core is at it. Safe to repeat.
        """
        last_id, done, size = await self._db.settled_ledger_id(), 0, STEP_ENTRIES[0]
        while True:
            _, through = await self._position()
            ahead = select(ledger.c.id).where(ledger.c.id > through, ledger.c.id <= last_id)
            step = ahead.order_by(ledger.c.id).limit(size).subquery()
            [[count, end]] = await self._db.rows(select(func.count(), func.max(step.c.id)))
            written = await self._advance(through, end) if count else None
            if written is None:
                return done
            done += count
            size = min(size * 2, STEP_ENTRIES[1]) if written <= STEP_ROWS // 2 else STEP_ENTRIES[0]

    async def forget_usage(self) -> None:
        """Empty the roll-ups: `roll_up_usage` makes them anew. Until then summaries take as long as the ledger is."""

        async def work(connection: AsyncConnection) -> None:
            # First: it waits for whoever is adding to them, and keeps out whoever would.
            await connection.execute(_set_revision(USAGE_REVISION, literal(0)))
            await connection.execute(_set_revision(USAGE_EPOCH, revisions.c.value + 1))
            await connection.execute(delete(usage_daily))

        await self._db.write(work)

    async def summarize_usage(
        self, query: UsageQuery, by: Sequence[UsageDimension], *, after: tuple[int | str, ...] | None, limit: int
    ) -> list[UsageSum]:
        """Sums by what `by` names, ascending by it in that order; `after` is the last one seen, its values of `by`."""
        names = [_COLUMNS[each] for each in by]

        def statement(through: int) -> AnySelect:
            parts = _parts(query, through, names, after)
            keys = [parts.c[name] if name in names else null().label(name) for name in _KEY]
            sums = [_total(parts.c[name]).label(name) for name in _SUMS]
            grouped = select(*keys, *sums).group_by(*(parts.c[name] for name in names))
            return grouped.order_by(*(parts.c[name] for name in names)).limit(limit)

        found = [UsageSum(*row) for row in await self._exact(statement)]
        # Without groups SQL has one row also for nothing, with NULL for its sums.
        return [each for each in found if each.requests]

    async def usage_bounds(self, query: UsageQuery) -> UsageBounds | None:
        """The least and the greatest ledger id of the entries in question; None when there are none."""

        def statement(through: int) -> AnySelect:
            parts = _parts(query, through, (), None)
            return select(func.min(parts.c.first_id), func.max(parts.c.last_id))

        [[first_id, last_id]] = await self._exact(statement)
        return None if first_id is None else UsageBounds(first_id, last_id)

    async def usage_between(self, query: UsageQuery, bounds: UsageBounds, *, limit: int) -> list[UsageRecord]:
        """Usage entries in question of ids within the bounds, newest first."""
        whose = query.whose
        if whose is None or whose.key_id is not None or whose.account_id == whose.payer_id:
            statement = _newest(select(ledger), bounds, *_in_question(query)).limit(limit)
        else:
            keys = await self._db.rows(keys_of(whose))
            ids = await self._ids_by_keys([key for (key,) in keys], query, bounds, limit)
            statement = select(ledger).where(ledger.c.id.in_(ids)).order_by(ledger.c.id.desc())
        return [usage_record_of(row) for row in await self._db.listed(statement)]

    async def _ids_by_keys(
        self, keys: Sequence[str], query: UsageQuery, bounds: UsageBounds, limit: int
    ) -> Sequence[int]:
        """The greatest ids within the bounds of entries of any of these keys: each key's greatest ones, merged.

        At once, as "key is one of these", a database would look through all entries, or fetch all that these have.
        """
        found: list[int] = []
        for place in range(0, len(keys), KEYS_AT_ONCE):
            if len(found) == limit:
                bounds = UsageBounds(found[-1] + 1, bounds.last_id)  # what is before it is on a later page
            of_key = _newest(select(ledger.c.id), bounds, *_of_days(query)).limit(limit)
            each = [of_key.where(ledger.c.key_id == key).subquery() for key in keys[place : place + KEYS_AT_ONCE]]
            found += [id_ for (id_,) in await self._db.listed(select(union_all(*map(select, each)).subquery()))]
            found = sorted(found, reverse=True)[:limit]
        return found

    async def _position(self) -> tuple[int, int]:
        """How often the roll-ups were emptied, and the id of the last entry in them."""
        names = (USAGE_EPOCH, USAGE_REVISION)
        found = await self._db.rows(select(revisions.c.name, revisions.c.value).where(revisions.c.name.in_(names)))
        values = {row.name: row.value for row in found}
        return values[USAGE_EPOCH], values[USAGE_REVISION]

    async def _exact(self, statement: Callable[[int], AnySelect]) -> Sequence[AnyRow]:
        """The rows of a statement that looks at the ledger from an id on, which must not have gone back meanwhile."""
        while True:
            epoch, through = await self._position()
            rows = await self._db.listed(statement(through))
            if (await self._position())[0] == epoch:
                return rows

    async def _advance(self, through: int, end: int) -> int | None:
        """Add up the entries behind `through` as far as `end`; the rows written, None when somebody else was faster."""
        fresh = _of_ledger(ledger.c.id > through, ledger.c.id <= end, ledger.c.kind == "usage").subquery()
        keys = [fresh.c[name] for name in _KEY]
        sums = [_total(fresh.c[name]).label(name) for name in _SUMS]
        ids = [func.min(fresh.c.first_id).label("first_id"), func.max(fresh.c.last_id).label("last_id")]
        rows = [dict(row._mapping) for row in await self._db.rows(select(*keys, *sums, *ids).group_by(*keys))]

        async def work(connection: AsyncConnection) -> int | None:
            moved = _set_revision(USAGE_REVISION, literal(end)).where(revisions.c.value == through)
            if (await connection.execute(moved.returning(revisions.c.name))).first() is None:
                return None
            if rows:
                statement = self._db.insert(usage_daily)
                added = {name: usage_daily.c[name] + statement.excluded[name] for name in _SUMS}
                changed = {**added, "last_id": statement.excluded.last_id}
                await connection.execute(statement.on_conflict_do_update(index_elements=_KEY, set_=changed), rows)
            return len(rows)

        return await self._db.write(work)


def _set_revision(name: str, value: ColumnElement[int]) -> Any:
    return update(revisions).where(revisions.c.name == name).values(value=value)


def _parts(query: UsageQuery, through: int, names: Sequence[str], after: tuple[int | str, ...] | None) -> Subquery:
    """Roll-ups and newer entries in question, in the columns of `usage_daily`; those of groups behind `after`."""
    rolled = select(usage_daily).where(*_asked(usage_daily.c, query))
    now_through = select(revisions.c.value).where(revisions.c.name == USAGE_REVISION).scalar_subquery()
    # The plain number says the same, a moment ago, and tells the database how little of the ledger is meant.
    newer = _of_ledger(ledger.c.id > through, ledger.c.id > now_through, *_in_question(query))
    parts = [_owned(part) for part in (rolled, newer)] if "account_id" in names else [rolled, newer]
    if after is not None:
        inner = [part.subquery() for part in parts]
        parts = [select(part).where(tuple_(*(part.c[name] for name in names)) > after) for part in inner]
    return union_all(*parts).subquery()


def _owned(statement: AnySelect) -> AnySelect:
    """The same by the account of the key, which is below the one that paid; that one where there is no key."""
    paid = statement.subquery()
    owner = func.coalesce(api_keys.c.account_id, paid.c.account_id).label("account_id")
    columns = [owner if column.name == "account_id" else column for column in paid.c]
    return select(*columns).outerjoin(api_keys, api_keys.c.id == paid.c.key_id)


def _asked(columns: Any, query: UsageQuery) -> list[ColumnElement[bool]]:
    whose = used_by(query.whose, columns.account_id, columns.key_id)
    return [columns.day >= query.first_day, columns.day <= query.last_day, *whose]


def _in_question(query: UsageQuery) -> list[ColumnElement[bool]]:
    whose = used_by(query.whose, ledger.c.debit_account, ledger.c.key_id)
    return [ledger.c.kind == "usage", *_of_days(query), *whose]


def _of_days(query: UsageQuery) -> list[ColumnElement[bool]]:
    created = ledger.c.created_us
    return [created >= query.first_day * US_PER_DAY, created < (query.last_day + 1) * US_PER_DAY]


def _newest(statement: AnySelect, bounds: UsageBounds, *which: ColumnElement[bool]) -> AnySelect:
    within = (ledger.c.id >= bounds.first_id) & (ledger.c.id <= bounds.last_id)
    return statement.where(within, *which).order_by(ledger.c.id.desc())


def _of_ledger(*which: ColumnElement[bool]) -> AnySelect:
    """Usage entries in the columns of `usage_daily`."""
    tokens = [_counted(ledger.c[name]).label(name) for name in _TOKENS]
    return select(
        (ledger.c.created_us // US_PER_DAY).label("day"),
        ledger.c.debit_account.label("account_id"),
        func.coalesce(ledger.c.key_id, "", type_=Text).label("key_id"),
        ledger.c.model_id,
        literal(1, BigInteger).label("requests"),
        case((ledger.c.status.in_(_UNFAILED), 0), else_=1).label("failed_requests"),
        *tokens,
        ledger.c.amount,
        ledger.c.shortfall,
        ledger.c.id.label("first_id"),
        ledger.c.id.label("last_id"),
    ).where(*which)


def _counted(column: ColumnElement[int]) -> ColumnElement[int]:
    return case((column > MAX_COUNTED, MAX_COUNTED), else_=column)


def _total(column: ColumnElement[int]) -> ColumnElement[int]:
    # PostgreSQL sums BIGINT into NUMERIC.
    return cast(func.sum(column), BigInteger)
