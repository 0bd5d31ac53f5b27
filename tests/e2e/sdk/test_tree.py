"""The openai SDK for Python with keys of accounts below others."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import openai
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from worldrouter.v1.account_pb2 import Account, UpdateAccountRequest
from worldrouter.v1.limit_pb2 import DeleteLimitRequest

pytestmark = pytest.mark.slow

ENDS_IN_S = 2.0
CUT_WITHIN_S = 5.0
ASKED = {"model": "scripted", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 9}


async def test_a_team_uses_what_it_may_and_its_organisation_pays(
    scripted_router: Any, connect: Callable[..., Any]
) -> None:
    """A key sees and uses the models that all above it allow; the root is charged, the team has the usage."""
    command = scripted_router.command
    org = scripted_router.account(usd=10)
    command("accounts", "update", org.id, "--models", "scripted,f*,hidden")
    team = command("accounts", "create", "Team", "--parent", org.id, "--models", "s*,h*")["id"]
    key = command("keys", "create", "of a test", "--account", team)
    sdk = connect(scripted_router, key["secret"])
    assert [model.id for model in (await sdk.models()).data] == ["scripted"]
    with pytest.raises(openai.NotFoundError):
        await sdk.model("free")
    for model in ("free", "hidden", "unstreamed"):
        with pytest.raises(openai.PermissionDeniedError) as refused:
            await sdk.create(**{**ASKED, "model": model})
        assert (refused.value.code, refused.value.type) == ("model_not_allowed", "permission_error")
    answer = await sdk.create(**ASKED)
    scripted_router.settle()
    [used] = command("usage", "records", "--account", team)
    assert (used["request_id"], used["account_id"]) == (answer.id.removeprefix("chatcmpl-"), org.id)
    assert command("balance", "--account", org.id)["balance_nano_usd"] == 10 * 10**9 - used["cost_nano_usd"]
    assert command("usage", "records", "--account", org.id) == [used]
    command("keys", "update", key["id"], "--models", "free")
    with pytest.raises(openai.PermissionDeniedError):
        await sdk.create(**ASKED)


async def test_an_account_ends_for_all_below_it(scripted_router: Any, connect: Callable[..., Any]) -> None:
    """Once an account has expired the keys below it are refused, and their running streams are cut."""
    command = scripted_router.command
    org = scripted_router.account(usd=10)
    team = command("accounts", "create", "Team", "--parent", org.id)["id"]
    sdk = connect(scripted_router, command("keys", "create", "of a test", "--account", team)["secret"])
    assert await sdk.create(**ASKED)
    ends = Account(id=org.id)
    ends.expire_time.FromDatetime(datetime.now(UTC) + timedelta(seconds=ENDS_IN_S))
    mask = FieldMask(paths=["expire_time"])
    scripted_router.operator.accounts.UpdateAccount(UpdateAccountRequest(account=ends, update_mask=mask))
    began_s = time.monotonic()
    slow = {"script": {"token_count": 2000, "chunk_delay_ms": 10}}
    with pytest.raises(openai.APIError) as cut:
        await sdk.stream(**{**ASKED, "max_tokens": 2000}, extra_body=slow)
    assert time.monotonic() - began_s < ENDS_IN_S + CUT_WITHIN_S
    assert cut.value.code == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError, match="account of this API key has expired"):
        await sdk.create(**ASKED)


async def test_limits_of_the_command_line_bind_the_sdk(scripted_router: Any, connect: Callable[..., Any]) -> None:
    """A rate of a key, slots and a budget of the team above it are set, used, listed with their use, and lifted."""
    command = scripted_router.command
    org = scripted_router.account(usd=10)
    team = command("accounts", "create", "Team", "--parent", org.id)["id"]
    key = command("keys", "create", "of a test", "--account", team)
    sdk = connect(scripted_router, key["secret"])
    rate = command("limits", "set", key["id"], "--requests", "1")
    budget = command("limits", "set", team, "--usd", "5", "--per", "day")
    await sdk.create(**ASKED)
    with pytest.raises(openai.RateLimitError) as limited:
        await sdk.create(**ASKED)
    assert int(limited.value.response.headers["retry-after"]) <= 60
    command("limits", "set", key["id"], "--requests", "100")
    slots = command("limits", "set", team, "--concurrency", "0")
    with pytest.raises(openai.RateLimitError):
        await sdk.create(**ASKED)
    scripted_router.settle()
    [used] = command("usage", "records", "--account", team)
    listed = command("limits", "list", key["id"], "--inherited")
    assert [limit["id"] for limit in listed] == [budget["id"], slots["id"], rate["id"]]
    assert (listed[0]["used"], listed[2]["used"] >= 1) == (used["cost_nano_usd"], True)
    scripted_router.operator.limits.DeleteLimit(DeleteLimitRequest(limit_id=slots["id"]))
    await sdk.create(**ASKED)
    command("limits", "set", team, "--usd", "0", "--per", "day")
    with pytest.raises(openai.APIStatusError) as spent:
        await sdk.create(**ASKED)
    assert (spent.value.status_code, spent.value.code) == (402, "budget_exceeded")
