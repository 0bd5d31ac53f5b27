"""Admission: what is held, what is refused, and when the output limit is lowered."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from core.call import Caller, Role
from core.catalog import Model, price_of
from core.chat.admission import MIN_LOWERED_TOKENS, SLACK_TOKENS, Admission, Reserved
from core.chat.envelope import Envelope, read_envelope
from core.errors import InsufficientBalance, RequestTooLarge, ServiceUnavailable
from core.money.escrow import Escrow, EscrowSettings
from core.money.funds import Funds
from core.money.ratios import PER_TOKENS, TextRatios
from core.money.usage import TokenCounts
from core.rates.rates import Rates

USD = 1_000_000_000
IN, OUT = 1_000, 2_000  # nUSD per token: 1 and 2 USD a thousand


def model(*, max_output: int = 10_000, image_tokens: int = 4_096, scale: int = 1) -> Model:
    price = price_of(
        "m",
        input_pico_usd=IN * 1_000 * scale,
        output_pico_usd=OUT * 1_000 * scale,
        cache_read_pico_usd=0,
        cache_write_pico_usd=0,
    )
    return Model("m", "m", "o", 0, max_output, 0, price, True, True, image_tokens, None, ())


def envelope(text: str = "x" * 1_000, **fields: Any) -> Envelope:
    return read_envelope(json.dumps({"model": "m", "messages": [{"role": "user", "content": text}], **fields}).encode())


class Writer:
    """A ledger writer, as far as admission sees it."""

    healthy = True


@dataclass
class Gate:
    """An admission over a real store with account "a"."""

    admission: Admission
    escrow: Escrow
    ratios: TextRatios
    writer: Writer
    store: Any

    async def fund(self, nano_usd: int) -> None:
        await self.store.create_account("a", "a", "user")
        await self.store.adjust(ref="start", account_id="a", amount_nano_usd=nano_usd, note="x")

    async def reserve(self, asked: Envelope, of: Model | None = None) -> Reserved:
        return await self.admission.reserve(Caller(Role.API_KEY, "a", "key_1"), asked, of or model())


@pytest.fixture
async def gate(store: Any, clock: Any) -> Gate:
    await store.register_core("core_1")
    numbers = itertools.count()
    escrow = Escrow(
        store,
        core_id="core_1",
        settings=EscrowSettings(chunk_nano_usd=1),
        clock=clock,
        new_lease_id=lambda: f"lease_{next(numbers)}",
    )
    writer, ratios, funds = Writer(), TextRatios(), Funds(escrow, store, clock=clock)
    ledger: Any = writer
    rates = Rates(store, clock=clock, timeout_s=0.2)
    admission = Admission(
        escrow, funds, ledger, ratios, rates, timeout_s=0.2, credits_url="https://router.example/credits"
    )
    return Gate(admission, escrow, ratios, writer, store)


async def test_the_hold_covers_the_estimated_input_and_all_output(gate: Gate) -> None:
    """Text at the model's low ratio of bytes per token, and the model's whole output limit."""
    await gate.fund(1_000 * USD)
    asked = envelope()
    reserved = await gate.reserve(asked)
    assert reserved.estimate.input_tokens == asked.text_bytes // 2 + 1
    assert reserved.estimate.output_tokens == 10_000
    assert reserved.hold is not None
    assert reserved.hold.amount_nano_usd == reserved.estimate.input_tokens * IN + 10_000 * OUT
    assert reserved.lowered is None


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({"max_tokens": 50}, 50),
        ({"max_completion_tokens": 50}, 50),
        ({"max_tokens": 50, "n": 3}, 150),
        ({"max_tokens": 50, "n_predict": 70}, 70),
        ({"max_tokens": 50, "max_new_tokens": -1}, 10_000),
        ({"n_predict": 70}, 10_000),
        ({"max_tokens": 10**6}, 10_000),
        ({"n": 2}, 20_000),
    ],
)
async def test_the_callers_limit_bounds_the_hold(gate: Gate, fields: dict[str, int], output: int) -> None:
    """For every choice, and never beyond what the model can write."""
    await gate.fund(1_000 * USD)
    assert (await gate.reserve(envelope(**fields))).estimate.output_tokens == output


@pytest.mark.parametrize(
    ("fields", "lowered"),
    [
        ({"n_predict": 70}, None),
        ({"n_predict": 10_000}, None),
        ({"n_predict": -1}, 10_000),
        ({"n_predict": 10_001}, 10_000),
    ],
)
async def test_a_foreign_limit_beyond_the_hold_is_lowered_to_it(
    gate: Gate, fields: dict[str, int], lowered: int | None
) -> None:
    """Else an upstream that heeds it would write what nothing was held for."""
    await gate.fund(1_000 * USD)
    assert (await gate.reserve(envelope(**fields))).lowered == lowered


async def test_media_is_held_for_at_a_flat_maximum(gate: Gate) -> None:
    """Each image as the model's `max_image_tokens`."""
    await gate.fund(1_000 * USD)
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 100_000}}
    body = {"model": "m", "messages": [{"role": "user", "content": [image, image]}], "max_tokens": 1}
    reserved = await gate.reserve(read_envelope(json.dumps(body).encode()))
    assert 8_192 < reserved.estimate.input_tokens < 8_192 + 100


async def test_what_images_may_count_is_believed(gate: Gate) -> None:
    """An upstream may count every image in full, however short its address is; beyond that its usage is absurd."""
    await gate.fund(1_000 * USD)
    images = [{"type": "image_url", "image_url": {"url": f"https://x.example/{number}.png"}} for number in range(20)]
    asked = read_envelope(json.dumps({"model": "m", "messages": [{"role": "user", "content": images}]}).encode())
    estimate = (await gate.reserve(asked)).estimate
    most = asked.body_bytes + 20 * 4_096 + SLACK_TOKENS
    assert not estimate.is_absurd(TokenCounts(prompt=most, completion=1))
    assert estimate.is_absurd(TokenCounts(prompt=most + 1, completion=1))


async def test_what_all_choices_may_write_is_believed(gate: Gate) -> None:
    """Of an upstream that minds no output limit each may be as long as the model can write."""
    await gate.fund(1_000 * USD)
    estimate = (await gate.reserve(envelope(n=4, max_tokens=10))).estimate
    assert not estimate.is_absurd(TokenCounts(prompt=1, completion=4 * 10_000))


async def test_the_ratio_is_the_models_own(gate: Gate) -> None:
    """What was learned of a model sizes its holds."""
    await gate.fund(1_000 * USD)
    gate.ratios.of("m").low = 4 * PER_TOKENS
    asked = envelope()
    assert (await gate.reserve(asked)).estimate.input_tokens == asked.text_bytes // 4 + 1


async def test_a_limit_that_the_caller_set_is_not_lowered(gate: Gate) -> None:
    """It is refused, with what is missing, how many tokens there is money for, and where to top up."""
    await gate.fund(USD // 100)
    asked = envelope(max_tokens=10_000)
    with pytest.raises(InsufficientBalance) as caught:
        await gate.reserve(asked)
    error = caught.value
    needed = (asked.text_bytes // 2 + 1) * IN + 10_000 * OUT
    affordable = (USD // 100 - (asked.text_bytes // 2 + 1) * IN) // OUT
    assert error.details() == {
        "missing_nano_usd": str(needed - USD // 100),
        "affordable_token_count": str(affordable),
        "credits_url": "https://router.example/credits",
    }
    assert str(affordable) in error.message
    assert "https://router.example/credits" in error.message
    assert error.retry_after_s is None
    assert await gate.reserve(envelope(max_tokens=affordable))


async def test_a_limit_that_nobody_set_is_lowered_to_what_the_account_can_pay(gate: Gate) -> None:
    """The whole rest of the balance is held for it."""
    await gate.fund(USD // 100)
    asked = envelope()
    reserved = await gate.reserve(asked)
    affordable = (USD // 100 - (asked.text_bytes // 2 + 1) * IN) // OUT
    assert reserved.lowered == affordable == reserved.estimate.output_tokens
    assert reserved.hold is not None
    assert USD // 100 - OUT < reserved.hold.amount_nano_usd <= USD // 100


async def test_a_lowered_limit_is_shared_by_the_choices(gate: Gate) -> None:
    """Each of n choices may be as long."""
    await gate.fund(USD // 100)
    asked = envelope(n=2)
    reserved = await gate.reserve(asked)
    assert reserved.lowered == (USD // 100 - (asked.text_bytes // 2 + 1) * IN) // OUT // 2
    assert reserved.estimate.output_tokens == 2 * reserved.lowered


@pytest.mark.parametrize("short", [0, 1])
async def test_a_limit_is_not_lowered_below_what_is_useful(gate: Gate, short: int) -> None:
    """1,024 tokens; with money for one less the request is refused."""
    asked = envelope()
    await gate.fund((asked.text_bytes // 2 + 1) * IN + MIN_LOWERED_TOKENS * OUT - short)
    if short:
        with pytest.raises(InsufficientBalance) as caught:
            await gate.reserve(asked)
        assert caught.value.affordable_tokens == MIN_LOWERED_TOKENS - 1
    else:
        assert (await gate.reserve(asked)).lowered == MIN_LOWERED_TOKENS


async def test_who_waits_for_running_requests_is_told_so(gate: Gate) -> None:
    """When their end would leave enough, the refusal says when to try again."""
    asked = envelope(max_tokens=10_000)
    needed = (asked.text_bytes // 2 + 1) * IN + 10_000 * OUT
    await gate.fund(needed)
    first = await gate.reserve(asked)
    with pytest.raises(InsufficientBalance) as caught:
        await gate.reserve(asked)
    assert caught.value.retry_after_s == 1
    assert first.hold is not None
    gate.escrow.release(first.hold)
    assert await gate.reserve(asked)


async def test_two_who_want_all_that_is_left_do_not_both_get_it(gate: Gate) -> None:
    """One is admitted with a lowered limit, the other refused."""
    await gate.fund(USD // 100)
    found = await asyncio.gather(*(gate.reserve(envelope()) for _ in range(2)), return_exceptions=True)
    assert [type(each).__name__ for each in found] in (
        ["Reserved", "InsufficientBalance"],
        ["InsufficientBalance", "Reserved"],
    )
    assert gate.escrow.held_nano_usd <= USD // 100


async def test_a_free_model_needs_no_money(gate: Gate) -> None:
    """Not even an account with a balance."""
    reserved = await gate.reserve(envelope(), model(scale=0))
    assert reserved.hold is None


async def test_a_silent_database_is_not_waited_for(gate: Gate) -> None:
    """Unavailable within the admission timeout, and nothing stays held."""
    await gate.fund(USD)
    gate.store.faults["acquire"] = ["hang"]
    with pytest.raises(ServiceUnavailable) as caught:
        await gate.reserve(envelope(max_tokens=1))
    assert caught.value.retry_after_s == 1
    gate.store.resume.set()
    await gate.store.still()
    assert gate.escrow.held_nano_usd == 0


async def test_nobody_is_admitted_while_draining_or_without_a_ledger(gate: Gate) -> None:
    """Both are 503 with a time to try again."""
    gate.admission.refuse_if_closed()
    gate.writer.healthy = False
    with pytest.raises(ServiceUnavailable) as caught:
        gate.admission.refuse_if_closed()
    assert caught.value.retry_after_s == 1
    gate.writer.healthy = True
    gate.admission.close()
    with pytest.raises(ServiceUnavailable, match="shutting down") as caught:
        gate.admission.refuse_if_closed()
    assert caught.value.retry_after_s == 1


async def test_a_body_of_just_the_limit_is_not_too_large(gate: Gate) -> None:
    """One byte more is."""
    gate.admission.refuse_too_large(bytes(10 << 20))
    with pytest.raises(RequestTooLarge):
        gate.admission.refuse_too_large(bytes((10 << 20) + 1))


async def test_a_model_with_its_own_image_size_is_held_for_that(gate: Gate) -> None:
    """A setting of the model."""
    await gate.fund(1_000 * USD)
    image = {"type": "image_url", "image_url": {"url": "x"}}
    body = {"model": "m", "messages": [{"role": "user", "content": [image]}], "max_tokens": 1}
    small = replace(model(), max_image_tokens=10)
    assert (await gate.reserve(read_envelope(json.dumps(body).encode()), small)).estimate.input_tokens < 80
