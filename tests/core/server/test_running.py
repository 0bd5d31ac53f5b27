"""Health, reflection, TLS, starting and stopping."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from worldrouter.v1 import (
    auth_pb2,
    auth_pb2_grpc,
    metering_pb2,
    metering_pb2_grpc,
    relay_pb2_grpc,
)

from core.home import Home
from core.process.listen import CannotListen
from core.server import CoreServer
from core.settings import BadSettings, PriceSettings
from storage.errors import ConfigurationRefused, StoreUnavailable

USD = 1_000_000_000


def body(**fields: Any) -> bytes:
    """A small request."""
    plain = {"model": "m", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 50}
    return json.dumps(plain | fields).encode()


# Health and reflection


async def test_health_and_reflection_ask_for_no_credential(core: Any) -> None:
    """A balancer and a debugger find what they need."""
    health = health_pb2_grpc.HealthStub(core.channel)
    found = await health.Check(health_pb2.HealthCheckRequest())
    assert found.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(core.channel)  # type: ignore[no-untyped-call]
    call = reflection.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services="*"))
    await call.done_writing()
    answer = await call.read()
    names = {service.name for service in answer.list_services_response.service}
    assert {"worldrouter.v1.ChatService", "worldrouter.v1.RawChatService", "grpc.health.v1.Health"} <= names
    call.cancel()


# Where it listens


async def test_a_unix_socket_serves_the_same(start: Any, home: Home, settings: Any) -> None:
    """Beside the port."""
    path = home.path / "core.sock"
    core = await start(settings(core={"grpc_socket": str(path)}))
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        core.channel = channel
        assert (await core.unary(body())).finished.cost_nano_usd == 9_000


@asynccontextmanager
async def secured(core: Any, authority: trustme.CA, client: trustme.LeafCert | None) -> AsyncIterator[Any]:
    """The core over TLS, with or without a client's certificate."""
    credentials = grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(),
        client.private_key_pem.bytes() if client else None,
        client.cert_chain_pems[0].bytes() if client else None,
    )
    async with grpc.aio.secure_channel(f"localhost:{core.server.grpc_port}", credentials) as channel:
        yield dataclasses.replace(core, channel=channel)


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Path) -> dict[str, str]:
    """Settings of a certificate for localhost."""
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    return {"cert_file": str(tmp_path / "cert.pem"), "key_file": str(tmp_path / "key.pem")}


async def test_tls_serves_who_speaks_it(start: Any, authority: trustme.CA, tls: dict[str, str], settings: Any) -> None:
    """And nobody else."""
    core = await start(settings(tls=tls))
    async with secured(core, authority, None) as safe:
        assert (await safe.unary(body())).finished.cost_nano_usd == 9_000
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await core.unary(body(), timeout=2)
    assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


async def test_mutual_tls_asks_for_a_certificate(
    start: Any, authority: trustme.CA, tls: dict[str, str], tmp_path: Path, settings: Any
) -> None:
    """Of the configured authority: none, or one of another, does not get in."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    core = await start(settings(tls=tls | {"client_ca_file": str(tmp_path / "ca.pem")}))
    async with secured(core, authority, authority.issue_cert("client")) as known:
        assert (await known.unary(body())).finished.cost_nano_usd == 9_000
    for stranger in (None, trustme.CA().issue_cert("client")):
        async with secured(core, authority, stranger) as unknown:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await unknown.unary(body(), timeout=2)
            assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@pytest.fixture
def taken_port() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


async def test_a_start_that_fails_leaves_nothing_open(start: Any, taken_port: int, settings: Any) -> None:
    """A taken port, plain text for all the world, a secret that is not there: the next start works."""
    with pytest.raises(CannotListen, match=str(taken_port)):
        await start(settings(core={"grpc_port": taken_port}))
    with pytest.raises(BadSettings, match=r"core\.host"):
        await start(settings(core={"host": "0.0.0.0"}))
    broken = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1", "api_key": "env:NO_SUCH_KEY"}
    with pytest.raises(BadSettings, match="NO_SUCH_KEY"):
        await start(settings(providers={"broken": broken}))
    core = await start()
    assert (await core.unary(body())).finished.cost_nano_usd == 9_000


async def test_a_second_core_on_the_same_file_is_refused(core: Any, home: Home, settings: Any) -> None:
    """The first one is not disturbed."""
    with pytest.raises(StoreUnavailable, match="in use"):
        await CoreServer.start(settings(), home, {}, starting_balance=False, on_fatal=lambda: None)
    assert (await core.unary(body())).finished.cost_nano_usd == 9_000


async def test_leases_are_kept_up_whatever_goes_wrong(start: Any, settings: Any, monkeypatch: Any) -> None:
    """Without renewals nobody would be admitted soon, and what a core that crashed has would never be free again."""
    core = await start(settings(money={"lease_ttl_s": 1.0}))
    failures: list[Exception] = [StoreUnavailable("no answer"), RuntimeError("a bug")]
    renew, reap, reaped = core.server.engine.escrow.renew, core.server.engine._store.reap, asyncio.Event()

    async def faulty_renew() -> None:
        if failures:
            raise failures.pop()
        await renew()

    async def noted_reap() -> None:
        await reap()
        reaped.set()

    monkeypatch.setattr(core.server.engine.escrow, "renew", faulty_renew)
    monkeypatch.setattr(core.server.engine._store, "reap", noted_reap)
    async with asyncio.timeout(5):
        await reaped.wait()
    assert failures == []


# Stopping


async def test_a_graceful_stop_lets_a_stream_finish(core: Any, rows_of: Any) -> None:
    """Meanwhile nothing new is admitted, health says so, and in the end everything is given back."""
    call = core.stream(body(script={"chunk_delay_ms": 100}))
    first = await call.read()
    stopping = asyncio.ensure_future(core.server.stop(lambda: 5.0))
    await asyncio.sleep(0.02)
    found = await health_pb2_grpc.HealthStub(core.channel).Check(health_pb2.HealthCheckRequest())
    assert found.status == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await core.unary(body())
    refusal, retry, _ = core.info(caught.value)
    assert refusal.reason == "SERVICE_UNAVAILABLE"
    assert retry is not None
    events, error = await core.rest_of(call)
    assert error is None
    assert events[-1].HasField("finished")
    await stopping
    assert first.HasField("started")
    assert rows_of("SELECT state FROM leases") == [("closed",)]
    assert rows_of("SELECT available FROM accounts WHERE id = 'default'") == [(5 * USD - 9_000,)]


async def test_the_last_requests_have_their_lines(core: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Though a core stops right after them."""
    core.server._access_log._out = sys.stderr
    await core.unary(body())
    await core.server.stop(lambda: 0.0)
    assert '"status":"complete"' in capsys.readouterr().err


async def test_a_stop_asks_edges_to_close_their_streams_and_waits_for_it(core: Any) -> None:
    """They begin no more calls here, and none of theirs ends in an error."""
    call = relay_pb2_grpc.RelayServiceStub(core.channel).Relay()
    assert (await call.read()).HasField("hello")
    stopping = asyncio.ensure_future(core.server.stop(lambda: 5.0))
    assert (await call.read()).draining
    await asyncio.sleep(0.2)
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK
    await stopping


async def test_what_outlasts_the_drain_is_cut_with_an_error(core: Any, rows_of: Any) -> None:
    """It is told why, charged for what was delivered, and the core stops in time."""
    call = core.stream(body(script={"fault": "silence", "fault_after": 3}))
    started = await call.read()
    async with asyncio.timeout(4):
        await core.server.stop(lambda: 0.0)
    _, error = await core.rest_of(call)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    told, retry, _ = core.info(error)
    assert told.reason == "SERVICE_UNAVAILABLE"
    assert retry is not None
    request_id = started.started.id.removeprefix("chatcmpl-")
    ((status, amount),) = rows_of(f"SELECT status, amount FROM ledger WHERE ref = '{request_id}'")
    assert status == "shutdown"
    assert amount > 0
    assert rows_of("SELECT state FROM leases") == [("closed",)]


async def test_what_was_there_is_there_after_a_restart(start: Any) -> None:
    """Balance, usage and credentials; the starting balance is given once."""
    core = await start()
    call = core.unary(body())
    await call
    request_id = dict(await call.initial_metadata())["x-request-id"]
    await core.server.stop(lambda: 1.0)
    again = await start()
    assert (await again.usage(request_id)).cost_nano_usd == 9_000
    balance = await metering_pb2_grpc.MeteringServiceStub(again.channel).GetBalance(
        metering_pb2.GetBalanceRequest(), metadata=core.metadata
    )
    assert balance.balance_nano_usd == 5 * USD - 9_000


async def test_a_lost_pepper_is_logged_if_there_are_keys(
    start: Any, home: Home, caplog: pytest.LogCaptureFixture
) -> None:
    """None is let in with the new one that is made; nothing is said at the first start, nor when it is there."""
    core = await start()
    stub = auth_pb2_grpc.AuthServiceStub(core.channel)
    await stub.CreateApiKey(auth_pb2.CreateApiKeyRequest(display_name="k"), metadata=core.metadata)
    await core.server.stop(lambda: 1.0)
    await (await start()).server.stop(lambda: 1.0)
    assert "pepper" not in caplog.text
    home.pepper.unlink()
    await start()
    assert f"There is no {home.pepper}, and the database has API keys" in caplog.text


async def test_a_core_with_an_older_configuration_does_not_start(start: Any, settings: Any) -> None:
    """Nor one of the same version with another price; the message names both. The same one, or a newer one, does."""

    async def run(version: int, price: int) -> None:
        plain = settings()
        model = msgspec.structs.replace(plain.models[0], price=PriceSettings(input=price, output=1))
        made = msgspec.structs.replace(plain, version=version, models=[model])
        core = await start(made)
        await core.server.stop(lambda: 0.0)

    for version, price in ((0, 1), (0, 2), (4, 3), (4, 3), (5, 4)):
        await run(version, price)
    for version, price, named in ((4, 3, "version 4.*version 5"), (5, 9, "version 5.*other"), (0, 4, "no version.*5")):
        with pytest.raises(ConfigurationRefused, match=named):
            await run(version, price)
    await run(5, 4)
