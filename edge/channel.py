"""The channel to the core: limits, load balancing, retries, TLS; if wanted, chats over one stream to each core."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc
import msgspec

from edge.relay.channel import RelayChannel
from edge.settings import MIB, BadSetting, EdgeSettings

KEEPALIVE_MS = 30_000
"""The core must allow pings as frequent: `grpc.http2.min_recv_ping_interval_without_data_ms`."""

ANSWER_LIMIT_BYTES = 64 * MIB
"""An answer with images in it may well be larger than any request."""

_ADDRESSES: Final = ("ipv4:", "ipv6:", "unix:")
"""How targets begin that need no look-up."""

_SERVICE_CONFIG: Final = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},
    "methodConfig": [
        {
            "name": [{"service": "worldrouter.v1.RawChatService"}, {"service": "worldrouter.v1.RoutingService"}],
            # Before initial metadata only, which the core sends just before it calls an upstream.
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.05s",
                "maxBackoff": "0.5s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}


def open_channel(settings: EdgeSettings) -> grpc.aio.Channel:
    """A channel to `settings.core`; connects by itself. Raises BadSetting for files or a target it cannot use."""
    opener = _opener(settings)
    if not settings.relay:
        return opener()
    return RelayChannel(opener(), another=None if settings.core.startswith(_ADDRESSES) else opener)


def _opener(settings: EdgeSettings) -> Callable[[], grpc.aio.Channel]:
    """Opens channels that share their connections, as they are alike."""
    options = channel_options(settings)
    if settings.core_ca is None:
        if not _is_local(settings.core):
            raise BadSetting(f"core = {settings.core!r} is another machine: for keys core_ca (--core-ca) is needed")
        return lambda: grpc.aio.insecure_channel(settings.core, options)
    files = (settings.core_ca, settings.core_key, settings.core_cert)
    authority, key, certificate = (_read(file) for file in files)
    _check(settings)
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    return lambda: grpc.aio.secure_channel(settings.core, credentials, options)


def channel_options(settings: EdgeSettings) -> list[tuple[str, object]]:
    """Limits, load balancing, retries and keepalive, as gRPC's channel arguments."""
    message_bytes = settings.body_limit_bytes + 64 * 1024
    return [
        ("grpc.max_send_message_length", message_bytes),
        ("grpc.max_receive_message_length", ANSWER_LIMIT_BYTES),
        ("grpc.per_rpc_retry_buffer_size", message_bytes + MIB),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),  # by default a core that was away long is missed two minutes more
        ("grpc.http2.bdp_probe", 0),  # a stalled stream buffers 94 KiB here rather than 6 MiB
        ("grpc.enable_http_proxy", 0),
        ("grpc.service_config", msgspec.json.encode(_SERVICE_CONFIG).decode()),
    ]


def _read(file: str | None) -> bytes | None:
    try:
        return None if file is None else Path(file).read_bytes()
    except OSError as error:
        raise BadSetting(f"cannot read {file}: {error.strerror}") from None


def _check(settings: EdgeSettings) -> None:
    """BadSetting for files that are no certificates or keys: the gRPC library would say so at each connection only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    files = str(settings.core_ca)
    try:
        context.load_verify_locations(settings.core_ca)
        if settings.core_cert is not None:
            files = f"{settings.core_cert}, {settings.core_key}"
            context.load_cert_chain(settings.core_cert, settings.core_key, lambda: "")  # else it asks the terminal
    except ssl.SSLError as error:
        raise BadSetting(f"{files}: {error.reason or 'not what it should be, in PEM'}") from None


def _is_local(target: str) -> bool:
    """Whether a target is a Unix socket or loopback addresses."""
    if target.startswith("unix:"):
        return True
    addresses = target.removeprefix("ipv4:").removeprefix("ipv6:").removeprefix("dns:").lstrip("/")
    return all(_is_loopback(address) for address in addresses.split(","))


def _is_loopback(address: str) -> bool:
    """Whether a host, with or without a port, is this machine."""
    host = address.rpartition(":")[0].strip("[]") or address
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
