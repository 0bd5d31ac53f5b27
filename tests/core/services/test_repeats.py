"""Repeated changes over a real server: an idempotency key makes each happen once."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from worldrouter.v1 import account_pb2, auth_pb2, limit_pb2, metering_pb2, payment_pb2

from core.services import repeats
from storage.errors import StoreUnavailable

C = grpc.StatusCode
USD = 10**9


async def works(core, secret: str) -> bool:
    """Whether a request with this key is admitted."""
    metadata = (("authorization", f"Bearer {secret}"),)
    return await core.metering.GetBalance(metering_pb2.GetBalanceRequest(), metadata=metadata).code() is C.OK


async def test_an_account_is_made_once(core, failure) -> None:
    """A repeat answers the account that the first request made, whether it named the id or not."""
    for account_id in ("", "team-a"):
        request = account_pb2.CreateAccountRequest(
            account_id=account_id, display_name="Team", idempotency_key=f"k{account_id}"
        )
        first = await core.accounts.CreateAccount(request, metadata=core.operator)
        assert await core.accounts.CreateAccount(request, metadata=core.operator) == first
    request.display_name = "Another"
    failed = await failure(core.accounts.CreateAccount(request, metadata=core.operator))
    assert (failed.code, failed.reason, failed.param) == (C.ABORTED, "CONFLICT", "idempotency_key")
    listed = await core.accounts.ListAccounts(account_pb2.ListAccountsRequest(), metadata=core.operator)
    assert len(listed.accounts) == 3


async def test_a_key_is_made_once_and_its_secret_told_once(core) -> None:
    """Repeats at the same time make one key, and exactly one answer holds the secret, which works."""
    request = auth_pb2.CreateApiKeyRequest(display_name="A key", idempotency_key="k")
    named = auth_pb2.CreateApiKeyRequest(account_id="default", display_name="A key", idempotency_key="k")
    sent = [request, named] * 4
    answers = await asyncio.gather(*(core.auth.CreateApiKey(each, metadata=core.operator) for each in sent))
    [secret] = [answer.secret for answer in answers if answer.secret]
    assert await works(core, secret)
    for answer in answers:
        answer.secret = ""
        assert answer == answers[0]
    assert secret.endswith(answers[0].secret_suffix)


async def test_a_rotation_happens_once(core) -> None:
    """A repeated rotation leaves the new secret, and the old one its grace time; its answer holds no secret."""
    old = await core.make_key()
    request = auth_pb2.RotateApiKeyRequest(api_key_id=old.id, grace_period=Duration(seconds=60), idempotency_key="k")
    first = await core.auth.RotateApiKey(request, metadata=core.operator)
    again = await core.auth.RotateApiKey(request, metadata=core.operator)
    assert await works(core, old.secret)
    assert await works(core, first.api_key.secret)
    assert again.api_key.secret == ""
    first.api_key.secret = ""
    assert again == first


async def test_an_update_happens_once_whatever_the_order_of_its_mask(core) -> None:
    """A repeated update does not undo a later one."""
    made = await core.make_key()
    key = auth_pb2.ApiKey(id=made.id, display_name="first")
    for paths in (["display_name", "expire_time"], ["expire_time", "display_name"]):
        request = auth_pb2.UpdateApiKeyRequest(api_key=key, update_mask=FieldMask(paths=paths), idempotency_key="k")
        answer = await core.auth.UpdateApiKey(request, metadata=core.operator)
        later = auth_pb2.UpdateApiKeyRequest(
            api_key=auth_pb2.ApiKey(id=made.id, display_name="second"), update_mask=FieldMask(paths=["display_name"])
        )
        await core.auth.UpdateApiKey(later, metadata=core.operator)
    assert answer.display_name == "second"


async def test_an_update_of_an_account_happens_once(core) -> None:
    """Nor does that of an account undo a later one."""
    await core.make_account("team")
    for name, key in (("first", "k"), ("second", ""), ("first", "k")):
        request = account_pb2.UpdateAccountRequest(
            account=account_pb2.Account(id="team", display_name=name),
            update_mask=FieldMask(paths=["display_name"]),
            idempotency_key=key,
        )
        answer = await core.accounts.UpdateAccount(request, metadata=core.operator)
    assert answer.display_name == "second"


async def test_a_key_of_one_rpc_is_another_in_the_next(core, failure) -> None:
    """Idempotency keys belong to their RPC: the same one serves a creation, a revocation and a top-up."""
    made = await core.auth.CreateApiKey(
        auth_pb2.CreateApiKeyRequest(display_name="x", idempotency_key="k"), metadata=core.operator
    )
    revoke = auth_pb2.RevokeApiKeyRequest(api_key_id=made.id, idempotency_key="k")
    first = await core.auth.RevokeApiKey(revoke, metadata=core.operator)
    top_up = metering_pb2.CreateTopUpRequest(amount_nano_usd=10 * USD, idempotency_key="k")
    await core.metering.CreateTopUp(top_up, metadata=core.operator)
    assert await core.auth.RevokeApiKey(revoke, metadata=core.operator) == first
    revoke.api_key_id = (await core.make_key()).id
    failed = await failure(core.auth.RevokeApiKey(revoke, metadata=core.operator))
    assert (failed.code, failed.param) == (C.ABORTED, "idempotency_key")


@pytest.mark.parametrize("key", ["x" * 129, "ü", "a\n"])
async def test_a_bad_key_is_refused_by_name(core, failure, key: str) -> None:
    """An idempotency key is printable ASCII of 128 characters at most."""
    request = account_pb2.CreateAccountRequest(display_name="x", idempotency_key=key)
    failed = await failure(core.accounts.CreateAccount(request, metadata=core.operator))
    assert (failed.code, failed.param) == (C.INVALID_ARGUMENT, "idempotency_key")


async def test_keys_of_payments_are_kept_and_others_forgotten(core, monkeypatch) -> None:
    """What ran long ago may run again under its key; a payment is never credited again."""
    monkeypatch.setattr(repeats, "KEPT_S", 0)
    account: Any = account_pb2.CreateAccountRequest(display_name="x", idempotency_key="k")
    top_up = metering_pb2.CreateTopUpRequest(amount_nano_usd=10 * USD, idempotency_key="k")
    made = await core.accounts.CreateAccount(account, metadata=core.operator)
    paid = await core.metering.CreateTopUp(top_up, metadata=core.operator)
    forgetting = asyncio.create_task(repeats.forget(core.store))
    async with asyncio.timeout(5):
        while (await core.accounts.CreateAccount(account, metadata=core.operator)).id == made.id:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    forgetting.cancel()
    with suppress(asyncio.CancelledError):
        await forgetting
    assert await core.metering.CreateTopUp(top_up, metadata=core.operator) == paid


async def test_forgetting_outlives_a_database_that_is_down(monkeypatch, caplog) -> None:
    """It is told, and tried again."""
    monkeypatch.setattr(repeats, "FORGET_EVERY_S", 0.001)
    forgotten = asyncio.Event()

    class Store:
        async def forget_keys(self, scope: str, *, older_than_s: float) -> None:
            if not caplog.records:
                raise StoreUnavailable("gone")
            forgotten.set()

    forgetting = asyncio.create_task(repeats.forget(Store()))
    async with asyncio.timeout(5):
        await forgotten.wait()
    forgetting.cancel()
    with suppress(asyncio.CancelledError):
        await forgetting
    assert [record.getMessage() for record in caplog.records] == ["Old idempotency keys could not be removed: gone"]


async def test_a_key_may_have_128_characters(core) -> None:
    """Whatever is printable."""
    request = account_pb2.CreateAccountRequest(display_name="x", idempotency_key=" ~" * 64)
    first = await core.accounts.CreateAccount(request, metadata=core.operator)
    assert await core.accounts.CreateAccount(request, metadata=core.operator) == first


def test_every_key_but_those_of_money_is_forgotten() -> None:
    """None is kept for good by an oversight, nor is that of a refund freed."""
    pool = [service.DESCRIPTOR for service in (account_pb2, auth_pb2, limit_pb2, metering_pb2, payment_pb2)]
    methods = [method for file in pool for service in file.services_by_name.values() for method in service.methods]
    keyed = {method.name for method in methods if "idempotency_key" in method.input_type.fields_by_name}
    assert keyed - set(repeats.FORGOTTEN) == {"CreateTopUp", "CreateRefund"}
    assert keyed.issuperset(repeats.FORGOTTEN)
