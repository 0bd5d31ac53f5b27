"""`worldrouter serve`, `core`, `edge` and `migrate`: what they hand on to the servers."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner, Result

from core.cli import cli
from core.cli.session import Session
from core.home import Home
from storage.store import open_store

pytestmark = pytest.mark.timeout(30)

Launched = list[tuple[Path | None, Home, Mapping[str, object]]]


@pytest.fixture
def fresh(session: Session, tmp_path: Path) -> Session:
    """A session whose state folder does not exist yet."""
    return replace(session, home=Home(tmp_path / "fresh"))


@pytest.fixture(params=["serve", "server"])
def launched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Launched]:
    """The command of a launcher, and what its server was started with; the server ends with status 3."""
    calls: Launched = []

    def run(config: Path | None, home: Home, overrides: Mapping[str, object], model: object = None) -> int:
        assert model is None  # a state folder that never served
        calls.append((config, home, overrides))
        return 3

    monkeypatch.setattr(f"core.{request.param}.run", run)
    return ("serve" if request.param == "serve" else "core"), calls


def invoke(session: Session, *arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, obj=session, prog_name="worldrouter")


def test_only_given_options_override_the_settings(launched: tuple[str, Launched], fresh: Session) -> None:
    """Without options the settings decide; the state folder is made, and the exit status is the server's."""
    command, calls = launched
    assert invoke(fresh, command).exit_code == 3
    assert calls == [(None, fresh.home, {})]
    assert stat.S_IMODE(fresh.home.path.stat().st_mode) == 0o700


def test_given_options_reach_the_server(launched: tuple[str, Launched], fresh: Session, tmp_path: Path) -> None:
    """Ports, address, configuration and state folder are handed on; port 0 is a port that was given."""
    command, calls = launched
    config = tmp_path / "worldrouter.toml"
    config.touch()
    options = ["--grpc-port", "0", "--admin-port", "9090", "--host", "::1", "--config", str(config)]
    extra = ["--http-port", "8081", "--cors-origins", "*"] if command == "serve" else []
    invoke(fresh, command, *options, *extra, "--home", str(tmp_path / "other"))
    expected: dict[str, object] = {"host": "::1", "grpc_port": 0, "admin_port": 9090}
    expected |= {"http_port": 8081, "cors_origins": "*"} if extra else {}
    assert calls == [(config, Home(tmp_path / "other"), expected)]


def test_an_impossible_port_is_wrong_usage(launched: tuple[str, Launched], fresh: Session) -> None:
    """A port above 65535 is refused before anything is made."""
    command, calls = launched
    assert invoke(fresh, command, "--grpc-port", "65536").exit_code == 2
    assert not calls
    assert not fresh.home.path.exists()


def test_a_state_folder_that_cannot_be_made_is_an_error(
    launched: tuple[str, Launched], session: Session, tmp_path: Path
) -> None:
    """One line says which folder and why; nothing is started."""
    (tmp_path / "file").touch()
    result = invoke(replace(session, home=Home(tmp_path / "file" / "home")), launched[0])
    assert result.exit_code == 1
    assert result.stderr == f"Error: cannot make the state folder {tmp_path}/file/home: Not a directory\n"
    assert not launched[1]


@pytest.mark.slow
def test_serve_reads_its_configuration_once(tmp_path: Path) -> None:
    """So that it may be a pipe, `--config <(...)`: the edge's part of it is found too."""
    reading, writing = os.pipe()
    os.write(writing, b"[edge]\nport = 'x'\n")
    os.close(writing)
    options = ["--config", f"/dev/fd/{reading}", "--home", str(tmp_path), "--grpc-port", "0"]
    command = [sys.executable, "-c", "from core.cli import main; main()", "serve", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False, pass_fds=[reading])
    os.close(reading)
    assert done.stderr == "worldrouter serve: [edge] port = 'x': Expected `int`, got `str`\n"
    assert done.returncode == 1


def test_edge_becomes_the_program_of_the_edge(session: Session) -> None:
    """All arguments, options too, are those of `python -m edge`, away from the current folder."""
    became: list[tuple[str, Sequence[str]]] = []

    def become(program: str, arguments: Sequence[str]) -> NoReturn:
        became.append((program, list(arguments)))
        raise SystemExit(0)

    invoke(replace(session, become=become), "edge", "--core", "dns:///core:50051", "--http-port", "0", "--help")
    expected = [sys.executable, "-P", "-m", "edge", "--core", "dns:///core:50051", "--http-port", "0", "--help"]
    assert became == [(sys.executable, expected)]


def test_edge_is_a_real_program() -> None:
    """`worldrouter edge --help` shows the edge's own options."""
    script = "from core.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "edge", "--help"], capture_output=True, text=True, timeout=20, check=True
    )
    assert "--core" in done.stdout


def test_migrate_brings_the_database_of_the_state_folder_up(fresh: Session) -> None:
    """Without a configuration it is the SQLite file in the state folder; a second time changes nothing."""
    for _ in range(2):
        result = invoke(fresh, "migrate")
        said = f"The database {fresh.home.database} has the schema of this version.\n"
        assert (result.exit_code, result.stdout) == (0, said)

    async def use() -> None:
        await (await open_store(f"sqlite+aiosqlite:///{fresh.home.database}")).close()

    asyncio.run(use())


def test_migrate_names_what_is_no_database(fresh: Session) -> None:
    """In one line, without the library's advice."""
    fresh.home.create()
    fresh.home.database.write_bytes(b"x" * 4096)
    result = invoke(fresh, "migrate")
    said = f"Error: cannot migrate {fresh.home.database}: file is not a database\n"
    assert (result.exit_code, result.stderr) == (1, said)


def test_migrate_takes_the_configured_database(fresh: Session, tmp_path: Path) -> None:
    """The database of the configuration is the one that is migrated."""
    config = tmp_path / "worldrouter.toml"
    config.write_text(f'[database]\nurl = "sqlite+aiosqlite:///{tmp_path}/elsewhere.db"\n')
    assert invoke(fresh, "migrate", "--config", str(config)).exit_code == 0
    assert (tmp_path / "elsewhere.db").exists()
    assert not fresh.home.database.exists()


@pytest.mark.parametrize(
    ("url", "message"), [("mysql://db", "no support for 'mysql'"), ("nonsense", "not a database URL")]
)
def test_migrate_refuses_other_databases(
    fresh: Session, monkeypatch: pytest.MonkeyPatch, url: str, message: str
) -> None:
    """A database that is not supported is one line and exit status 1."""
    monkeypatch.setenv("WORLDROUTER_DATABASE_URL", url)
    result = invoke(fresh, "migrate")
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_no_password_is_shown(fresh: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `migrate` says of a database is where it is."""

    async def migrate(url: str) -> None:
        assert url.endswith("router:secret@db.example/worldrouter")

    monkeypatch.setattr("storage.migrate.migrate", migrate)
    url = "postgresql+asyncpg://router:secret@db.example/worldrouter"
    result = CliRunner(env={"WORLDROUTER_DATABASE_URL": url}).invoke(cli, ["migrate"], obj=fresh)
    assert result.output == "The database db.example/worldrouter has the schema of this version.\n"
