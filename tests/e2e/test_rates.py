"""Limits per minute as callers meet them: over HTTP, with the openai SDK, in one process and apart."""

from __future__ import annotations

import time
from typing import Any

import openai
import pytest
from worldrouter.v1 import limit_pb2

POLL_S = 2.5
"""After which every core knows of a change."""


def limit(router: Any, owner_id: str, measure: str, maximum: int) -> None:
    """So much per minute."""
    router.operator.limits.SetLimit(
        limit_pb2.SetLimitRequest(
            owner_id=owner_id,
            measure=f"LIMIT_MEASURE_{measure}",  # type: ignore[arg-type]
            period="LIMIT_PERIOD_MINUTE",  # type: ignore[arg-type]
            maximum=maximum,
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["scripted_router", "scripted_apart"])
def test_a_key_and_its_account_are_limited(request: pytest.FixtureRequest, kind: str) -> None:
    """The headers count down, whole and streamed; then 429 with a true wait, by the account's limit for other keys."""
    router: Any = request.getfixturevalue(kind)
    account = router.account(usd=10)
    limit(router, account.key_id, "REQUESTS", 3)
    limit(router, account.id, "TOKENS", 1_000)
    time.sleep(POLL_S)
    client = openai.OpenAI(base_url=router.base_url, api_key=account.key, max_retries=0)
    asked: Any = {
        "model": "scripted",
        "messages": [{"role": "user", "content": "one two three"}],
        "max_tokens": 100,
    }
    began_s = time.monotonic()
    left = []
    for turn in range(3):
        raw = client.chat.completions.with_raw_response.create(**asked, stream=turn == 1)
        raw.parse() if turn != 1 else list(raw.parse())
        left.append((raw.headers["x-ratelimit-remaining-requests"], int(raw.headers["x-ratelimit-remaining-tokens"])))
        assert (raw.headers["x-ratelimit-limit-requests"], raw.headers["x-ratelimit-limit-tokens"]) == ("3", "1000")
    assert [requests for requests, _ in left] == ["2", "1", "0"]
    assert 850 < left[0][1] < 900
    assert left[2][1] > 800  # the first two took a few only
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(**asked)
    headers = caught.value.response.headers
    passed_s = time.monotonic() - began_s
    assert 60 - passed_s <= int(headers["retry-after"]) <= 61
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("3", "0")
    assert headers["x-ratelimit-reset-requests"].endswith("s")
    assert caught.value.code == "rate_limit_exceeded"
    with pytest.raises(openai.APIStatusError) as beyond:
        client.chat.completions.create(**{**asked, "max_tokens": 2_000})
    assert beyond.value.status_code == 413
    client.close()
