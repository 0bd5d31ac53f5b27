"""The secrets in the state folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from core.home import Home
from core.settings import BadSettings
from core.state import operator_token, peppers


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.create()
    return made


def test_the_token_is_made_once(home: Home) -> None:
    """256 random bits, for its owner's eyes only; the next start finds the same."""
    token = operator_token(home)
    assert len(token) == 64
    assert operator_token(home) == token
    assert stat.S_IMODE(home.operator_token.stat().st_mode) == 0o600
    assert operator_token(Home(home.path.parent)) != token


def test_the_pepper_is_made_once(home: Home) -> None:
    """Keys that were hashed under it are known again after a restart."""
    first = peppers(home).hash("wlrouter_x")
    assert peppers(home).hash("wlrouter_x") == first
    assert stat.S_IMODE(home.pepper.stat().st_mode) == 0o600


def test_a_new_pepper_leaves_the_old_one_valid(home: Home) -> None:
    """One line each, the last one current."""
    old = peppers(home).hash("wlrouter_x")
    with home.pepper.open("a") as out:
        out.write("2 " + "ab" * 32 + "\n")
    now = peppers(home)
    assert now.matches("wlrouter_x", old)
    assert now.hash("wlrouter_x").pepper_version == 2


def test_nothing_is_left_beside_a_secret(home: Home) -> None:
    """It is made whole and put into place: a process that dies meanwhile leaves no empty one."""
    operator_token(home)
    peppers(home)
    assert sorted(path.name for path in home.path.iterdir()) == ["logs", "operator.token", "pepper"]


def test_of_two_first_starts_one_makes_the_secret(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other takes what is there."""
    link = os.link

    def slower(source: Path, target: Path) -> None:
        target.write_text("a" * 64 + "\n")
        target.chmod(0o600)
        link(source, target)

    monkeypatch.setattr(os, "link", slower)
    assert operator_token(home) == "a" * 64


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o666])
def test_a_secret_that_others_can_read_is_refused(home: Home, mode: int) -> None:
    """With what to do about it."""
    operator_token(home)
    home.operator_token.chmod(mode)
    with pytest.raises(BadSettings, match="chmod 600"):
        operator_token(home)


@pytest.mark.parametrize("content", ["", "short", "\n"])
def test_a_token_that_could_be_guessed_is_refused(home: Home, content: str) -> None:
    """Empty or short; the message names the file, not its content."""
    home.operator_token.write_text(content)
    home.operator_token.chmod(0o600)
    with pytest.raises(BadSettings, match=r"operator\.token") as caught:
        operator_token(home)
    assert "short" not in str(caught.value)


@pytest.mark.parametrize("content", ["nonsense", "1", "1 xyz", "one ab", "1 ab cd", "", "1 ab"])
def test_a_pepper_that_is_none_is_refused(home: Home, content: str) -> None:
    """Naming the file."""
    home.pepper.write_text(content)
    home.pepper.chmod(0o600)
    with pytest.raises(BadSettings, match="pepper"):
        peppers(home)


def test_a_secret_that_is_no_text_is_refused(home: Home) -> None:
    """Not with a trace."""
    home.pepper.write_bytes(b"\xff\xfe\x00")
    home.pepper.chmod(0o600)
    with pytest.raises(BadSettings, match="pepper"):
        peppers(home)
