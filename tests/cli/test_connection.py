"""How commands find the core and what they say when they cannot, over real sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from click.testing import CliRunner, Result
from worldrouter.v1 import metering_pb2, metering_pb2_grpc

from core.cli import cli
from core.cli.client import is_local
from core.cli.session import Session
from core.home import Home, Ready

pytestmark = pytest.mark.timeout(30)


class Metering(metering_pb2_grpc.MeteringServiceServicer):
    """A core that has one balance, and remembers with which credential it was asked."""

    def __init__(self) -> None:
        self.credentials: list[Any] = []
        self.waits_s: list[float] = []

    def GetBalance(
        self, request: metering_pb2.GetBalanceRequest, context: grpc.ServicerContext
    ) -> metering_pb2.Balance:
        self.credentials.append(dict(context.invocation_metadata())["authorization"])
        self.waits_s.append(context.time_remaining())
        return metering_pb2.Balance(account_id="default", balance_nano_usd=1_000_000_000)

    def Audit(self, request: metering_pb2.AuditRequest, context: grpc.ServicerContext) -> metering_pb2.AuditResponse:
        self.waits_s.append(context.time_remaining())
        return metering_pb2.AuditResponse()

    def ExportLedger(
        self, request: metering_pb2.ExportLedgerRequest, context: grpc.ServicerContext
    ) -> Iterator[metering_pb2.ExportLedgerResponse]:
        self.waits_s.append(context.time_remaining())
        yield metering_pb2.ExportLedgerResponse()

    def add(self, server: grpc.Server) -> None:
        metering_pb2_grpc.add_MeteringServiceServicer_to_server(self, server)


def balance(session: Session, *options: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner(env=env).invoke(cli, [*options, "balance"], obj=session, prog_name="worldrouter")


def test_the_core_is_found_by_the_state_folder(serve_grpc: Callable[..., str], session: Session, home: Home) -> None:
    """ready.json says where it is, operator.token who we are; the token goes as a Bearer credential."""
    core = Metering()
    home.write_ready(Ready(http="http://127.0.0.1:1", grpc=serve_grpc(core.add), pid=os.getpid()))
    result = balance(session)
    assert result.exit_code == 0, result.output
    assert "balance       1.000000 USD" in result.stdout
    assert core.credentials == ["Bearer operator-token-of-the-tests"]


def test_options_go_before_and_behind_the_command(
    serve_grpc: Callable[..., str], session: Session, tmp_path: Path
) -> None:
    """--grpc and --token-file win over the state folder, wherever they stand."""
    core = Metering()
    target = serve_grpc(core.add)
    key = tmp_path / "key"
    key.write_text("wlrouter_abc")
    before = ["--grpc", target, "--token-file", str(key), "balance"]
    behind = ["balance", "--grpc", target, "--token-file", str(key)]
    nearer = ["--grpc", "127.0.0.1:1", *behind]
    for arguments in (before, behind, nearer):
        assert CliRunner().invoke(cli, arguments, obj=session).exit_code == 0
    assert core.credentials == ["Bearer wlrouter_abc"] * 3


def test_the_environment_stands_in_for_options(
    serve_grpc: Callable[..., str], session: Session, home: Home, tmp_path: Path
) -> None:
    """$WORLDROUTER_HOME and $WORLDROUTER_GRPC count, unless an option says otherwise."""
    core = Metering()
    other = Home(tmp_path / "other")
    other.create()
    other.operator_token.write_text("other-token")
    environment = {"WORLDROUTER_HOME": str(other.path), "WORLDROUTER_GRPC": serve_grpc(core.add)}
    assert balance(session, env=environment).exit_code == 0
    assert balance(session, "--home", str(home.path), env=environment).exit_code == 0
    behind = ["balance", "--home", str(home.path)]
    assert CliRunner(env=environment).invoke(cli, behind, obj=session).exit_code == 0
    assert core.credentials == ["Bearer other-token", *["Bearer operator-token-of-the-tests"] * 2]


def test_what_takes_long_is_awaited_long(serve_grpc: Callable[..., str], session: Session) -> None:
    """Half a minute for a look, half an hour for what goes through the whole ledger; nothing is awaited for ever."""
    core = Metering()
    session = replace(session, grpc_target=serve_grpc(core.add))
    for arguments in (["balance"], ["audit"], ["ledger", "export"]):
        assert CliRunner().invoke(cli, arguments, obj=session).exit_code == 0
    look_s, *long_s = core.waits_s  # about what was set: gRPC rounds it on the way
    assert 0 < look_s < 60
    assert all(600 < wait_s < 3600 for wait_s in long_s)


def test_a_unix_socket_is_an_address(serve_grpc: Callable[..., str], session: Session, tmp_path: Path) -> None:
    """unix:PATH reaches a core on this machine."""
    target = serve_grpc(Metering().add, address=f"unix:{tmp_path}/core.sock")
    assert balance(session, "--grpc", target).exit_code == 0


def test_a_router_that_does_not_run_is_said_to(session: Session, home: Home) -> None:
    """No ready.json, no router: one line that says what to do."""
    home.remove_ready()
    result = balance(session)
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: the router is not running: there is no {home.ready} "
        "(start it with `worldrouter serve`, or say with --home or --grpc where it is)\n"
    )


def test_a_core_that_is_gone_is_said_to_be(session: Session, home: Home) -> None:
    """A stale ready.json leads to a refused connection: one line, with the address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{free.getsockname()[1]}"
    home.write_ready(Ready(http="http://127.0.0.1:1", grpc=target, pid=1))
    result = balance(session)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: cannot reach the core at {target}; is the router running? ")
    assert result.stderr.endswith("(UNAVAILABLE)\n")
    assert result.stderr.count("\n") == 1


def test_a_damaged_ready_file_is_said_to_be(session: Session, home: Home) -> None:
    """The file is named, on one line."""
    home.ready.write_text("{")
    result = balance(session)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: cannot read {home.ready}: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read the credential"), ("", "does not hold a credential"), ("a\nb", "does not hold a credential")],
)
def test_a_credential_that_cannot_be_read_is_named(
    session: Session, home: Home, content: str | None, message: str
) -> None:
    """A token file that is missing, empty or of several lines is an error of one line."""
    home.operator_token.unlink()
    if content is not None:
        home.operator_token.write_text(content)
    result = balance(session)
    assert result.exit_code == 1
    assert message in result.stderr
    assert str(home.operator_token) in result.stderr


def test_a_credential_never_leaves_the_machine_in_plain_text(session: Session) -> None:
    """An address elsewhere needs --ca."""
    result = balance(session, "--grpc", "core.example.com:50051")
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: the credential would go to core.example.com:50051 in plain text; "
        "give --ca, or use a local address, host:port or unix:PATH\n"
    )


def test_tls_with_client_certificates(serve_grpc: Callable[..., str], session: Session, tmp_path: Path) -> None:
    """--ca trusts the core's authority, --cert and --client-key show our own certificate."""
    authority = trustme.CA()
    ours, theirs = authority.issue_cert("client.test"), authority.issue_cert("127.0.0.1")
    files = {"ca": authority.cert_pem, "cert": ours.cert_chain_pems[0], "client-key": ours.private_key_pem}
    options: list[str] = []
    for name, blob in files.items():
        blob.write_to_path(str(tmp_path / name))
        options += [f"--{name}", str(tmp_path / name)]
    credentials = grpc.ssl_server_credentials(
        [(theirs.private_key_pem.bytes(), theirs.cert_chain_pems[0].bytes())],
        root_certificates=authority.cert_pem.bytes(),
        require_client_auth=True,
    )
    core = Metering()
    target = serve_grpc(core.add, credentials=credentials)
    result = balance(session, "--grpc", target, *options)
    assert result.exit_code == 0, result.output
    for too_few in ([], options[:2]):
        refused = balance(session, "--grpc", target, *too_few)
        assert refused.exit_code == 1
        assert "perhaps it wants TLS (--ca), or a certificate of ours too (--cert, --client-key)" in refused.stderr
    assert len(core.credentials) == 1


def test_our_certificate_alone_is_tls_too(session: Session, tmp_path: Path) -> None:
    """Without --ca the authorities that everybody trusts vouch for the core, and nothing goes out in plain text."""
    ours = trustme.CA().issue_cert("client.test")
    ours.cert_chain_pems[0].write_to_path(str(tmp_path / "cert"))
    ours.private_key_pem.write_to_path(str(tmp_path / "key"))
    session = replace(session, grpc_target="core.example.com:50051", cert=tmp_path / "cert")
    with replace(session, client_key=tmp_path / "key").connect() as core:
        assert core.target == "core.example.com:50051"


def test_half_a_certificate_is_wrong_usage(session: Session, tmp_path: Path) -> None:
    """--cert without --client-key says that they belong together."""
    result = balance(session, "--cert", str(tmp_path / "cert"))
    assert result.exit_code == 2
    assert "--cert and --client-key belong together" in result.stderr


def test_a_missing_certificate_is_named(session: Session, tmp_path: Path) -> None:
    """A file that cannot be read is one line."""
    result = balance(session, "--ca", str(tmp_path / "ca.pem"))
    assert (result.exit_code, result.stderr) == (
        1,
        f"Error: cannot read the CA certificate {tmp_path}/ca.pem: No such file or directory\n",
    )


def test_a_core_that_knows_no_such_call_is_an_error_of_one_line(
    serve_grpc: Callable[..., str], session: Session
) -> None:
    """An error that is gRPC's own, not WorldRouter's, shows its status."""
    result = balance(session, "--grpc", serve_grpc(lambda server: None))
    assert (result.exit_code, result.stderr) == (1, "Error: Method not found! (UNIMPLEMENTED)\n")


@pytest.mark.parametrize(
    "target",
    ["unix:core.sock", "unix-abstract:core", "127.0.0.1:1", "localhost:1", "[::1]:1", "dns:///localhost:1"],
)
def test_local_addresses(target: str) -> None:
    """Unix sockets and loopback never leave this machine."""
    assert is_local(target)


@pytest.mark.parametrize(
    "target", ["10.0.0.5:1", "core:1", "localhost.example.com:1", "0.0.0.0:1", "dns://8.8.8.8/localhost:1"]
)
def test_addresses_elsewhere(target: str) -> None:
    """Everything else may."""
    assert not is_local(target)
