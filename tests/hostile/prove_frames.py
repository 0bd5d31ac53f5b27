"""Random frames to every RPC of a core under every credential, within one process. `scripts/prove-frames`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, redirect_stderr
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import grpc.aio
import uvloop
from google.protobuf.descriptor import MethodDescriptor
from worldrouter.v1 import account_pb2, account_pb2_grpc, auth_pb2, auth_pb2_grpc, metering_pb2, metering_pb2_grpc

from core.home import Home
from core.inprocess import InProcessServer
from core.reload import source_of
from core.server import CoreServer, audit_database, database_url
from core.state import operator_token
from storage.migrate import migrate
from tests.e2e.conftest import SCRIPTED
from tests.hostile.prober import waited_s
from tests.hostile.rpcs import C, NotFine, Shot, all_methods, fire

PER_RPC = 10_000
AT_ONCE = 16
CREDIT_NANO_USD = 10**15
STOP_S = 10.0
PATIENCE_S = "60"
"""With the database: a busy machine is no caller's mistake either."""
MAX_STALL_S = 1.0
"""Of the event loop, without what the machine took: no frame may hold up others for so long."""
PULSE_S = 0.05
SHOWN = 20


class _Complaints(logging.Handler):
    """What is logged that is worse than a notice."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.found.append(self.format(record))


@asynccontextmanager
async def _core(folder: Path) -> AsyncIterator[tuple[int, grpc.aio.Channel, str]]:
    """A core on SQLite: its port, a channel without a socket, its operator's token. Its books add up at the end."""
    config, home = folder / "worldrouter.toml", Home(folder / "home")
    config.write_text(SCRIPTED)
    patient = {"WORLDROUTER_TIMEOUTS_ADMISSION_S": PATIENCE_S, "WORLDROUTER_TIMEOUTS_SETTLE_S": PATIENCE_S}
    source = source_of(config, patient, {"grpc_port": 0}, presets=False)
    settings = source.loaded
    home.create()
    await migrate(database_url(settings, home))
    core = await CoreServer.start(settings, home, patient, starting_balance=True, on_fatal=sys.exit, source=source)
    inside = InProcessServer()
    core.guard.install(inside)
    ends_s = time.monotonic() + STOP_S
    try:
        yield core.grpc_port, inside.channel(), operator_token(home)
        ends_s = time.monotonic() + STOP_S
    finally:
        await core.stop(lambda: max(ends_s - time.monotonic(), 0.0))
    report = await audit_database(settings, home)
    if report.deviation_count or not report.chain_holds:
        raise NotFine(f"the books do not add up: {report}")


async def _roles(channel: grpc.aio.Channel, token: str) -> Mapping[str, str | None]:
    """A credential of each kind."""
    as_operator = (("authorization", f"Bearer {token}"),)
    accounts, auth = account_pb2_grpc.AccountServiceStub(channel), auth_pb2_grpc.AuthServiceStub(channel)
    keys = []
    for kind in (account_pb2.ACCOUNT_KIND_USER, account_pb2.ACCOUNT_KIND_SERVICE):
        asked = account_pb2.CreateAccountRequest(display_name="of a test", kind=kind)
        account = await accounts.CreateAccount(asked, metadata=as_operator)
        credit = metering_pb2.CreateTopUpRequest(
            account_id=account.id, amount_nano_usd=CREDIT_NANO_USD, idempotency_key=uuid4().hex
        )
        await metering_pb2_grpc.MeteringServiceStub(channel).CreateTopUp(credit, metadata=as_operator)
        wanted = auth_pb2.CreateApiKeyRequest(account_id=account.id, display_name="of a test")
        keys.append((await auth.CreateApiKey(wanted, metadata=as_operator)).secret)
    return {"anonymous": None, "API key": keys[0], "service key": keys[1], "operator": token}


def _shots(method: MethodDescriptor, roles: Mapping[str, str | None], count: int, seed: int) -> Iterator[Shot]:
    for number in range(count):
        yield from Shot.of(f"{seed}:{number}", method, roles.items())


@asynccontextmanager
async def _no_stall(method: MethodDescriptor, wrong: list[str]) -> AsyncIterator[None]:
    """Tell of each time that the event loop stood still; not of those when the machine ran others."""

    felt_s, waited_before_s = time.monotonic(), waited_s(os.getpid())

    def feel() -> None:
        nonlocal felt_s, waited_before_s
        now_s, waited_now_s = time.monotonic(), waited_s(os.getpid())
        late_s = now_s - felt_s - PULSE_S - (waited_now_s - waited_before_s)
        if late_s > MAX_STALL_S:
            wrong.append(f"the event loop stood still for {late_s:.1f} s under frames to {method.full_name}")
        felt_s, waited_before_s = now_s, waited_now_s

    async def beat() -> None:
        while True:
            await asyncio.sleep(PULSE_S)
            feel()

    pulse = asyncio.create_task(beat())
    try:
        yield
    finally:
        feel()
        pulse.cancel()


async def _fire_all(channel: grpc.aio.Channel, shots: Iterator[Shot], wrong: list[str]) -> Counter[C]:
    codes = Counter[C]()

    async def one_after_the_other() -> None:
        for shot in shots:
            try:
                codes[await fire(channel, shot)] += 1
            except NotFine as failure:
                wrong.append(str(failure))

    await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))
    return codes


def _ordered(methods: Iterable[MethodDescriptor]) -> list[MethodDescriptor]:
    """Those that make rows last: others would read them all, again and again."""
    return sorted(methods, key=lambda method: method.name.startswith("Create"))


async def prove(per_rpc: int, seed: int, only: str = "") -> Counter[C]:
    """Send so many frames to every RPC whose full name `only` (a pattern) is found in, under each credential.

    NotFine tells the wrong answers, the complaints in the log, or that the books do not add up.
    """
    complaints, wrong, total = _Complaints(), list[str](), Counter[C]()
    logging.getLogger().addHandler(complaints)
    patient = patch.multiple("core.access.auth", TRUST_S=float(PATIENCE_S), LOAD_TIMEOUT_S=float(PATIENCE_S))
    with patient, tempfile.TemporaryDirectory() as folder:
        async with (
            _core(Path(folder)) as (port, channel, token),
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as socket,
        ):
            roles = await _roles(channel, token)
            for method in _ordered(each for each in all_methods() if re.search(only, each.full_name)):
                began_s = time.monotonic()
                through: Any = socket if method.client_streaming else channel  # the other has no streams of requests
                async with _no_stall(method, wrong):
                    codes = await _fire_all(through, _shots(method, roles, per_rpc, seed), wrong)
                total += codes
                _say(method, codes, time.monotonic() - began_s)
    gc.collect()  # exceptions that nobody retrieved
    logging.getLogger().removeHandler(complaints)
    if wrong or complaints.found:
        told = f"{len(wrong)} wrong answers, {len(complaints.found)} complaints"
        raise NotFine("\n".join([*wrong[:SHOWN], *complaints.found[:SHOWN], told]))
    return total


def _say(method: MethodDescriptor, codes: Counter[C], took_s: float) -> None:
    told = ", ".join(f"{code.name} {count}" for code, count in codes.most_common())
    print(f"{method.full_name}: {took_s:.1f} s; {told}", flush=True)  # noqa: T201


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="scripts/prove-frames", description=__doc__)
    parser.add_argument("--per-rpc", type=int, default=PER_RPC, help="frames per RPC and credential (%(default)s)")
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--only", default="", help="a pattern for the full names of RPCs")
    asked = parser.parse_args()
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # a million lines of the access log
        try:
            total = uvloop.run(prove(asked.per_rpc, asked.seed, asked.only))
        except NotFine as failure:
            print(failure)  # noqa: T201
            return 1
    print(f"{total.total()} frames: no crash, nothing held, no INTERNAL for a caller's mistake")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
