"""Protobuf frames that no generated client would send, to every RPC with every credential, over TCP."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import grpc.aio
import pytest
from worldrouter.v1.account_pb2 import ACCOUNT_KIND_SERVICE, CreateAccountRequest
from worldrouter.v1.auth_pb2 import CreateApiKeyRequest

from tests.hostile.prove_frames import prove
from tests.hostile.rpcs import C, Shot, all_methods, fire

SEED = 4
AT_ONCE = 8


def credentials(router: Any) -> Mapping[str, str | None]:
    """One of each kind."""
    operator = router.operator
    service = operator.accounts.CreateAccount(CreateAccountRequest(display_name="s", kind=ACCOUNT_KIND_SERVICE))
    service_key = operator.auth.CreateApiKey(CreateApiKeyRequest(account_id=service.id, display_name="s"))
    return {
        "anonymous": None,
        "API key": router.account(usd=1000).key,
        "service key": service_key.secret,
        "operator": router.operator_token,
    }


def shots(router: Any, count: int) -> Iterator[Shot]:
    targets = itertools.cycle(itertools.product(all_methods(), credentials(router).items()))
    for number, (method, who) in zip(range(count), targets, strict=False):
        yield from Shot.of(f"{SEED}:{number}", method, [who])


async def survive(router: Any, count: int) -> None:
    left, codes = shots(router, count), Counter[C]()

    async def one_after_the_other(channel: grpc.aio.Channel) -> None:
        for shot in left:
            codes[await fire(channel, shot)] += 1

    async with grpc.aio.insecure_channel(router.grpc) as channel:
        await asyncio.gather(*(one_after_the_other(channel) for _ in range(AT_ONCE)))
    assert codes.total() == count
    assert {C.OK, C.INVALID_ARGUMENT, C.UNAUTHENTICATED, C.PERMISSION_DENIED, C.NOT_FOUND} <= set(codes)
    router.settle()
    assert router.process.poll() is None
    assert router.metric("worldrouter_held_nano_usd") == 0
    assert router.complaints() == []


async def test_hostile_frames_are_refused(scripted_router: Any) -> None:
    """Answered or refused as the caller's mistake, with a request id; the router works on."""
    await survive(scripted_router, 1_500)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_ten_thousand_hostile_frames_are_refused(scripted_router: Any) -> None:
    """The same of 10,000 for each credential, which is a hundred times every RPC."""
    await survive(scripted_router, 40_000)


async def test_the_proof_of_all_of_them() -> None:
    """`scripts/prove-frames`, which sends 10,000 to every RPC under each credential, with a few."""
    codes = await prove(2, SEED)
    assert codes.total() == 2 * 4 * len(all_methods())
