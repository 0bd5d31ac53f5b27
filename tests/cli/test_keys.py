"""`worldrouter keys`."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from worldrouter.v1 import auth_pb2

pytestmark = pytest.mark.timeout(20)

SECRET = "wlrouter_1234567890abcdef"


def key(**changes: Any) -> auth_pb2.ApiKey:
    made = auth_pb2.ApiKey(
        id="key_1", account_id="acct_1", display_name="laptop", secret_prefix="wlrouter_12", secret_suffix="cdef"
    )
    made.create_time.FromJsonString("2026-01-02T03:04:05Z")
    made.MergeFrom(auth_pb2.ApiKey(**changes))
    return made


def test_create_prints_the_secret_as_json(invoke: Callable[..., Any]) -> None:
    """`keys create NAME --json` uses the default account and prints `id`, `name` and `secret`."""
    run = invoke("keys", "create", "laptop", "--json")
    request = run.answer("AuthService.CreateApiKey", key(secret=SECRET))
    assert request == auth_pb2.CreateApiKeyRequest(display_name="laptop", idempotency_key="new-id")
    found = json.loads(run.result().stdout)
    assert (found["id"], found["name"], found["secret"]) == ("key_1", "laptop", SECRET)
    assert (found["account_id"], found["state"], found["expire_time"]) == ("acct_1", "active", None)


def test_create_sends_account_and_expiry(invoke: Callable[..., Any]) -> None:
    """--account is sent, and --expires-in as a time from now on."""
    run = invoke("keys", "create", "ci", "--account", "acct_2", "--expires-in", "90d")
    request = run.answer("AuthService.CreateApiKey", key(secret=SECRET))
    assert request.account_id == "acct_2"
    assert request.expire_time.ToDatetime(tzinfo=UTC) == datetime(2026, 8, 2, 3, 2, 1, tzinfo=UTC)
    result = run.result()
    assert f"secret   {SECRET}" in result.stdout
    assert result.stderr == "Keep the secret now: it is not shown again.\n"


@pytest.mark.parametrize("end", ["soon", "90", "2027-01-31", "2027-01-31T00:00:00"])
def test_a_bad_expiry_is_wrong_usage(invoke: Callable[..., Any], end: str) -> None:
    """--expires-in takes a whole number and a unit, or a time that says its zone."""
    result = invoke("keys", "create", "ci", "--expires-in", end).result()
    assert result.exit_code == 2
    assert f"'{end}' is not a length of time such as 90d" in result.stderr


def test_get_shows_how_to_recognise_a_key(invoke: Callable[..., Any]) -> None:
    """`keys get` has no secret to show, only its beginning and its end."""
    run = invoke("keys", "get", "key_1")
    assert run.answer("AuthService.GetApiKey", key()).api_key_id == "key_1"
    result = run.result()
    assert "secret   wlrouter_12…cdef" in result.stdout
    assert result.stderr == ""


def test_json_of_a_key_without_its_secret_has_no_such_field(invoke: Callable[..., Any]) -> None:
    """A script can tell that there is no secret: the field is absent, not empty."""
    run = invoke("keys", "get", "key_1", "--json")
    run.answer("AuthService.GetApiKey", key())
    assert "secret" not in json.loads(run.result().stdout)


def test_list_tells_active_expired_and_revoked_keys_apart(invoke: Callable[..., Any]) -> None:
    """The state of a key goes by its revocation, then by its expiry and the present time."""
    expired, revoked = key(id="key_2"), key(id="key_3")
    expired.expire_time.FromJsonString("2026-05-04T03:02:01Z")
    revoked.revoke_time.FromJsonString("2026-03-01T00:00:00Z")
    run = invoke("keys", "list", "--account", "acct_1")
    request = run.answer("AuthService.ListApiKeys", auth_pb2.ListApiKeysResponse(api_keys=[key(), expired, revoked]))
    assert (request.account_id, request.page_size) == ("acct_1", 100)
    lines = run.result().stdout.splitlines()
    assert lines[0].split() == ["ID", "NAME", "SECRET", "ACCOUNT", "STATE", "CREATED"]
    assert [line.split()[4] for line in lines[1:]] == ["active", "expired", "revoked"]


def test_rotate_leaves_the_grace_time_to_the_core(invoke: Callable[..., Any]) -> None:
    """Without --grace none is sent; the new secret and the end of the old one are printed."""
    run = invoke("keys", "rotate", "key_1", "--json")
    answer = auth_pb2.RotateApiKeyResponse(api_key=key(secret=SECRET))
    answer.old_secret_expire_time.FromJsonString("2026-05-05T03:02:01Z")
    request = run.answer("AuthService.RotateApiKey", answer)
    assert request.api_key_id == "key_1"
    assert not request.HasField("grace_period")
    found = json.loads(run.result().stdout)
    assert (found["secret"], found["old_secret_expire_time"]) == (SECRET, "2026-05-05T03:02:01.000000Z")


def test_rotate_can_end_the_old_secret_at_once(invoke: Callable[..., Any]) -> None:
    """--grace 0s is sent as zero, which is not the same as leaving it out."""
    run = invoke("keys", "rotate", "key_1", "--grace", "0s")
    request = run.answer("AuthService.RotateApiKey", auth_pb2.RotateApiKeyResponse(api_key=key(secret=SECRET)))
    assert request.HasField("grace_period")
    assert request.grace_period.seconds == 0
    assert "old secret ends" in run.result().stdout


def test_revoke_prints_the_revoked_key(invoke: Callable[..., Any]) -> None:
    """`keys revoke ID` prints the key as it is now."""
    revoked = key()
    revoked.revoke_time.FromJsonString("2026-05-04T03:02:01Z")
    run = invoke("keys", "revoke", "key_1", "--json")
    request = run.answer("AuthService.RevokeApiKey", auth_pb2.RevokeApiKeyResponse(api_key=revoked))
    assert request.api_key_id == "key_1"
    found = json.loads(run.result().stdout)
    assert (found["state"], found["revoke_time"]) == ("revoked", "2026-05-04T03:02:01.000000Z")


def test_verify_reads_the_key_from_standard_input(invoke: Callable[..., Any]) -> None:
    """A piped key is sent without its line end; a valid one is exit status 0."""
    run = invoke("keys", "verify", "--json", input=SECRET + "\n")
    answer = auth_pb2.VerifyApiKeyResponse(valid=True, api_key_id="key_1", account_id="acct_1")
    assert run.answer("AuthService.VerifyApiKey", answer).secret == SECRET
    result = run.result()
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"valid": True, "id": "key_1", "account_id": "acct_1"}


def test_verify_asks_for_the_key_on_a_terminal(invoke: Callable[..., Any]) -> None:
    """On a terminal the key is asked for and not echoed to standard output's text."""
    run = invoke("keys", "verify", input=SECRET + "\n", stdin_is_terminal=lambda: True)
    answer = auth_pb2.VerifyApiKeyResponse(valid=True, api_key_id="key_1", account_id="acct_1")
    assert run.answer("AuthService.VerifyApiKey", answer).secret == SECRET
    assert SECRET not in run.result().output


def test_a_key_that_is_not_valid_is_exit_status_1(invoke: Callable[..., Any]) -> None:
    """`keys verify` says so on standard output, and by its exit status."""
    run = invoke("keys", "verify", SECRET)
    run.answer("AuthService.VerifyApiKey", auth_pb2.VerifyApiKeyResponse())
    result = run.result()
    assert result.exit_code == 1
    assert result.stdout.startswith("valid  no")


def test_verify_never_sends_an_empty_key(invoke: Callable[..., Any]) -> None:
    """An empty key would mean the caller's own: it is wrong usage instead."""
    result = invoke("keys", "verify", input="\n").result()
    assert result.exit_code == 2
    assert "there is no key on standard input" in result.stderr


@pytest.mark.parametrize(
    ("command", "method"),
    [
        (["keys", "create", "x"], "CreateApiKey"),
        (["keys", "get", "x"], "GetApiKey"),
        (["keys", "list"], "ListApiKeys"),
        (["keys", "rotate", "x"], "RotateApiKey"),
        (["keys", "revoke", "x"], "RevokeApiKey"),
        (["keys", "verify", "x"], "VerifyApiKey"),
    ],
)
def test_every_error_is_one_line(
    invoke: Callable[..., Any], trailers_of: Callable[..., Any], command: list[str], method: str
) -> None:
    """Whatever the command, the core's error is one line with its reason and request id."""
    run = invoke(*command)
    trailers = trailers_of(grpc.StatusCode.NOT_FOUND, "No.", "NOT_FOUND", "req_1")
    run.refuse(f"AuthService.{method}", grpc.StatusCode.NOT_FOUND, "No.", trailers=trailers)
    result = run.result()
    assert (result.exit_code, result.stderr) == (1, "Error: No (NOT_FOUND, request req_1)\n")


def test_models_and_idempotency_keys_are_sent(invoke: Callable[..., Any]) -> None:
    """--models makes a list, --idempotency-key names each change."""
    once = ["--idempotency-key", "k"]
    run = invoke("keys", "create", "ci", "--models", "a,b*", *once, "--json")
    request = run.answer("AuthService.CreateApiKey", key(allowed_models=["a", "b*"]))
    assert (request.allowed_models, request.idempotency_key) == (["a", "b*"], "k")
    assert json.loads(run.result().stdout)["allowed_models"] == ["a", "b*"]
    for words, method, answer in (
        (["rotate"], "RotateApiKey", auth_pb2.RotateApiKeyResponse(api_key=key())),
        (["revoke"], "RevokeApiKey", auth_pb2.RevokeApiKeyResponse(api_key=key())),
        (["update", "--name", "x"], "UpdateApiKey", key()),
    ):
        run = invoke("keys", *words, "key_1", *once)
        assert run.answer(f"AuthService.{method}", answer).idempotency_key == "k"
        assert run.result().exit_code == 0


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, ""),
        (grpc.StatusCode.DEADLINE_EXCEEDED, ""),
        (grpc.StatusCode.UNKNOWN, ""),
        (grpc.StatusCode.INTERNAL, ""),
        (grpc.StatusCode.CANCELLED, ""),
        (grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE"),
        (grpc.StatusCode.INTERNAL, "INTERNAL_ERROR"),
    ],
)
def test_a_change_that_may_have_been_made_names_its_key(
    invoke: Callable[..., Any], trailers_of: Callable[..., Any], code: grpc.StatusCode, reason: str
) -> None:
    """Whatever leaves its outcome open, of gRPC's or of WorldRouter's."""
    run = invoke("keys", "create", "ci")
    trailers = trailers_of(code, "gone", reason, "req_1") if reason else ()
    run.refuse("AuthService.CreateApiKey", code, "gone", trailers=trailers)
    assert "it may have been done all the same: repeat it with --idempotency-key new-id" in run.result().stderr


def test_a_change_that_ends_something_is_repeated_with_the_time(invoke: Callable[..., Any]) -> None:
    """How long from now would mean another time then, and be another request."""
    run = invoke("keys", "create", "ci", "--expires-in", "90d")
    first = run.refuse("AuthService.CreateApiKey", grpc.StatusCode.UNAVAILABLE, "gone")
    said = run.result().stderr
    again = said.partition("repeat it with ")[2].split()
    assert again[:3] == ["--idempotency-key", "new-id", "--expires-in"]
    run = invoke("keys", "create", "ci", *again)
    assert run.answer("AuthService.CreateApiKey", key()) == first
    run.result()


def test_update_sends_what_was_given(invoke: Callable[..., Any]) -> None:
    """The mask of `keys update` names the options that were given; without one it is wrong usage."""
    run = invoke("keys", "update", "key_1", "--models", "*", "--never-expires")
    request = run.answer("AuthService.UpdateApiKey", key())
    assert request.api_key == auth_pb2.ApiKey(id="key_1")
    assert request.update_mask.paths == ["expire_time", "allowed_models"]
    assert run.result().exit_code == 0
    assert invoke("keys", "update", "key_1").result().exit_code == 2
