"""Two cores with files of their own on one PostgreSQL: who may serve what."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from worldrouter.v1 import maintenance_pb2, maintenance_pb2_grpc

from core.reload import source_of
from storage.errors import ConfigurationRefused, StoreUnavailable
from storage.leases import SqlLeases
from storage.migrate import migrate

pytestmark = pytest.mark.slow

FILE = """\
{version}
core.grpc_port = 0
money.lease_ttl_s = 1.5
database.url = "{url}"
[providers.script]
kind = "scripted"
[[models]]
id = "m"
max_output_tokens = 100
price = {{ input = 0, output = {price} }}
endpoints = [{{ provider = "script", model = "up" }}]
"""


class Site:
    """A database, and cores each with a file of its own name."""

    def __init__(self, start: Any, folder: Path, url: str) -> None:
        self._start = start
        self._folder = folder
        self._url = url

    def write(self, name: str, price: int, version: int | None = None) -> Path:
        file = self._folder / f"{name}.toml"
        line = "" if version is None else f"version = {version}"
        file.write_text(FILE.format(version=line, url=self._url, price=price))
        return file

    async def core(self, name: str, price: int, version: int | None = None) -> Any:
        file = self.write(name, price, version)
        return await self._start(source=source_of(file, {}, {}, presets=False))


@pytest.fixture
async def site(start: Any, tmp_path: Path, postgres_url: Callable[[], str]) -> Site:
    """An empty database."""
    url = postgres_url()
    await migrate(url)
    return Site(start, tmp_path, url)


async def reload(core: Any) -> Any:
    stub = maintenance_pb2_grpc.MaintenanceServiceStub(core.channel)
    return await stub.ReloadConfiguration(maintenance_pb2.ReloadConfigurationRequest(), metadata=core.metadata)


async def price(core: Any) -> int:
    """What a core takes for a token, in picodollars."""
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "script": {"token_count": 10}}
    return int((await core.unary(json.dumps(body).encode())).finished.cost_nano_usd * 100)


async def outdated(core: Any, wanted: float) -> None:
    """Wait until the gauge says so."""
    async with asyncio.timeout(5):
        read = core.server.registry.get_sample_value
        while read("worldrouter_configuration_outdated") != wanted:  # noqa: ASYNC110  read as a scrape does
            await asyncio.sleep(0.02)


async def test_files_without_a_version_must_agree(site: Site) -> None:
    """A core whose prices are not those of one that runs does not start and is not loaded again, and the refusal says
    what differs and what to do; alone it is, and starts at once after another has ended."""
    first = await site.core("first", 1_000)
    with pytest.raises(ConfigurationRefused, match=r"1 other live core serves.*'m' differs in price.*version = 1"):
        await site.core("second", 2_000)
    site.write("first", 3_000)
    await reload(first)
    second = await site.core("second", 3_000)
    for core, name in ((first, "first"), (second, "second")):
        site.write(name, 4_000)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await reload(core)
        assert refused.value.code() is grpc.StatusCode.ABORTED
        assert "'m' differs in price" in str(refused.value.details())
        assert await price(core) == 3_000
    for core in (second, first):
        await core.server.stop(lambda: 1.0)
    assert await price(await site.core("third", 5_000)) == 5_000


async def test_a_core_that_fails_late_in_its_start_is_gone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has entered what it would have served; another that serves something else starts at once."""

    async def unavailable(*arguments: Any, **more: Any) -> None:
        raise StoreUnavailable("the database went away")

    with monkeypatch.context() as failing:
        failing.setattr(SqlLeases, "register_core", unavailable)
        with pytest.raises(StoreUnavailable):
            await site.core("first", 1_000)
    assert await price(await site.core("second", 2_000)) == 2_000


async def test_a_newer_version_is_rolled_out(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Where there was none, or an older one: the core that runs goes on at its own prices, with one warning and a gauge
    of 1, until it has loaded the newer file."""
    old = await site.core("old", 1_000)
    new = await site.core("new", 2_000, version=1)
    await outdated(old, 1.0)
    assert (await price(old), await price(new)) == (1_000, 2_000)
    site.write("new", 3_000, version=2)
    await reload(new)
    site.write("old", 2_000, version=1)
    with pytest.raises(grpc.aio.AioRpcError, match="served with version 2"):
        await reload(old)
    with pytest.raises(ConfigurationRefused, match=r"version 2, but other.*'m' differs in price"):
        await site.core("third", 4_000, version=2)
    await asyncio.sleep(0.6)
    site.write("old", 3_000, version=2)
    await reload(old)
    await outdated(old, 0.0)
    assert (await price(old), await price(new)) == (3_000, 3_000)
    warned = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert [text.split(", ")[0] for text in warned] == 2 * ["This core serves an outdated configuration: version 0"]
    assert "serve version 1" in warned[0]
    assert "serve version 2" in warned[1]
