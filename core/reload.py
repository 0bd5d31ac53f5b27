"""A running core loads its configuration again: models, providers and prices change, the rest waits for a start."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from core.embedded.defaults import with_embedded_model, with_presets
from core.settings import BadSettings, Settings, load
from storage.errors import CommitUnknown, StoreError

_log = logging.getLogger(__name__)

RELOADED = frozenset({"version", "providers", "models"})
"""Fields of `Settings` that change while a core runs."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where the settings of a running core came from: file (empty: none) and options, and what was `loaded` of them.

    With `presets` the preset providers are added, with a `model_url` the embedded model, which answers there.
    """

    config: str
    overrides: dict[str, Any]
    loaded: Settings
    presets: bool = False
    model_url: str = ""


class Reloaded(msgspec.Struct, frozen=True, tag=True):
    """The settings with what changed, and the names of other settings that differ: they wait for the next start."""

    settings: Settings
    waiting: list[str]


def source_of(
    config: Path | None, environment: Mapping[str, str], overrides: Mapping[str, object], *, presets: bool
) -> Source:
    """Load settings for the first time. BadSettings, OSError."""
    loaded = load(config, environment, overrides)
    return Source(
        config=str(config.absolute()) if config is not None else "",
        overrides=dict(overrides),
        loaded=with_presets(loaded, environment) if presets else loaded,
        presets=presets,
    )


def load_again(source: Source, environment: Mapping[str, str]) -> Reloaded:
    """Load them once more. BadSettings."""
    if not source.config:
        raise BadSettings("there is no configuration file: the router was started without --config")
    file = Path(source.config)
    if file.exists() and not file.is_file():  # reading it could wait for ever, or find the end at once
        raise BadSettings(f"{file}: it is no regular file, and could be read only once, at the start")
    try:
        found = source_of(file, environment, source.overrides, presets=source.presets).loaded
    except OSError as error:
        raise BadSettings(f"{file}: {os.strerror(error.errno or 0)}") from None
    settings = with_embedded_model(found, source.model_url) if source.model_url else found
    if source.loaded.models and not settings.models:  # more likely a file that is being written than a wish
        raise BadSettings(f"{file}: there is no model in it, and this router began with some")
    before, now = msgspec.to_builtins(source.loaded), msgspec.to_builtins(found)
    waiting = [
        f"{section}.{name}"
        for section in sorted(before.keys() - RELOADED)
        for name in sorted(before[section].keys() | now[section].keys())
        if before[section].get(name) != now[section].get(name)
    ]
    return Reloaded(settings, waiting)


class Reloader:
    """Reloads, one at a time. Whatever fails has changed nothing."""

    def __init__(
        self, source: Source, environment: Mapping[str, str], apply: Callable[[Reloaded], Awaitable[None]]
    ) -> None:
        """`apply` puts what was found into effect, whole or, when it raises, not at all."""
        self._source = source
        self._environment = environment
        self._apply = apply
        self._reloading = asyncio.Lock()
        self._tasks: set[asyncio.Task[Reloaded]] = set()

    async def reload(self) -> Reloaded:
        """Reload now, and log what it came to. BadSettings, StoreError: nothing has changed; CommitUnknown: here.

        A caller that goes away does not stop it: the database would know of what this core does not serve.
        """
        task = asyncio.get_running_loop().create_task(self._reload())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Reloaded]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it was logged; whoever waited may be gone

    async def _reload(self) -> Reloaded:
        async with self._reloading:
            try:
                found = load_again(self._source, self._environment)
                await self._apply(found)
            except (BadSettings, StoreError) as error:
                told = "The configuration was not loaded again, nothing has changed: %s"
                if isinstance(error, CommitUnknown):
                    told = "The configuration was not loaded here, but others may find it entered; load it again: %s"
                _log.error(told, error)
                raise
        count = len(found.settings.models)
        _log.info("The configuration was loaded again: version %d, %d models", found.settings.version, count)
        if found.waiting:
            _log.warning("Changed settings that wait for the next start: %s", ", ".join(found.waiting))
        return found

    async def reload_anyhow(self) -> None:
        """Reload as far as possible; the log says what came of it."""
        try:
            await self.reload()
        except (BadSettings, StoreError):
            pass  # it was logged
        except Exception:  # whatever it was: the core goes on as before
            _log.exception("The configuration was not loaded again")
