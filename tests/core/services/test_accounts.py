"""AccountService over a real server."""

import asyncio
import time
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from worldrouter.v1 import account_pb2, auth_pb2, metering_pb2, payment_pb2

C = grpc.StatusCode


async def test_an_account_is_made_got_and_listed(core) -> None:
    """An account has the id it asked for or one that is made, and reads back as it was answered."""
    named = await core.accounts.CreateAccount(
        account_pb2.CreateAccountRequest(
            account_id="team-a", display_name="Tëam A", kind=account_pb2.ACCOUNT_KIND_SERVICE
        ),
        metadata=core.operator,
    )
    unnamed = await core.accounts.CreateAccount(
        account_pb2.CreateAccountRequest(display_name="x"), metadata=core.operator
    )
    assert (named.id, named.display_name, named.kind) == ("team-a", "Tëam A", account_pb2.ACCOUNT_KIND_SERVICE)
    assert named.credit_limit_nano_usd == 0
    assert unnamed.id.startswith("acct_")
    assert len(unnamed.id) == len("acct_") + 26
    assert unnamed.kind == account_pb2.ACCOUNT_KIND_USER
    for account in (named, unnamed):
        request = account_pb2.GetAccountRequest(account_id=account.id)
        assert await core.accounts.GetAccount(request, metadata=core.operator) == account
    listed = await core.accounts.ListAccounts(account_pb2.ListAccountsRequest(), metadata=core.operator)
    assert [account.id for account in listed.accounts] == [unnamed.id, "team-a", "default"]
    assert listed.next_page_token == ""


async def test_an_empty_id_is_the_default_account(core) -> None:
    """GetAccount without an id answers the default account."""
    account = await core.accounts.GetAccount(account_pb2.GetAccountRequest(), metadata=core.operator)
    assert account.id == "default"


async def test_an_id_is_taken_once(core, failure) -> None:
    """An id that is taken is ALREADY_EXISTS."""
    await core.make_account("team-a")
    request = account_pb2.CreateAccountRequest(account_id="team-a", display_name="x")
    failed = await failure(core.accounts.CreateAccount(request, metadata=core.operator))
    assert (failed.code, failed.reason, failed.param) == (C.ALREADY_EXISTS, "ALREADY_EXISTS", "account_id")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"display_name": ""}, "display_name"),
        ({"display_name": "  "}, "display_name"),
        ({"display_name": "x" * 101}, "display_name"),
        ({"display_name": "a\nb"}, "display_name"),
        ({"display_name": "a\x00b"}, "display_name"),
        ({"display_name": "x", "account_id": "ab"}, "account_id"),
        ({"display_name": "x", "account_id": "a" * 64}, "account_id"),
        ({"display_name": "x", "account_id": "1ab"}, "account_id"),
        ({"display_name": "x", "account_id": "Abc"}, "account_id"),
        ({"display_name": "x", "account_id": "abc\n"}, "account_id"),
        ({"display_name": "x", "kind": account_pb2.ACCOUNT_KIND_HOUSE}, "kind"),
        ({"display_name": "x", "kind": 99}, "kind"),
        ({"display_name": "x", "account_id": "key_1"}, "account_id"),
        ({"display_name": "x", "account_id": "purse_1"}, "account_id"),
        ({"display_name": "x", "account_id": "house_fees"}, "account_id"),
        ({"display_name": "x", "allowed_models": ["a*b"]}, "allowed_models"),
        ({"display_name": "x", "allowed_models": ["a", ""]}, "allowed_models"),
        ({"display_name": "x", "allowed_models": ["m"] * 101}, "allowed_models"),
        ({"display_name": "x", "expire_time": Timestamp(seconds=1)}, "expire_time"),
    ],
)
async def test_a_bad_field_is_named(core, failure, fields: dict[str, object], param: str) -> None:
    """A field that cannot be is INVALID_ARGUMENT, and the error names it."""
    request = account_pb2.CreateAccountRequest(**fields)
    failed = await failure(core.accounts.CreateAccount(request, metadata=core.operator))
    assert (failed.code, failed.reason, failed.param) == (C.INVALID_ARGUMENT, "INVALID_REQUEST", param)


@pytest.mark.parametrize("account_id", ["acct_none", "x\x00y", "' OR 1=1", "A" * 5000, "ü"])
async def test_what_does_not_exist_is_not_found(core, failure, account_id: str) -> None:
    """An id that nobody has, and text that cannot be an id, is NOT_FOUND."""
    request = account_pb2.GetAccountRequest(account_id=account_id)
    failed = await failure(core.accounts.GetAccount(request, metadata=core.operator))
    assert (failed.code, failed.reason) == (C.NOT_FOUND, "NOT_FOUND")


async def test_pages_cover_every_account_once(core, failure) -> None:
    """Following the page tokens to the end lists every account once, newest first."""
    made = [await core.make_account(f"team-{number:02}") for number in range(7)]
    seen, token, pages = [], "", 0
    while True:
        request = account_pb2.ListAccountsRequest(page_size=3, page_token=token)
        page = await core.accounts.ListAccounts(request, metadata=core.operator)
        seen += [account.id for account in page.accounts]
        pages += 1
        token = page.next_page_token
        if not token:
            break
    assert seen == [*reversed(made), "default"]
    assert pages == 3
    request = account_pb2.ListAccountsRequest(page_size=3)
    foreign = (await core.accounts.ListAccounts(request, metadata=core.operator)).next_page_token
    for fields, param in (
        ({"page_size": -1}, "page_size"),
        ({"page_token": "nonsense"}, "page_token"),
        ({"page_token": foreign, "parent_id": "team-00"}, "page_token"),
    ):
        failed = await failure(
            core.accounts.ListAccounts(account_pb2.ListAccountsRequest(**fields), metadata=core.operator)
        )
        assert (failed.code, failed.param) == (C.INVALID_ARGUMENT, param)


def update(core, account_id: str, *paths: str, key: str = "", **fields: Any) -> Any:
    request = account_pb2.UpdateAccountRequest(
        account=account_pb2.Account(id=account_id, **fields), update_mask=FieldMask(paths=paths), idempotency_key=key
    )
    return core.accounts.UpdateAccount(request, metadata=core.operator)


async def test_accounts_stand_under_one_another(core, failure) -> None:
    """An account reads back with its parent, models and end; lists tell what is below one; four levels are enough."""
    end = Timestamp(seconds=int(time.time()) + 60)
    for level, name in enumerate(("org", "team", "group", "person")):
        await core.make_account(name, parent_id=("", "org", "team", "group")[level])
    made = await core.accounts.CreateAccount(
        account_pb2.CreateAccountRequest(
            account_id="other", display_name="x", parent_id="org", allowed_models=["a", "b*", "a"], expire_time=end
        ),
        metadata=core.operator,
    )
    assert (made.parent_id, list(made.allowed_models), made.expire_time) == ("org", ["a", "b*"], end)
    listed = await core.accounts.ListAccounts(account_pb2.ListAccountsRequest(parent_id="org"), metadata=core.operator)
    assert [account.id for account in listed.accounts] == ["other", "team"]
    for parent_id, code in (("person", C.INVALID_ARGUMENT), ("nobody", C.NOT_FOUND), ("house_fees", C.NOT_FOUND)):
        request = account_pb2.CreateAccountRequest(display_name="x", parent_id=parent_id)
        failed = await failure(core.accounts.CreateAccount(request, metadata=core.operator))
        assert (failed.code, failed.param) == (code, "parent_id")


async def test_an_account_is_changed_in_what_the_mask_names(core, failure) -> None:
    """What the mask names is changed, once per idempotency key; a bad mask, value or id is named."""
    await core.make_account("org", allowed_models=["a"])
    fields = {"display_name": "New", "credit_limit_nano_usd": 5}
    first = await update(core, "org", "credit_limit_nano_usd", key="k", **fields)
    assert (first.display_name, first.credit_limit_nano_usd, first.allowed_models) == ("An account", 5, ["a"])
    lifted = await update(core, "org", "allowed_models", "display_name", **fields)
    assert (lifted.display_name, lifted.credit_limit_nano_usd, lifted.allowed_models) == ("New", 5, [])
    assert await update(core, "org", "credit_limit_nano_usd", key="k", **fields) == lifted
    most = {"credit_limit_nano_usd": 10**18, "display_name": "x" * 100, "allowed_models": [f"m{n}" for n in range(100)]}
    assert (await update(core, "org", *most, **most)).credit_limit_nano_usd == 10**18
    for account_id, paths, changed, code, param in (
        ("org", (), {}, C.INVALID_ARGUMENT, "update_mask"),
        ("org", ("kind",), {}, C.INVALID_ARGUMENT, "update_mask"),
        ("org", ("display_name",), {}, C.INVALID_ARGUMENT, "account.display_name"),
        ("org", ("allowed_models",), {"allowed_models": ["**"]}, C.INVALID_ARGUMENT, "account.allowed_models"),
        ("org", ("credit_limit_nano_usd",), {"credit_limit_nano_usd": -1}, C.INVALID_ARGUMENT, None),
        ("org", ("credit_limit_nano_usd",), {"credit_limit_nano_usd": 10**18 + 1}, C.INVALID_ARGUMENT, None),
        ("nobody", ("display_name",), {"display_name": "x"}, C.NOT_FOUND, "account.id"),
        ("house_fees", ("display_name",), {"display_name": "x"}, C.NOT_FOUND, "account.id"),
    ):
        failed = await failure(update(core, account_id, *paths, **changed))
        assert (failed.code, failed.param) == (code, param or "account.credit_limit_nano_usd")


async def test_what_is_owed_bounds_the_credit_limit(core, failure) -> None:
    """A credit limit below what the account owes is CONFLICT and says by how much."""
    await update(core, "default", "credit_limit_nano_usd", credit_limit_nano_usd=9000)
    await core.store.register_core("core_1")
    lease = {"lease_id": "l", "account_id": "default", "core_id": "core_1", "chunk_nano_usd": 0, "ttl_s": 9}
    await core.store.acquire(want_nano_usd=6000, **lease)
    failed = await failure(update(core, "default", "credit_limit_nano_usd", credit_limit_nano_usd=4000))
    assert (failed.code, failed.param) == (C.ABORTED, "account.credit_limit_nano_usd")
    assert "0.000002 USD" in failed.message


async def test_only_the_root_takes_money(core, failure) -> None:
    """Top-ups, payments, credit limits and balances of an account below another are refused, naming who pays."""
    await core.make_account("org")
    await core.make_account("team", parent_id="org")
    credit = {"account_id": "team", "amount_nano_usd": 10**10, "idempotency_key": "k"}
    for attempt in (
        core.metering.CreateTopUp(metering_pb2.CreateTopUpRequest(**credit), metadata=core.operator),
        core.payments.CreatePayment(payment_pb2.CreatePaymentRequest(**credit), metadata=core.operator),
        core.metering.GetBalance(metering_pb2.GetBalanceRequest(account_id="team"), metadata=core.operator),
        update(core, "team", "credit_limit_nano_usd", credit_limit_nano_usd=1),
    ):
        failed = await failure(attempt)
        assert (failed.code, failed.reason) == (C.ABORTED, "CONFLICT")
        assert "'org'" in failed.message


async def test_a_change_of_an_account_holds_at_once(core) -> None:
    """On the core that made it, for its keys' next request."""
    key = await core.make_key(await core.make_account("org", allowed_models=["model-00"]))
    credential = f"Bearer {key.secret}"
    assert (await core.authenticator.authenticate(credential)).policy.models == {"model-00"}
    await update(core, "org", "allowed_models")
    assert (await core.authenticator.authenticate(credential)).policy is None


@pytest.mark.slow
async def test_a_change_of_an_account_reaches_every_core(core, start_core) -> None:
    """What another core forbade and allowed again is so here within 2 seconds; here it is so at once."""
    other = await start_core()
    key = await core.make_key(await core.make_account("org"))
    credential = f"Bearer {key.secret}"
    await update(other, "org", "allowed_models", allowed_models=["model-0*"])
    assert len((await other.authenticator.authenticate(credential)).policy.models) == 11
    deadline_s = time.monotonic() + 2
    while (await core.authenticator.authenticate(credential)).policy is None:
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)
    await update(core, "org", "allowed_models")
    assert (await core.authenticator.authenticate(credential)).policy is None


async def test_a_key_has_models_of_its_own(core, failure) -> None:
    """A key is made with a list of models, and changed; a bad one is named."""
    key = await core.make_key(allowed_models=["b", "a*"])
    assert key.allowed_models == ["b", "a*"]
    request = auth_pb2.UpdateApiKeyRequest(
        api_key=auth_pb2.ApiKey(id=key.id, allowed_models=["c"]), update_mask=FieldMask(paths=["allowed_models"])
    )
    changed = await core.auth.UpdateApiKey(request, metadata=core.operator)
    assert (changed.allowed_models, changed.display_name) == (["c"], "A key")
    request.api_key.allowed_models.append(" ")
    failed = await failure(core.auth.UpdateApiKey(request, metadata=core.operator))
    assert (failed.code, failed.param) == (C.INVALID_ARGUMENT, "api_key.allowed_models")
