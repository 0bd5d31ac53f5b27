"""Webhooks of payment providers, and the page of test payments.

The core judges a webhook by its signature; here it is only carried there. The page exists on loopback alone; what
its buttons send is a signed event that only the page holds, so that no other page can send it.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import parse_qs, quote

import grpc
import msgspec
from aiohttp import web
from worldrouter.v1 import payment_pb2, payment_pb2_grpc

from edge.answer import answer_headers
from edge.chat import call_metadata, read_body, whole_answer
from edge.connection import Connection
from edge.request import ChatRequest
from edge.settings import EdgeSettings

WEBHOOK_PATH = "/webhooks/{provider}"
PAGE_PATH = "/test-pay/{payment_id}"
MAX_WEBHOOK_BYTES = 64 << 10
CALL_TIMEOUT_S = 10.0
_NANO_USD_PER_CENT = 10_000_000
_PAGE_HEADERS: Mapping[str, str] = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_STATES: Mapping[int, str] = {
    payment_pb2.PAYMENT_STATE_PENDING: "not paid yet",
    payment_pb2.PAYMENT_STATE_PAID: "paid",
    payment_pb2.PAYMENT_STATE_FAILED: "declined",
}


def is_loopback(host: str) -> bool:
    """Whether this names the machine itself."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Payments:
    """The payment routes over one channel."""

    def __init__(self, channel: grpc.aio.Channel, settings: EdgeSettings) -> None:
        self._stub = payment_pb2_grpc.PaymentServiceStub(channel)
        self._settings = msgspec.structs.replace(settings, body_limit_bytes=MAX_WEBHOOK_BYTES)

    async def webhook(self, request: web.Request, connection: Connection) -> web.StreamResponse:
        """Carry a webhook to the core."""
        body = await read_body(ChatRequest.of(request), self._settings)
        named = ((name.lower(), value) for name, value in request.headers.items())
        signatures = {name: value for name, value in named if name.endswith("signature")}
        call = self._handle(request.match_info["provider"], body, signatures, request)
        await whole_answer(connection, call)
        headers = answer_headers({"Content-Type": "application/json"}, await call.initial_metadata(), None)
        return web.Response(body=b"{}", headers=headers)

    async def page(self, request: web.Request, connection: Connection) -> web.StreamResponse:
        """Show a test payment, with buttons while it is not paid."""
        _require_own_host(request)
        asked = payment_pb2.GetTestPaymentPageRequest(payment_id=request.match_info["payment_id"])
        call = self._stub.GetTestPaymentPage(asked, metadata=call_metadata(request.headers), timeout=CALL_TIMEOUT_S)
        page = await whole_answer(connection, call)
        return web.Response(text=_html(page), headers=_PAGE_HEADERS)

    async def click(self, request: web.Request, connection: Connection) -> web.StreamResponse:
        """Send the event that a button of the page stands for, and show the page again."""
        _require_own_host(request)
        _require_own_page(request)
        form = await read_body(ChatRequest.of(request), self._settings)
        try:
            fields = parse_qs(form.decode("ascii"), strict_parsing=True, max_num_fields=2)
            [body], [signature] = fields["event"], fields["signature"]
        except (ValueError, KeyError):
            raise web.HTTPBadRequest from None
        signatures = {"x-worldrouter-signature": signature}
        await whole_answer(connection, self._handle("test", body.encode("utf-8", "replace"), signatures, request))
        page = "/test-pay/" + quote(request.match_info["payment_id"], safe="")
        return web.Response(status=303, headers={**_PAGE_HEADERS, "Location": page})

    def _handle(
        self, provider: str, body: bytes, signatures: Mapping[str, str], request: web.Request
    ) -> grpc.aio.UnaryUnaryCall[payment_pb2.HandleWebhookRequest, payment_pb2.HandleWebhookResponse]:
        headers = [payment_pb2.WebhookHeader(name=name, value=_text(value)) for name, value in signatures.items()]
        asked = payment_pb2.HandleWebhookRequest(provider=_text(provider), body=body, headers=headers)
        return self._stub.HandleWebhook(asked, metadata=call_metadata(request.headers), timeout=CALL_TIMEOUT_S)


def _require_own_host(request: web.Request) -> None:
    """404 for a name that somebody else made point here (DNS rebinding)."""
    if not is_loopback(request.url.host or ""):
        raise web.HTTPNotFound


def _require_own_page(request: web.Request) -> None:
    """404 for a form of another origin. It could not know an event anyway."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site", "same-origin")
    if site != "same-origin" or origin not in (None, str(request.url.origin())):
        raise web.HTTPNotFound


def _text(value: str) -> str:
    """Text that protobuf takes."""
    return value.encode("utf-8", "replace").decode("utf-8")


def _html(page: payment_pb2.TestPaymentPage) -> str:
    payment = page.payment
    buttons = ""
    if payment.state != payment_pb2.PAYMENT_STATE_PAID:
        buttons = _form("Pay", page.pay_body, page.pay_signature)
        buttons += _form("Decline", page.decline_body, page.decline_signature)
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>Test payment</title></head>
<body>
<h1>Test payment</h1>
<p>For development: no money moves, the credit is real.</p>
<dl>
<dt>Payment</dt><dd>{html.escape(payment.id)}</dd>
<dt>Account</dt><dd>{html.escape(payment.account_id)}</dd>
<dt>Credit</dt><dd>{_usd(payment.amount_nano_usd)} USD</dd>
<dt>Service fee</dt><dd>{_usd(payment.fee_nano_usd)} USD</dd>
<dt>To pay</dt><dd>{_usd(payment.paid_nano_usd)} USD</dd>
<dt>State</dt><dd>{_STATES.get(payment.state, "unknown")}</dd>
</dl>
{buttons}</body>
</html>
"""


def _form(label: str, body: bytes, signature: str) -> str:
    event = html.escape(body.decode("utf-8", "replace"))
    return (
        f'<form method="post"><input type="hidden" name="event" value="{event}">'
        f'<input type="hidden" name="signature" value="{html.escape(signature)}">'
        f'<button type="submit">{label}</button></form>\n'
    )


def _usd(nano_usd: int) -> str:
    """For people: exact, with two decimals at least."""
    usd, cents, rest = nano_usd // 10**9, nano_usd % 10**9 // _NANO_USD_PER_CENT, nano_usd % _NANO_USD_PER_CENT
    return f"{usd}.{cents:02d}" + (f"{rest:07d}".rstrip("0") if rest else "")
