"""The gRPC port: where it listens, who may connect, how large a message may be."""

from __future__ import annotations

import os
import socket
import ssl
import stat
from ipaddress import ip_address
from pathlib import Path

import grpc
import grpc.aio

from core.settings import BadSettings, CoreSettings, TlsSettings

ENVELOPE_BYTES = 1 << 20
"""Room in a message for what stands around a body, and for a body over the limit to be refused by name."""
READ_AHEAD_BYTES = 1 << 20
"""Of each RPC's requests, before the core has asked for them. With HTTP/2's 64 KiB, large bodies wait for permission
to go on a dozen times each, and threads wake for each."""


class CannotListen(Exception):
    """A port is taken or an address is not ours; the message says which."""


def make_server(settings: CoreSettings) -> grpc.aio.Server:
    """A server with our limits, not listening yet.

    Without the bandwidth probe a stalled stream buffers what it may read ahead rather than 6 MiB.
    """
    most = 2 * settings.max_body_bytes + ENVELOPE_BYTES
    return grpc.aio.server(
        options=(
            ("grpc.max_receive_message_length", most),
            ("grpc.max_send_message_length", -1),
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", READ_AHEAD_BYTES),
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
            ("grpc.http2.max_pings_without_data", 0),
        )
    )


def listen(server: grpc.aio.Server, settings: CoreSettings, tls: TlsSettings) -> int:
    """Bind the port, and the Unix socket if there is to be one; the port. CannotListen, BadSettings."""
    address = f"[{settings.host}]" if ":" in settings.host else settings.host
    where = f"{address}:{settings.grpc_port}"
    refuse_taken(settings.host, settings.grpc_port)
    try:
        if tls.cert_file or tls.key_file or tls.client_ca_file:
            port = server.add_secure_port(where, _credentials(tls))
        else:
            _require_loopback(settings.host)
            port = server.add_insecure_port(where)
    except RuntimeError:
        raise CannotListen(f"cannot listen for gRPC on {settings.host} port {settings.grpc_port}") from None
    if settings.grpc_socket:
        _listen_on_socket(server, Path(settings.grpc_socket))
    return port


def refuse_taken(host: str, port: int, what: str = "gRPC") -> None:
    """CannotListen, with the cause, when a port is taken; the gRPC library would name none."""
    if port == 0:
        return
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise CannotListen(f"cannot listen for {what} on {host} port {port}: {error.strerror}") from None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _require_loopback(host: str) -> None:
    if not is_loopback(host):
        raise BadSettings(
            f"core.host: {host!r}: without TLS the core listens on loopback only; set tls.cert_file and tls.key_file"
        )


def _credentials(tls: TlsSettings) -> grpc.ServerCredentials:
    """The server's certificate and whose clients it takes. BadSettings: the gRPC library does not say what is wrong."""
    for name in ("cert_file", "key_file"):
        if not getattr(tls, name):
            raise BadSettings(f"tls.{name} is not set, but another setting of tls is")
    files = f"{tls.cert_file}, {tls.key_file}"
    try:
        pair = (Path(tls.key_file).read_bytes(), Path(tls.cert_file).read_bytes())
        authority = Path(tls.client_ca_file).read_bytes() if tls.client_ca_file else None
        check = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        check.load_cert_chain(tls.cert_file, tls.key_file, _no_password)
        if authority is not None:
            files = tls.client_ca_file
            check.load_verify_locations(tls.client_ca_file)
    except ssl.SSLError as error:
        raise BadSettings(f"tls: {files}: {error.reason or 'not what it should be, in PEM'}") from None
    except OSError as error:
        raise BadSettings(f"tls: {error.filename}: {error.strerror}") from None
    return grpc.ssl_server_credentials([pair], root_certificates=authority, require_client_auth=authority is not None)


def _no_password() -> str:
    """OpenSSL would ask the terminal for the password of an encrypted key."""
    return ""


def _listen_on_socket(server: grpc.aio.Server, path: Path) -> None:
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()  # of an earlier process: the database's lock has already refused a living one
    mask = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:{path}")
    except RuntimeError:
        raise CannotListen(f"cannot listen for gRPC on {path}") from None
    finally:
        os.umask(mask)
