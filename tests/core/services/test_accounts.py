"""AccountService over a real server."""

import grpc
import pytest
from worldrouter.v1 import account_pb2

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
    """An id that is taken, by a house account too, is ALREADY_EXISTS."""
    await core.make_account("team-a")
    for account_id in ("team-a", "house_fees"):
        request = account_pb2.CreateAccountRequest(account_id=account_id, display_name="x")
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
    for fields, param in (({"page_size": -1}, "page_size"), ({"page_token": "nonsense"}, "page_token")):
        failed = await failure(
            core.accounts.ListAccounts(account_pb2.ListAccountsRequest(**fields), metadata=core.operator)
        )
        assert (failed.code, failed.param) == (C.INVALID_ARGUMENT, param)
