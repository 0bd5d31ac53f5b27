"""What this core serves, and whether the cores of its database have gone on to something newer."""

from __future__ import annotations

import asyncio
import logging

from core.catalog import Catalog
from storage.errors import StoreError
from storage.interfaces import ConfigurationStore
from storage.records import Configuration, Serving

_log = logging.getLogger(__name__)


class Agreement:
    """One core's part in what all cores of a database agree on."""

    def __init__(self, store: ConfigurationStore, core_id: str, *, ttl_s: float) -> None:
        """`ttl_s`: how long this core counts as live when it says nothing more."""
        self._store = store
        self._core_id = core_id
        self._ttl_s = ttl_s
        self._ours: Configuration | None = None
        self._warned: Configuration | None = None
        self.outdated = False
        """Whether this core serves something older than it should."""

    async def enter(self, catalog: Catalog, version: int) -> None:
        """This core serves the catalog from now on, in this version (0: none). StoreError: it must not."""
        ours = catalog.configuration(version)
        before, self._ours = self._ours, None
        try:
            prices = [model.price for model in catalog.models.values()]
            await self._store.put_prices(prices, Serving(self._core_id, ours, self._ttl_s))
        except BaseException:
            self._ours = before
            raise
        self._ours, self.outdated = ours, False

    async def watch(self, every_s: float) -> None:
        """Look again and again whether it is outdated."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.check()
            except StoreError:
                pass  # renewing the leases, which logs it, fails as well
            except Exception:  # whatever it was: it must not end the process
                _log.exception("The version of the configuration could not be looked at")

    async def check(self) -> None:
        """Look whether it is outdated; a warning, once, if so. It goes on: requests would find nothing otherwise.

        StoreError.
        """
        ours = self._ours
        newest = await self._store.newest_configuration()
        if ours is None or newest is None or self._ours is not ours:
            return  # it is about to change
        self.outdated = (newest.version, newest.content_hash) != (ours.version, ours.content_hash)
        if self.outdated and newest != self._warned:
            self._warned = newest
            _log.warning(
                "This core serves an outdated configuration: version %d, where cores on its database serve version %d "
                "by now. It goes on with its own models and prices until it loads that file",
                ours.version,
                newest.version,
            )
