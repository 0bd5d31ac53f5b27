"""The options that many commands share. Those of the connection end up in the `Session`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import click

from core.cli.durations import EndType
from core.cli.session import Session
from core.home import ENVIRONMENT_VARIABLE, Home

Parameters = ParamSpec("Parameters")
AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


class WholeNumber(click.IntRange):
    """A whole number within bounds; so it is called where something else was given."""

    name = "whole number"


class Decorator(Protocol):
    """A decorator that keeps the type of what it decorates, as click's options do."""

    def __call__(self, function: AnyFunction, /) -> AnyFunction: ...


def _set_home(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    if value is not None:
        home = Home.find({ENVIRONMENT_VARIABLE: str(value)}, Path.cwd())
        ctx.obj = replace(ctx.ensure_object(Session), home=home)


def _set_option(ctx: click.Context, param: click.Parameter, value: Path | str | None) -> None:
    if value is not None:
        change: dict[str, Any] = {str(param.name): value}
        ctx.obj = replace(ctx.ensure_object(Session), **change)


def _option(name: str, kind: click.ParamType[Any], text: str, *, field: str, on_group: bool, hidden: bool) -> Decorator:
    # The variable counts on the group only: read again on a command, it would win over the group's option.
    variable = "WORLDROUTER_" + name.removeprefix("--").replace("-", "_").upper()
    return click.option(
        name,
        field,
        type=kind,
        callback=_set_home if field == "home" else _set_option,
        expose_value=False,
        hidden=hidden,
        envvar=variable if on_group else None,
        show_envvar=True,
        allow_from_autoenv=False,
        help=text,
    )


def home_option(*, on_group: bool = False, hidden: bool = False) -> Decorator:
    """The option --home; only the one of the group reads $WORLDROUTER_HOME."""
    folder = click.Path(path_type=Path, file_okay=False)
    text = "State folder of the router.  [default: .worldrouter in the checkout; without one, in the current folder]"
    return _option("--home", folder, text, field="home", on_group=on_group, hidden=hidden)


def connection_options(*, on_group: bool = False) -> Decorator:
    """The options that say which core to talk to, and as whom.

    `worldrouter` itself shows them; its commands take them as well, hidden, so that their place on the line
    does not matter.
    """
    file = click.Path(path_type=Path, dir_okay=False)
    target = "Address of the core, host:port or unix:PATH.  [default: as ready.json in the home says]"
    token = "File with the credential: the operator's, or an API key.  [default: operator.token in the home]"
    ca = "Certificate of the authority that vouches for the core, PEM: turns TLS on."
    described: list[tuple[str, str, click.ParamType[Any], str]] = [
        ("--grpc", "grpc_target", click.STRING, target),
        ("--token-file", "token_file", file, token),
        ("--ca", "ca", file, ca),
        ("--cert", "cert", file, "Our certificate, PEM, where the core asks for one."),
        ("--client-key", "client_key", file, "Private key of --cert, PEM."),
    ]

    def add(command: AnyFunction) -> AnyFunction:
        for name, field, kind, text in reversed(described):
            command = _option(name, kind, text, field=field, on_group=on_group, hidden=not on_group)(command)
        return home_option(on_group=on_group, hidden=not on_group)(command)

    return add


def client_command(command: Callable[Concatenate[Session, Parameters], None]) -> Callable[Parameters, None]:
    """Mark a command that talks to the core: it takes the connection's options, and the session first."""
    return connection_options()(click.pass_obj(command))


json_option: Decorator = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
"""The option --json."""

account_option: Decorator = click.option(
    "--account", "account_id", default="", metavar="ID", help="Account.  [default: the default account]"
)
"""The option --account, empty for the default account."""

key_option: Decorator = click.option("--key", "key_id", default="", metavar="ID", help="Only this API key's.")
"""The option --key of usage, empty for all keys."""

limit_option: Decorator = click.option(
    "--limit", type=WholeNumber(1, 100_000), default=100, show_default=True, help="Most items to list."
)
"""The option --limit of lists."""


def _set_models(ctx: click.Context, param: click.Parameter, value: str | None) -> list[str] | None:
    if value is None:
        return None
    models = [each.strip() for each in value.split(",")]
    return [] if models == ["*"] else models


models_option: Decorator = click.option(
    "--models",
    callback=_set_models,
    metavar="LIST",
    help="Models it may use, comma-separated: IDs, or beginnings of IDs with a * after them; '*' allows all.",
)
"""The option --models: None when it was not given, empty for all."""

expiry_option: Decorator = click.option(
    "--expires-in",
    type=EndType(),
    help="End it by itself after so long: 90d, 12h, 30m; or at a time, which --idempotency-key needs.",
)
"""The option --expires-in."""

unending_option: Decorator = click.option("--never-expires", is_flag=True, help="Take the end away that it has.")
"""The option --never-expires of updates."""
