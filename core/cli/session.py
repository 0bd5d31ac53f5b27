"""What every command shares: the state folder, the way to the core, and the world outside."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import click
import grpc

from core.cli.client import Core, is_local
from core.home import BadReadyFile, Home, Ready


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _new_id() -> str:
    return uuid.uuid4().hex


def _stdin_is_terminal() -> bool:
    return sys.stdin.isatty()


def _become(program: str, arguments: Sequence[str]) -> NoReturn:
    os.execv(program, list(arguments))


@dataclass(frozen=True, slots=True)
class Session:
    """One invocation of `worldrouter`.

    None in an option of the connection means its default: the core that `ready.json` in `home` names, the
    operator's token in `home`, and no TLS. The functions are the world outside, exchanged by tests.
    """

    home: Home
    grpc_target: str | None = None
    token_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    client_key: Path | None = None
    now: Callable[[], datetime] = _utc_now
    monotonic_s: Callable[[], float] = time.monotonic
    new_id: Callable[[], str] = _new_id
    stdin_is_terminal: Callable[[], bool] = _stdin_is_terminal
    become: Callable[[str, Sequence[str]], NoReturn] = _become
    """Replaces this process with another program, as os.execv does."""

    def connect(self) -> Core:
        """A client of the core. A clear error when it cannot be found or the credential cannot be read."""
        target = self.target()
        credential = self.credential()
        credentials = self.channel_credentials()
        if credentials is None and not is_local(target):
            raise click.ClickException(
                f"the credential would go to {target} in plain text; "
                "give --ca, or use a local address, host:port or unix:PATH"
            )
        return Core(target, credential, credentials)

    def ready(self) -> Ready:
        """What the running router wrote. A clear error when there is none."""
        try:
            ready = self.home.read_ready()
        except (BadReadyFile, OSError) as error:
            raise click.ClickException(f"cannot read {self.home.ready}: {error}") from error
        if ready is None:
            raise click.ClickException(
                f"the router is not running: there is no {self.home.ready} "
                "(start it with `worldrouter serve`, or say with --home or --grpc where it is)"
            )
        return ready

    def target(self) -> str:
        """The channel target of the core."""
        return self.grpc_target or self.ready().grpc

    def credential(self) -> str:
        """The operator's token, or what --token-file holds."""
        path = self.token_file or self.home.operator_token
        credential = read_bytes(path, "credential").strip()
        if not credential or not credential.isascii() or not credential.decode("ascii").isprintable():
            raise click.ClickException(f"{path} does not hold a credential")
        return credential.decode("ascii")

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """The TLS material; None without --ca and --cert: plain text."""
        if (self.cert is None) != (self.client_key is None):
            raise click.UsageError("--cert and --client-key belong together")
        if self.ca is None and self.cert is None:
            return None
        return grpc.ssl_channel_credentials(
            root_certificates=None if self.ca is None else read_bytes(self.ca, "CA certificate"),
            private_key=None if self.client_key is None else read_bytes(self.client_key, "client key"),
            certificate_chain=None if self.cert is None else read_bytes(self.cert, "certificate"),
        )


def read_bytes(path: Path, what: str) -> bytes:
    """The content of a file, or an error in one line that says what was wanted."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise click.ClickException(f"cannot read the {what} {path}: {error.strerror}") from error
