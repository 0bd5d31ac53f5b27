"""What credit costs: the least that is sold, and the fee on top."""

from __future__ import annotations

from dataclasses import dataclass

from core.errors import InvalidRequest
from core.money.pricing import NANO_USD_PER_USD, service_fee_nano_usd, usd_text

MAX_TOP_UP_NANO_USD = 10_000_000 * NANO_USD_PER_USD
"""Most credit that one payment adds: 10 million USD. Sums of hundreds of these still fit 64 bits."""


@dataclass(frozen=True, slots=True)
class TopUpRules:
    """What a payment must be: the least credit it adds, in nanodollars, and the fee on top in basis points."""

    minimum_nano_usd: int = 10 * NANO_USD_PER_USD
    fee_basis_points: int = 500

    def check(self, amount_nano_usd: int) -> int:
        """The credit to add. Raises InvalidRequest outside the bounds."""
        least, most = max(1, self.minimum_nano_usd), MAX_TOP_UP_NANO_USD
        if not least <= amount_nano_usd <= most:
            raise InvalidRequest(
                f"amount_nano_usd must be {least} to {most} ({usd_text(least)} to {usd_text(most)} USD).",
                param="amount_nano_usd",
            )
        return amount_nano_usd

    def fee_nano_usd(self, amount_nano_usd: int, *, whole_nano_usd: int = 1) -> int:
        """The fee on a credit, rounded up so that both together are a multiple of `whole_nano_usd`."""
        paid = amount_nano_usd + service_fee_nano_usd(amount_nano_usd, self.fee_basis_points)
        return -(-paid // whole_nano_usd) * whole_nano_usd - amount_nano_usd
