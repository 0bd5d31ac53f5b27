"""AuthService over a real server: the life of a key."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from worldrouter.v1 import account_pb2, auth_pb2, metering_pb2, routing_pb2

C = grpc.StatusCode


def bearer(secret: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {secret}"),)


def from_now(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
    return stamp


async def works(core, secret: str) -> bool:
    """Whether a request with this key is admitted."""
    code = await core.metering.GetBalance(metering_pb2.GetBalanceRequest(), metadata=bearer(secret)).code()
    assert code in (C.OK, C.UNAUTHENTICATED)
    return code is C.OK


async def seconds_until(condition: Callable[[], Any], limit_s: float) -> float:
    """How long it took until the condition held."""
    began = time.monotonic()
    async with asyncio.timeout(limit_s):
        while not await condition():  # noqa: ASYNC110 - what it waits for has no event
            await asyncio.sleep(0.02)
    return time.monotonic() - began


async def test_a_key_shows_its_secret_once(core) -> None:
    """CreateApiKey answers the secret; nothing else ever does, and what is shown of it fits."""
    made = await core.make_key()
    assert made.secret.startswith(made.secret_prefix)
    assert made.secret.endswith(made.secret_suffix)
    assert len(made.secret_suffix) == 4
    assert made.id == "key_" + made.secret.removeprefix("wlrouter_")[:26]
    assert made.account_id == "default"
    got = await core.auth.GetApiKey(auth_pb2.GetApiKeyRequest(api_key_id=made.id), metadata=core.operator)
    listed = await core.auth.ListApiKeys(auth_pb2.ListApiKeysRequest(), metadata=core.operator)
    revoked = await core.auth.RevokeApiKey(auth_pb2.RevokeApiKeyRequest(api_key_id=made.id), metadata=core.operator)
    made.secret = ""
    assert got == made
    assert list(listed.api_keys) == [made]
    assert revoked.api_key.secret == ""


async def test_a_key_works_at_once_and_until_it_is_revoked(core, failure) -> None:
    """A key is good as soon as it is answered, refused as soon as its revocation is, and its streams are cut."""
    made = await core.make_key()
    assert await works(core, made.secret)
    request = auth_pb2.RevokeApiKeyRequest(api_key_id=made.id)
    first = await core.auth.RevokeApiKey(request, metadata=core.operator)
    assert not await works(core, made.secret)
    assert core.revoked == [made.id]
    assert first.api_key.HasField("revoke_time")
    assert await core.auth.RevokeApiKey(request, metadata=core.operator) == first
    rotate = auth_pb2.RotateApiKeyRequest(api_key_id=made.id)
    failed = await failure(core.auth.RotateApiKey(rotate, metadata=core.operator))
    assert (failed.code, failed.reason) == (C.ABORTED, "CONFLICT")


async def test_cores_agree_within_two_seconds(start_core) -> None:
    """A key made through one core works on another at once; revoked on one it is refused, and its streams cut, on the
    other within two seconds."""
    here, there = await start_core(), await start_core()
    made = await here.make_key()
    assert await works(there, made.secret)
    await here.auth.RevokeApiKey(auth_pb2.RevokeApiKeyRequest(api_key_id=made.id), metadata=here.operator)

    async def refused() -> bool:
        return not await works(there, made.secret)

    assert await seconds_until(refused, 3) < 2
    assert there.revoked == [made.id]


async def test_a_rotated_key_has_two_secrets_for_its_grace_time(core) -> None:
    """After a rotation both secrets work; when the grace time is over, the new one alone."""
    old = await core.make_key()
    request = auth_pb2.RotateApiKeyRequest(api_key_id=old.id, grace_period=Duration(nanos=400_000_000))
    answer = await core.auth.RotateApiKey(request, metadata=core.operator)
    new = answer.api_key
    assert new.id == old.id
    assert new.secret != old.secret
    assert new.secret.endswith(new.secret_suffix)
    assert await works(core, old.secret)
    assert await works(core, new.secret)
    ends = answer.old_secret_expire_time.ToDatetime(UTC)
    assert timedelta(0) < ends - datetime.now(UTC) + timedelta(seconds=0.1) < timedelta(seconds=0.6)
    await asyncio.sleep(0.5)
    assert not await works(core, old.secret)
    assert await works(core, new.secret)


async def test_a_rotation_without_grace_ends_the_old_secret_at_once(core) -> None:
    """With a grace time of zero the old secret is refused as soon as the answer is here, and its streams are cut."""
    old = await core.make_key()
    request = auth_pb2.RotateApiKeyRequest(api_key_id=old.id, grace_period=Duration())
    new = (await core.auth.RotateApiKey(request, metadata=core.operator)).api_key
    assert not await works(core, old.secret)
    assert await works(core, new.secret)
    assert core.revoked == [old.id]


async def test_the_grace_time_is_a_day_unless_said(core) -> None:
    """Without a grace time the old secret lives for 24 hours."""
    old = await core.make_key()
    answer = await core.auth.RotateApiKey(auth_pb2.RotateApiKeyRequest(api_key_id=old.id), metadata=core.operator)
    left = answer.old_secret_expire_time.ToDatetime(UTC) - datetime.now(UTC)
    assert timedelta(hours=23, minutes=59) < left <= timedelta(hours=24)


async def test_a_key_expires_by_itself(core) -> None:
    """A key is refused from its expiry on, and its streams are cut within five seconds."""
    made = await core.make_key(expire_time=from_now(0.5))
    assert await works(core, made.secret)
    await asyncio.sleep(0.6)
    assert not await works(core, made.secret)

    async def cut() -> bool:
        return core.revoked == [made.id]

    assert await seconds_until(cut, 5) < 5


async def test_an_expiry_can_be_moved_and_lifted(core) -> None:
    """UpdateApiKey changes what its mask names alone; an absent expire_time lifts the expiry."""
    made = await core.make_key(expire_time=from_now(0.4))
    lift = auth_pb2.UpdateApiKeyRequest(
        api_key=auth_pb2.ApiKey(id=made.id, display_name="ignored"), update_mask=FieldMask(paths=["expire_time"])
    )
    changed = await core.auth.UpdateApiKey(lift, metadata=core.operator)
    assert not changed.HasField("expire_time")
    assert changed.display_name == made.display_name
    await asyncio.sleep(0.5)
    assert await works(core, made.secret)
    later = from_now(3600)
    both = auth_pb2.UpdateApiKeyRequest(
        api_key=auth_pb2.ApiKey(id=made.id, display_name="New", expire_time=later),
        update_mask=FieldMask(paths=["display_name", "expire_time"]),
    )
    changed = await core.auth.UpdateApiKey(both, metadata=core.operator)
    assert (changed.display_name, changed.expire_time.ToMicroseconds()) == ("New", later.ToMicroseconds())
    assert await works(core, made.secret)


async def test_bad_fields_of_a_new_key_are_named(core, failure) -> None:
    """A key that cannot be made names the field at fault; no account is NOT_FOUND, a house account invalid."""
    name = {"display_name": "x"}
    cases = [
        ({}, C.INVALID_ARGUMENT, "display_name"),
        ({"display_name": "x" * 101}, C.INVALID_ARGUMENT, "display_name"),
        ({**name, "expire_time": from_now(-1)}, C.INVALID_ARGUMENT, "expire_time"),
        ({**name, "expire_time": Timestamp(seconds=2**62)}, C.INVALID_ARGUMENT, "expire_time"),
        ({**name, "expire_time": Timestamp(seconds=2**32, nanos=-5)}, C.INVALID_ARGUMENT, "expire_time"),
        ({**name, "account_id": "acct_none"}, C.NOT_FOUND, "account_id"),
        ({**name, "account_id": "house_usage"}, C.INVALID_ARGUMENT, "account_id"),
    ]
    for fields, code, param in cases:
        failed = await failure(core.auth.CreateApiKey(auth_pb2.CreateApiKeyRequest(**fields), metadata=core.operator))
        assert (failed.code, failed.param) == (code, param), fields


async def test_bad_changes_are_refused(core, failure) -> None:
    """A mask with another field, or none, a past expiry and a grace time out of bounds are INVALID_ARGUMENT."""
    made = await core.make_key()
    key = auth_pb2.ApiKey(id=made.id)
    past = auth_pb2.ApiKey(id=made.id, expire_time=from_now(-5))
    update, rotate = core.auth.UpdateApiKey, core.auth.RotateApiKey
    changes = [
        (update, auth_pb2.UpdateApiKeyRequest(api_key=key), "update_mask"),
        (update, auth_pb2.UpdateApiKeyRequest(api_key=key, update_mask=FieldMask(paths=["secret"])), "update_mask"),
        (
            update,
            auth_pb2.UpdateApiKeyRequest(api_key=past, update_mask=FieldMask(paths=["expire_time"])),
            "api_key.expire_time",
        ),
        (
            update,
            auth_pb2.UpdateApiKeyRequest(api_key=key, update_mask=FieldMask(paths=["display_name"])),
            "api_key.display_name",
        ),
        (update, auth_pb2.UpdateApiKeyRequest(update_mask=FieldMask(paths=["display_name"])), "api_key.id"),
        (
            rotate,
            auth_pb2.RotateApiKeyRequest(api_key_id=made.id, grace_period=Duration(seconds=30 * 86400 + 1)),
            "grace_period",
        ),
        (
            rotate,
            auth_pb2.RotateApiKeyRequest(api_key_id=made.id, grace_period=Duration(seconds=-1)),
            "grace_period",
        ),
        (rotate, auth_pb2.RotateApiKeyRequest(api_key_id=made.id, grace_period=Duration(nanos=-1)), "grace_period"),
        (rotate, auth_pb2.RotateApiKeyRequest(), "api_key_id"),
    ]
    for rpc, request, param in changes:
        failed = await failure(rpc(request, metadata=core.operator))
        assert (failed.code, failed.reason, failed.param) == (C.INVALID_ARGUMENT, "INVALID_REQUEST", param)


async def test_a_grace_time_is_a_month_at_most(core) -> None:
    """30 days are not too long."""
    made = await core.make_key()
    longest = auth_pb2.RotateApiKeyRequest(api_key_id=made.id, grace_period=Duration(seconds=30 * 86400))
    ends = (await core.auth.RotateApiKey(longest, metadata=core.operator)).old_secret_expire_time.ToDatetime(UTC)
    assert timedelta(days=29.9) < ends - datetime.now(UTC) <= timedelta(days=30)


async def test_an_unknown_key_is_not_found_everywhere(core, failure) -> None:
    """Every RPC about one key answers NOT_FOUND for an id that no key has."""
    mask = FieldMask(paths=["display_name"])
    none = auth_pb2.ApiKey(id="key_none", display_name="x")
    calls = [
        core.auth.GetApiKey(auth_pb2.GetApiKeyRequest(api_key_id="key_none"), metadata=core.operator),
        core.auth.UpdateApiKey(auth_pb2.UpdateApiKeyRequest(api_key=none, update_mask=mask), metadata=core.operator),
        core.auth.RotateApiKey(auth_pb2.RotateApiKeyRequest(api_key_id="key_none"), metadata=core.operator),
        core.auth.RevokeApiKey(auth_pb2.RevokeApiKeyRequest(api_key_id="Robert'); DROP"), metadata=core.operator),
    ]
    for call in calls:
        assert (await failure(call)).code is C.NOT_FOUND


async def test_keys_list_by_account_and_page(core, failure) -> None:
    """Pages list the keys of one account or of all, each once, newest first, and a token fits its list alone."""
    await core.make_account("team-a")
    of_default = [(await core.make_key()).id for _ in range(3)]
    of_team = [(await core.make_key("team-a")).id for _ in range(5)]

    async def pages(account_id: str) -> list[str]:
        seen, token = [], ""
        while True:
            request = auth_pb2.ListApiKeysRequest(account_id=account_id, page_size=2, page_token=token)
            page = await core.auth.ListApiKeys(request, metadata=core.operator)
            assert len(page.api_keys) <= 2
            seen += [key.id for key in page.api_keys]
            token = page.next_page_token
            if not token:
                return seen

    assert await pages("team-a") == of_team[::-1]
    assert await pages("default") == of_default[::-1]
    assert await pages("") == of_team[::-1] + of_default[::-1]
    first = await core.auth.ListApiKeys(auth_pb2.ListApiKeysRequest(page_size=1), metadata=core.operator)
    foreign = auth_pb2.ListApiKeysRequest(account_id="team-a", page_token=first.next_page_token)
    failed = await failure(core.auth.ListApiKeys(foreign, metadata=core.operator))
    assert (failed.code, failed.param) == (C.INVALID_ARGUMENT, "page_token")


async def verify(core, secret: str, credential: str) -> auth_pb2.VerifyApiKeyResponse:
    return await core.auth.VerifyApiKey(auth_pb2.VerifyApiKeyRequest(secret=secret), metadata=bearer(credential))


async def test_a_service_and_the_operator_may_verify_any_key(core, failure) -> None:
    """A key of a service account, and the operator, learn whose a key is; one that is not valid is an answer."""
    await core.make_account("a-service", account_pb2.ACCOUNT_KIND_SERVICE)
    service, user = await core.make_key("a-service"), await core.make_key()
    operator = core.operator[0][1].removeprefix("Bearer ")
    good = auth_pb2.VerifyApiKeyResponse(valid=True, api_key_id=user.id, account_id="default")
    bad = auth_pb2.VerifyApiKeyResponse(valid=False)
    for credential in (service.secret, operator):
        assert await verify(core, user.secret, credential) == good
        assert await verify(core, "nonsense", credential) == bad
        assert await verify(core, user.secret[:-1] + "!", credential) == bad
    await core.auth.RevokeApiKey(auth_pb2.RevokeApiKeyRequest(api_key_id=user.id), metadata=core.operator)
    assert await verify(core, user.secret, service.secret) == bad
    empty = core.auth.VerifyApiKey(auth_pb2.VerifyApiKeyRequest(), metadata=core.operator)
    assert (await failure(empty)).param == "secret"


async def test_a_user_may_verify_its_own_key_alone(core, failure) -> None:
    """An ordinary key verifies itself, named or not; the key of anybody else is FORBIDDEN, valid or not."""
    own, other = await core.make_key(), await core.make_key()
    good = auth_pb2.VerifyApiKeyResponse(valid=True, api_key_id=own.id, account_id="default")
    assert await verify(core, "", own.secret) == good
    assert await verify(core, own.secret, own.secret) == good
    assert not (await verify(core, "nonsense", own.secret)).valid
    await core.auth.RevokeApiKey(auth_pb2.RevokeApiKeyRequest(api_key_id=other.id), metadata=core.operator)
    failed = await failure(verify(core, other.secret, own.secret))
    assert (failed.code, failed.reason) == (C.PERMISSION_DENIED, "FORBIDDEN")


async def test_a_store_that_is_gone_is_no_reason_to_refuse_a_key(core, failure) -> None:
    """With the database closed a known key is served what needs none; the rest is UNAVAILABLE with a time to retry."""
    made = await core.make_key()
    await core.store.close()
    await core.routing.ListModels(routing_pb2.ListModelsRequest(), metadata=bearer(made.secret))
    failed = await failure(core.metering.GetBalance(metering_pb2.GetBalanceRequest(), metadata=bearer(made.secret)))
    assert (failed.code, failed.reason) == (C.UNAVAILABLE, "SERVICE_UNAVAILABLE")
    assert failed.retry_after_s == 1
