"""The client package: installs alone, sends the key, tells errors, retries what may be retried."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import trustme
from grpc_health.v1.health_pb2 import HealthCheckResponse
from worldrouter.client import MAX_MESSAGE_BYTES, AsyncClient, Client, ErrorInfo, error_info
from worldrouter.v1.auth_pb2 import CreateApiKeyRequest
from worldrouter.v1.chat_pb2 import (
    ChatCompletionParams,
    ChatMessage,
    CreateChatCompletionRequest,
    StreamChatCompletionRequest,
)
from worldrouter.v1.raw_chat_pb2 import CreateRawCompletionRequest

from core.chat.exchange import MAX_ANSWER_BYTES

PARAMS = ChatCompletionParams(model="m", messages=[ChatMessage(role="user", content="one two")])
CREATE = CreateChatCompletionRequest(params=PARAMS)
STREAM = StreamChatCompletionRequest(params=PARAMS)
DRAINING = {"request_id": "req_1", "code": "service_unavailable"}
INFO = ErrorInfo("SERVICE_UNAVAILABLE", "req_1", None, "service_unavailable", 1.5, DRAINING)


@pytest.mark.slow
def test_installs_alone(core: Any, root: Path, tmp_path: Path) -> None:
    """`pip install ./protos` gives both clients, which work, and nothing else of ours."""
    source = shutil.copytree(root / "protos", tmp_path / "protos", ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path / "site"
    install = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--target", target, source)
    subprocess.run([sys.executable, "-m", "pip", *install], check=True, timeout=60)
    # -S leaves out .pth files, and with them the editable checkout; the libraries are still found.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(target), sysconfig.get_path("purelib")])}
    command = [sys.executable, "-S", "-W", "error", Path(__file__).with_name("standalone.py"), core.address]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    words = ["one two", "one", "two"]
    file = str(target / "worldrouter" / "__init__.py")
    assert json.loads(done.stdout) == {"file": file, "ours": [], "sync": words, "async": words}
    keys = [seen["authorization"] for seen in core.seen]
    assert keys == ["Bearer sync-key"] * 2 + ["Bearer async-key"] * 2


def test_sync_client_sends_the_key(core: Any) -> None:
    """Every way to call a synchronous stub sends the key, beside the caller's own metadata."""
    with Client(core.address, "k", plaintext=True) as client:
        own = (("x-request-id", "mine"),)
        client.chat.CreateChatCompletion(CREATE, 10, own)
        client.chat.CreateChatCompletion.with_call(CREATE, timeout=10, metadata=own)
        client.raw_chat.CreateRawCompletion.future(CreateRawCompletionRequest(), timeout=10, metadata=own).result()
        assert len(list(client.chat.StreamChatCompletion(STREAM, timeout=10, metadata=own))) == 4
    assert [(seen["authorization"], seen["x-request-id"]) for seen in core.seen] == [("Bearer k", "mine")] * 4


async def test_async_client_sends_the_key(core: Any) -> None:
    """Unary and streamed calls of an asyncio stub send the key, beside the caller's own metadata."""
    async with AsyncClient(core.address, "k", plaintext=True) as client:
        own = grpc.aio.Metadata(("x-request-id", "mine"))
        await client.chat.CreateChatCompletion(CREATE, timeout=10, metadata=own)
        events = [event async for event in client.chat.StreamChatCompletion(STREAM, timeout=10, metadata=own)]
    assert [event.WhichOneof("event") for event in events] == ["started", "deltas", "deltas", "finished"]
    assert [(seen["authorization"], seen["x-request-id"]) for seen in core.seen] == [("Bearer k", "mine")] * 2


def test_own_credential_wins(core: Any) -> None:
    """A call with a credential of its own sends that one, and only that one."""
    with Client(core.address, "k", plaintext=True) as client:
        client.chat.CreateChatCompletion(CREATE, timeout=10, metadata=(("authorization", "Bearer other"),))
    assert core.seen[0]["authorization"] == "Bearer other"


def test_error_info_of_sync_calls(core: Any) -> None:
    """A failed call, unary or streamed, says reason, request id, code and when to try again."""
    core.failures = 6
    with Client(core.address, "k", plaintext=True) as client:
        with pytest.raises(grpc.RpcError) as raised:
            client.chat.CreateChatCompletion(CREATE, timeout=10)
        assert error_info(raised.value) == INFO
        with pytest.raises(grpc.RpcError) as raised:
            list(client.chat.StreamChatCompletion(STREAM, timeout=10))
        assert error_info(raised.value) == INFO


async def test_error_info_of_async_calls(core: Any) -> None:
    """The same of asyncio's calls."""
    core.failures = 6
    async with AsyncClient(core.address, "k", plaintext=True) as client:
        with pytest.raises(grpc.RpcError) as raised:
            await client.chat.CreateChatCompletion(CREATE, timeout=10)
        assert error_info(raised.value) == INFO
        with pytest.raises(grpc.RpcError) as raised:
            [event async for event in client.chat.StreamChatCompletion(STREAM, timeout=10)]
        assert error_info(raised.value) == INFO


@pytest.mark.parametrize("details", [None, b"", b"\xff\xff", b"\x08\x0e"])
def test_errors_of_others_have_no_info(details: bytes | None) -> None:
    """A failure that says nothing of WorldRouter, or nothing that can be read, has no info."""
    trailers = grpc.aio.Metadata(*([("grpc-status-details-bin", details)] if details is not None else []))
    error = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailers)
    assert error_info(error) is None


def test_nobody_there() -> None:
    """No connection is an error without info."""
    with Client("127.0.0.1:1", "k", plaintext=True) as client:
        with pytest.raises(grpc.RpcError) as raised:
            client.chat.CreateChatCompletion(CREATE, timeout=5)
        assert error_info(raised.value) is None


def test_chats_are_retried(core: Any) -> None:
    """A chat that a draining core refused is sent again, up to three times in all."""
    core.failures = 2
    with Client(core.address, "k", plaintext=True) as client:
        assert client.chat.CreateChatCompletion(CREATE, timeout=10).model == "m"
    assert len(core.seen) == 3


def test_large_requests_are_retried(core: Any) -> None:
    """A request of several MiB is retried like a small one."""
    core.failures = 1
    with Client(core.address, "k", plaintext=True) as client:
        body = bytes(3 * 2**20)
        assert client.raw_chat.CreateRawCompletion(CreateRawCompletionRequest(body=body), timeout=10).body == body
    assert len(core.seen) == 2


def test_the_largest_answer_is_taken() -> None:
    """What a core charges for fits the messages that a client takes, with what is said of it."""
    assert MAX_MESSAGE_BYTES >= MAX_ANSWER_BYTES + 2**20


def test_changes_are_not_retried(core: Any) -> None:
    """A call that would change something twice is sent once."""
    core.failures = 1
    with Client(core.address, "k", plaintext=True) as client, pytest.raises(grpc.RpcError):
        client.auth.CreateApiKey(CreateApiKeyRequest(), timeout=10)
    assert len(core.seen) == 1


def test_a_core_that_drains_gets_no_calls(start_core: Callable[..., Any]) -> None:
    """Of two cores the one that is not healthy gets nothing, unless the client does not follow their health."""
    well, draining = start_core(), start_core()
    draining.health.set("", HealthCheckResponse.NOT_SERVING)
    both = f"ipv4:{well.address},{draining.address}"
    with Client(both, "k", plaintext=True, follow_health=False) as client:
        while not draining.seen:
            client.chat.CreateChatCompletion(CREATE, timeout=10)
            assert len(well.seen) < 1000
    draining.seen.clear()
    with Client(both, "k", plaintext=True) as client:
        for _ in range(50):
            client.chat.CreateChatCompletion(CREATE, timeout=10)
    assert not draining.seen


async def test_tls(start_core: Callable[..., Any]) -> None:
    """Without `plaintext` the connection is TLS, and a server of no known authority is refused."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    pair = (certificate.private_key_pem.bytes(), certificate.cert_chain_pems[0].bytes())
    core = start_core(grpc.ssl_server_credentials([pair]))
    trusted = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    with Client(core.address, "k", credentials=trusted) as client:
        assert client.chat.CreateChatCompletion(CREATE, timeout=10).model == "m"
    async with AsyncClient(core.address, "k", credentials=trusted) as client_async:
        assert (await client_async.chat.CreateChatCompletion(CREATE, timeout=10)).model == "m"
    with Client(core.address, "k") as stranger, pytest.raises(grpc.RpcError):
        stranger.chat.CreateChatCompletion(CREATE, timeout=5)
    assert len(core.seen) == 2
