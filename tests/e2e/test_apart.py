"""A core and edges as processes of their own over what is no plain TCP: TLS with certificates, a Unix socket."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import trustme
from worldrouter.v1.metering_pb2 import ListUsageRecordsRequest

from tests.e2e.conftest import Router, Tail, wait_for

pytestmark = pytest.mark.slow

ASK = {"model": "scripted", "messages": [{"role": "user", "content": "word"}]}


def certificates(folder: Path) -> dict[str, str]:
    """Files of an authority, and of a certificate for localhost with its key."""
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    leaf.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return {name: str(folder / f"{name}.pem") for name in ("ca", "key", "cert")}


def edge_of(launcher: Any, *options: str) -> str:
    """The URL of a new edge, which carries its chats over one stream."""
    home = launcher.home()
    edge, said = launcher.run("edge", "--http-port", "0", *options, home=home), Tail(home.parent / "edge.err")
    wait_for(lambda: "over one stream" in said.text(), edge, home)
    return str(json.loads(next(line for line in said.text().splitlines() if '"url":' in line))["url"])


def ask(url: str, key: str, **more: Any) -> tuple[str, str]:
    """The request id of an answer, and its end."""
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    asked = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(ASK | more).encode(), headers)
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return answer.headers["x-request-id"], answer.read().decode()[-16:]


def test_one_core_over_mutual_tls_and_over_a_unix_socket(launcher: Any, scripted_config: str, tmp_path: Path) -> None:
    """Whole and streamed chats over each are answered, and each is charged once."""
    home, files, path = launcher.home(), certificates(tmp_path), str(tmp_path / "core.sock")
    home.parent.mkdir(parents=True)
    (config := home.parent / "worldrouter.toml").write_text(scripted_config)
    environment = {
        "WORLDROUTER_CORE_GRPC_SOCKET": path,
        "WORLDROUTER_TLS_CERT_FILE": files["cert"],
        "WORLDROUTER_TLS_KEY_FILE": files["key"],
        "WORLDROUTER_TLS_CLIENT_CA_FILE": files["ca"],
    }
    assert launcher.run("migrate", home=home).wait(30) == 0
    said = Tail(home.parent / "core.err")
    core = launcher.run("core", "--grpc-port", "0", "--config", str(config), home=home, environment=environment)
    wait_for(lambda: "serving gRPC on" in said.text(), core, home)
    (port,) = re.findall(r"serving gRPC on \S+:(\d+)", said.text())
    shown = ("--core-ca", files["ca"], "--core-cert", files["cert"], "--core-key", files["key"])
    urls = (
        edge_of(launcher, "--core", f"dns:///localhost:{port}", *shown),
        edge_of(launcher, "--core", f"unix:{path}"),
    )
    router = Router(home, [core], urls[0], f"unix:{path}", [])
    account = router.account(usd=1000)
    answers = [ask(url, account.key, stream=stream) for url in urls for stream in (False, True)]
    assert [end.endswith("[DONE]\n\n") for _, end in answers] == [False, True] * 2
    listed = router.operator.metering.ListUsageRecords(ListUsageRecordsRequest(account_id=account.id, page_size=100))
    assert sorted(record.request_id for record in listed.records) == sorted(request_id for request_id, _ in answers)
    router.operator.close()
