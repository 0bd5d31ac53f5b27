"""Settings: `worldrouter.toml`, overridden by `WORLDROUTER_<SECTION>_<KEY>` in the environment, then by options.

One immutable object. A bad value is refused at start with its key, its value and the type that is wanted. Secrets
are references: `env:NAME` or `file:PATH`.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

MAX_WORKERS = 64
_MAX_NANO_USD = 10**15

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
SecondsOrNone = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
LeaseSeconds = Annotated[float, msgspec.Meta(ge=1, le=3_600)]
NanoUsd = Annotated[int, msgspec.Meta(ge=0, le=_MAX_NANO_USD)]
SomeNanoUsd = Annotated[int, msgspec.Meta(ge=1, le=_MAX_NANO_USD)]
BasisPoints = Annotated[int, msgspec.Meta(ge=0, le=10_000)]


class BadSettings(Exception):
    """A setting is not what it should be; the message names key, value and what is wanted."""


class CoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The core's own: where it listens, whom it names in messages."""

    host: str = "127.0.0.1"
    grpc_port: int = 50051
    grpc_socket: str = ""
    """Path of a Unix socket to listen at as well; only its owner may connect."""
    admin_host: str = "127.0.0.1"
    admin_port: int = 0
    default_account: str = "default"
    credits_url: str = ""
    support_contact: str = ""
    max_body_bytes: int = 10 << 20
    workers: Annotated[int, msgspec.Meta(ge=1, le=MAX_WORKERS)] = 1
    """Processes of `serve`, which share the HTTP port. Each has its own gRPC port, and admin port if one is given:
    the first that of the setting, the others those that follow. More than one need PostgreSQL."""


class TlsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Files of the gRPC port's TLS; with `client_ca_file` clients must show a certificate of that authority."""

    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""


class DatabaseSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`url` is SQLAlchemy's; empty means SQLite in the state folder."""

    url: str = ""


class TimeoutSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Time limits in seconds."""

    admission_s: Seconds = 2.0
    connect_s: Seconds = 5.0
    first_token_s: Seconds = 60.0
    between_chunks_s: Seconds = 60.0
    total_s: Seconds = 900.0
    settle_s: Seconds = 5.0
    drain_s: SecondsOrNone = 600.0


class MoneySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Amounts in nanodollars. `chunk_nano_usd` is the usual lease of a core on an account."""

    min_top_up_nano_usd: SomeNanoUsd = 10_000_000_000
    fee_basis_points: BasisPoints = 500
    starting_balance_nano_usd: NanoUsd = 5_000_000_000
    chunk_nano_usd: SomeNanoUsd = 1_000_000_000
    lease_ttl_s: LeaseSeconds = 30.0


class EmbeddedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The embedded model; on by default when no models are configured."""

    enabled: bool | None = None
    threads: int = 1
    """Threads of the model's server."""


class ProviderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A provider. `kind = "scripted"` answers from a script, for tests and demos."""

    kind: Literal["openai", "scripted"]
    base_url: str = ""
    api_key: str = ""
    headers: dict[str, str] = {}
    output_limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    script: dict[str, Any] = {}


class PriceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Microdollars per million tokens, which are picodollars per token. All zero is a free model."""

    input: int
    output: int
    cache_read: int | None = None
    """Default: the input price."""
    cache_write: int | None = None
    """Default: the input price."""


class EndpointSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A way to reach a model: the provider's name here, and the provider's name for the model."""

    provider: str
    model: str
    name: str = ""


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model. Its endpoints are tried in order. A model without a price is refused."""

    id: str
    max_output_tokens: int
    price: PriceSettings
    endpoints: list[EndpointSettings]
    display_name: str = ""
    owned_by: str = "worldrouter"
    created: int = 0
    context_tokens: int = 0
    public: bool = True
    streaming: bool = True
    max_image_tokens: int = 4_096
    first_token_timeout_s: float | None = None


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of it. `edge` is the edge's to read."""

    core: CoreSettings = CoreSettings()
    tls: TlsSettings = TlsSettings()
    database: DatabaseSettings = DatabaseSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    money: MoneySettings = MoneySettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    edge: dict[str, Any] = {}
    providers: dict[str, ProviderSettings] = {}
    models: list[ModelSettings] = []


_SECTIONS: Mapping[str, type[msgspec.Struct]] = {
    "core": CoreSettings,
    "tls": TlsSettings,
    "database": DatabaseSettings,
    "timeouts": TimeoutSettings,
    "money": MoneySettings,
    "embedded": EmbeddedSettings,
}


def load(file: Path | None, environment: Mapping[str, str], overrides: Mapping[str, object]) -> Settings:
    """The settings of a file, an environment and options (`overrides` go to `core`). BadSettings, OSError."""
    tables: dict[str, Any] = {}
    if file is not None:
        try:
            tables = tomllib.loads(file.read_text())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadSettings(f"{file}: {error}") from None
    for name, section in _SECTIONS.items():
        found = _from_environment(name, section, environment)
        if found:
            tables[name] = {**tables.get(name, {}), **found}
    if overrides:
        tables["core"] = {**tables.get("core", {}), **overrides}
    return convert(tables)


def convert(tables: Mapping[str, Any]) -> Settings:
    """Settings from plain tables. BadSettings."""
    try:
        return msgspec.convert(tables, Settings)
    except msgspec.ValidationError as error:
        raise BadSettings(_explain(error, tables)) from None


def _from_environment(name: str, section: type[msgspec.Struct], environment: Mapping[str, str]) -> dict[str, object]:
    found: dict[str, object] = {}
    for field in msgspec.structs.fields(section):
        variable = f"WORLDROUTER_{name}_{field.name}".upper()
        text = environment.get(variable)
        if text is None:
            continue
        try:
            found[field.name] = msgspec.convert(text, field.type, strict=False)
        except msgspec.ValidationError as error:
            raise BadSettings(f"{variable}={text!r}: {error}") from None
    return found


def _explain(error: msgspec.ValidationError, tables: Mapping[str, Any]) -> str:
    """msgspec says the wanted type and the path; add the value that stands there."""
    text = str(error)
    _, marker, path = text.rpartition(" - at `$.")
    if not marker:
        return text
    value: Any = tables
    for step in path.removesuffix("`").replace("[", ".[").split("."):
        try:
            value = value[int(step[1:-1])] if step.startswith("[") else value[step]
        except (KeyError, IndexError, ValueError, TypeError):
            return text
    return f"{text}: {value!r}"


def secret(reference: str, environment: Mapping[str, str]) -> str | None:
    """What `env:NAME` or `file:PATH` refers to; None for an empty reference. BadSettings, naming no secret."""
    if not reference:
        return None
    kind, _, where = reference.partition(":")
    if kind == "env":
        value = environment.get(where)
        if not value:
            raise BadSettings(f"the environment variable {where} is not set")
        return value
    if kind == "file":
        try:
            return Path(where).read_text().strip()
        except OSError as error:
            raise BadSettings(f"{where}: {os.strerror(error.errno or 0)}") from None
    raise BadSettings("a secret must be a reference, env:NAME or file:PATH")
