"""Webhooks, and the page of test payments."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from typing import Any

import grpc
import pytest
from worldrouter.v1 import payment_pb2, payment_pb2_grpc

SECRET_BODY = b'{"card": "4242"}'


class FakePayments(payment_pb2_grpc.PaymentServiceServicer):
    """The core's part: takes webhooks signed "good", and shows one payment."""

    def __init__(self) -> None:
        self.fail: Any = None
        self.taken: list[payment_pb2.HandleWebhookRequest] = []
        self.payment = payment_pb2.Payment(
            id="pay_1",
            account_id="<acc>",
            amount_nano_usd=10_000_000_001,
            fee_nano_usd=509_999_999,
            paid_nano_usd=10_510_000_000,
            state=payment_pb2.PAYMENT_STATE_PENDING,
        )

    async def HandleWebhook(self, request: Any, context: Any) -> Any:
        self.taken.append(request)
        if {header.value for header in request.headers} != {"good"}:
            await self.fail(context, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", "bad signature")
        self.payment.state = payment_pb2.PAYMENT_STATE_PAID
        return payment_pb2.HandleWebhookResponse()

    async def GetTestPaymentPage(self, request: Any, context: Any) -> Any:
        if request.payment_id != "pay_1":
            await self.fail(context, grpc.StatusCode.NOT_FOUND, "NOT_FOUND", "no such payment")
        return payment_pb2.TestPaymentPage(
            payment=self.payment,
            pay_body=b'{"pay": "\'&<>"}',
            pay_signature="good",
            decline_body=b"no",
            decline_signature="good",
        )


@pytest.fixture
def payments() -> FakePayments:
    """The core's part of payments."""
    return FakePayments()


@pytest.fixture
def add_services(payments: FakePayments) -> Callable[[Any], None]:
    """Served by the fake core, beside its own."""

    def add(fake: Any) -> None:
        payments.fail = fake.fail
        payment_pb2_grpc.add_PaymentServiceServicer_to_server(payments, fake.server)

    return add


async def test_a_webhook_reaches_the_core_as_it_came(edge: Any, http: Any, payments: FakePayments) -> None:
    """Byte for byte, with the headers that hold signatures and no others."""
    headers = {"Stripe-Signature": "good", "Authorization": "Bearer x", "X-Other": "y"}
    async with http.post(f"{edge.url}/webhooks/stripe", data=SECRET_BODY, headers=headers) as answer:
        assert (answer.status, await answer.json()) == (200, {})
        assert answer.headers["x-request-id"]
    [seen] = payments.taken
    assert (seen.provider, seen.body) == ("stripe", SECRET_BODY)
    assert [(header.name, header.value) for header in seen.headers] == [("stripe-signature", "good")]


async def test_a_bad_signature_is_a_400_and_leaves_no_trace(
    edge: Any, http: Any, payments: FakePayments, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing of the body is logged."""
    caplog.set_level("DEBUG")
    async with http.post(f"{edge.url}/webhooks/stripe", data=SECRET_BODY) as answer:
        assert answer.status == 400
        assert (await answer.json())["error"]["message"] == "bad signature"
    assert "4242" not in caplog.text


async def test_a_webhook_is_small(edge: Any, http: Any, payments: FakePayments) -> None:
    """64 KiB pass, one byte more is a 413, encoded ones a 415; neither reaches the core."""
    url, headers = f"{edge.url}/webhooks/test", {"X-Worldrouter-Signature": "good"}
    for size, status in ((65_536, 200), (65_537, 413)):
        async with http.post(url, data=b"x" * size, headers=headers) as answer:
            assert answer.status == status
    async with http.post(url, data=b"x", headers={**headers, "Content-Encoding": "br"}) as answer:
        assert answer.status == 415
    assert len(payments.taken) == 1


async def test_the_page_pays(edge: Any, http: Any, payments: FakePayments) -> None:
    """It shows what is to be paid, without a script; its button sends the signed event, and then it shows that."""
    url = f"{edge.url}/test-pay/pay_1"
    async with http.get(url) as answer:
        assert (answer.status, answer.content_type) == (200, "text/html")
        policy = answer.headers["Content-Security-Policy"]
        assert policy == "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
        assert answer.headers["Cache-Control"] == "no-store"
        text = await answer.text()
    amounts = re.findall(r"<dt>([^<]*)</dt><dd>([0-9.]+) USD</dd>", text)
    assert amounts == [("Credit", "10.000000001"), ("Service fee", "0.509999999"), ("To pay", "10.51")]
    assert "&lt;acc&gt;" in text
    assert "<script" not in text
    [event, _] = re.findall(r'name="event" value="([^"]*)"', text)
    form = {"event": unescape(event), "signature": "good"}
    headers = {"Origin": edge.url, "Sec-Fetch-Site": "same-origin"}
    async with http.post(url, data=form, headers=headers) as answer:
        assert answer.history[0].status == 303
        assert answer.status == 200
        shown = await answer.text()
    assert "<dd>paid</dd>" in shown
    assert "<form" not in shown
    [seen] = payments.taken
    assert (seen.provider, seen.body) == ("test", b'{"pay": "\'&<>"}')


@pytest.mark.parametrize(
    ("headers", "form", "status"),
    [
        ({"Origin": "https://evil.example"}, {"event": "e", "signature": "good"}, 404),
        ({"Origin": "null"}, {"event": "e", "signature": "good"}, 404),
        ({"Sec-Fetch-Site": "cross-site"}, {"event": "e", "signature": "good"}, 404),
        ({"Host": "evil.example"}, {"event": "e", "signature": "good"}, 404),
        ({}, {"event": "e"}, 400),
        ({}, {}, 400),
        ({}, {"event": "e", "signature": "bad"}, 400),
    ],
)
async def test_nobody_elses_form_pays(edge, http, payments, headers, form, status) -> None:
    """Other origins, other names for this machine, forms without the page's signature."""
    async with http.post(f"{edge.url}/test-pay/pay_1", data=form, headers=headers) as answer:
        assert answer.status == status
    assert payments.payment.state == payment_pb2.PAYMENT_STATE_PENDING


async def test_there_is_no_page_of_what_is_no_test_payment(edge: Any, http: Any, payments: FakePayments) -> None:
    """404, as for another host's name."""
    for path, headers in (("pay_2", {}), ("pay_1", {"Host": "evil.example"})):
        async with http.get(f"{edge.url}/test-pay/{path}", headers=headers) as answer:
            assert answer.status == 404


async def test_an_edge_that_others_reach_has_no_page(start_edge: Any, http: Any, payments: FakePayments) -> None:
    """Elsewhere than on loopback there is no such route, whatever the core says."""
    edge = await start_edge(host="0.0.0.0")
    async with http.get(f"http://127.0.0.1:{edge.server.port}/test-pay/pay_1") as answer:
        assert answer.status == 404
        assert "no such route" in (await answer.json())["error"]["message"]
