"""Settings: `worldrouter.toml`, overridden by `WORLDROUTER_<SECTION>_<KEY>` in the environment, then by options.

One immutable object. A bad value is refused at start with its key, its value and the type that is wanted. Secrets
are references: `env:NAME` or `file:PATH`.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, get_args

import msgspec

MAX_WORKERS = 64
_MAX_NANO_USD = 10**15

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Name = Annotated[str, msgspec.Meta(min_length=1)]
TokenCount = Annotated[int, msgspec.Meta(ge=0, le=10**9)]
SomeTokens = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
PicoUsd = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
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
    grpc_port: Port = 50051
    grpc_socket: str = ""
    """Path of a Unix socket to listen at as well; only its owner may connect."""
    admin_host: str = "127.0.0.1"
    admin_port: Port = 0
    default_account: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_-]{2,62}$")] = "default"
    credits_url: str = ""
    support_contact: str = ""
    max_body_bytes: Annotated[int, msgspec.Meta(ge=1_024, le=1 << 30)] = 10 << 20
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
    audit_every_s: Seconds = 60.0
    """Between audits of what all accounts have; one that does not add up gets no leases until it does."""


class EmbeddedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The embedded model; on by default when no models are configured."""

    enabled: bool | None = None
    threads: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    """Threads of the model's server."""


class TestPaymentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The built-in test payment page: credit for a click, for development. Only with HTTP and gRPC on loopback."""

    enabled: bool = False
    page_url: str = ""
    """Where the edge is; empty: where `serve` has it, else http://127.0.0.1:8080."""


class StripeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Payments through Stripe (experimental); on with an `api_key`. Secrets are references."""

    api_key: str = ""
    webhook_secret: str = ""
    """Signing secret of the webhook endpoint, which is /webhooks/stripe of the edge."""
    success_url: str = ""
    cancel_url: str = ""
    api_base: str = ""
    """Another API than Stripe's own."""


class PaymentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Payment providers. None is on by default, and none can be switched on by the environment."""

    test: TestPaymentSettings = TestPaymentSettings()
    stripe: StripeSettings = StripeSettings()


class ProviderSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A provider. `kind = "scripted"` answers from a script, for tests and demos."""

    kind: Literal["openai", "scripted"]
    base_url: str = ""
    api_key: str = ""
    headers: dict[str, str] = {}
    output_limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    disconnect_policy: Literal["cancel_estimate", "drain"] = "cancel_estimate"
    """When a caller goes away: end the upstream's work and estimate its usage, or read its answer to the end for the
    exact one (at most 64 at once and 30 s each; the others are estimated)."""
    max_connections: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    """Requests at once from each core, each over a connection of its own, to this host; providers with the same host
    and limit share it. One more goes to the model's next endpoint, or is a 429 if there is none. Default: no limit."""
    script: dict[str, Any] = {}


class PriceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Microdollars per million tokens, which are picodollars per token. All zero is a free model."""

    input: PicoUsd
    output: PicoUsd
    cache_read: PicoUsd | None = None
    """Default: the input price."""
    cache_write: PicoUsd | None = None
    """Default: the input price."""


class EndpointSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A way to reach a model: the provider's name here, and the provider's name for the model."""

    provider: Name
    model: Name
    name: str = ""


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model. Its endpoints are tried in order. A model without a price is refused.

    `max_image_tokens` is what an image counts as when its request is held, and where no upstream counts it; a video or
    a file at least.
    """

    id: Name
    max_output_tokens: SomeTokens
    price: PriceSettings
    endpoints: list[EndpointSettings]
    display_name: str = ""
    owned_by: str = "worldrouter"
    created: Annotated[int, msgspec.Meta(ge=0, le=2**40)] = 0
    context_tokens: TokenCount = 0
    public: bool = True
    streaming: bool = True
    max_image_tokens: TokenCount = 4_096
    first_token_timeout_s: Seconds | None = None


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of it. `edge` is the edge's to read."""

    version: Annotated[int, msgspec.Meta(ge=0, le=2**53)] = 0
    """Grows with every change of models, prices or endpoints, if several cores share a database: one whose file has a
    lower version than the database has been served with, or the same one and other content, does not start, nor is it
    loaded again. 0, the default, is no version: it is lower than any other, and a file without one that differs from
    what another live core serves is refused too. A core that runs goes on when others load a newer one."""
    core: CoreSettings = CoreSettings()
    tls: TlsSettings = TlsSettings()
    database: DatabaseSettings = DatabaseSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    money: MoneySettings = MoneySettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    payments: PaymentSettings = PaymentSettings()
    edge: dict[str, Any] = {}
    providers: dict[str, ProviderSettings] = {}
    models: list[ModelSettings] = []


T = TypeVar("T")
_SERVICE_VARIABLE = re.compile(r"([A-Z0-9_]+_)?(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT_\d+_(TCP|UDP|SCTP)(_[A-Z]+)?)")
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")
_STEP = re.compile(r"\.[^.\[]+|\[\d+\]")
_SECTIONS: Mapping[str, type[msgspec.Struct]] = MappingProxyType(
    {
        "core": CoreSettings,
        "tls": TlsSettings,
        "database": DatabaseSettings,
        "timeouts": TimeoutSettings,
        "money": MoneySettings,
        "embedded": EmbeddedSettings,
    }
)


def load(file: Path | None, environment: Mapping[str, str], overrides: Mapping[str, object]) -> Settings:
    """The settings of a file, an environment and options (`overrides` go to `core`). BadSettings, OSError."""
    tables: dict[str, Any] = {}
    if file is not None:
        try:
            tables = tomllib.loads(file.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise BadSettings(f"{file}: {error}") from None
    for name, section in _SECTIONS.items():
        _override(tables, name, _from_environment(name, section, environment))
    _override(tables, "core", overrides)
    return convert(tables)


def _override(tables: dict[str, Any], name: str, found: Mapping[str, object]) -> None:
    table = tables.get(name, {})
    if found and isinstance(table, dict):  # what is no table is refused with the rest
        tables[name] = {**table, **found}


def convert(tables: Mapping[str, Any]) -> Settings:
    """Settings from plain tables. BadSettings."""
    providers = tables.get("providers", {})
    if isinstance(providers, dict):  # one by one, so that an error can name the provider
        for name, table in providers.items():
            converted(table, ProviderSettings, f"providers.{name}")
    return converted(tables, Settings)


def converted(tables: Any, kind: type[T], where: str = "") -> T:
    """What stands at `where` in the settings, as `kind`. BadSettings."""
    try:
        return msgspec.convert(tables, kind)
    except msgspec.ValidationError as error:
        raise BadSettings(_explain(error, tables, kind, where)) from None


def _from_environment(name: str, section: type[msgspec.Struct], environment: Mapping[str, str]) -> dict[str, object]:
    types = {field.name: field.type for field in msgspec.structs.fields(section)}
    prefix = f"WORLDROUTER_{name}_".upper()
    found: dict[str, object] = {}
    for variable, text in environment.items():
        key = variable.removeprefix(prefix)
        if key == variable or _is_of_kubernetes(key, text):
            continue
        if key.lower() not in types:
            raise BadSettings(f"{variable}: there is no such setting")
        try:
            found[key.lower()] = msgspec.convert(text, types[key.lower()], strict=False)
        except msgspec.ValidationError as error:
            raise BadSettings(f"{variable}={text!r}: {error}") from None
    return found


def _is_of_kubernetes(key: str, text: str) -> bool:
    """Whether this is one of the variables that a service named worldrouter-core or worldrouter-core-… brings.

    Source: Kubernetes, "Discovering services"; `…_PORT` is told from the setting by its value.
    """
    return bool(_SERVICE_VARIABLE.fullmatch(key) or (key.endswith("PORT") and _SERVICE_URL.match(text)))


def _explain(error: msgspec.ValidationError, tables: Any, kind: type[Any], where: str) -> str:
    """msgspec says the wanted type and the path; add where the path begins, and the value that stands there.

    A whole table is not shown: it may hold a password.
    """
    wanted, _, path = str(error).partition(" - at `$")
    path = path.removesuffix("`")
    if wanted.startswith("Invalid enum value"):
        wanted = f"Expected one of {_choices(kind, path.removeprefix('.'))}"
    if not path and wanted.startswith("Object contains unknown field"):
        wanted += f"; there are {', '.join(field.encode_name for field in msgspec.structs.fields(kind))}"
    value = tables
    try:
        for step in _STEP.findall(path):
            value = value[int(step[1:-1])] if step.startswith("[") else value[step.removeprefix(".")]
    except (KeyError, IndexError, ValueError, TypeError):
        value = {}
    shown = "" if isinstance(value, dict) else f", not {value!r}"
    key = (where + path).removeprefix(".")
    return f"{key}: {wanted}{shown}" if key else f"{wanted}{shown}"


def _choices(kind: type[Any], name: str) -> str:
    """The values that a field may have."""
    field = next(each for each in msgspec.structs.fields(kind) if each.name == name)
    return ", ".join(f"'{choice}'" for choice in get_args(field.type))


def secret(setting: str, reference: str, environment: Mapping[str, str]) -> str | None:
    """What `env:NAME` or `file:PATH` refers to; None for an empty reference. BadSettings, naming the setting and no
    secret."""
    try:
        return _referred(reference, environment) if reference else None
    except BadSettings as error:
        raise BadSettings(f"{setting}: {error}") from None


def _referred(reference: str, environment: Mapping[str, str]) -> str:
    kind, _, where = reference.partition(":")
    if kind == "env":
        value = environment.get(where)
        if not value:
            raise BadSettings(f"the environment variable {where} is not set")
        return value
    if kind == "file":
        try:
            value = Path(where).read_text("utf-8").strip()
        except OSError as error:
            raise BadSettings(f"{where}: {os.strerror(error.errno or 0)}") from None
        except UnicodeDecodeError:
            raise BadSettings(f"{where} is not text") from None
        if not value:
            raise BadSettings(f"{where} is empty")
        return value
    raise BadSettings("a secret must be a reference, env:NAME or file:PATH")
