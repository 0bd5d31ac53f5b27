"""`worldrouter serve`, `core`, `edge` and `migrate`: what runs the router, rather than asks it.

Here alone imports stand inside functions: the servers' modules (asyncio, uvloop, aiohttp, SQLAlchemy) are not
wanted by the commands that are mere clients, and would double the time until those print something.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from worldrouter.v1 import metering_pb2

from core.cli.options import AnyFunction, Decorator, WholeNumber, home_option
from core.cli.output import one_line
from core.cli.session import Session
from core.home import Home

if TYPE_CHECKING:
    from core.prices.comparison import Compared

PORT = WholeNumber(0, 65535)


def _port_option(name: str, default: str, what: str) -> Decorator:
    return click.option(name, type=PORT, metavar="PORT", help=f"Port of {what}.  [default: {default}]")


def config_option(command: AnyFunction) -> AnyFunction:
    """The option --config, a file that exists."""
    file = click.Path(path_type=Path, exists=True, dir_okay=False)
    return click.option("--config", type=file, metavar="FILE", help="Configuration file, worldrouter.toml.")(command)


def _host_option(what: str) -> Decorator:
    return click.option("--host", metavar="ADDRESS", help=f"Address of {what}.  [default: 127.0.0.1]")


http_port_option = _port_option("--http-port", "8080; 0 picks a free one", "the HTTP API")
grpc_port_option = _port_option("--grpc-port", "50051; 0 picks a free one", "the gRPC API")
admin_port_option = _port_option("--admin-port", "a free one", "/metrics")


@click.command()
@_host_option("the HTTP API")
@http_port_option
@grpc_port_option
@admin_port_option
@click.option(
    "--cors-origins",
    metavar="ORIGINS",
    help='Origins whose pages may call the HTTP API, comma-separated; "*" for all.  [default: none]',
)
@click.option(
    "--workers",
    type=WholeNumber(min=1),
    metavar="N",
    help="Processes that share the HTTP port; the gRPC ports count up. More than one need PostgreSQL.  [default: 1]",
)
@config_option
@home_option()
@click.pass_obj
def serve(
    session: Session,
    host: str | None,
    http_port: int | None,
    grpc_port: int | None,
    admin_port: int | None,
    cors_origins: str | None,
    workers: int | None,
    config: Path | None,
) -> None:
    """Run the whole router: edge, core, database and a model.

    The edge speaks HTTP, the core gRPC; the model is a small one that runs on this machine. What is needed is
    made in the state folder at the first start; ready.json stands there while the router serves, which is
    until Ctrl-C or SIGTERM. Without a configuration it serves the embedded model, and the models of the
    providers whose keys are in the environment (OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY).

    \b
    Examples:
      worldrouter serve
      worldrouter serve --http-port 0 --grpc-port 0
      worldrouter serve --config worldrouter.toml --home /var/lib/worldrouter
      worldrouter serve --config worldrouter.toml --workers 4
    """
    # Lazily, see above; and the model's server starts while all else is loaded.
    from core.embedded.ahead import model_begun

    model = model_begun(config, session.home)
    from core.serve import run

    ports = {"http_port": http_port, "grpc_port": grpc_port, "admin_port": admin_port}
    others = {"host": host, "cors_origins": cors_origins, "workers": workers}
    _launch(functools.partial(run, model=model), config, session.home, {**ports, **others})


@click.command()
@_host_option("the gRPC API; other than loopback it needs TLS, a matter of the configuration")
@grpc_port_option
@admin_port_option
@config_option
@home_option()
@click.pass_obj
def core(
    session: Session, host: str | None, grpc_port: int | None, admin_port: int | None, config: Path | None
) -> None:
    """Run a gRPC core alone; edges and services reach it over gRPC.

    \b
    Examples:
      worldrouter core --config worldrouter.toml
      worldrouter core --config worldrouter.toml --host 10.0.0.5 --grpc-port 50051
    """
    # Lazily, see above.
    from core.server import run

    _launch(run, config, session.home, {"host": host, "grpc_port": grpc_port, "admin_port": admin_port})


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def edge(session: Session, arguments: tuple[str, ...]) -> None:
    """Run an HTTP edge alone; it knows the core only by its address.

    All arguments are those of `python -m edge`, which this becomes.
    """
    # A process of its own program: only `serve` may see both edge and core. -P: the current folder is none of
    # its business.
    session.become(sys.executable, [sys.executable, "-P", "-m", "edge", *arguments])


@click.command()
@config_option
@home_option()
@click.pass_obj
def migrate(session: Session, config: Path | None) -> None:
    """Bring the database to the schema of this version.

    The database is that of the configuration or of $WORLDROUTER_DATABASE_URL, else worldrouter.db in the state
    folder. In one transaction; nothing happens when it is there already. `serve` does it by itself for its
    SQLite database.

    \b
    Examples:
      worldrouter migrate --config worldrouter.toml
      WORLDROUTER_DATABASE_URL=postgresql+asyncpg://worldrouter@db/worldrouter worldrouter migrate
    """
    # Lazily, see above.
    import asyncio

    from core.server import database_url
    from core.settings import BadSettings, load
    from storage.errors import StoreError
    from storage.migrate import migrate as upgrade

    _create(session.home)
    try:
        url = database_url(load(config, os.environ, {}), session.home)
        asyncio.run(upgrade(url))
    except (BadSettings, StoreError, OSError) as error:
        raise click.ClickException(one_line(str(error))) from error
    click.echo(f"The database {_place(url)} has the schema of this version.")


def _place(url: str) -> str:
    """Where a database is, without user and password."""
    return url.rpartition("@")[2].removeprefix("sqlite+aiosqlite:///")


def offline_audit(session: Session, config: Path | None) -> metering_pb2.AuditResponse:
    """Audit the database that `migrate` would migrate, without a core. A clear error when it cannot be opened."""
    # Lazily, see above.
    import asyncio

    from core.server import audit_database
    from core.settings import BadSettings, load
    from storage.errors import StoreError

    try:
        return asyncio.run(audit_database(load(config, os.environ, {}), session.home))
    except (BadSettings, StoreError, OSError) as error:
        raise click.ClickException(one_line(str(error))) from error


def offline_restore(session: Session, config: Path | None, backup: Path, *, replace: bool) -> str:
    """Put a backup in the place of that database; where it is, without a password. A clear error."""
    # Lazily, see above.
    import asyncio

    from core.server import database_url, restore_database
    from core.settings import BadSettings, load
    from storage.errors import NotEmpty, StoreError

    _create(session.home)
    try:
        settings = load(config, os.environ, {})
        asyncio.run(restore_database(settings, session.home, backup, replace=replace))
    except NotEmpty as error:
        hint = "" if replace else "; restore over it with --replace"
        raise click.ClickException(one_line(f"{error}{hint}")) from error
    except (BadSettings, StoreError, OSError) as error:
        raise click.ClickException(one_line(str(error))) from error
    return _place(database_url(settings, session.home))


class Trouble(click.ClickException):
    """Files could not be compared; exit status 2, as of `diff`."""

    exit_code = 2


def compared_prices(config: Path, now: datetime, *, write: bool) -> tuple[Sequence[Compared], str]:
    """The models of a configuration file beside published prices; with `write` the file as it should be. Trouble."""
    # Lazily, see above; nor need genai-prices be installed.
    try:
        from core.prices.comparison import compare, rewritten
        from core.prices.published import PriceBook
    except ModuleNotFoundError as error:
        raise Trouble(f"worldrouter prices needs the package {error.name}: pip install 'worldrouter[prices]'") from None
    from core.settings import BadSettings

    try:
        text = config.read_bytes().decode("utf-8")
        found = compare(text, PriceBook(now).price)
        return found, rewritten(text, found) if write else text
    except (BadSettings, OSError, UnicodeDecodeError) as error:
        raise Trouble(one_line(f"{config}: {error}")) from error


Run = Callable[[Path | None, Home, dict[str, object]], int]


def _launch(run: Run, config: Path | None, home: Home, given: dict[str, object]) -> None:
    """Make the state folder, run until the end, and leave with the exit status."""
    _create(home)
    overrides = {name: value for name, value in given.items() if value is not None}
    raise click.exceptions.Exit(run(config, home, overrides))


def _create(home: Home) -> None:
    try:
        home.create()
    except OSError as error:
        raise click.ClickException(f"cannot make the state folder {home.path}: {error.strerror}") from error
