"""LimitService over a real server."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from worldrouter.v1 import limit_pb2
from worldrouter.v1.limit_pb2 import (
    LIMIT_MEASURE_CONCURRENCY,
    LIMIT_MEASURE_REQUESTS,
    LIMIT_MEASURE_SPEND,
    LIMIT_PERIOD_DAY,
    LIMIT_PERIOD_MINUTE,
    LIMIT_PERIOD_NOW,
)

from storage.limit_records import RateAsk

C = grpc.StatusCode
REQUESTS = {"measure": LIMIT_MEASURE_REQUESTS, "period": LIMIT_PERIOD_MINUTE}
SPEND = {"measure": LIMIT_MEASURE_SPEND, "period": LIMIT_PERIOD_DAY}
SLOTS = {"measure": LIMIT_MEASURE_CONCURRENCY, "period": LIMIT_PERIOD_NOW}


def put(core, owner_id: str, maximum: int, **fields: Any) -> Any:
    request = limit_pb2.SetLimitRequest(owner_id=owner_id, maximum=maximum, **fields)
    return core.limits.SetLimit(request, metadata=core.operator)


async def listed(core, owner_id: str, **fields: Any) -> list[limit_pb2.Limit]:
    request = limit_pb2.ListLimitsRequest(owner_id=owner_id, **fields)
    return list((await core.limits.ListLimits(request, metadata=core.operator)).limits)


async def test_limits_are_made_changed_listed_and_deleted(core, failure) -> None:
    """A limit keeps its id when its maximum changes; a key has those of its account and of all above, too."""
    await core.make_account("org")
    await core.make_account("team", parent_id="org")
    key = await core.make_key("team")
    spend = await put(core, "org", 5, **SPEND)
    slots = await put(core, "team", 0, **SLOTS)
    rate = await put(core, key.id, 7, **REQUESTS)
    changed = await put(core, "org", 6, **SPEND)
    assert changed == limit_pb2.Limit(id=spend.id, owner_id="org", maximum=6, **SPEND)
    assert await listed(core, "org") == [changed]
    assert await listed(core, key.id) == [rate]
    assert await listed(core, key.id, inherited=True) == [changed, slots, rate]
    request = limit_pb2.ListLimitsRequest(owner_id=key.id, inherited=True, page_size=2)
    request.page_token = (await core.limits.ListLimits(request, metadata=core.operator)).next_page_token
    assert list((await core.limits.ListLimits(request, metadata=core.operator)).limits) == [rate]
    caller = await core.authenticator.authenticate(f"Bearer {key.secret}")
    assert [(limit.id, limit.amount) for limit in caller.policy.limits] == [(spend.id, 6), (slots.id, 0), (rate.id, 7)]
    for gone in (spend, slots, rate):
        await core.limits.DeleteLimit(limit_pb2.DeleteLimitRequest(limit_id=gone.id), metadata=core.operator)
    assert await listed(core, key.id, inherited=True) == []
    assert (await core.authenticator.authenticate(f"Bearer {key.secret}")).policy is None
    for limit_id in (rate.id, "none"):
        request = limit_pb2.DeleteLimitRequest(limit_id=limit_id)
        failed = await failure(core.limits.DeleteLimit(request, metadata=core.operator))
        assert (failed.code, failed.param) == (C.NOT_FOUND, "limit_id")


async def test_limits_say_what_is_used_of_them(core) -> None:
    """Units of a rate that are in use, slots that cores have, and nanodollars that were charged."""
    key = await core.make_key()
    limits = [await put(core, key.id, 10**9, **fields) for fields in (SPEND, SLOTS, REQUESTS)]
    assert [limit.used for limit in limits] == [0, 0, 0]
    await core.store.register_core("core_1")
    for number, limit in enumerate(limits[:2], 1):
        purse = await core.store.purse(limit.id)
        lease = {"account_id": purse.id, "core_id": "core_1", "chunk_nano_usd": 0, "ttl_s": 9}
        await core.store.acquire(lease_id=f"l{number}", want_nano_usd=number, **lease)
    await core.store.exchange_rates([RateAsk(limits[2].id, 10**9, needs=(3,))])
    assert [limit.used for limit in await listed(core, key.id)] == [0, 2, 3]
    assert (await put(core, key.id, 9, **REQUESTS)).used == 3


async def test_a_repeated_change_of_a_limit_happens_once(core) -> None:
    """A repeat of an earlier change undoes no later one, nor deletes again."""
    first = await put(core, "default", 5, idempotency_key="k", **REQUESTS)
    later = await put(core, "default", 6, **REQUESTS)
    assert (later.id, await put(core, "default", 5, idempotency_key="k", **REQUESTS)) == (first.id, later)
    delete = limit_pb2.DeleteLimitRequest(limit_id=first.id, idempotency_key="k")
    for _ in range(2):
        await core.limits.DeleteLimit(delete, metadata=core.operator)
    again = await put(core, "default", 7, **REQUESTS)
    await core.limits.DeleteLimit(delete, metadata=core.operator)
    assert await listed(core, "default") == [again]


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({**REQUESTS, "owner_id": ""}, C.INVALID_ARGUMENT, "owner_id"),
        ({**REQUESTS, "owner_id": "nobody"}, C.NOT_FOUND, "owner_id"),
        ({**REQUESTS, "owner_id": "house_fees"}, C.NOT_FOUND, "owner_id"),
        ({**REQUESTS, "maximum": -1}, C.INVALID_ARGUMENT, "maximum"),
        ({**REQUESTS, "measure": 0}, C.INVALID_ARGUMENT, "measure"),
        ({**REQUESTS, "period": 0}, C.INVALID_ARGUMENT, "period"),
        ({**SPEND, "period": LIMIT_PERIOD_MINUTE}, C.INVALID_ARGUMENT, "period"),
        ({**SLOTS, "period": LIMIT_PERIOD_DAY}, C.INVALID_ARGUMENT, "period"),
    ],
)
async def test_a_bad_limit_is_named(core, failure, fields: dict[str, Any], code: grpc.StatusCode, param: str) -> None:
    """What cannot be a limit is refused by the name of the field, and nothing is made."""
    failed = await failure(put(core, **{"owner_id": "default", "maximum": 1, **fields}))
    assert (failed.code, failed.param) == (code, param)
    assert await listed(core, "default") == []
    nobody = limit_pb2.ListLimitsRequest(owner_id="nobody")
    assert (await failure(core.limits.ListLimits(nobody, metadata=core.operator))).code is C.NOT_FOUND
