"""What cores take of limits per minute: a row for each limit that is in use, changed by all cores in turn."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.database import OverDatabase
from storage.limit_records import RATE_SLICE_US, RATE_SLICES, RateAsk, RateShare
from storage.tables import BIGINT, rate_windows
from storage.windows import Window, current, exchange

FORGET_AFTER_SLICES = 2 * RATE_SLICES
"""A window in which nothing is in use is as good as none."""

_decoder = msgspec.json.Decoder(Window)


class SqlRates(OverDatabase):
    """`RateStore` over a database."""

    async def exchange_rates(self, asks: Sequence[RateAsk], *, slice_us: int = RATE_SLICE_US) -> list[RateShare]:
        """Take units of limits, and bring others back, in one transaction; the answers in the order of the asks.

        Each limit is asked for once at most. `slice_us` is how long a slice lasts.
        """
        rows = [{"limit_id": limit_id, "used": "{}", "changed_us": 0} for limit_id in sorted(a.limit_id for a in asks)]
        now_us = self._db.now_us()
        # Makes the rows that are missing and locks all of them, always in the order of their ids.
        lock = self._db.insert(rate_windows).values(rows)
        lock = lock.on_conflict_do_update(index_elements=["limit_id"], set_={"changed_us": rate_windows.c.changed_us})
        locked = lock.returning(rate_windows.c.limit_id, rate_windows.c.used, now_us.label("now_us"))
        change = (
            update(rate_windows)
            .where(rate_windows.c.limit_id == bindparam("id"))
            .values(used=bindparam("used"), changed_us=bindparam("changed_us", type_=BIGINT))
        )

        async def work(connection: AsyncConnection) -> list[RateShare]:
            found = {row.limit_id: row for row in await connection.execute(locked)}
            shares, changes = [], []
            for ask in asks:
                row = found[ask.limit_id]
                slice_, into_us = divmod(row.now_us, slice_us)
                window, taken = exchange(_decoder.decode(row.used), slice_, ask)
                shares.append(RateShare(ask.limit_id, taken, slice_, into_us, window))
                used = msgspec.json.encode(window).decode()
                changes.append({"id": ask.limit_id, "used": used, "changed_us": row.now_us})
            await connection.execute(change, changes)
            return shares

        return await self._db.write(work)

    async def rates_in_use(self, limit_ids: Sequence[str], *, slice_us: int = RATE_SLICE_US) -> dict[str, int]:
        """Units of limits that are in use now, or set aside by a core; limits of which nothing is are left out."""
        columns = (rate_windows.c.limit_id, rate_windows.c.used, self._db.now_us().label("now_us"))
        rows = await self._db.rows(select(*columns).where(rate_windows.c.limit_id.in_(limit_ids)))
        sums = {row.limit_id: sum(current(_decoder.decode(row.used), row.now_us // slice_us).values()) for row in rows}
        return {limit_id: units for limit_id, units in sums.items() if units}

    async def forget_rates(self) -> None:
        """Remove what is known of limits of which nothing has been in use for a while."""
        before_us = self._db.now_us() - FORGET_AFTER_SLICES * RATE_SLICE_US

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(delete(rate_windows).where(rate_windows.c.changed_us < before_us))

        await self._db.write(work)
