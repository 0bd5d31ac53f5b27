"""What an operator may set on the edge: the `[edge]` table of worldrouter.toml and `WORLDROUTER_EDGE_…`."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

_LOGGER = logging.getLogger(__name__)
ENVIRONMENT_PREFIX = "WORLDROUTER_EDGE_"
FILE_SECTIONS = (
    "edge",
    "version",
    "core",
    "tls",
    "database",
    "timeouts",
    "money",
    "embedded",
    "payments",
    "providers",
    "models",
)
"""What a worldrouter.toml may hold at its top: ours, and what is the core's."""
MIB = 1024 * 1024
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_OWN_PORTS: Mapping[str, str] = {"http": ":80", "https": ":443"}
_SERVICE_VARIABLE = re.compile(r"([A-Z0-9_]+_)?(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT_\d+_(TCP|UDP|SCTP)(_[A-Z]+)?)")
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")

Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class BadSetting(Exception):
    """A setting that is not usable; the message names it, its value and what is wanted."""


class EdgeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Settings of one edge process. Immutable; times in seconds, sizes in bytes."""

    host: Text = "127.0.0.1"
    port: Port = 8080
    """0 picks a free one."""
    core: Text = "dns:///127.0.0.1:50051"
    """Channel target of the core: `dns:///host:port` (every address is used), or `unix:/path`."""
    core_ca: Text | None = None
    """File (PEM) with the authority that signed the core's certificate; without it, plain text."""
    core_cert: Text | None = None
    """File (PEM) with the certificate that the edge shows the core; with `core_key`, or neither."""
    core_key: Text | None = None
    relay: bool = True
    """Chats travel over one gRPC stream to each core rather than in an RPC each, for a fraction of the cost. Off: for a
    proxy before the cores that balances RPCs and cannot keep long streams."""
    admin_host: Text = "127.0.0.1"
    admin_port: Port = 0
    body_limit_bytes: Annotated[int, msgspec.Meta(ge=1024, le=1024 * MIB)] = 10 * MIB
    body_timeout_s: Seconds = 30.0
    """For a request's whole body."""
    idle_timeout_s: Seconds = 30.0
    """For a request's headers, and for a connection between two requests."""
    comment_interval_s: Seconds = 10.0
    """Silence of a stream after which a comment keeps it alive."""
    client_stall_s: Seconds = 30.0
    """A client that takes no byte of its answer for so long is cut off."""
    drain_s: Annotated[float, msgspec.Meta(ge=0)] = 600.0
    """How long SIGTERM waits for requests in flight."""
    support_contact: Text | None = None
    """Whom a 500 tells the user to write to."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may call the API from a browser, as `https://app.example.com`; "*" stands for all.
    Elsewhere than in the file they are separated by commas. None: answers say nothing of CORS."""


def load_settings(
    table: Mapping[str, object], environment: Mapping[str, str], overrides: Mapping[str, object]
) -> EdgeSettings:
    """Settings from the `[edge]` table, over it the environment, over both `overrides` (None: not given).

    Raises BadSetting for an unknown name, a value of the wrong type or range, half a key pair, or what is no origin.
    """
    values: dict[str, Any] = {}
    for name, value in table.items():
        values[name] = _checked(name, value, f"[edge] {name}", strict=True)
    for variable, value in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        if _is_of_kubernetes(variable, value):
            _LOGGER.info("%s is ignored: Kubernetes sets it for a service of this name", variable)
        else:
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
            values[name] = _checked(name, value, variable, strict=False)
    for name, value in overrides.items():
        if value is not None:
            values[name] = _checked(name, value, name, strict=True)
    settings = EdgeSettings(**values)
    if settings.core.startswith(("http://", "https://")):
        raise BadSetting(f"core = {settings.core!r}: wanted dns:///host:port or unix:/path")
    if (settings.core_cert is None) != (settings.core_key is None):
        raise BadSetting("core_cert and core_key belong together: give both or neither")
    if settings.core_cert is not None and settings.core_ca is None:
        raise BadSetting("core_cert needs core_ca: without TLS there is nobody to show it to")
    for origin in settings.cors_origins:
        if origin != "*" and not _is_origin(origin):
            wanted = 'wanted "*" or scheme://host[:port] as browsers send it: lower case, no path, no default port'
            raise BadSetting(f"cors_origins: {origin!r} is no origin; {wanted}")
    return settings


def _is_origin(text: str) -> bool:
    """Whether a browser's `Origin` may be so: scheme, host, and a port other than the scheme's own, in lower case."""
    found = _ORIGIN.fullmatch(text)
    return found is not None and (found[3] is None or _OWN_PORTS.get(found[1]) != found[3])


def _is_of_kubernetes(variable: str, value: str) -> bool:
    """Whether this is one of the variables that a service named worldrouter-edge or worldrouter-edge-… brings.

    Source: Kubernetes, "Discovering services"; `…_PORT` is told from the setting by its value.
    """
    name = variable.removeprefix(ENVIRONMENT_PREFIX)
    return bool(_SERVICE_VARIABLE.fullmatch(name) or (name.endswith("PORT") and _SERVICE_URL.match(value)))


def _checked(name: str, value: object, shown_as: str, *, strict: bool) -> object:
    wanted = next((field.type for field in msgspec.structs.fields(EdgeSettings) if field.name == name), None)
    if wanted is None:
        raise BadSetting(f"{shown_as}: there is no such setting")
    if name == "cors_origins" and isinstance(value, str):
        value = tuple(origin.strip() for origin in value.split(",") if origin.strip())
    try:
        return msgspec.convert(value, wanted, strict=strict)
    except msgspec.ValidationError as error:
        raise BadSetting(f"{shown_as} = {value!r}: {error}") from None
