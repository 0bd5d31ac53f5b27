"""The state folder: where it is and what lies in it.

`$WORLDROUTER_HOME`, else `.worldrouter` in the checkout that the program runs from, or in the current folder when it
was installed without one. Only its owner may enter it: it holds the operator's token and the keys' pepper.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

ANSWER_TIMEOUT_S = 0.5
ENVIRONMENT_VARIABLE = "WORLDROUTER_HOME"
DEFAULT_FOLDER = ".worldrouter"


class BadReadyFile(Exception):
    """`ready.json` is not what `serve` writes; the message names the file."""


@dataclass(frozen=True, slots=True)
class WorkerProcess:
    """A process with a core in it: `grpc` is its channel target, `admin` the URL of its admin port."""

    pid: int
    grpc: str
    admin: str


@dataclass(frozen=True, slots=True)
class Ready:
    """Where a running router is reached: the content of `ready.json`.

    `http` and `admin` are URLs, `grpc` a channel target, `pid` the process that everything ends with,
    `upstreams` the base URL of each embedded model's own server. `workers` are those that serve, with one alone
    the process itself; `grpc` is the first one's.
    """

    http: str
    grpc: str
    pid: int
    upstreams: dict[str, str] = field(default_factory=dict)
    admin: list[str] = field(default_factory=list)
    workers: list[WorkerProcess] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Home:
    """The state folder at `path`, an absolute path. Nothing is read or made until a method is called."""

    path: Path

    @classmethod
    def find(cls, environment: Mapping[str, str], current_folder: Path) -> Home:
        """The folder that the environment names, else the default one: in the checkout that this program runs from,
        or in `current_folder` when it was installed."""
        named = environment.get(ENVIRONMENT_VARIABLE)
        if named:
            return cls((current_folder / Path(named).expanduser()).absolute())
        checkout = Path(__file__).parents[1]
        is_checkout = (checkout / "scripts" / "serve").is_file()
        return cls((checkout if is_checkout else current_folder).absolute() / DEFAULT_FOLDER)

    @property
    def operator_token(self) -> Path:
        """File with the operator's credential, mode 0600."""
        return self.path / "operator.token"

    @property
    def ready(self) -> Path:
        """File that exists while the router serves; see `Ready`."""
        return self.path / "ready.json"

    @property
    def pepper(self) -> Path:
        """File with the peppers of the API keys' hashes, mode 0600."""
        return self.path / "pepper"

    @property
    def database(self) -> Path:
        """The embedded SQLite database."""
        return self.path / "worldrouter.db"

    @property
    def logs(self) -> Path:
        """Folder of the log files."""
        return self.path / "logs"

    def create(self) -> None:
        """Make the folder and its `logs`, mode 0700, where they do not exist. Raises OSError.

        An existing folder keeps its mode: it may be the operator's own. `worldrouter doctor` judges it.
        """
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs.mkdir(mode=0o700, exist_ok=True)

    def read_ready(self) -> Ready | None:
        """What the running router wrote; None when there is no such file. Raises BadReadyFile, OSError."""
        try:
            content = self.ready.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return msgspec.json.decode(content, type=Ready)
        except msgspec.MsgspecError as error:
            raise BadReadyFile(f"{self.ready} is not a ready file: {error}") from error

    def write_ready(self, ready: Ready) -> None:
        """Write `ready.json` whole or not at all: beside it, then renamed into place. Raises OSError."""
        unfinished = self.ready.with_name(f"ready.json.{ready.pid}")
        unfinished.write_bytes(msgspec.json.encode(ready) + b"\n")
        os.replace(unfinished, self.ready)

    def remove_ready(self) -> None:
        """Remove `ready.json`, when the router stops. Raises OSError."""
        self.ready.unlink(missing_ok=True)

    def remove_stale_ready(self) -> None:
        """Remove a `ready.json` that was left behind, when a router starts; not that of one that runs. OSError."""
        try:
            ready = self.read_ready()
        except BadReadyFile:
            ready = None
        if ready is None or ready.pid == os.getpid() or not (_is_alive(ready.pid) and _answers(ready.http)):
            self.remove_ready()


def _answers(url: str) -> bool:
    """Whether anybody listens there: the process of that id may be another one by now."""
    where = urlsplit(url)
    try:
        with socket.create_connection((where.hostname or "", where.port or 80), timeout=ANSWER_TIMEOUT_S):
            return True
    except (OSError, ValueError):
        return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
