"""Whether a request may run, and the money it needs set aside."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TypeVar

import msgspec

from core.call import Caller, Policy
from core.catalog import Model
from core.chat.envelope import Envelope
from core.errors import (
    BudgetExceeded,
    InsufficientBalance,
    RateLimited,
    RequestTooLarge,
    ServiceUnavailable,
    WorldRouterError,
)
from core.money.escrow import Escrow, Hold, OutOfFunds
from core.money.funds import Chain, Funds, OverLimit
from core.money.ledger import LedgerWriter
from core.money.limit_texts import budget_text, none_text, owner_text, renewal_text
from core.money.meter import Estimate
from core.money.pricing import affordable_output_tokens, hold_nano_usd, usd_text
from core.money.ratios import PER_TOKENS, TextRatios
from core.rates.rates import Passed, Rates
from storage.limit_records import Limit

T = TypeVar("T")

MIN_LOWERED_TOKENS = 1_024
"""An output limit that the caller did not set is lowered to what the balance can pay, but not below this."""

EXPECTED_OUTPUT_TOKENS = 512
"""What a request without an output limit is expected to write, as far as tokens per minute are concerned."""

MAX_LOWERINGS = 16
"""How often the limit is lowered for one request: once for each budget that is smaller than the one before."""

SLACK_TOKENS = 4_096
"""What a provider may count beyond the bytes of a request: templates, hidden instructions."""


class Reserved(msgspec.Struct, frozen=True):
    """A hold (None for a free model), what it was sized by, the output limit if it had to be lowered, and the hold
    with those of the limits that bind the caller (None: there are none)."""

    hold: Hold | None
    estimate: Estimate
    lowered: int | None = None
    chain: Chain | None = None


class Admission:
    """The gate that every chat passes. `close` refuses all further ones."""

    def __init__(
        self,
        escrow: Escrow,
        funds: Funds,
        ledger: LedgerWriter,
        ratios: TextRatios,
        rates: Rates,
        *,
        timeout_s: float,
        credits_url: str | None,
        max_body_bytes: int = 10 << 20,
    ) -> None:
        self._escrow = escrow
        self._funds = funds
        self._ledger = ledger
        self._ratios = ratios
        self._rates = rates
        self._timeout_s = timeout_s
        self._credits_url = credits_url
        self._max_body_bytes = max_body_bytes
        self._closed = False

    def close(self) -> None:
        """Refuse new requests from now on."""
        self._closed = True

    def refuse_too_large(self, body: bytes) -> None:
        """RequestTooLarge for a body over the limit."""
        if len(body) > self._max_body_bytes:
            raise RequestTooLarge(f"The body is larger than {self._max_body_bytes} bytes.")

    def refuse_if_closed(self) -> None:
        """ServiceUnavailable while draining, or while the ledger cannot be written."""
        if self._closed:
            raise ServiceUnavailable("WorldRouter is shutting down.", retry_after_s=1)
        if not self._ledger.healthy:
            raise ServiceUnavailable("The ledger's database does not answer.", retry_after_s=1)

    async def reserve(self, caller: Caller, envelope: Envelope, model: Model) -> Reserved:
        """Hold what the request can cost at most, of the payer and of every limit that binds the caller.

        InsufficientBalance when the account cannot pay, BudgetExceeded when a limit on spend cannot; where the caller
        set no output limit, the limit is first lowered to what they can pay. RateLimited when as many requests run as
        may. A limit beyond what the model can write is lowered to that.
        """
        text_tokens = envelope.text_bytes * PER_TOKENS // self._ratios.of(model.id).low
        media_tokens = envelope.media_tokens(model.max_image_tokens)
        input_tokens = text_tokens + media_tokens + 1
        most, asked = model.max_output_tokens, max(envelope.max_output or 0, envelope.foreign_limit)
        per_choice = most if envelope.max_output is None else min(asked, most)
        capped = most if asked > most else None
        estimate = Estimate(
            input_tokens,
            envelope.choices * per_choice,
            most_input_tokens=envelope.body_bytes + media_tokens + SLACK_TOKENS,
            most_output_tokens=2 * envelope.choices * most + SLACK_TOKENS,
        )
        lowered, left = capped, MAX_LOWERINGS
        while True:
            try:
                return await self._hold(caller, model, estimate, lowered)
            except OutOfFunds as funds:
                affordable = affordable_output_tokens(
                    model.price, nano_usd=funds.payable_nano_usd, input_tokens=input_tokens
                )
                lowered, left = affordable // envelope.choices, left - 1
                if envelope.max_output is not None or lowered < MIN_LOWERED_TOKENS or left < 0:
                    raise self._refusal(model, estimate, funds, affordable) from None
            estimate = msgspec.structs.replace(estimate, output_tokens=envelope.choices * lowered)

    async def count(self, policy: Policy, envelope: Envelope, model: Model) -> Passed | None:
        """Count a request in its limits per minute, before any money is held; None if it has none.

        RateLimited; RequestTooLarge for what never fits; ServiceUnavailable.
        """
        text_tokens = envelope.text_bytes * PER_TOKENS // self._ratios.of(model.id).mean_input
        least = text_tokens + envelope.media_tokens(model.max_image_tokens) + 1
        expected = least
        if envelope.max_output is None:
            expected += envelope.choices * min(model.max_output_tokens, EXPECTED_OUTPUT_TOKENS)
        else:
            least += envelope.choices * min(max(envelope.max_output, envelope.foreign_limit), model.max_output_tokens)
            expected = least
        return await self._rates.admit(policy.limits, token_count=expected, least_token_count=least)

    async def _hold(self, caller: Caller, model: Model, estimate: Estimate, lowered: int | None) -> Reserved:
        amount = _amount(model, estimate)
        if caller.policy is not None and caller.policy.limits:
            chain = await self._chain(caller.payer_id, amount, caller.policy.limits)
            return Reserved(chain.money, estimate, lowered, chain)
        if amount == 0:
            return Reserved(None, estimate, lowered)
        hold = self._escrow.try_hold(caller.payer_id, amount)
        if hold is None:
            hold = await self._in_time(self._escrow.hold(caller.payer_id, amount))
        return Reserved(hold, estimate, lowered)

    async def _chain(self, payer_id: str, amount: int, limits: Sequence[Limit]) -> Chain:
        chain = self._funds.try_hold(payer_id, amount, limits)
        return chain if chain is not None else await self._in_time(self._funds.hold(payer_id, amount, limits))

    async def _in_time(self, work: Coroutine[None, None, T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await work
        except TimeoutError:
            raise ServiceUnavailable("The ledger's database does not answer.", retry_after_s=1) from None

    def _refusal(self, model: Model, estimate: Estimate, funds: OutOfFunds, affordable: int) -> WorldRouterError:
        if isinstance(funds, OverLimit) and funds.limit.measure == "concurrency":
            if funds.limit.amount == 0:
                return RateLimited(none_text(funds.limit))
            return RateLimited(
                f"{owner_text(funds.limit)} may run {funds.limit.amount} requests at once, and does.", retry_after_s=1
            )
        needed = _amount(model, estimate)
        missing = needed - funds.payable_nano_usd
        cost = f"this request may cost {usd_text(needed)} USD, {usd_text(missing)} USD more than is"
        buys = f"which would buy {affordable} output tokens."
        retry_after_s = 1 if funds.payable_nano_usd + funds.held_nano_usd >= needed else None
        if isinstance(funds, OverLimit):
            return BudgetExceeded(
                f"{budget_text(funds.limit)} exceeded: {cost} left, {buys}{renewal_text(funds.purse)}",
                missing_nano_usd=missing,
                affordable_tokens=affordable,
                retry_after_s=retry_after_s,
            )
        where = f" Top up at {self._credits_url}." if self._credits_url else ""
        return InsufficientBalance(
            f"Insufficient balance: {cost} available, {buys}{where}",
            missing_nano_usd=missing,
            affordable_tokens=affordable,
            credits_url=self._credits_url,
            retry_after_s=retry_after_s,
        )


def _amount(model: Model, estimate: Estimate) -> int:
    return hold_nano_usd(model.price, input_tokens=estimate.input_tokens, output_tokens=estimate.output_tokens)
