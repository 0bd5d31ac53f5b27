"""MeteringService's Audit and ExportLedger over a real server."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from typing import Any, get_args

import grpc
import pytest
from worldrouter.v1 import metering_pb2

from core.services import auditing
from storage.audit_records import DeviationKind
from storage.chain import CONTENT_FIELDS

USD = 1_000_000_000


@pytest.fixture
async def paid(core, store) -> None:
    """A top-up of the default account, chained."""
    request = metering_pb2.CreateTopUpRequest(amount_nano_usd=10 * USD, idempotency_key="k")
    await core.metering.CreateTopUp(request, metadata=core.operator)
    assert await store.chain() == 2


async def exported(core: Any) -> list[metering_pb2.ExportLedgerResponse]:
    call = core.metering.ExportLedger(metering_pb2.ExportLedgerRequest(), metadata=core.operator)
    return [part async for part in call]


async def test_an_audit_of_what_adds_up(core, paid) -> None:
    """Counts, and that the chain holds up to the newest entry."""
    report = await core.metering.Audit(metering_pb2.AuditRequest(), metadata=core.operator)
    assert report == metering_pb2.AuditResponse(
        chain_holds=True, account_count=5, entry_count=2, chained_entry_count=2, last_chained_entry_id=2
    )


async def test_an_audit_names_what_does_not_add_up(core, paid, tmp_path: Path) -> None:
    """The account, what it should have and what it has."""
    with sqlite3.connect(tmp_path / "worldrouter.db") as connection:
        connection.execute("UPDATE accounts SET available = available + 7 WHERE id = 'default'")
    connection.close()
    report = await core.metering.Audit(metering_pb2.AuditRequest(), metadata=core.operator)
    assert (report.deviation_count, report.chain_holds) == (1, True)
    assert list(report.deviations) == [
        metering_pb2.AuditDeviation(
            kind=metering_pb2.AUDIT_DEVIATION_KIND_BALANCE,
            account_id="default",
            expected=str(10 * USD),
            found=str(10 * USD + 7),
        )
    ]


def test_every_kind_of_deviation_has_a_name_in_the_api() -> None:
    """Each one its own."""
    assert set(auditing._KINDS) == set(get_args(DeviationKind))
    assert set(auditing._KINDS.values()) | {0} == set(metering_pb2.AuditDeviationKind.values())


async def test_an_export_has_accounts_then_entries(core, paid, store) -> None:
    """Every hash can be computed from what is exported; what is not chained yet comes last."""
    await store.adjust(ref="late", account_id="default", amount_nano_usd=5, note="")
    parts = await exported(core)
    assert tuple(parts[0].field_names) == CONTENT_FIELDS
    accounts = {account.account_id: account for part in parts for account in part.accounts}
    assert list(accounts) == ["default", "house_adjustments", "house_fees", "house_payments", "house_usage"]
    assert (accounts["default"].kind, accounts["default"].available_nano_usd) == ("user", 10 * USD + 5)
    first, fee, late = (entry for part in parts for entry in part.entries)
    assert (first.account_id, first.position, fee.account_id) == ("default", 1, "house_fees")
    assert first.hash == hashlib.sha256(bytes(32) + first.content_json.encode()).digest()
    assert (accounts["default"].chained_entry_count, accounts["default"].chain_hash) == (1, first.hash)
    assert (late.account_id, late.position, late.hash) == ("default", 0, b"")


async def test_an_export_comes_in_parts(core, paid, store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long lists in several messages, complete and in order."""
    monkeypatch.setattr(auditing, "PART_ITEMS", 2)
    for number in range(4):
        await store.adjust(ref=f"a{number}", account_id="default", amount_nano_usd=5, note="")
    await store.chain()
    for number in range(3):
        await store.adjust(ref=f"b{number}", account_id="default", amount_nano_usd=5, note="")
    parts = await exported(core)
    assert max(len(part.entries) for part in parts) == 2
    positions = [entry.position for part in parts for entry in part.entries]
    assert positions == [1, 2, 3, 4, 5, 1, 0, 0, 0]


async def test_an_export_waits_for_the_chain(core, paid, store, failure, monkeypatch: pytest.MonkeyPatch) -> None:
    """While more is unchained than it may keep in memory."""
    monkeypatch.setattr(auditing, "UNCHAINED_LIMIT", 1)
    for number in range(2):
        await store.adjust(ref=f"a{number}", account_id="default", amount_nano_usd=5, note="")
    request = metering_pb2.ExportLedgerRequest()
    failed = await failure(core.metering.ExportLedger(request, metadata=core.operator).read())
    assert (failed.code, failed.retry_after_s) == (grpc.StatusCode.UNAVAILABLE, 60)


async def test_an_export_is_of_the_moment_when_it_began(core, paid, store) -> None:
    """What is chained meanwhile is not in it: its accounts would not add up."""
    export = await auditing.Export.begin(store)
    await store.adjust(ref="late", account_id="default", amount_nano_usd=5, note="")
    assert await store.chain() == 1
    entries = []
    while (some := await export.next_entries()) is not None:
        entries += some
    assert [(entry.account_id, entry.position) for entry in entries] == [("default", 1), ("house_fees", 1)]


async def test_a_caller_that_goes_away_ends_its_export(core, paid) -> None:
    """Between two parts, and the core goes on."""
    call = core.metering.ExportLedger(metering_pb2.ExportLedgerRequest(), metadata=core.operator)
    await call.read()
    call.cancel()
    assert len(await exported(core)) == 3
