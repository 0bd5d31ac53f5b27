"""The secrets in the state folder, made at the first start: the operator's token and the keys' pepper."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from core.apikeys import Peppers
from core.home import Home
from core.settings import BadSettings

_SECRET_BYTES = 32


def operator_token(home: Home) -> str:
    """The operator's credential. BadSettings when others may read its file; OSError."""
    return _secret(home.operator_token)


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


def _secret(file: Path, first: str = "") -> str:
    """The content of a file that only its owner may read; made when it does not exist."""
    try:
        made = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if file.stat().st_mode & 0o077:
            raise BadSettings(f"{file} holds a secret and may be read by others: chmod 600 it") from None
        return file.read_text().strip()
    with os.fdopen(made, "w") as out:
        out.write(first + secrets.token_hex(_SECRET_BYTES) + "\n")
    return file.read_text().strip()
