"""The gRPC port: where it listens, and what it refuses."""

from __future__ import annotations

import socket
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc.aio
import pytest
import trustme

from core.process.listen import CannotListen, listen, make_server, refuse_taken
from core.settings import BadSettings, CoreSettings, TlsSettings

PLAIN = TlsSettings()


@pytest.fixture
async def server() -> AsyncIterator[grpc.aio.Server]:
    """A server with our options. It starts at last: the library crashes over one that never did."""
    made = make_server(CoreSettings())
    yield made
    await made.start()
    await made.stop(0)


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port of the loopback that somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    """Files of a certificate for localhost."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return {
        "cert_file": str(tmp_path / "cert.pem"),
        "key_file": str(tmp_path / "key.pem"),
        "client_ca_file": str(tmp_path / "ca.pem"),
    }


def damage(path: Path, content: bytes | None) -> None:
    """Remove a file, or write something else into it."""
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.5"])
async def test_plain_text_is_for_loopback(server: grpc.aio.Server, host: str) -> None:
    """A free port is picked for port 0."""
    assert listen(server, CoreSettings(host=host, grpc_port=0), PLAIN) > 0


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "router.example", "", "::"])
async def test_plain_text_anywhere_else_is_refused(server: grpc.aio.Server, host: str) -> None:
    """With the setting at fault and what would help."""
    with pytest.raises(BadSettings) as caught:
        listen(server, CoreSettings(host=host, grpc_port=0), PLAIN)
    assert "core.host" in str(caught.value)
    assert "tls.cert_file" in str(caught.value)


async def test_a_taken_port_is_named_with_its_cause(server: grpc.aio.Server, taken_port: int) -> None:
    """Also for those who only want to know beforehand."""
    for attempt in (
        lambda: listen(server, CoreSettings(grpc_port=taken_port), PLAIN),
        lambda: refuse_taken("127.0.0.1", taken_port),
    ):
        with pytest.raises(CannotListen) as caught:
            attempt()
        assert f"port {taken_port}" in str(caught.value)
        assert "in use" in str(caught.value)


async def test_an_address_that_is_not_ours_is_named(server: grpc.aio.Server, certificate: dict[str, str]) -> None:
    """TLS or not."""
    with pytest.raises(CannotListen, match=r"192\.0\.2\.1"):
        listen(server, CoreSettings(host="192.0.2.1", grpc_port=50_999), TlsSettings(**certificate))


async def test_tls_may_listen_anywhere(server: grpc.aio.Server, certificate: dict[str, str]) -> None:
    """That is what it is for."""
    assert listen(server, CoreSettings(host="0.0.0.0", grpc_port=0), TlsSettings(**certificate)) > 0


@pytest.mark.parametrize("missing", ["cert_file", "key_file"])
async def test_half_of_tls_is_not_taken_for_none(
    server: grpc.aio.Server, certificate: dict[str, str], missing: str
) -> None:
    """An operator who set a client authority, or a key, never gets plain text by accident."""
    with pytest.raises(BadSettings, match=rf"tls\.{missing} is not set"):
        listen(server, CoreSettings(grpc_port=0), TlsSettings(**(certificate | {missing: ""})))


@pytest.mark.parametrize("name", ["cert_file", "key_file", "client_ca_file"])
@pytest.mark.parametrize(
    "content", [None, b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
)
async def test_a_bad_file_is_named(
    server: grpc.aio.Server, certificate: dict[str, str], name: str, content: bytes | None
) -> None:
    """Absent, empty or no certificate: told at start, not at the first handshake."""
    path = Path(certificate[name])
    damage(path, content)
    with pytest.raises(BadSettings) as caught:
        listen(server, CoreSettings(grpc_port=0), TlsSettings(**certificate))
    assert str(path) in str(caught.value)


async def test_a_key_of_another_certificate_is_refused(
    server: grpc.aio.Server, certificate: dict[str, str], tmp_path: Path
) -> None:
    """They are checked against each other."""
    other = tmp_path / "other.pem"
    trustme.CA().issue_cert("localhost").private_key_pem.write_to_path(other)
    with pytest.raises(BadSettings, match="KEY_VALUES_MISMATCH"):
        listen(server, CoreSettings(grpc_port=0), TlsSettings(**(certificate | {"key_file": str(other)})))


@pytest.mark.parametrize("setting", ["cert_file", "client_ca_file"])
async def test_a_file_that_is_no_certificate_is_named(
    server: grpc.aio.Server, certificate: dict[str, str], tmp_path: Path, setting: str
) -> None:
    """With what is wanted, and not beside files that are sound."""
    (tmp_path / "none.pem").write_text("none")
    with pytest.raises(BadSettings, match=r"none\.pem(, \S*key\.pem)?: (not what it should be, in PEM|NO_CERT)"):
        listen(server, CoreSettings(grpc_port=0), TlsSettings(**(certificate | {setting: str(tmp_path / "none.pem")})))


async def test_a_unix_socket_is_its_owners(server: grpc.aio.Server, tmp_path: Path) -> None:
    """Mode 0600; one that an earlier process left is replaced."""
    path = tmp_path / "core.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    listen(server, CoreSettings(grpc_port=0, grpc_socket=str(path)), PLAIN)
    await server.start()
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["no/such/folder/s", "x" * 200])
async def test_a_socket_that_cannot_be_is_named(server: grpc.aio.Server, tmp_path: Path, name: str) -> None:
    """A missing folder, a path that is too long."""
    with pytest.raises(CannotListen, match="cannot listen for gRPC on"):
        listen(server, CoreSettings(grpc_port=0, grpc_socket=str(tmp_path / name)), PLAIN)


async def test_a_file_in_the_place_of_the_socket_is_not_removed(server: grpc.aio.Server, tmp_path: Path) -> None:
    """It may be anything."""
    path = tmp_path / "precious"
    path.write_text("x")
    with pytest.raises(CannotListen):
        listen(server, CoreSettings(grpc_port=0, grpc_socket=str(path)), PLAIN)
    assert path.read_text() == "x"
