"""`worldrouter reload`: the running router loads its configuration file again."""

from __future__ import annotations

from dataclasses import replace

import click
from worldrouter.v1 import maintenance_pb2

from core.cli.client import CallFailed
from core.cli.options import client_command, json_option
from core.cli.output import Json, one_line, print_json
from core.cli.session import Session


@click.command()
@json_option
@client_command
def reload(session: Session, as_json: bool) -> None:
    """Have the running router load its configuration file again.

    Models, prices, providers and the version change at once, for requests from then on; all other settings wait for
    the next start and are named. A file that is refused changes nothing. The same as SIGHUP to the process, but it
    says what came of it. With several workers each is told; exit status 1 when one refuses.

    \b
    Examples:
      worldrouter reload
      worldrouter --grpc core-2.example.com:50051 --ca ca.pem --token-file token reload
    """
    outcomes: list[Json] = []
    failed = False
    for target in _targets(session):
        with replace(session, grpc_target=target).connect() as core:
            try:
                found = core.call(core.maintenance.ReloadConfiguration, maintenance_pb2.ReloadConfigurationRequest())
            except CallFailed as error:
                failed = True
                click.echo(f"Error: {target}: {one_line(error.message)}", err=True)
                continue
        waiting = list(found.waiting_settings)
        if as_json:
            outcomes.append(
                {"grpc": target, "version": found.version, "models": found.model_count, "waiting_settings": waiting}
            )
        else:
            click.echo(one_line(f"{target}: version {found.version}, {found.model_count} models"))
        if waiting:
            click.echo(one_line(f"Warning: {target}: these wait for the next start: {', '.join(waiting)}"), err=True)
    if as_json:
        print_json({"cores": outcomes})
    if failed:
        raise click.exceptions.Exit(1)


def _targets(session: Session) -> list[str]:
    """The core that was named, else all of the router that runs."""
    if session.grpc_target is not None:
        return [session.grpc_target]
    ready = session.ready()
    return [each.grpc for each in ready.workers] or [ready.grpc]
