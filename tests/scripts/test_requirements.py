"""What is installed is locked, and nothing in the repository says from where."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "scripts" / "requirements"
LOCKS = ["runtime", "dev", "build", "model", "suites", "suites-older", "suites-fuzz"]


def names(text: str) -> set[str]:
    """The packages that a list of requirements names, without versions."""
    found = {re.split(r"[^\w.-]", line.strip(), maxsplit=1)[0].lower() for line in text.splitlines()}
    return found - {"", "-c"}


def tracked_files() -> list[Path]:
    """All files of the repository."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=20)
    return [ROOT / name for name in listing.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_hashes(lock: str) -> None:
    """One exact version each, with at least one sha256, and no address."""
    text = (REQUIREMENTS / f"{lock}.lock").read_text()
    packages = re.split(r"\n(?=\S)", text)
    assert all(re.match(r"[\w.-]+==\S+", package) for package in packages)
    assert all("--hash=sha256:" in package for package in packages)
    assert "://" not in text


@pytest.mark.parametrize("lock", LOCKS)
def test_every_wanted_package_is_locked(lock: str) -> None:
    """A lock is renewed with its list (`scripts/lock`)."""
    wanted = names((REQUIREMENTS / f"{lock}.in").read_text())
    assert wanted <= names((REQUIREMENTS / f"{lock}.lock").read_text())


def test_the_package_asks_for_what_is_locked() -> None:
    """pyproject.toml and runtime.in name the same packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert names("\n".join(project["dependencies"])) == names((REQUIREMENTS / "runtime.in").read_text())


def test_no_file_names_a_registry() -> None:
    """Whoever clones this uses the registry that their own tools are set up for."""
    forbidden = [
        ".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"))
    ]
    guilty = []
    for file in tracked_files():
        content = file.read_bytes()
        guilty += [f"{file.relative_to(ROOT)}: {word}" for word in forbidden if word.encode() in content]
    assert guilty == []
