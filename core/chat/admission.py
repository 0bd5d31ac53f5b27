"""Whether a request may run, and the money it needs set aside."""

from __future__ import annotations

import asyncio

import msgspec

from core.call import Policy
from core.catalog import Model
from core.chat.envelope import Envelope
from core.errors import InsufficientBalance, RequestTooLarge, ServiceUnavailable
from core.money.escrow import Escrow, Hold, OutOfFunds
from core.money.ledger import LedgerWriter
from core.money.meter import Estimate
from core.money.pricing import affordable_output_tokens, hold_nano_usd, usd_text
from core.money.ratios import TextRatios
from core.rates.rates import Passed, Rates

MIN_LOWERED_TOKENS = 1_024
"""An output limit that the caller did not set is lowered to what the balance can pay, but not below this."""

EXPECTED_OUTPUT_TOKENS = 512
"""What a request without an output limit is expected to write, as far as tokens per minute are concerned."""

SLACK_TOKENS = 4_096
"""What a provider may count beyond the bytes of a request: templates, hidden instructions."""


class Reserved(msgspec.Struct, frozen=True):
    """A hold (None for a free model), what it was sized by, and the output limit if it had to be lowered."""

    hold: Hold | None
    estimate: Estimate
    lowered: int | None = None


class Admission:
    """The gate that every chat passes. `close` refuses all further ones."""

    def __init__(
        self,
        escrow: Escrow,
        ledger: LedgerWriter,
        ratios: TextRatios,
        rates: Rates,
        *,
        timeout_s: float,
        credits_url: str | None,
        max_body_bytes: int = 10 << 20,
    ) -> None:
        self._escrow = escrow
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

    async def reserve(self, account_id: str, envelope: Envelope, model: Model) -> Reserved:
        """Hold what the request can cost at most.

        InsufficientBalance when the account cannot pay; where the caller set no output limit, the limit is first
        lowered to what it can pay. A limit beyond what the model can write is lowered to that.
        """
        ratio = self._ratios.of(model.id)
        input_tokens = int(envelope.text_bytes / ratio.low) + envelope.media * model.max_image_tokens + 1
        most, asked = model.max_output_tokens, max(envelope.max_output or 0, envelope.foreign_limit)
        per_choice = most if envelope.max_output is None else min(asked, most)
        capped = most if asked > most else None
        estimate = Estimate(
            input_tokens,
            envelope.choices * per_choice,
            most_input_tokens=envelope.body_bytes + envelope.media * model.max_image_tokens + SLACK_TOKENS,
            most_output_tokens=2 * envelope.choices * most + SLACK_TOKENS,
        )
        try:
            return Reserved(await self._hold(account_id, model, estimate), estimate, capped)
        except OutOfFunds as funds:
            affordable = affordable_output_tokens(
                model.price, nano_usd=funds.payable_nano_usd, input_tokens=input_tokens
            )
            lowered = affordable // envelope.choices
            if envelope.max_output is not None or lowered < MIN_LOWERED_TOKENS:
                raise self._insufficient(model, estimate, funds, affordable) from None
        estimate = msgspec.structs.replace(estimate, output_tokens=envelope.choices * lowered)
        try:
            return Reserved(await self._hold(account_id, model, estimate), estimate, lowered)
        except OutOfFunds as funds:
            raise self._insufficient(model, estimate, funds, 0) from None

    async def count(self, policy: Policy, key_id: str | None, envelope: Envelope, model: Model) -> Passed | None:
        """Count a request in its limits per minute, before any money is held; None if it has none.

        RateLimited; RequestTooLarge for what never fits; ServiceUnavailable.
        """
        text_tokens = int(envelope.text_bytes / self._ratios.of(model.id).mean_input)
        least = text_tokens + envelope.media * model.max_image_tokens + 1
        expected = least
        if envelope.max_output is None:
            expected += envelope.choices * min(model.max_output_tokens, EXPECTED_OUTPUT_TOKENS)
        else:
            least += envelope.choices * min(max(envelope.max_output, envelope.foreign_limit), model.max_output_tokens)
            expected = least
        return await self._rates.admit(policy.limits, token_count=expected, least_token_count=least, key_id=key_id)

    async def _hold(self, account_id: str, model: Model, estimate: Estimate) -> Hold | None:
        amount = _amount(model, estimate)
        if amount == 0:
            return None
        hold = self._escrow.try_hold(account_id, amount)
        if hold is not None:
            return hold
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._escrow.hold(account_id, amount)
        except TimeoutError:
            raise ServiceUnavailable("The ledger's database does not answer.", retry_after_s=1) from None

    def _insufficient(
        self, model: Model, estimate: Estimate, funds: OutOfFunds, affordable: int
    ) -> InsufficientBalance:
        needed = _amount(model, estimate)
        missing = needed - funds.payable_nano_usd
        where = f" Top up at {self._credits_url}." if self._credits_url else ""
        return InsufficientBalance(
            f"Insufficient balance: this request may cost {usd_text(needed)} USD, {usd_text(missing)} USD more than "
            f"is available, which would buy {affordable} output tokens.{where}",
            missing_nano_usd=missing,
            affordable_tokens=affordable,
            credits_url=self._credits_url,
            retry_after_s=1 if funds.payable_nano_usd + funds.held_nano_usd >= needed else None,
        )


def _amount(model: Model, estimate: Estimate) -> int:
    return hold_nano_usd(model.price, input_tokens=estimate.input_tokens, output_tokens=estimate.output_tokens)
