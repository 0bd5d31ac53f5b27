"""The built-in test provider: a page with two buttons, for development. No money moves, but its credit is spent like
any other: it is never on by default, and only where nobody else comes.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

import msgspec

from core.payments.base import BadSignature, Begun, PaymentEvent
from storage.records import Payment

SIGNATURE_HEADER = "x-worldrouter-signature"


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    payment_id: str
    paid_nano_usd: int | None


class Sandbox:
    """`PaymentProvider` whose payments are paid by whoever opens their page. Its events never grow old."""

    note = "test payment"

    def __init__(self, page_url: str, secret: bytes) -> None:
        """`page_url` is the edge that serves the pages, `secret` what their events are signed with."""
        self._page_url = page_url.rstrip("/")
        self._secret = secret

    async def begin(self, payment: Payment) -> Begun:
        """The page is there already."""
        return Begun(f"test_{payment.id}", f"{self._page_url}/test-pay/{payment.id}")

    def event(self, payment: Payment, *, paid: bool) -> tuple[bytes, str]:
        """The body of a webhook about a payment, and its signature."""
        paid_nano_usd = payment.amount_nano_usd + payment.fee_nano_usd if paid else None
        body = msgspec.json.encode(_Body(payment.id, paid_nano_usd))
        return body, self._signature(body)

    def verify(self, body: bytes, headers: Mapping[str, str]) -> PaymentEvent:
        """What a webhook says. BadSignature."""
        given = headers.get(SIGNATURE_HEADER, "").encode("utf-8", "replace")
        if not hmac.compare_digest(self._signature(body).encode(), given):
            raise BadSignature
        said = msgspec.json.decode(body, type=_Body)
        return PaymentEvent(said.payment_id, said.paid_nano_usd)

    def _signature(self, body: bytes) -> str:
        return hmac.new(self._secret, body, hashlib.sha256).hexdigest()
