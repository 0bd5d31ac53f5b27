"""The configuration of a running core is loaded again."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from worldrouter.v1 import auth_pb2, auth_pb2_grpc, maintenance_pb2, maintenance_pb2_grpc, routing_pb2, routing_pb2_grpc

from core.reload import Reloaded, Reloader, source_of
from storage.errors import CommitUnknown, StoreUnavailable

FILE = """\
version = 3
core.grpc_port = 0
timeouts = { settle_s = 2 }
[providers.script]
kind = "scripted"
[[models]]
id = "m"
max_output_tokens = 100
price = { input = 0, output = 2_000_000 }
endpoints = [{ provider = "script", model = "up" }]
"""
OTHER = """
[providers.other]
kind = "scripted"
[[models]]
id = "other"
max_output_tokens = 100
price = { input = 0, output = 1_000_000 }
endpoints = [{ provider = "other", model = "up" }]
"""


class Reloadable:
    """A core and the file that it came from; `tell` loads it again."""

    def __init__(self, core: Any, file: Path) -> None:
        self.core = core
        self.file = file

    def write(self, **changed: str) -> None:
        """The file with other words in the place of these, and one more model unless `more` is empty."""
        more = changed.pop("more", OTHER)
        text = FILE
        for old, new in changed.items():
            text = text.replace(WORDS[old], new)
        self.file.write_text(text + more)

    async def tell(self) -> Any:
        stub = maintenance_pb2_grpc.MaintenanceServiceStub(self.core.channel)
        return await stub.ReloadConfiguration(maintenance_pb2.ReloadConfigurationRequest(), metadata=self.core.metadata)

    async def models(self) -> list[str]:
        stub = routing_pb2_grpc.RoutingServiceStub(self.core.channel)
        listed = await stub.ListModels(routing_pb2.ListModelsRequest(), metadata=self.core.metadata)
        return [model.id for model in listed.models]

    def stream(self, model: str, **script: Any) -> Any:
        body = {"model": model, "messages": [{"role": "user", "content": "x"}], "script": script}
        return self.core.stream(json.dumps(body).encode())

    async def cost(self, call: Any) -> int:
        """What the rest of a stream ends with, in nanodollars a token."""
        events, error = await self.core.rest_of(call)
        assert error is None
        finished = events[-1].finished
        return int(finished.cost_nano_usd // finished.usage.completion_token_count)


WORDS = {"version": "version = 3", "output": "output = 2_000_000", "settle": "settle_s = 2", "kind": '"scripted"'}


@pytest.fixture
async def running(start: Any, tmp_path: Path) -> Any:
    """A core that was started with a file."""
    file = tmp_path / "worldrouter.toml"
    file.write_text(FILE)
    return Reloadable(await start(source=source_of(file, {}, {}, presets=False)), file)


async def test_requests_keep_the_price_that_they_came_with(running: Any) -> None:
    """A stream that began before costs what it did then, one that begins after it the new price."""
    before = running.stream("m", chunk_delay_ms=40)
    while not (await before.read()).HasField("chunks"):
        pass
    running.write(version="version = 4", output="output = 7_000_000")
    told = await running.tell()
    assert (told.version, told.model_count, list(told.waiting_settings)) == (4, 2, [])
    assert await running.models() == ["m", "other"]
    assert await running.cost(running.stream("m")) == 7_000
    assert await running.cost(running.stream("other")) == 1_000
    assert await running.cost(before) == 2_000


async def test_a_model_and_its_provider_may_go_under_a_request(running: Any) -> None:
    """The request ends as it would have; for others there is no such model any more."""
    running.write(version="version = 4")
    await running.tell()
    before = running.stream("other", chunk_delay_ms=40)
    while not (await before.read()).HasField("chunks"):
        pass
    running.write(version="version = 5", more="")
    await running.tell()
    assert await running.models() == ["m"]
    assert await running.cost(before) == 1_000
    with pytest.raises(grpc.aio.AioRpcError, match="does not exist"):
        await running.stream("other").read()


BAD = (
    ({"kind": '"odd"'}, "providers.script.kind"),
    ({"output": "outptu = 5"}, "models[0].price"),
    ({"output": 'output = "free"'}, "models[0].price.output"),
    ({"more": "\n["}, "at end of document"),
    ({"more": OTHER.replace('id = "other"', 'id = "m"')}, "configured twice"),
    ({"more": OTHER + "[providers.other.script]\nfault = 5\n"}, "providers.other"),
    ({"more": OTHER + "[money]\nchunk_nano_usd = 0\n"}, "money.chunk_nano_usd"),
    ({"version": "version = 2"}, "has been served with version 3"),
    ({"output": "output = 1"}, "other models, prices or endpoints"),
)


async def test_a_bad_file_changes_nothing(running: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Answer and log say why; models and prices are what they were."""
    for changed, said in BAD:
        running.write(**changed)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await running.tell()
        assert said in str(refused.value.details())
        assert "nothing has changed" in caplog.records[-1].getMessage()
        assert said in caplog.records[-1].getMessage()
    running.file.write_text("version = 4\n")  # half written
    with pytest.raises(grpc.aio.AioRpcError, match="there is no model in it"):
        await running.tell()
    running.file.unlink()
    with pytest.raises(grpc.aio.AioRpcError, match="No such file"):
        await running.tell()
    os.mkfifo(running.file)
    with pytest.raises(grpc.aio.AioRpcError, match="no regular file"):
        await running.tell()
    assert await running.models() == ["m"]
    assert await running.cost(running.stream("m")) == 2_000


async def test_lists_of_models_choose_from_the_new_ones(running: Any) -> None:
    """A key's `oth*` was nothing, and is a model now."""
    keys = auth_pb2_grpc.AuthServiceStub(running.core.channel)
    asked = auth_pb2.CreateApiKeyRequest(display_name="k", allowed_models=["oth*"])
    operator = running.core.metadata
    of_key = (("authorization", f"Bearer {(await keys.CreateApiKey(asked, metadata=operator)).secret}"),)
    running.core.metadata = of_key
    assert await running.models() == []
    running.core.metadata = operator
    running.write(version="version = 4")
    await running.tell()
    running.core.metadata = of_key
    assert await running.models() == ["other"]
    assert await running.cost(running.stream("other")) == 1_000


async def test_a_secret_that_is_new_is_blacked_out(running: Any, tmp_path: Path) -> None:
    """In what callers are told, as those are that the core was started with."""
    secret = tmp_path / "secret"
    secret.write_text("s3cret-and-new")
    running.file.write_text(
        FILE.replace("version = 3", "version = 4")
        + f'[providers.far]\nkind = "openai"\nbase_url = "http://127.0.0.1:1/v1"\napi_key = "file:{secret}"\n'
    )
    await running.tell()
    running.file.write_text(FILE.replace('id = "m"', 'id = "m"\ncreated = "s3cret-and-new"'))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await running.tell()
    assert "models[0].created" in str(refused.value.details())
    assert "s3cret" not in str(refused.value.details())


async def test_what_cannot_change_is_named(running: Any, caplog: pytest.LogCaptureFixture) -> None:
    """In the answer and in the log; the rest changes."""
    running.write(version="version = 4", settle="settle_s = 3", more=OTHER + "[edge]\nport = 1\n")
    told = await running.tell()
    assert list(told.waiting_settings) == ["edge.port", "timeouts.settle_s"]
    assert "wait for the next start: edge.port, timeouts.settle_s" in caplog.text
    assert await running.models() == ["m", "other"]


async def test_without_a_file_there_is_nothing_to_load(core: Any) -> None:
    """And that is said."""
    with pytest.raises(grpc.aio.AioRpcError, match="no configuration file"):
        await Reloadable(core, Path()).tell()


class Applying:
    """A reloader whose configuration takes effect when `go` is set, or fails so; `begun` counts, `done` too."""

    def __init__(self, file: Path, failure: Exception | None = None) -> None:
        file.write_text(FILE)
        self.reloader = Reloader(source_of(file, {}, {}, presets=False), {}, self.apply)
        self.failure = failure
        self.go = asyncio.Event()
        self.begun = self.done = 0

    async def apply(self, _: Reloaded) -> None:
        self.begun += 1
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        self.done += 1


async def test_a_reload_goes_on_without_its_caller_and_the_next_one_waits(tmp_path: Path) -> None:
    """Left half done, the database would know of what this core does not serve."""
    made = Applying(tmp_path / "worldrouter.toml")
    first, second = [asyncio.ensure_future(made.reloader.reload()) for _ in range(2)]
    for _ in range(5):
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert made.begun == 1
    made.go.set()
    await second
    assert made.done == 2


async def test_a_reload_that_fails_when_nobody_waits_is_no_complaint(tmp_path: Path, complaints: list[Any]) -> None:
    """Of the event loop: the log has it already."""
    made = Applying(tmp_path / "worldrouter.toml", StoreUnavailable("no answer"))
    waiting = asyncio.ensure_future(made.reloader.reload())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    made.go.set()
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (StoreUnavailable("no answer"), "nothing has changed: no answer"),
        (CommitUnknown("no answer"), "others may find it entered; load it again: no answer"),
        (RuntimeError("a bug"), "The configuration was not loaded again"),
    ],
)
async def test_a_reload_by_signal_raises_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, failure: Exception, told: str
) -> None:
    """The task that it runs in must not end; the log says what came of it."""
    made = Applying(tmp_path / "worldrouter.toml", failure)
    made.go.set()
    await made.reloader.reload_anyhow()
    assert told in caplog.text
