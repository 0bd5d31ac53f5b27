"""The secrets in the state folder, made at the first start: the operator's token and the keys' pepper."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from pathlib import Path

from core.access.apikeys import Peppers
from core.access.auth import TOKEN_MIN_LENGTH
from core.home import Home
from core.settings import BadSettings
from storage.interfaces import KeyStore

_LOGGER = logging.getLogger(__name__)
_SECRET_BYTES = 32


def operator_token(home: Home) -> str:
    """The operator's credential. BadSettings when others may read its file, or it is too short; OSError."""
    token = _secret(home.operator_token)
    if len(token) < TOKEN_MIN_LENGTH:
        raise BadSettings(f"{home.operator_token}: a token has at least {TOKEN_MIN_LENGTH} characters")
    return token


def peppers(home: Home) -> Peppers:
    """The keys' peppers: one line each, `<version> <hex>`, the last one current. BadSettings, OSError."""
    by_version: dict[int, bytes] = {}
    current = 1
    for line in _secret(home.pepper, first="1 ").splitlines():
        try:
            version, text = line.split()
            current = int(version)
            by_version[current] = bytes.fromhex(text)
        except ValueError:
            raise BadSettings(f"{home.pepper}: every line must be a version and a pepper in hexadecimal") from None
    try:
        return Peppers(current, by_version)
    except ValueError as error:
        raise BadSettings(f"{home.pepper}: {error}") from None


async def warn_of_lost_pepper(home: Home, store: KeyStore) -> None:
    """Say so before a pepper is made that no key of the database was made with."""
    if not home.pepper.exists() and await store.keys(account_id=None, before=None, limit=1):
        _LOGGER.error(
            "There is no %s, and the database has API keys: a new one is made, with which none of them is let in. "
            "Copy the file from the core where they were made, or from beside the backup",
            home.pepper,
        )


def _secret(file: Path, first: str = "") -> str:
    """The content of a file that only its owner may read; made when it does not exist, whole or not at all."""
    if not file.exists():
        made = file.with_name(f"{file.name}.{os.getpid()}")
        made.unlink(missing_ok=True)
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(first + secrets.token_hex(_SECRET_BYTES) + "\n")
        with contextlib.suppress(FileExistsError):  # another process was faster: its secret is everybody's
            os.link(made, file)
        made.unlink()
    if file.stat().st_mode & 0o077:
        raise BadSettings(f"{file} holds a secret and may be read by others: chmod 600 it")
    try:
        return file.read_text().strip()
    except UnicodeDecodeError:
        raise BadSettings(f"{file} is not text") from None
