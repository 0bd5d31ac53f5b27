"""Who calls, and under which request id: what every servicer may ask about the call it serves.

`core.access.guard` sets it before a handler runs; it is a context variable because the generated servicers fix the
handlers' parameters.
"""

from __future__ import annotations

import enum
from contextvars import ContextVar

import msgspec


class Role(enum.Enum):
    """What a credential is; `core.access.authorization` says what each may call."""

    ANONYMOUS = "anonymous"
    API_KEY = "api_key"
    SERVICE_KEY = "service_key"
    """A key of an account of kind service."""
    OPERATOR = "operator"


class Caller(msgspec.Struct, frozen=True, gc=False):
    """An authenticated credential. The operator acts on the default account; an anonymous caller has none."""

    role: Role
    account_id: str
    key_id: str | None


class Call(msgspec.Struct, frozen=True, gc=False):
    """One RPC in flight. `request_id` is ours, `client_request_id` the caller's, at most 128 characters."""

    request_id: str
    client_request_id: str
    caller: Caller


current_call: ContextVar[Call] = ContextVar("current_call")
"""The call that the running handler serves."""
