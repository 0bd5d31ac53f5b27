"""Prove the money: a long run of the state machine, and a bug at a time that it must find. `scripts/prove-money`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage.migrate import migrate
from tests.money.backends import Backend, Memory, Postgres, Sqlite
from tests.money.books import Violation
from tests.money.loop import SteppedLoop, Stuck
from tests.money.machine import STEPS, play
from tests.postgres import databases

ROOT = Path(__file__).parents[2]
BUGS = Path(__file__).with_name("bugs")
COPIED = ("core", "edge", "storage", "protos", "tests", "pyproject.toml")
LEFT_OUT = shutil.ignore_patterns("node_modules", "__pycache__", "build")
CAUGHT = 3
"""Exit status of a hunt that found something."""
HUNT_RUNS = {"memory": 4_000, "sqlite": 400, "postgresql": 400}
HUNT_TIMEOUT_S = 1_800.0


@dataclass(frozen=True)
class Bug:
    """A patch, whose head says in its first line what it does and in its second who catches it."""

    patch: Path

    @property
    def name(self) -> str:
        return self.patch.stem

    @property
    def caught_by(self) -> str:
        """A backend of the state machine, or a test of pytest's."""
        return self.patch.read_text().splitlines()[1].removeprefix("Caught by: ")

    def plant(self, root: Path, *, only_check: bool = False) -> None:
        """Apply the patch to a tree. CalledProcessError when it does not fit."""
        options = ["--check"] if only_check else []
        # Not as part of a repository, in which it might be: then paths would be those of its root.
        environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(root.parent)}
        command = ["git", "apply", *options, str(self.patch)]
        subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True, text=True)


def bugs() -> list[Bug]:
    """All of them, by name."""
    return [Bug(path) for path in sorted(BUGS.glob("*.patch"))]


@contextmanager
def backend_of(name: str, loop: SteppedLoop, folder: Path) -> Iterator[Backend]:
    """The state machine's ground, by name."""
    if name == "memory":
        yield Memory(loop)
    elif name == "sqlite":
        template = folder / "template.db"
        asyncio.run(migrate(f"sqlite+aiosqlite:///{template}"))
        yield Sqlite(loop, template, folder)
    else:
        with databases(folder) as new_database:
            url = new_database()
            asyncio.run(migrate(url))
            yield Postgres(loop, url)


def run(name: str, runs: int, number: int, *, shrink: bool) -> str | None:
    """So many runs on that ground; what was wrong, None when nothing was."""
    loop = SteppedLoop()
    folder = Path(tempfile.mkdtemp(prefix="worldrouter-proof-"))
    try:
        with backend_of(name, loop, folder) as backend:
            play(backend, runs=runs, number=number, shrink=shrink)
    except (Violation, Stuck) as found:
        return "\n".join([f"{type(found).__name__}: {found}", *getattr(found, "__notes__", [])])
    finally:
        loop.close()
        shutil.rmtree(folder, ignore_errors=True)
    return None


def is_caught(bug: Bug, number: int) -> tuple[bool, str]:
    """Whether a copy of the tree with this bug is found out, and how it was."""
    with tempfile.TemporaryDirectory(prefix="worldrouter-bug-") as folder:
        copy = Path(folder) / "tree"
        copy.mkdir()
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=LEFT_OUT)
            else:
                shutil.copy(source, copy / name)
        bug.plant(copy)
        by = bug.caught_by
        if by in HUNT_RUNS:
            command = ["-m", "tests.money.prove", "--hunt", by, "--seed", str(number)]
        else:
            command = ["-m", "pytest", "-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", by]
        environment = {**os.environ, "PYTHONPATH": f"{copy}:{copy / 'protos'}"}
        done = subprocess.run(
            [sys.executable, "-P", *command],
            cwd=copy,
            env=environment,
            capture_output=True,
            text=True,
            timeout=HUNT_TIMEOUT_S,
            check=False,
        )
    said = (done.stdout + done.stderr).strip()
    return done.returncode == (CAUGHT if by in HUNT_RUNS else 1), said


def say(text: str) -> None:
    """At once, whoever reads it."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def hunt(name: str, number: int) -> int:
    """In a copy of the tree: look for its bug."""
    found = run(name, HUNT_RUNS[name], number, shrink=False)
    say((found or "nothing found").splitlines()[0])
    return 0 if found is None else CAUGHT


def prove(runs: int, number: int, chosen: list[Bug]) -> int:
    """The exit status: 0 when the money is right and every bug was caught."""
    failed = False
    for name, count in (("memory", runs), ("sqlite", -(-runs // 20)), ("postgresql", -(-runs // 20))):
        began_s = time.monotonic()
        found = run(name, count, number, shrink=True) if count else None
        took = f"{count} runs of {STEPS} steps, {time.monotonic() - began_s:.0f} s"
        say(f"{name:10}  {'ok' if found is None else 'WRONG'}  {took}")
        if found is not None:
            say(found)
            failed = True
    for bug in chosen:
        began_s = time.monotonic()
        try:
            caught, said = is_caught(bug, number)
        except subprocess.CalledProcessError as error:
            caught, said = False, f"the patch does not apply: {error.stderr}"
        last = said.splitlines()[-1] if said else ""
        took = f"{time.monotonic() - began_s:.0f} s"
        say(f"{bug.name:30}  {'caught' if caught else 'MISSED'}  {took}  {last}")
        failed = failed or not caught
    return int(failed)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/prove-money", description=__doc__)
    parser.add_argument(
        "--runs", type=int, default=20_000, help="of the state machine in memory; a twentieth on each database"
    )
    parser.add_argument("--seed", type=int, default=1, help="another one, other runs")
    parser.add_argument("--bug", action="append", help="plant this one alone (the name of a file in tests/money/bugs)")
    parser.add_argument("--hunt", help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)  # faults are logged, every one
    if given.hunt:
        return hunt(given.hunt, given.seed)
    chosen = [bug for bug in bugs() if given.bug is None or bug.name in given.bug]
    return prove(given.runs, given.seed, chosen)


if __name__ == "__main__":
    sys.exit(main())
