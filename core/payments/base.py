"""What a payment provider is to the core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from core.errors import InvalidRequest
from storage.records import Payment


class BadSignature(InvalidRequest):
    """A webhook is not the provider's: its signature is missing, wrong or too old, or it is no event at all."""

    def __init__(self) -> None:
        super().__init__("The signature of this webhook is not valid.", param="headers", code="invalid_signature")


@dataclass(frozen=True, slots=True)
class Begun:
    """A payment at its provider: the provider's own name for it, and the page where it is paid."""

    reference: str
    url: str


@dataclass(frozen=True, slots=True)
class PaymentEvent:
    """What a provider says of a payment: that so much was paid (nanodollars), or (None) that it will not be."""

    payment_id: str
    paid_nano_usd: int | None


class PaymentProvider(Protocol):
    """A payment provider. `note` stands in the ledger beside what it credits."""

    note: str

    async def begin(self, payment: Payment) -> Begun:
        """Have amount and fee asked for; the same payment again is the same one there. UpstreamFailed."""
        ...

    def verify(self, body: bytes, headers: Mapping[str, str]) -> PaymentEvent | None:
        """What a signed webhook says; None when it is about nothing of ours. BadSignature.

        Names of `headers` are in lower case.
        """
        ...
