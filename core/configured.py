"""From settings to what the core runs on: catalog, providers, payment providers."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping

import msgspec

from core.catalog import Catalog, Endpoint, Model, price_of
from core.chat.offer import Offer
from core.payments.base import PaymentProvider
from core.payments.sandbox import Sandbox
from core.payments.stripe_checkout import StripeCheckout
from core.process.listen import is_loopback
from core.providers.base import Provider
from core.providers.http import HttpClient, HttpLimits
from core.providers.openai import OpenAIProvider
from core.providers.script import Script
from core.providers.scripted import ScriptedProvider
from core.settings import BadSettings, ModelSettings, PaymentSettings, ProviderSettings, Settings, secret

DEFAULT_PAGE_URL = "http://127.0.0.1:8080"


def catalog(settings: Settings) -> Catalog:
    """The models. BadSettings for one that is configured twice, or names no provider that there is."""
    try:
        return Catalog.of(_model(model, settings.providers) for model in settings.models)
    except ValueError as error:
        raise BadSettings(str(error)) from None


def offer(settings: Settings, client: HttpClient, environment: Mapping[str, str]) -> Offer:
    """All that these settings serve. BadSettings."""
    return Offer(
        catalog=catalog(settings),
        providers=providers(settings, client, environment),
        limit_fields={name: each.output_limit_field for name, each in settings.providers.items()},
        drained_providers=frozenset(
            name for name, each in settings.providers.items() if each.disconnect_policy == "drain"
        ),
    )


def http_client(settings: Settings) -> HttpClient:
    """The connections to all HTTP upstreams."""
    return HttpClient(HttpLimits(connect_timeout_s=settings.timeouts.connect_s))


def providers(settings: Settings, client: HttpClient, environment: Mapping[str, str]) -> dict[str, Provider]:
    """The providers by name. BadSettings for a bad URL or a secret that is not there."""
    return {name: _provider(name, each, client, environment) for name, each in settings.providers.items()}


def payment_providers(
    settings: PaymentSettings, operator_token: str, environment: Mapping[str, str]
) -> dict[str, PaymentProvider]:
    """The payment providers by name. BadSettings for a secret or a library that is not there."""
    found: dict[str, PaymentProvider] = {}
    if settings.test.enabled:
        # Derived, so that all processes of one state folder sign alike.
        key = hmac.new(operator_token.encode(), b"test payments", hashlib.sha256).digest()
        found["test"] = Sandbox(settings.test.page_url or DEFAULT_PAGE_URL, key)
    stripe = settings.stripe
    if stripe.api_key:
        try:
            found["stripe"] = StripeCheckout(
                api_key=secret("api_key", stripe.api_key, environment) or "",
                webhook_secret=_required(
                    "webhook_secret", secret("webhook_secret", stripe.webhook_secret, environment)
                ),
                success_url=_required("success_url", stripe.success_url),
                cancel_url=_required("cancel_url", stripe.cancel_url),
                api_base=stripe.api_base,
            )
        except BadSettings as error:
            raise BadSettings(f"payments.stripe: {error}") from None
        except ModuleNotFoundError:
            raise BadSettings("payments.stripe needs the library: pip install 'worldrouter[stripe]'") from None
    return found


def refuse_exposed_test_payments(settings: Settings, http_host: str) -> None:
    """BadSettings when credit could be had for a click by somebody who is not on this machine."""
    if not settings.payments.test.enabled:
        return
    for name, host in (("core.host", settings.core.host), ("edge.host", http_host)):
        if not is_loopback(host):
            raise BadSettings(
                f"payments.test.enabled: {name} is {host!r}: test payments give credit away, so they are allowed on "
                "loopback only; switch them off, or listen on 127.0.0.1"
            )


def _required(name: str, value: str | None) -> str:
    if not value:
        raise BadSettings(f"{name} is not set")
    return value


def _provider(name: str, settings: ProviderSettings, client: HttpClient, environment: Mapping[str, str]) -> Provider:
    api_key = secret(f"providers.{name}.api_key", settings.api_key, environment)
    try:
        if settings.kind == "scripted":
            return ScriptedProvider(msgspec.convert(settings.script, Script))
        return OpenAIProvider(
            settings.base_url, api_key, client, settings.headers, max_connections=settings.max_connections
        )
    except (ValueError, msgspec.ValidationError) as error:
        raise BadSettings(f"providers.{name}: {error}") from None


def _model(settings: ModelSettings, known: Mapping[str, ProviderSettings]) -> Model:
    price = settings.price
    return Model(
        id=settings.id,
        display_name=settings.display_name or settings.id,
        owned_by=settings.owned_by,
        created_s=settings.created,
        max_output_tokens=settings.max_output_tokens,
        context_tokens=settings.context_tokens,
        price=price_of(
            settings.id,
            input_pico_usd=price.input,
            output_pico_usd=price.output,
            cache_read_pico_usd=price.input if price.cache_read is None else price.cache_read,
            cache_write_pico_usd=price.input if price.cache_write is None else price.cache_write,
        ),
        public=settings.public,
        streaming=settings.streaming,
        max_image_tokens=settings.max_image_tokens,
        first_token_timeout_s=settings.first_token_timeout_s,
        endpoints=tuple(_endpoints(settings, known)),
    )


def _endpoints(settings: ModelSettings, known: Mapping[str, ProviderSettings]) -> Iterable[Endpoint]:
    names: set[str] = set()
    for endpoint in settings.endpoints:
        name = endpoint.name or endpoint.provider
        if endpoint.provider not in known:
            raise BadSettings(f"model {settings.id!r}: there is no provider {endpoint.provider!r}")
        if name in names:
            raise BadSettings(f"model {settings.id!r}: two endpoints are named {name!r}")
        names.add(name)
        yield Endpoint(name, endpoint.provider, endpoint.model)
    if not names:
        raise BadSettings(f"model {settings.id!r} has no endpoint")
