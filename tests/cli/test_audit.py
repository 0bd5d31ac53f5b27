"""`worldrouter audit` and `worldrouter ledger export`."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from worldrouter.v1 import metering_pb2

from core.cli import cli
from core.cli.session import Session
from core.home import Home
from storage.store import open_store

pytestmark = pytest.mark.timeout(30)

CLEAN = metering_pb2.AuditResponse(
    chain_holds=True, account_count=5, entry_count=9, chained_entry_count=8, last_chained_entry_id=8
)
WRONG = metering_pb2.AuditResponse(
    deviations=[
        metering_pb2.AuditDeviation(
            kind=metering_pb2.AUDIT_DEVIATION_KIND_CHAIN_HASH,
            account_id="acc_1",
            subject="7",
            expected="aa",
            found="bb",
        )
    ],
    deviation_count=1,
)


def test_an_audit_that_finds_nothing_is_exit_status_0(invoke: Callable[..., Any]) -> None:
    """People read how much was checked."""
    run = invoke("audit")
    run.answer("MeteringService.Audit", CLEAN)
    result = run.result()
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "accounts    5",
        "entries     9",
        "chained     8 entries, up to 8",
        "chain       holds",
        "deviations  none: everything adds up",
    ]


def test_deviations_are_exit_status_1(invoke: Callable[..., Any]) -> None:
    """Each is a line of a table."""
    run = invoke("audit")
    run.answer("MeteringService.Audit", WRONG)
    result = run.result()
    assert result.exit_code == 1
    assert "chain       is broken" in result.stdout
    assert result.stdout.splitlines()[-1].split() == ["chain_hash", "acc_1", "7", "aa", "bb"]


def test_an_audit_in_json(invoke: Callable[..., Any]) -> None:
    """The same exit status, and everything that was found."""
    run = invoke("audit", "--json")
    run.answer("MeteringService.Audit", WRONG)
    result = run.result()
    found = json.loads(result.stdout)
    assert (result.exit_code, found["ok"], found["deviation_count"], found["chain_holds"]) == (1, False, 1, False)
    assert found["deviations"] == [
        {"kind": "chain_hash", "account_id": "acc_1", "subject": "7", "expected": "aa", "found": "bb"}
    ]
    run = invoke("audit", "--json")
    run.answer("MeteringService.Audit", CLEAN)
    assert json.loads(run.result().stdout)["ok"] is True


def test_an_export_is_json_lines(invoke: Callable[..., Any]) -> None:
    """A header, accounts, entries by the names of their fields, and an end; large integers are strings."""
    run = invoke("ledger", "export")
    _, call = run.stream("MeteringService.ExportLedger")
    call.send_initial_metadata(())
    call.send_response(metering_pb2.ExportLedgerResponse(field_names=["id", "note", "amount"]))
    account = metering_pb2.ExportedAccount(
        account_id="a", kind="user", available_nano_usd=-(2**60), chained_entry_count=1
    )
    call.send_response(metering_pb2.ExportLedgerResponse(accounts=[account]))
    entry = metering_pb2.ExportedEntry(account_id="a", position=1, hash=b"\x01\xff", content_json=f'[1,"é",{2**53}]')
    call.send_response(metering_pb2.ExportLedgerResponse(entries=[entry]))
    call.terminate((), grpc.StatusCode.OK, "")
    assert [json.loads(line) for line in run.result().stdout.splitlines()] == [
        {"type": "header", "format": "worldrouter-ledger-1", "fields": ["id", "note", "amount"]},
        {
            "type": "account",
            "account_id": "a",
            "kind": "user",
            "available_nano_usd": str(-(2**60)),
            "held_nano_usd": 0,
            "chained_entry_count": 1,
            "chain_hash": "",
        },
        {
            "type": "entry",
            "account_id": "a",
            "position": 1,
            "hash": "01ff",
            "entry": {"id": 1, "note": "é", "amount": str(2**53)},
        },
        {"type": "end", "accounts": 1, "entries": 1},
    ]


def test_an_export_that_breaks_off_has_no_end(invoke: Callable[..., Any]) -> None:
    """And exit status 1."""
    run = invoke("ledger", "export")
    _, call = run.stream("MeteringService.ExportLedger")
    call.send_initial_metadata(())
    call.send_response(metering_pb2.ExportLedgerResponse(field_names=["id"]))
    call.terminate((), grpc.StatusCode.UNAVAILABLE, "gone")
    result = run.result()
    assert result.exit_code == 1
    assert '"end"' not in result.stdout


# Without a core


@pytest.fixture
def fresh(session: Session, tmp_path: Path) -> Session:
    """A session whose state folder has a migrated database."""
    made = replace(session, home=Home(tmp_path / "fresh"))
    assert offline(made, "migrate").exit_code == 0
    return made


def offline(session: Session, *arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, obj=session, prog_name="worldrouter")


def test_an_offline_audit_opens_the_database_itself(fresh: Session) -> None:
    """And finds what deviates there."""
    assert json.loads(offline(fresh, "audit", "--offline", "--json").stdout)["account_count"] == 4
    connection = sqlite3.connect(fresh.home.database)
    connection.execute("UPDATE accounts SET available = 1 WHERE id = 'house_fees'")
    connection.commit()
    connection.close()
    result = offline(fresh, "audit", "--offline")
    assert result.exit_code == 1
    assert "house_balance  house_fees" in result.stdout


def test_an_offline_audit_is_refused_while_a_core_runs(fresh: Session) -> None:
    """The database is locked by its core."""

    async def beside_a_core() -> Result:
        store = await open_store(f"sqlite+aiosqlite:///{fresh.home.database}")
        try:
            return await asyncio.to_thread(offline, fresh, "audit", "--offline")
        finally:
            await store.close()

    result = asyncio.run(beside_a_core())
    assert result.exit_code == 1
    assert "in use by another process" in result.stderr


def test_the_configuration_is_for_offline_audits(fresh: Session, tmp_path: Path) -> None:
    """With a core, it is the core's."""
    (tmp_path / "c.toml").touch()
    assert offline(fresh, "audit", "--config", str(tmp_path / "c.toml")).exit_code == 2
