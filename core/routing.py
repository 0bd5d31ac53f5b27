"""Which endpoints a request tries, in which order, and when a failure may go to the next. Pure."""

from __future__ import annotations

from core.catalog import Endpoint, Model
from core.errors import RateLimited, ServiceUnavailable, UpstreamFailed, UpstreamRefused, WorldRouterError

MAX_ATTEMPTS = 3


def plan(model: Model) -> tuple[Endpoint, ...]:
    """The endpoints to try, in the configured order, at most MAX_ATTEMPTS."""
    return model.endpoints[:MAX_ATTEMPTS]


def may_fail_over(error: WorldRouterError) -> bool:
    """Whether another endpoint may do better: passing trouble of the upstream, not of the request or of our setup."""
    passing = isinstance(error, UpstreamFailed | RateLimited | ServiceUnavailable)
    return passing and not isinstance(error, UpstreamRefused)
