"""Keys, provider's keys, prompts and answers are found nowhere but where they belong."""

from __future__ import annotations

import asyncio
import io
import logging
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NoReturn

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from worldrouter.v1.auth_pb2 import CreateApiKeyRequest
from worldrouter.v1.auth_pb2_grpc import AuthServiceStub

from core.home import Home
from core.inprocess import InProcessServer
from core.process.logs import log_to
from core.server import CoreServer, database_url, secrets_of
from core.settings import convert
from core.state import operator_token
from edge.app import make_app
from edge.server import EdgeServer
from edge.settings import EdgeSettings
from storage.migrate import migrate
from tests.e2e.conftest import COMMAND, Launcher
from tests.hostile.canaries import ANSWER, CONFIG, HEADER_SECRET, PROMPT, PROVIDER_KEY, Talk, echoing, provider

ENVIRONMENT = {"CANARY_KEY": PROVIDER_KEY}


def needles(talk: Talk, home: Home) -> dict[str, str]:
    """What must not be found, by what it is. Of an API key the id and the last 4 characters are shown."""
    found = {f"API key {key}": key[35:70] for key in talk.secrets}
    found |= {"operator's token": talk.operator_token, "provider's key": PROVIDER_KEY, "header": HEADER_SECRET}
    found |= {f"pepper {line}": line.split()[1] for line in home.pepper.read_text().splitlines()}
    return found | {"prompt": PROMPT, "answer": ANSWER}


def assert_clean(place: str, text: str, wanted: dict[str, str]) -> None:
    for what, needle in wanted.items():
        at = text.find(needle)
        assert at < 0, f"the {what} is in {place}: {text[max(0, at - 500) : at + 200]!r}"


def assert_nothing_told(talk: Talk, home: Home) -> None:
    """What failed tells no secret; a prompt only where an upstream's 400 quotes it to the caller itself."""
    assert len(talk.errors) > 80
    for error in talk.errors:
        wanted = needles(talk, home)
        if "Incorrect key" in error:
            del wanted["prompt"]
        assert_clean("an error", error, wanted)


def assert_nothing_stored(talk: Talk, home: Home) -> None:
    """The files of the state folder, all bytes of the database and what belongs to it included."""
    files = [file for file in home.path.rglob("*") if file.is_file()]
    assert home.database in files
    for file in files:
        wanted = needles(talk, home)
        if file == home.operator_token:
            del wanted["operator's token"]
        if file == home.pepper:
            wanted = {what: needle for what, needle in wanted.items() if not what.startswith("pepper")}
        assert_clean(str(file), file.read_bytes().decode("latin-1"), wanted)


class Blabber:
    """A provider whose bugs tell all they know."""

    def __init__(self, at: str) -> None:
        self._at = at

    def send(self, body: bytes, *, stream: bool) -> Any:
        self._body = body
        return self._blab() if self._at == "send" else self

    sent = True

    async def head(self) -> NoReturn:
        self._blab()

    def fail(self, error: Exception) -> None: ...

    def close(self) -> None: ...

    def _blab(self) -> NoReturn:
        try:
            raise KeyError(self._body)
        except KeyError as error:
            raise ValueError(f"{self._body!r} {PROVIDER_KEY} {HEADER_SECRET}") from error


@pytest.fixture
def everything_logged() -> Iterator[io.StringIO]:
    """All log lines, debug included, as a core writes them."""
    root = logging.getLogger()
    handlers, level, out = root.handlers, root.level, io.StringIO()
    settings = convert(CONFIG | {"providers": {"echo": provider(1)}})
    log_to(out, secrets=secrets_of(settings, ENVIRONMENT), level=logging.DEBUG)
    yield out
    root.handlers, root.level = handlers, level


@pytest.mark.slow
async def test_no_secret_gets_out_of_a_process(
    tmp_path: Path, everything_logged: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    """Core and edge in one, with debug logs and bugs that quote what they stumble over."""
    home, registry = Home(tmp_path / "home"), CollectorRegistry()
    home.create()
    async with AsyncExitStack() as last:
        port = await last.enter_async_context(echoing())
        settings = convert(CONFIG | {"providers": {"echo": provider(port)}})
        await migrate(database_url(settings, home))
        core = await CoreServer.start(settings, home, ENVIRONMENT, starting_balance=True, on_fatal=lambda: None)
        last.push_async_callback(core.stop, lambda: 0.0)
        server = InProcessServer()
        core.guard.install(server)
        edge_settings = EdgeSettings(port=0, body_timeout_s=1)
        edge = await EdgeServer.start(make_app(server.channel(), edge_settings, registry), edge_settings)
        last.push_async_callback(edge.stop, 0.0)
        token = operator_token(home)
        made = await AuthServiceStub(server.channel()).CreateApiKey(
            CreateApiKeyRequest(display_name="first"), metadata=(("authorization", f"Bearer {token}"),)
        )
        talk = Talk(edge.url, f"127.0.0.1:{core.grpc_port}", made.secret, token)
        await talk.say_everything()
        for at in ("send", "head"):
            core.engine.pipeline.offer.providers["echo"] = Blabber(at)  # type: ignore[index]
            async with aiohttp.ClientSession() as session:
                for stream in (False, True):
                    await talk._ask(session, "fine", stream=stream)
        await core.engine.ledger.drained()
        metrics = (generate_latest(registry) + generate_latest(core.registry)).decode()
        assert_nothing_stored(talk, home)
    log = everything_logged.getvalue() + "".join(capfd.readouterr())
    assert '"level": "debug"' in log
    assert log.count("ValueError") >= 4
    assert log.count('"method":"chat"') > 60
    assert_clean("the log", log, needles(talk, home))
    assert_clean("the metrics", metrics, needles(talk, home))
    assert_nothing_told(talk, home)
    assert_nothing_stored(talk, home)


@pytest.mark.slow
async def test_no_secret_gets_out_of_core_edge_or_command_line(launcher: Launcher) -> None:
    """The same of a core and an edge as processes, and of the commands that an operator gives."""
    async with echoing() as port:
        config = toml(CONFIG | {"providers": {"echo": provider(port)}})
        router = await asyncio.to_thread(launcher.apart, config, environment=ENVIRONMENT)
        talk = Talk(router.http, router.grpc, router.account(usd=1000).key, router.operator_token)
        await talk.say_everything()
    home, grpc_option = Home(router.home), ["--grpc", router.grpc]
    key_file = router.home.parent / "key"
    key_file.write_text(talk.key)
    stranger = router.home.parent / "stranger"
    stranger.write_text(next(iter(talk.secrets - {talk.key})))
    said = ""
    for arguments in (
        *(["keys", "list"], ["accounts", "list"], ["usage"], ["ledger"], ["balance"], ["models"], ["doctor"]),
        *(["usage", "--token-file", str(stranger)], ["balance", "--token-file", str(key_file)]),
        *(["keys", "revoke", talk.key], ["chat", "hello", "--model", "m", "--token-file", str(stranger)]),
        *(["chat", "hello 400", "--model", "m", "--token-file", str(key_file)], ["keys", "--token-file", "/nowhere"]),
    ):
        command = [COMMAND, "--home", str(router.home), *grpc_option, *arguments]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30, check=False)
        said += done.stdout + done.stderr
    assert_clean("what the command line says", said, needles(talk, home))
    metrics = "\n".join(f"{sample.name} {sample.labels}" for sample in router.samples())
    assert_clean("the metrics", metrics, needles(talk, home))
    assert_nothing_told(talk, home)
    router.stop()
    log = "".join(file.read_text() for file in router.home.parent.glob("*.err"))
    assert log.count('"method":"chat"') > 60
    assert_clean("the log", log, needles(talk, home))
    assert_nothing_stored(talk, home)


def toml(tables: dict[str, Any]) -> str:
    """A configuration as a file."""
    echo = tables["providers"]["echo"]
    (model,) = tables["models"]
    return f"""
[timeouts]
first_token_s = 0.4
between_chunks_s = 0.4

[providers.echo]
kind = "openai"
base_url = "{echo["base_url"]}"
api_key = "{echo["api_key"]}"
headers = {{ x-org-token = "{echo["headers"]["x-org-token"]}" }}

[[models]]
id = "m"
max_output_tokens = {model["max_output_tokens"]}
price = {{ input = 1_000_000, output = 2_000_000 }}
endpoints = [{{ provider = "echo", model = "up" }}]
"""
