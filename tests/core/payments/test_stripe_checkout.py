"""The Stripe adapter against a fake of Stripe's API, and webhooks signed with the library's own function."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qsl

import pytest
from aiohttp import web

from core.errors import UpstreamFailed
from core.payments.base import BadSignature, PaymentEvent
from core.payments.stripe_checkout import StripeCheckout
from storage.records import Payment

stripe = pytest.importorskip("stripe", reason="the extra `stripe` is not installed")

SECRET = "whsec_of_the_tests"
PAYMENT = Payment("pay_1", "acc_1", 10_000_000_000, 500_000_000, "stripe", "", "", "pending", 0, 0)


class FakeStripe:
    """Checkout Sessions; `status` is what it answers with."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], dict[str, str]]] = []
        self.status = 200
        self.url = ""

    async def create(self, request: web.Request) -> web.Response:
        form = dict(parse_qsl((await request.read()).decode()))
        self.requests.append((dict(request.headers), form))
        if self.status != 200:
            error = {"error": {"type": "invalid_request_error", "message": "no", "code": "x"}}
            return web.json_response(error, status=self.status)
        made = {"id": "cs_1", "object": "checkout.session", "url": "https://checkout.example/cs_1"}
        return web.json_response(made)


@pytest.fixture
async def api() -> AsyncIterator[FakeStripe]:
    """A fake API on loopback."""
    fake = FakeStripe()
    app = web.Application()
    app.router.add_post("/v1/checkout/sessions", fake.create)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    await runner.cleanup()


def adapter(api_base: str = "") -> StripeCheckout:
    return StripeCheckout(
        api_key="sk_test_1",
        webhook_secret=SECRET,
        success_url="https://example.com/thanks",
        cancel_url="https://example.com/no",
        api_base=api_base,
    )


def event(kind: str = "checkout.session.completed", **fields: Any) -> bytes:
    session = {
        "id": "cs_1",
        "object": "checkout.session",
        "amount_total": 1050,
        "currency": "usd",
        "payment_status": "paid",
        "metadata": {"worldrouter_payment": "pay_1"},
    }
    data = {"object": {**session, **fields}}
    return json.dumps({"id": "evt_1", "object": "event", "type": kind, "data": data}).encode()


def signed(body: bytes, *, secret: str = SECRET, age_s: int = 0) -> dict[str, str]:
    """The header that Stripe would send."""
    now_s = int(time.time()) - age_s
    return {"stripe-signature": stripe.WebhookSignature.generate_signature_header(body.decode(), secret, now_s)}


async def test_a_payment_becomes_a_checkout_session(api: FakeStripe) -> None:
    """Its whole price in cents, its id where the webhook will bring it back, and Stripe's own idempotency key."""
    begun = await adapter(api.url).begin(PAYMENT)
    assert (begun.reference, begun.url) == ("cs_1", "https://checkout.example/cs_1")
    [(headers, form)] = api.requests
    assert headers["Authorization"] == "Bearer sk_test_1"
    assert headers["Idempotency-Key"] == "pay_1"
    assert form["line_items[0][price_data][unit_amount]"] == "1050"
    assert form["line_items[0][price_data][currency]"] == "usd"
    assert form["metadata[worldrouter_payment]"] == form["client_reference_id"] == "pay_1"
    assert (form["mode"], form["success_url"]) == ("payment", "https://example.com/thanks")


async def test_a_refusal_is_an_upstream_error(api: FakeStripe) -> None:
    """What Stripe says is not told to the caller."""
    api.status = 400
    with pytest.raises(UpstreamFailed, match="provider failed"):
        await adapter(api.url).begin(PAYMENT)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (event(), PaymentEvent("pay_1", 10_500_000_000)),
        (event("checkout.session.async_payment_succeeded"), PaymentEvent("pay_1", 10_500_000_000)),
        (event(currency="eur"), PaymentEvent("pay_1", 0)),
        (event("checkout.session.expired", payment_status="unpaid"), PaymentEvent("pay_1", None)),
        (event("checkout.session.async_payment_failed", payment_status="unpaid"), PaymentEvent("pay_1", None)),
        (event(payment_status="unpaid"), None),
        (event("charge.succeeded"), None),
        (event(metadata={}), None),
        (event(metadata=None), None),
    ],
)
def test_what_a_signed_event_says(body: bytes, said: PaymentEvent | None) -> None:
    """Paid, given up, or nothing: money that is still on its way, other events and other shops' sessions."""
    assert adapter().verify(body, signed(body)) == said


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"stripe-signature": ""},
        {"stripe-signature": "t=1,v1=00"},
        {"stripe-signature": "nonsense"},
        signed(event(), secret="whsec_other"),
        signed(event(), age_s=3600),
        signed(event(amount_total=1)),
    ],
    ids=["none", "empty", "wrong", "malformed", "another secret", "old", "another body"],
)
def test_a_bad_signature_is_refused(headers: dict[str, str]) -> None:
    """Whatever is wrong with it."""
    with pytest.raises(BadSignature):
        adapter().verify(event(), headers)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b'{"object": "event"}'])
def test_a_signed_body_that_is_no_event_is_refused(body: bytes) -> None:
    """Not even Stripe's own signature makes an event of it."""
    try:
        headers = signed(body)
    except UnicodeDecodeError:
        headers = signed(event())
    with pytest.raises(BadSignature):
        adapter().verify(body, headers)
