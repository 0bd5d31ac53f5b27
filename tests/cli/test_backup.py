"""`worldrouter backup` and `restore`."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner, Result
from worldrouter.v1 import maintenance_pb2

from core.cli import cli
from core.cli.session import Session
from core.home import Home
from storage.migrate import migrate
from storage.store import open_store

pytestmark = pytest.mark.timeout(30)

METHOD = "MaintenanceService.ExportDatabase"


def part(content: bytes) -> maintenance_pb2.ExportDatabaseResponse:
    return maintenance_pb2.ExportDatabaseResponse(content=content)


def test_a_backup_is_a_file_of_its_owner(invoke: Callable[..., Any], home: Home, tmp_path: Path) -> None:
    """Its parts one after the other; the output says what is in it and what is needed beside it. What is left of one
    that was killed is no obstacle."""
    file = tmp_path / "backup"
    file.with_name("backup.unfinished").write_text("left behind")
    run = invoke("backup", str(file))
    _, call = run.stream(METHOD)
    call.send_initial_metadata(())
    call.send_response(part(b"SQLite format 3\0"))
    call.send_response(part(b"rest"))
    call.terminate((), grpc.StatusCode.OK, "")
    result = run.result()
    assert result.exit_code == 0, result.output
    assert file.read_bytes() == b"SQLite format 3\0rest"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert f"{file}: 20 bytes, a SQLite database." in result.stdout
    assert str(home.pepper) in result.stdout
    assert str(home.operator_token) in result.stdout
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["backup"]


def test_a_backup_that_breaks_off_leaves_no_file(invoke: Callable[..., Any], tmp_path: Path) -> None:
    """One line and exit status 1."""
    run = invoke("backup", str(tmp_path / "backup"))
    _, call = run.stream(METHOD)
    call.send_initial_metadata(())
    call.send_response(part(b"PGDMP"))
    call.terminate((), grpc.StatusCode.UNAVAILABLE, "gone")
    assert run.result().exit_code == 1
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_a_file_that_exists_is_not_overwritten(invoke: Callable[..., Any], tmp_path: Path) -> None:
    """Nothing is asked of the core."""
    file = tmp_path / "backup"
    file.write_text("mine")
    result = invoke("backup", str(file)).result()
    assert (result.exit_code, file.read_text()) == (1, "mine")
    assert "it is not overwritten" in result.stderr


@pytest.fixture
def backup_file(tmp_path: Path) -> Path:
    """A backup of a database with an account that has 7 nanodollars."""

    async def make() -> None:
        url = f"sqlite+aiosqlite:///{tmp_path / 'source.db'}"
        await migrate(url)
        store = await open_store(url)
        await store.create_account("acct_1", "Somebody", "user")
        await store.adjust(ref="adj", account_id="acct_1", amount_nano_usd=7, note="")
        (tmp_path / "backup").write_bytes(b"".join([piece async for piece in store.backup()]))
        await store.close()

    asyncio.run(make())
    return tmp_path / "backup"


@pytest.fixture
def restore(session: Session) -> Callable[..., Result]:
    """Runs `worldrouter restore`."""

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["restore", *arguments], obj=session, prog_name="worldrouter")

    return run


def test_a_restore_ends_with_an_audit(restore: Callable[..., Result], home: Home, backup_file: Path) -> None:
    """The database is in the state folder; the output warns of what the backup does not know."""
    result = restore(str(backup_file))
    assert result.exit_code == 0, result.output
    assert home.database.exists()
    assert "revoked since are valid again" in result.stdout
    assert f"There is no {home.pepper}" in result.stdout
    assert "none: everything adds up" in result.stdout


def test_a_restore_tells_of_deviations(
    restore: Callable[..., Result], home: Home, backup_file: Path, tmp_path: Path
) -> None:
    """An account that does not add up in the backup is named, with exit status 1."""

    async def damage() -> None:
        store = await open_store(f"sqlite+aiosqlite:///{tmp_path / 'source.db'}")
        await store._db.write(  # past everything that would keep it right
            lambda connection: connection.exec_driver_sql("UPDATE accounts SET available = 8 WHERE id = 'acct_1'")
        )
        (tmp_path / "damaged").write_bytes(b"".join([piece async for piece in store.backup()]))
        await store.close()

    asyncio.run(damage())
    result = restore(str(tmp_path / "damaged"))
    assert result.exit_code == 1
    assert "acct_1" in result.stdout


def test_a_database_in_use_is_kept_unless_told(restore: Callable[..., Result], home: Home, backup_file: Path) -> None:
    """The error names the option; with it the old database stays beside the new one."""
    assert restore(str(backup_file)).exit_code == 0
    result = restore(str(backup_file))
    assert (result.exit_code, "restore over it with --replace" in result.stderr) == (1, True)
    assert restore(str(backup_file), "--replace").exit_code == 0
    assert home.database.with_name("worldrouter.db.replaced").exists()


def test_what_is_no_backup_is_one_line(restore: Callable[..., Result], tmp_path: Path) -> None:
    """And exit status 1."""
    file = tmp_path / "nonsense"
    file.write_text("nonsense")
    result = restore(str(file))
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "is no backup of a SQLite database" in result.stderr
