"""The protos as a contract: linted, not broken, and compiled into the stubs beside them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Edit = tuple[str, str, str]


def test_lint(buf: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """The protos follow buf's STANDARD and COMMENTS rules: everything is commented and named as it should be."""
    done = buf("lint", "protos")
    assert (done.returncode, done.stdout) == (0, "")


def test_format(buf: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """The protos are formatted."""
    assert buf("format", "--diff", "--exit-code", "protos").stdout == ""


def test_not_broken(buf: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """Clients of the published API keep working: nothing in it was removed, renamed or retyped."""
    done = buf("breaking", "protos", "--against", "protos/baseline.binpb")
    assert (done.returncode, done.stdout) == (0, "")


def test_baseline_is_complete(buf: Callable[..., subprocess.CompletedProcess[str]], root: Path, tmp_path: Path) -> None:
    """What was added to the API is held from then on; if this fails, run scripts/protos-baseline."""
    image = tmp_path / "image.binpb"
    assert buf("build", "protos", "--exclude-source-info", "-o", image).returncode == 0
    assert image.read_bytes() == (root / "protos/baseline.binpb").read_bytes()


def copy_protos(root: Path, to: Path, edit: Edit | None = None) -> Path:
    shutil.copytree(root / "protos", to, ignore=shutil.ignore_patterns("__pycache__"))
    if edit:
        name, old, new = edit
        file = to / "worldrouter/v1" / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new, 1))
    return to


@pytest.mark.parametrize(
    ("edit", "breaks"),
    [
        (("metering.proto", "int64 balance_nano_usd = 2;", "int64 balance_nano_usd = 20;"), True),
        (("metering.proto", "int64 balance_nano_usd = 2;", "int64 money_nano_usd = 2;"), True),
        (("metering.proto", "int64 balance_nano_usd = 2;", "int32 balance_nano_usd = 2;"), True),
        (("chat.proto", "rpc CreateChatCompletion(", "rpc CreateCompletion("), True),
        (("error_reason.proto", "ERROR_REASON_FORBIDDEN = 5;", "ERROR_REASON_FORBIDDEN = 99;"), True),
        (("chat.proto", "string extra_json = 35;", "string extra_json = 35;\n  // New.\n  string new = 36;"), False),
    ],
)
def test_breaking_change_is_refused(
    edit: Edit, breaks: bool, buf: Callable[..., subprocess.CompletedProcess[str]], root: Path, tmp_path: Path
) -> None:
    """A change that breaks clients is refused, an addition is not."""
    copy = copy_protos(root, tmp_path / "protos", edit)
    done = buf("breaking", copy, "--against", "protos/baseline.binpb")
    assert (done.returncode != 0) == breaks, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("edit", "stale"),
    [
        (None, False),
        (("types.proto", "int64 prompt_token_count = 1;", "int32 prompt_token_count = 1;"), True),
    ],
)
def test_stubs_are_current(edit: Edit | None, stale: bool, root: Path, tmp_path: Path) -> None:
    """The committed stubs are what the committed protos compile to, and a stale one is noticed."""
    copy_protos(root, tmp_path / "protos", edit)
    (tmp_path / "scripts").mkdir()
    shutil.copy(root / "scripts/protos", tmp_path / "scripts/protos")
    (tmp_path / ".venv").symlink_to(root / ".venv")
    command = [tmp_path / "scripts/protos", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode != 0) == stale, done.stderr
