"""Who calls, and under which request id: what every servicer may ask about the call it serves.

`core.access.guard` sets it before a handler runs; it is a context variable because the generated servicers fix the
handlers' parameters.
"""

from __future__ import annotations

import enum
from contextvars import ContextVar
from dataclasses import dataclass


class Role(enum.Enum):
    """What a credential is; `core.access.authorization` says what each may call."""

    ANONYMOUS = "anonymous"
    API_KEY = "api_key"
    SERVICE_KEY = "service_key"
    """A key of an account of kind service."""
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated credential. The operator acts on the default account; an anonymous caller has none."""

    role: Role
    account_id: str
    key_id: str | None


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC in flight. `request_id` is ours, `client_request_id` the caller's, at most 128 characters."""

    request_id: str
    client_request_id: str
    caller: Caller


current_call: ContextVar[Call] = ContextVar("current_call")
"""The call that the running handler serves."""
