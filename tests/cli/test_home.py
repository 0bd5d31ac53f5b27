"""The state folder, and `ready.json` in it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from core.home import BadReadyFile, Home, Ready, WorkerProcess

READY = Ready(
    http="http://127.0.0.1:8080",
    grpc="127.0.0.1:50051",
    pid=7,
    upstreams={"smollm2-135m-instruct": "http://127.0.0.1:9/v1"},
    admin=["http://127.0.0.1:10"],
    workers=[WorkerProcess(pid=8, grpc="127.0.0.1:50051", admin="http://127.0.0.1:10")],
)


CHECKOUT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, str(CHECKOUT / ".worldrouter")),
        ({"WORLDROUTER_HOME": ""}, str(CHECKOUT / ".worldrouter")),
        ({"WORLDROUTER_HOME": "/var/lib/router"}, "/var/lib/router"),
        ({"WORLDROUTER_HOME": "state"}, "/here/state"),
        ({"WORLDROUTER_HOME": "~/router"}, "/home/ada/router"),
    ],
)
def test_the_environment_names_the_folder(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$WORLDROUTER_HOME, seen from the current folder, else .worldrouter in the checkout; always absolute."""
    monkeypatch.setenv("HOME", "/home/ada")
    assert Home.find(environment, Path("/here")).path == Path(expected)


def test_only_the_owner_may_enter_a_new_folder(tmp_path: Path) -> None:
    """The folder and its logs are made with mode 0700; making them again changes nothing."""
    home = Home(tmp_path / "deep" / "home")
    home.create()
    home.create()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (home.path, home.logs)] == [0o700, 0o700]


def test_an_existing_folder_keeps_its_mode(tmp_path: Path) -> None:
    """A folder of the operator's own is not locked up behind their back."""
    tmp_path.chmod(0o755)
    Home(tmp_path).create()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def test_the_ready_file_reads_back(tmp_path: Path) -> None:
    """What is written is the documented JSON, with nothing left beside it; removing it twice is fine."""
    home = Home(tmp_path)
    home.write_ready(READY)
    assert json.loads(home.ready.read_text()) == {
        "http": "http://127.0.0.1:8080",
        "grpc": "127.0.0.1:50051",
        "pid": 7,
        "upstreams": {"smollm2-135m-instruct": "http://127.0.0.1:9/v1"},
        "admin": ["http://127.0.0.1:10"],
        "workers": [{"pid": 8, "grpc": "127.0.0.1:50051", "admin": "http://127.0.0.1:10"}],
    }
    assert home.read_ready() == READY
    assert list(tmp_path.iterdir()) == [home.ready]
    home.remove_ready()
    home.remove_ready()
    assert home.read_ready() is None


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"http": "x", "grpc": 5, "pid": 1}'])
def test_a_damaged_ready_file_is_told_from_a_missing_one(tmp_path: Path, content: str) -> None:
    """Something else than what serve writes raises, naming the file."""
    home = Home(tmp_path)
    home.ready.write_text(content)
    with pytest.raises(BadReadyFile, match=r"ready\.json is not a ready file"):
        home.read_ready()
