"""`scripts/setup` says in one line what is missing, and leaves nothing half made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

NO_REGISTRY = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_INDEX_URL": "http://127.0.0.1:9/",
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
    "PIP_NO_CACHE_DIR": "1",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """As much of a checkout as the script looks at."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def setup(checkout: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it as a person would."""
    return subprocess.run(
        [checkout / "scripts" / "setup", *arguments],
        env={**os.environ, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_without_a_new_enough_python_it_says_so(checkout: Path) -> None:
    """The Python that was named is named again."""
    run = setup(checkout, PYTHON="/bin/false")
    assert run.returncode == 1
    assert run.stderr.startswith('scripts/setup: Python 3.11 or newer is needed, which "/bin/false" is not')
    assert not (checkout / ".venv").exists()


def test_without_venv_it_names_debians_package(checkout: Path) -> None:
    """Debian and Ubuntu package it apart."""
    python = checkout / "python-without-ensurepip"
    python.write_text(f'#!/bin/sh\ncase "$*" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    run = setup(checkout, PYTHON=str(python))
    assert run.returncode == 1
    assert "apt-get install python3-venv" in run.stderr
    assert not (checkout / ".venv").exists()


def test_an_unknown_kind_is_refused(checkout: Path) -> None:
    """A typing error does not install anything."""
    assert setup(checkout, "develop").stderr == 'scripts/setup: what is "develop"?\n'


@pytest.mark.slow
def test_without_a_registry_nothing_is_left(checkout: Path) -> None:
    """One line about it, and no environment that a later run would take for whole."""
    run = setup(checkout, **NO_REGISTRY)
    assert run.returncode == 1
    doing, failed = run.stderr.splitlines()
    assert doing == "Installing the dependencies …"
    assert failed.startswith("scripts/setup: the package registry cannot be reached")
    assert not (checkout / ".venv").exists()


@pytest.mark.slow
def test_an_environment_without_its_stamp_is_made_anew(checkout: Path) -> None:
    """What a killed run left behind is not built upon."""
    leftover = checkout / ".venv" / "leftover"
    leftover.parent.mkdir()
    leftover.touch()
    setup(checkout, **NO_REGISTRY)
    assert not leftover.exists()
