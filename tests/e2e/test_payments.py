"""Credit bought at a whole router through the built-in test page, and where that page is refused."""

from __future__ import annotations

import re
import urllib.error
import urllib.parse
import urllib.request
from html import unescape
from typing import Any

import pytest
from worldrouter.v1.metering_pb2 import GetBalanceRequest
from worldrouter.v1.payment_pb2 import PAYMENT_STATE_PAID, CreatePaymentRequest, GetPaymentRequest

ENABLED = "[payments.test]\nenabled = true\n"
NANO_USD_PER_USD = 10**9


def pay(page: str) -> str:
    """Press the first button of a page; what it shows then."""
    with urllib.request.urlopen(page, timeout=10) as answer:
        form = dict(re.findall(r'name="(event|signature)" value="([^"]*)"', answer.read().decode())[:2])
    data = urllib.parse.urlencode({name: unescape(value) for name, value in form.items()}).encode()
    with urllib.request.urlopen(page, data, timeout=10) as answer:
        return answer.read().decode()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["serve", "apart"])
def test_a_payment_at_the_test_page_is_credited(launcher: Any, scripted_config: str, how: str) -> None:
    """Begun by the operator, paid at the page, credited at once; in one process and in two."""
    router = getattr(launcher, how)(scripted_config + ENABLED)
    client = router.operator
    before = client.metering.GetBalance(GetBalanceRequest()).balance_nano_usd
    payment = client.payments.CreatePayment(CreatePaymentRequest(amount_nano_usd=10 * NANO_USD_PER_USD))
    assert "<dd>paid</dd>" in pay(f"{router.http}/test-pay/{payment.id}")
    got = client.payments.GetPayment(GetPaymentRequest(payment_id=payment.id))
    assert got.state == PAYMENT_STATE_PAID
    after = client.metering.GetBalance(GetBalanceRequest()).balance_nano_usd
    assert after - before == 10 * NANO_USD_PER_USD


def test_a_router_without_test_payments_has_no_page(scripted_router: Any) -> None:
    """404, also for a webhook of a provider that is not configured."""
    for path, data in (("/test-pay/pay_1", None), ("/webhooks/test", b"{}"), ("/webhooks/stripe", b"{}")):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(scripted_router.http + path, data, timeout=10)
        assert caught.value.code == 404
        caught.value.close()


def test_test_payments_are_refused_beyond_loopback(launcher: Any, scripted_config: str) -> None:
    """`serve` does not start, and says what to do."""
    home = launcher.home()
    home.parent.mkdir(parents=True)
    config = home.parent / "worldrouter.toml"
    config.write_text(scripted_config + ENABLED)
    process = launcher.run("serve", "--host", "0.0.0.0", "--http-port", "0", "--config", str(config), home=home)
    assert process.wait(timeout=30) == 1
    assert "payments.test.enabled: edge.host is '0.0.0.0'" in (home.parent / "serve.err").read_text()
