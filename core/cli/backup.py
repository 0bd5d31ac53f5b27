"""`worldrouter backup` and `restore`: the whole database as one file, and back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import click
from worldrouter.v1 import maintenance_pb2

from core.cli.audit import print_report
from core.cli.launch import config_option, offline_audit, offline_restore
from core.cli.options import client_command, home_option
from core.cli.session import Session

_SQLITE = b"SQLite"


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@client_command
def backup(session: Session, file: Path) -> None:
    """Copy the database into FILE, while the router runs.

    The core makes the copy, of one moment, and nobody waits for it. FILE must not exist yet; only its owner may
    read it. On PostgreSQL it is a dump: the core needs pg_dump on its PATH.

    \b
    Examples:
      worldrouter backup worldrouter-2026-11-22.backup
      worldrouter --grpc core.example.com:50051 --ca ca.pem --token-file token backup nightly.backup
    """
    if file.exists():
        raise click.ClickException(f"{file} exists; it is not overwritten")
    kind = "a SQLite database" if _receive(session, file).startswith(_SQLITE) else "a PostgreSQL dump"
    click.echo(f"{file}: {file.stat().st_size} bytes, {kind}.")
    click.echo("In it: accounts, balances, the whole ledger, prices, and API keys as hashes. No prompts, no answers.")
    click.echo("Not in it, and needed beside it, kept apart from it:")
    click.echo(f"  {session.home.pepper}: without it no API key is known again")
    click.echo(f"  {session.home.operator_token}: the operator's credential (a new one is made when there is none)")
    click.echo("  the configuration, and the providers' keys it refers to")
    click.echo("These are files of the core's machine: the state folder there, if it is another one than this.")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--replace", is_flag=True, help="Restore over a database in use. One on SQLite is kept, as NAME.replaced."
)
@config_option
@home_option()
@click.pass_obj
def restore(session: Session, file: Path, replace: bool, config: Path | None) -> None:
    """Make the database what it was when FILE was backed up.

    While no core runs. FILE is checked first: that it is whole, and of a schema that this version knows. The
    database is that of the configuration or of $WORLDROUTER_DATABASE_URL, else worldrouter.db in the state folder.
    At the end everything in it is audited; exit status 1 when there are deviations.

    \b
    Examples:
      worldrouter restore worldrouter-2026-11-22.backup
      worldrouter restore nightly.backup --config worldrouter.toml --replace
    """
    where = offline_restore(session, config, file, replace=replace)
    click.echo(f"{where} is what {file} was. What happened after that backup is not in it: charges, payments,")
    click.echo("and revocations: keys that were revoked since are valid again.")
    if not session.home.pepper.exists():
        click.echo(f"There is no {session.home.pepper}: put the one of that time there, or no API key is known.")
    click.echo()
    report = offline_audit(session, config)
    print_report(report)
    if report.deviation_count:
        raise click.exceptions.Exit(1)


def _receive(session: Session, file: Path) -> bytes:
    """Write the core's copy to the file, whole or not at all; its first bytes."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    first = b""
    try:
        with session.connect() as core, _make(unfinished) as out:
            for part in core.stream(core.maintenance.ExportDatabase, maintenance_pb2.ExportDatabaseRequest()):
                first = first or part.content
                out.write(part.content)
            out.flush()
            os.fsync(out.fileno())
        os.link(unfinished, file)
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return first


def _make(path: Path) -> BinaryIO:
    """A new file for its owner's eyes only, in place of one that was left behind."""
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
