"""`worldrouter prices`: what it prints, what it writes, and its exit status."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from core.cli import cli
from core.cli.session import Session

FILE = """\
version = 3
[providers.openai]
kind = "openai"
base_url = "https://api.openai.com/v1"
[[models]]
id = "mini"
max_output_tokens = 100
context_tokens = 128_000
price = { input = 1, output = 600_000, cache_read = 75_000 } # odd
endpoints = [{ provider = "openai", model = "gpt-4o-mini" }]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "worldrouter.toml"
    path.write_text(FILE)
    path.chmod(0o640)
    return path


def prices(session: Session, *arguments: object) -> Result:
    return CliRunner().invoke(cli, ["prices", *map(str, arguments)], obj=session, prog_name="worldrouter")


def test_differences_are_shown_then_written(session: Session, file: Path) -> None:
    """Status 1 and a line for each difference; written, the file has the new prices and 0 is the status."""
    shown = prices(session, "--config", file)
    assert (shown.exit_code, file.read_text()) == (1, FILE)
    assert shown.stdout.splitlines()[1].split() == ["mini", "input", "1", "150_000"]
    written = prices(session, "--config", file, "--write", "--json")
    assert (written.exit_code, json.loads(written.stdout)["written"]) == (0, True)
    assert file.read_text() == FILE.replace("version = 3", "version = 4").replace("input = 1,", "input = 150_000,")
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    again = prices(session, "--config", file, "--write")
    assert (again.exit_code, again.stdout.startswith("1 as published, 0 not")) == (0, True)
    assert "version = 4" in file.read_text()
    assert not list(file.parent.glob("worldrouter.toml.*"))


def test_a_model_that_nobody_prices_fails(session: Session, file: Path) -> None:
    """The router would refuse it: it is named, and the status is 1 even after writing."""
    file.write_text(FILE.replace("price = ", "#").replace("gpt-4o-mini", "unheard-of"))
    done = prices(session, "--config", file, "--write")
    assert done.exit_code == 1
    assert "mini: has no price, nothing is published" in done.stdout


def test_trouble_has_a_status_of_its_own(session: Session, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """2, as of `diff`: a bad file, and the package that is not installed, with what to do."""
    file.write_text("models = 3")
    assert (prices(session, "--config", file).exit_code, prices(session).exit_code) == (2, 2)
    for name in ("core.prices.comparison", "core.prices.published"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "tomlkit", None)
    absent = prices(session, "--config", file)
    assert absent.exit_code == 2
    assert "pip install 'worldrouter[prices]'" in absent.stderr
