"""Which payment providers there are, and which are refused."""

from __future__ import annotations

import sys

import pytest

from core.configured import payment_providers, refuse_exposed_test_payments
from core.settings import BadSettings, PaymentSettings, convert, load

STRIPE = {
    "api_key": "env:KEY",
    "webhook_secret": "env:SECRET",
    "success_url": "https://example.com/a",
    "cancel_url": "https://example.com/b",
}
ENVIRONMENT = {"KEY": "sk_test", "SECRET": "whsec"}


def test_there_are_none_by_default() -> None:
    """Nor does the environment make one."""
    settings = load(None, {"WORLDROUTER_PAYMENTS_TEST_ENABLED": "true", "WORLDROUTER_PAYMENTS_TEST": "true"}, {})
    assert payment_providers(settings.payments, "token", {}) == {}


def test_test_payments_are_enabled_by_the_file_alone() -> None:
    """Processes of one operator's token trust one another's pages, others do not."""
    settings = convert({"payments": {"test": {"enabled": True}}}).payments
    assert list(payment_providers(settings, "token", {})) == ["test"]


@pytest.mark.parametrize(("core", "http"), [("127.0.0.1", "0.0.0.0"), ("0.0.0.0", "127.0.0.1"), ("::1", "router")])
def test_test_payments_are_refused_where_others_come(core: str, http: str) -> None:
    """The error names the setting, the host and the way out; without test payments every host is fine."""
    settings = convert({"core": {"host": core}, "payments": {"test": {"enabled": True}}})
    with pytest.raises(BadSettings, match=r"payments\.test\.enabled: (core|edge)\.host is .* loopback only"):
        refuse_exposed_test_payments(settings, http)
    refuse_exposed_test_payments(convert({"core": {"host": core}}), http)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_test_payments_are_allowed_on_loopback(host: str) -> None:
    """By every name of it."""
    refuse_exposed_test_payments(convert({"payments": {"test": {"enabled": True}}}), host)


@pytest.mark.parametrize("missing", ["webhook_secret", "success_url", "cancel_url"])
def test_stripe_needs_all_of_its_settings(missing: str) -> None:
    """What is missing is named."""
    pytest.importorskip("stripe", reason="the extra `stripe` is not installed")
    whole = convert({"payments": {"stripe": STRIPE}}).payments
    assert list(payment_providers(whole, "token", ENVIRONMENT)) == ["stripe"]
    part = convert({"payments": {"stripe": {**STRIPE, missing: ""}}}).payments
    with pytest.raises(BadSettings, match=rf"payments\.stripe: {missing} is not set"):
        payment_providers(part, "token", ENVIRONMENT)


def test_stripe_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is an extra."""
    monkeypatch.setitem(sys.modules, "stripe", None)
    settings: PaymentSettings = convert({"payments": {"stripe": STRIPE}}).payments
    with pytest.raises(BadSettings, match=r"worldrouter\[stripe\]"):
        payment_providers(settings, "token", ENVIRONMENT)
