"""`worldrouter accounts`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from worldrouter.v1 import account_pb2

pytestmark = pytest.mark.timeout(20)


def account(**changes: Any) -> account_pb2.Account:
    made = account_pb2.Account(id="acct_1", display_name="Ada", kind=account_pb2.ACCOUNT_KIND_USER)
    made.create_time.FromJsonString("2026-01-02T03:04:05.600Z")
    made.MergeFrom(account_pb2.Account(**changes))
    return made


def test_create_prints_the_account_as_json(invoke: Callable[..., Any]) -> None:
    """`accounts create NAME --json` sends the name and prints one object with `id`, on one line."""
    run = invoke("accounts", "create", "Ada", "--json")
    request = run.answer("AccountService.CreateAccount", account(credit_limit_nano_usd=1_500_000_000))
    assert request == account_pb2.CreateAccountRequest(display_name="Ada", kind=account_pb2.ACCOUNT_KIND_USER)
    result = run.result()
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout) == {
        "id": "acct_1",
        "name": "Ada",
        "kind": "user",
        "credit_limit_usd": "1.500000000",
        "credit_limit_nano_usd": 1_500_000_000,
        "create_time": "2026-01-02T03:04:05.600000Z",
    }


def test_create_sends_id_and_kind(invoke: Callable[..., Any]) -> None:
    """--id and --kind are sent; people get a line a field."""
    run = invoke("accounts", "create", "Search", "--id", "search", "--kind", "service")
    request = run.answer("AccountService.CreateAccount", account(kind=account_pb2.ACCOUNT_KIND_SERVICE))
    assert (request.account_id, request.kind) == ("search", account_pb2.ACCOUNT_KIND_SERVICE)
    assert run.result().stdout.splitlines() == [
        "id            acct_1",
        "name          Ada",
        "kind          service",
        "credit limit  0.000000 USD",
        "created       2026-01-02 03:04:05Z",
    ]


def test_a_house_account_cannot_be_asked_for(invoke: Callable[..., Any]) -> None:
    """--kind house is wrong usage: exit status 2."""
    result = invoke("accounts", "create", "Bank", "--kind", "house").result()
    assert result.exit_code == 2
    assert "'house' is not one of" in result.stderr


def test_get_without_an_id_asks_for_the_default_account(invoke: Callable[..., Any]) -> None:
    """`accounts get` sends an empty id, which means the default account."""
    run = invoke("accounts", "get", "--json")
    assert run.answer("AccountService.GetAccount", account()).account_id == ""
    assert json.loads(run.result().stdout)["id"] == "acct_1"


def test_get_names_the_account(invoke: Callable[..., Any]) -> None:
    """`accounts get ID` sends the id."""
    run = invoke("accounts", "get", "acct_1")
    assert run.answer("AccountService.GetAccount", account()).account_id == "acct_1"
    assert "acct_1" in run.result().stdout


def test_list_follows_the_pages_up_to_the_limit(invoke: Callable[..., Any]) -> None:
    """`accounts list --limit 3` asks for what is still missing, with the token of the page before."""
    run = invoke("accounts", "list", "--limit", "3", "--json")
    first = account_pb2.ListAccountsResponse(accounts=[account(id="a"), account(id="b")], next_page_token="more")
    request = run.answer("AccountService.ListAccounts", first)
    assert (request.page_size, request.page_token) == (3, "")
    second = account_pb2.ListAccountsResponse(accounts=[account(id="c"), account(id="d")], next_page_token="more")
    request = run.answer("AccountService.ListAccounts", second)
    assert (request.page_size, request.page_token) == (1, "more")
    assert [found["id"] for found in json.loads(run.result().stdout)] == ["a", "b", "c"]


def test_list_prints_a_table(invoke: Callable[..., Any]) -> None:
    """A table stands under its columns, and a name cannot move the cursor."""
    run = invoke("accounts", "list")
    page = account_pb2.ListAccountsResponse(accounts=[account(), account(id="a", display_name="B\x1b[2J\nC")])
    run.answer("AccountService.ListAccounts", page)
    assert run.result().stdout.splitlines() == [
        "ID      NAME    KIND  CREATED",
        "acct_1  Ada     user  2026-01-02 03:04:05Z",
        "a       B[2J C  user  2026-01-02 03:04:05Z",
    ]


def test_an_error_is_one_line_with_reason_and_request_id(
    invoke: Callable[..., Any], trailers_of: Callable[..., Any]
) -> None:
    """An error of the core is one line on stderr, nothing on stdout, exit status 1."""
    run = invoke("accounts", "create", "Ada", "--id", "ada", "--json")
    message = "A resource of this id\nexists."
    trailers = trailers_of(grpc.StatusCode.ALREADY_EXISTS, message, "ALREADY_EXISTS", "req_7")
    run.refuse("AccountService.CreateAccount", grpc.StatusCode.ALREADY_EXISTS, message, trailers=trailers)
    result = run.result()
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: A resource of this id exists (ALREADY_EXISTS, request req_7)\n"
