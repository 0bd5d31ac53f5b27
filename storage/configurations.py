"""What cores on one database serve, so that no two serve different models or prices without anybody knowing.

A configuration with a version is entered once and for good. Those without one share a row of version 0: it says what
is served, and changes only while no other core is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import msgspec
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.database import OverDatabase
from storage.errors import ConfigurationRefused
from storage.heartbeats import heartbeat, is_live
from storage.records import Configuration, Price, Serving
from storage.tables import configurations, cores, prices

NAMED_DIFFERENCES = 5
"""How many models a refusal names."""
_LONGEST_HASH = 64

Parts = Mapping[str, Mapping[str, str]]


class SqlConfigurations(OverDatabase):
    """`ConfigurationStore` over a database."""

    async def put_prices(self, prices_: Sequence[Price], serving: Serving | None = None) -> None:
        """Insert those whose id is new, and the configuration that they come from. Safe to repeat.

        ConfigurationRefused, and nothing is inserted, when the database knows a newer version, or this one with
        another content; without a version, when another live core serves another content.
        """
        rows = [asdict(price) for price in prices_]

        async def work(connection: AsyncConnection) -> None:
            if serving is not None:
                await self._enter(connection, serving)
                # With it, so that who comes next finds this core there.
                await connection.execute(heartbeat(self._db, serving.core_id, serving.ttl_s))
            if rows:
                await connection.execute(self._db.insert(prices).on_conflict_do_nothing(), rows)

        await self._db.write(work)

    async def newest_configuration(self) -> Configuration | None:
        """The one that cores on this database should serve, without its parts; None before the first."""
        content = func.substr(configurations.c.content_hash, 1, _LONGEST_HASH)
        newest = select(configurations.c.version, content).order_by(configurations.c.version.desc()).limit(1)
        for version, stored in await self._db.rows(newest):
            return Configuration(version, stored.partition(" ")[0])
        return None

    async def _enter(self, connection: AsyncConnection, serving: Serving) -> None:
        ours = serving.configuration
        stored = {"content_hash": _stored(ours), "created_us": self._db.now_us()}
        # Of two cores that enter one version at once, the second waits for the first: here, or for the lock.
        row = self._db.insert(configurations).values(version=ours.version, **stored)
        await connection.execute(row.on_conflict_do_nothing())
        columns = (configurations.c.version, configurations.c.content_hash)
        newest = select(*columns).order_by(configurations.c.version.desc()).limit(1).with_for_update()
        version, text = (await connection.execute(newest)).one()
        content_hash, _, parts = text.partition(" ")
        if version > ours.version:
            mine = f"has version {ours.version}" if ours.version else "has no version"
            raise ConfigurationRefused(
                f"this configuration {mine}, but the database has been served with version {version}: "
                f"start with that file, or give this one a version above {version}"
            )
        if content_hash == ours.content_hash:
            return
        what = _differences(ours.parts, msgspec.json.decode(parts, type=Parts) if parts else {})
        if version:
            raise ConfigurationRefused(
                f"this configuration has version {version}, but other models, prices or endpoints (content "
                f"{ours.content_hash}) than the one of version {version} that the database has been served with "
                f"(content {content_hash}){what}: start with that file, or give this one a version above {version}"
            )
        if live := await self._others(connection, serving):
            raise ConfigurationRefused(
                "this configuration has no version, but other models, prices or endpoints than what runs: "
                f"{live} other live core{'s serve' if live > 1 else ' serves'} this database{what}. Put `version = 1` "
                "into this file and load it into the others too, which go on as they are until then; or start with "
                "their file; or stop them first (one that was killed counts for the time of its money.lease_ttl_s, "
                f"{serving.ttl_s:g} s here)"
            )
        await connection.execute(update(configurations).where(configurations.c.version == 0).values(**stored))

    async def _others(self, connection: AsyncConnection, serving: Serving) -> int:
        """How many other cores are there."""
        if self._db.single_core:
            return 0
        live = is_live(self._db) & (cores.c.id != serving.core_id)
        return int((await connection.execute(select(func.count()).select_from(cores).where(live))).scalar_one())


def _stored(configuration: Configuration) -> str:
    """The hash, and behind it what a refusal can name."""
    parts = msgspec.json.encode(configuration.parts).decode() if configuration.parts else ""
    return f"{configuration.content_hash} {parts}".rstrip()


def _differences(ours: Parts, theirs: Parts) -> str:
    """In words: the models that differ, and in what; nothing when the others did not say what they serve."""
    if not theirs:
        return ""
    found = []
    for model_id in sorted(ours.keys() | theirs.keys()):
        mine, other = ours.get(model_id), theirs.get(model_id)
        if mine is None or other is None:
            found.append(f"{model_id!r} is only {'there' if mine is None else 'here'}")
        elif mine != other:
            aspects = [name for name in sorted(mine.keys() | other.keys()) if mine.get(name) != other.get(name)]
            found.append(f"{model_id!r} differs in {' and '.join(aspects)}")
    if not found:
        return " (the order of the models)"
    more = [f"{len(found) - NAMED_DIFFERENCES} more"] if len(found) > NAMED_DIFFERENCES else []
    return f" ({', '.join(found[:NAMED_DIFFERENCES] + more)})"
