"""`worldrouter audit` and `worldrouter ledger export`: proof that the money adds up, here and elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click
from worldrouter.v1 import metering_pb2

from core.cli.client import ANSWER_TIMEOUT_S
from core.cli.launch import config_option, offline_audit
from core.cli.options import client_command, json_option
from core.cli.output import Json, enum_word, print_fields, print_json, print_table
from core.cli.session import Session

EXPORT_FORMAT = "worldrouter-ledger-1"
MAX_PLAIN_INTEGER = 2**53 - 1
"""Beyond it JSON readers that know no integers lose digits: such numbers are written as strings."""


@click.command()
@click.option(
    "--offline",
    is_flag=True,
    help="Open the database itself, after a restore for example; on SQLite while no core runs.",
)
@config_option
@json_option
@client_command
def audit(session: Session, offline: bool, config: Path | None, as_json: bool) -> None:
    """Prove that every balance and every ledger entry adds up.

    Counts everything anew, follows every hash chain and names whatever deviates. Repairs nothing. Exit status 1
    when there are deviations. --config says where the database is, with --offline alone.

    \b
    Examples:
      worldrouter audit
      worldrouter audit --json | jq .deviations
      worldrouter audit --offline --config worldrouter.toml
    """
    if config is not None and not offline:
        raise click.UsageError("--config belongs to --offline")
    if offline:
        report = offline_audit(session, config)
    else:
        with session.connect() as core:
            report = core.call(core.metering.Audit, metering_pb2.AuditRequest(), timeout_s=ANSWER_TIMEOUT_S)
    if as_json:
        print_json(_report_json(report))
    else:
        print_report(report)
    if report.deviation_count:
        raise click.exceptions.Exit(1)


@click.command()
@client_command
def export(session: Session) -> None:
    """Write the whole ledger and its hash chains as JSON lines.

    To standard output. scripts/verify-ledger verifies it without this program; keep such files where the
    database's owner cannot change them. Complete when its last line is of type "end".

    \b
    Examples:
      worldrouter ledger export > ledger.jsonl
    """
    with session.connect() as core:
        for line in export_lines(core.stream(core.metering.ExportLedger, metering_pb2.ExportLedgerRequest())):
            print_json(line)


def export_lines(parts: Iterable[metering_pb2.ExportLedgerResponse]) -> Iterator[Json]:
    """The lines of an export, the last one when its parts have ended."""
    accounts = entries = 0
    names: Sequence[str] = ()
    for part in parts:
        if part.field_names:
            names = part.field_names
            yield {"type": "header", "format": EXPORT_FORMAT, "fields": list(names)}
        yield from map(_account_json, part.accounts)
        for entry in part.entries:
            yield _entry_json(entry, names)
        accounts += len(part.accounts)
        entries += len(part.entries)
    yield {"type": "end", "accounts": accounts, "entries": entries}


def print_report(report: metering_pb2.AuditResponse) -> None:
    """Print what an audit found, for people."""
    chained = f"{report.chained_entry_count} entries, up to {report.last_chained_entry_id}"
    print_fields(
        {
            "accounts": str(report.account_count),
            "entries": str(report.entry_count),
            "chained": chained if report.chained_entry_count else "none",
            "chain": "holds" if report.chain_holds else "is broken",
            "deviations": str(report.deviation_count) if report.deviation_count else "none: everything adds up",
        }
    )
    if report.deviations:
        click.echo()
        rows = [[_kind(each), each.account_id, each.subject, each.expected, each.found] for each in report.deviations]
        print_table(["DEVIATION", "ACCOUNT", "LEASE OR ENTRY", "EXPECTED", "FOUND"], rows)


def _report_json(report: metering_pb2.AuditResponse) -> Json:
    return {
        "ok": not report.deviation_count,
        "deviation_count": report.deviation_count,
        "deviations": [
            {
                "kind": _kind(each),
                "account_id": each.account_id,
                "subject": each.subject,
                "expected": each.expected,
                "found": each.found,
            }
            for each in report.deviations
        ],
        "chain_holds": report.chain_holds,
        "account_count": report.account_count,
        "entry_count": report.entry_count,
        "chained_entry_count": report.chained_entry_count,
        "last_chained_entry_id": report.last_chained_entry_id,
    }


def _kind(deviation: metering_pb2.AuditDeviation) -> str:
    return enum_word(metering_pb2.AuditDeviationKind.DESCRIPTOR, deviation.kind)


def _account_json(account: metering_pb2.ExportedAccount) -> Json:
    return {
        "type": "account",
        "account_id": account.account_id,
        "kind": account.kind,
        "available_nano_usd": _plain(account.available_nano_usd),
        "held_nano_usd": _plain(account.held_nano_usd),
        "chained_entry_count": account.chained_entry_count,
        "chain_hash": account.chain_hash.hex(),
    }


def _entry_json(entry: metering_pb2.ExportedEntry, names: Sequence[str]) -> Json:
    return {
        "type": "entry",
        "account_id": entry.account_id,
        "position": entry.position,
        "hash": entry.hash.hex(),
        "entry": dict(zip(names, map(_plain, json.loads(entry.content_json)), strict=True)),
    }


def _plain(value: Json) -> Json:
    return str(value) if isinstance(value, int) and abs(value) > MAX_PLAIN_INTEGER else value
