"""MaintenanceService over a real server."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
from worldrouter.v1 import maintenance_pb2

from storage.errors import BackupFailed


async def test_the_operator_gets_a_copy_of_the_database(core, tmp_path: Path) -> None:
    """In pieces that make a whole SQLite database."""
    await core.make_account("team-a")
    file = tmp_path / "copy"
    call = core.maintenance.ExportDatabase(maintenance_pb2.ExportDatabaseRequest(), metadata=core.operator)
    file.write_bytes(b"".join([part.content async for part in call]))
    with closing(sqlite3.connect(file)) as found:
        assert found.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert found.execute("SELECT id FROM accounts WHERE kind <> 'house' ORDER BY id").fetchall() == [
            ("default",),
            ("team-a",),
        ]


async def test_a_copy_that_cannot_be_made_says_why(core, failure, monkeypatch) -> None:
    """The operator reads what is missing."""

    async def backup() -> Any:
        raise BackupFailed("pg_dump is not on the PATH here")
        yield b""

    monkeypatch.setattr(core.store, "backup", backup)
    failed = await failure(
        core.maintenance.ExportDatabase(maintenance_pb2.ExportDatabaseRequest(), metadata=core.operator).read()
    )
    assert (failed.code, failed.reason) == (grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE")
    assert "pg_dump is not on the PATH" in failed.message


async def test_a_configuration_that_is_refused_is_the_operators_to_mend(core, failure) -> None:
    """The answer says what is wrong with it."""
    request = maintenance_pb2.ReloadConfigurationRequest()
    failed = await failure(core.maintenance.ReloadConfiguration(request, metadata=core.operator))
    assert (failed.code, failed.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert "models[0].price: wanted one" in failed.message
