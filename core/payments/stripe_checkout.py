"""Stripe, by its Checkout page and the `stripe` library. Experimental: it has not met the live service yet.

Facts: https://docs.stripe.com/checkout/fulfillment (events, `payment_status`), https://docs.stripe.com/webhooks
(signatures), https://docs.stripe.com/currencies (amounts are in cents).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from core.errors import UpstreamFailed
from core.payments.base import BadSignature, Begun, PaymentEvent
from storage.records import Payment

_log = logging.getLogger(__name__)

NANO_USD_PER_CENT = 10_000_000
TIMEOUT_S = 10.0
_PAID = frozenset({"checkout.session.completed", "checkout.session.async_payment_succeeded"})
_FAILED = frozenset({"checkout.session.expired", "checkout.session.async_payment_failed"})
_METADATA = "worldrouter_payment"


class _Data(msgspec.Struct):
    object: dict[str, Any]


class _Event(msgspec.Struct):
    type: str
    data: _Data


class _Session(msgspec.Struct):
    amount_total: int | None = None
    currency: str | None = None
    payment_status: str = ""
    metadata: dict[str, str] | None = None


class StripeCheckout:
    """`PaymentProvider` over Stripe's Checkout Sessions. ModuleNotFoundError without the library."""

    note = ""

    def __init__(
        self, *, api_key: str, webhook_secret: str, success_url: str, cancel_url: str, api_base: str = ""
    ) -> None:
        """Who has paid is sent to `success_url`, who gives up to `cancel_url`; `api_base` is not Stripe's own API."""
        # Only who configures Stripe needs its library.
        self._stripe: Any = importlib.import_module("stripe")
        self._api_key = api_key
        self._webhook_secret = webhook_secret
        self._urls = {"success_url": success_url, "cancel_url": cancel_url}
        self._addresses = {"api": api_base} if api_base else {}

    async def begin(self, payment: Payment) -> Begun:
        """Make a Checkout Session, once per payment. UpstreamFailed."""
        http = self._stripe.AIOHTTPClient(timeout=TIMEOUT_S)
        client = self._stripe.StripeClient(
            self._api_key, http_client=http, base_addresses=self._addresses, max_network_retries=1
        )
        try:
            session = await client.v1.checkout.sessions.create_async(
                self._params(payment), {"idempotency_key": payment.id}
            )
        except self._stripe.StripeError as error:
            _log.error("Stripe did not begin payment %s: %s", payment.id, type(error).__name__)
            raise UpstreamFailed("The payment provider failed; try again.") from error
        finally:
            await http.close_async()
        return Begun(session.id, session.url)

    def verify(self, body: bytes, headers: Mapping[str, str]) -> PaymentEvent | None:
        """What an event of a Checkout Session of ours says. BadSignature."""
        tolerance_s = self._stripe.Webhook.DEFAULT_TOLERANCE
        try:
            signature = headers.get("stripe-signature", "")
            self._stripe.WebhookSignature.verify_header(body, signature, self._webhook_secret, tolerance_s)
            event = msgspec.json.decode(body, type=_Event)
            if event.type not in _PAID | _FAILED:
                return None
            session = msgspec.convert(event.data.object, _Session)
        except (self._stripe.SignatureVerificationError, msgspec.MsgspecError, ValueError) as error:
            raise BadSignature from error
        payment_id = (session.metadata or {}).get(_METADATA)
        if payment_id is None:
            return None
        if event.type in _FAILED:
            return PaymentEvent(payment_id, None)
        if session.payment_status != "paid":
            return None  # the money is still on its way: another event will tell
        cents = session.amount_total or 0 if session.currency == "usd" else 0
        return PaymentEvent(payment_id, cents * NANO_USD_PER_CENT)

    def _params(self, payment: Payment) -> dict[str, Any]:
        cents = (payment.amount_nano_usd + payment.fee_nano_usd) // NANO_USD_PER_CENT
        price = {"currency": "usd", "unit_amount": cents, "product_data": {"name": "WorldRouter credit"}}
        return {
            "mode": "payment",
            "line_items": [{"price_data": price, "quantity": 1}],
            "client_reference_id": payment.id,
            "metadata": {_METADATA: payment.id},
            **self._urls,
        }
