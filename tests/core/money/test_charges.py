"""What an answer is charged, whatever its upstream says it used: against a computation that shares nothing with it."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import pytest

INPUT_USD, OUTPUT_USD, CACHED_USD = Fraction(1, 10**6), Fraction(2, 10**6), Fraction(1, 2 * 10**6)
TEXT = "one two three four five six"
HOLD_OF_OUTPUT = 100
ROUNDS = 25


def reported(randomness: random.Random) -> dict[str, Any] | None:
    """A usage object, as upstreams make them; None for none."""
    prompt, completion = randomness.choice([0, 1, 7, 25]), randomness.choice([0, 1, 6, HOLD_OF_OUTPUT])
    usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
    kind = randomness.choice(["plain", "plain", "missing", "zero", "cached", "too much cached", "negative", "no count"])
    if kind == "missing":
        return None
    if kind == "zero":
        return {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    if "cached" in kind:
        usage["prompt_tokens_details"] = {"cached_tokens": prompt * 3 if kind == "too much cached" else prompt // 2}
    if kind == "negative":
        usage[randomness.choice(["prompt_tokens", "completion_tokens"])] = -randomness.randint(1, 50)
    if kind == "no count":
        usage[randomness.choice(["prompt_tokens", "completion_tokens"])] = None
    return usage


def exact(usage: dict[str, Any] | None) -> int | None:
    """What this usage costs in nanodollars; None when it says nothing that can be charged."""
    if usage is None:
        return None
    prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
    if prompt is None or completion is None or prompt < 0 or completion < 0:
        return None
    cached = min(usage.get("prompt_tokens_details", {}).get("cached_tokens", 0), prompt)
    usd = (prompt - cached) * INPUT_USD + cached * CACHED_USD + completion * OUTPUT_USD
    return math.ceil(usd * 10**9)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("number", range(4))
async def test_what_was_used_is_charged_and_what_nobody_counted_is_estimated(
    router: Any, stream: bool, number: int
) -> None:
    """Reported usage is charged to the nanodollar, zero is nothing; without usable usage the answer is not free."""
    randomness = random.Random(f"{number} {stream}")
    for at in range(1, ROUNDS + 1):
        usage = reported(randomness)
        script: dict[str, Any] = {"text": TEXT, **({"usage_mode": "missing"} if usage is None else {"usage": usage})}
        if stream:
            assert await router.chunks({"stream": True, "script": script})
        else:
            await router.unary({"script": script})
        row = await router.row(f"req{at}")
        charged, cost = row["amount_nano_usd"], exact(usage)
        assert row["shortfall_nano_usd"] == 0, usage
        assert row["estimated"] is (cost is None), usage
        if cost is None:
            # Between a token for each 6 bytes and one for each byte.
            assert len(TEXT) // 6 * OUTPUT_USD * 10**9 <= charged <= HOLD_OF_OUTPUT * OUTPUT_USD * 10**9, usage
        else:
            assert charged == cost, usage
