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
    assert request == account_pb2.CreateAccountRequest(
        display_name="Ada", kind=account_pb2.ACCOUNT_KIND_USER, idempotency_key="new-id"
    )
    result = run.result()
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    assert json.loads(result.stdout) == {
        "id": "acct_1",
        "name": "Ada",
        "kind": "user",
        "parent_id": None,
        "credit_limit_usd": "1.500000000",
        "credit_limit_nano_usd": 1_500_000_000,
        "allowed_models": [],
        "create_time": "2026-01-02T03:04:05.600000Z",
        "expire_time": None,
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
        "parent        none",
        "credit limit  0.000000 USD",
        "models        all",
        "created       2026-01-02 03:04:05Z",
        "expires       never",
    ]


def test_create_sends_what_a_place_in_a_tree_needs(invoke: Callable[..., Any]) -> None:
    """--parent, --models and --expires-in are sent, and so is a given idempotency key."""
    options = ["--parent", "org", "--models", "a, b*", "--expires-in", "1d", "--idempotency-key", "k", "--json"]
    run = invoke("accounts", "create", "Team", *options)
    answer = account(parent_id="org", allowed_models=["a", "b*"])
    answer.expire_time.FromJsonString("2026-05-05T03:02:01Z")
    request = run.answer("AccountService.CreateAccount", answer)
    assert (request.parent_id, request.allowed_models, request.idempotency_key) == ("org", ["a", "b*"], "k")
    assert request.expire_time == answer.expire_time
    found = json.loads(run.result().stdout)
    assert (found["parent_id"], found["allowed_models"]) == ("org", ["a", "b*"])
    assert found["expire_time"] == "2026-05-05T03:02:01.000000Z"


def test_update_sends_what_was_given(invoke: Callable[..., Any]) -> None:
    """The mask names the options that were given; '*' allows all models; nothing to change is wrong usage."""
    run = invoke("accounts", "update", "org", "--credit-limit", "0", "--models", "*", "--never-expires")
    request = run.answer("AccountService.UpdateAccount", account())
    assert request.account == account_pb2.Account(id="org")
    assert request.update_mask.paths == ["credit_limit_nano_usd", "allowed_models", "expire_time"]
    assert run.result().exit_code == 0
    run = invoke("accounts", "update", "org", "--name", "New", "--expires-in", "1d")
    request = run.answer("AccountService.UpdateAccount", account())
    assert (request.account.display_name, request.update_mask.paths) == ("New", ["display_name", "expire_time"])
    assert invoke("accounts", "update", "org").result().exit_code == 2


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
    run = invoke("accounts", "list", "--parent", "org")
    odd = account(id="a", display_name="B\x1b[2J\nC", parent_id="acct_1")
    page = account_pb2.ListAccountsResponse(accounts=[account(), odd])
    assert run.answer("AccountService.ListAccounts", page).parent_id == "org"
    assert run.result().stdout.splitlines() == [
        "ID      NAME    KIND  PARENT  CREATED",
        "acct_1  Ada     user          2026-01-02 03:04:05Z",
        "a       B[2J C  user  acct_1  2026-01-02 03:04:05Z",
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
