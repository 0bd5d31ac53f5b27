"""Who calls, and under which request id: what every servicer may ask about the call it serves.

`core.access.guard` sets it before a handler runs; it is a context variable because the generated servicers fix the
handlers' parameters.
"""

from __future__ import annotations

import enum
from contextvars import ContextVar

import msgspec

from storage.limit_records import Limit


class Role(enum.Enum):
    """What a credential is; `core.access.authorization` says what each may call."""

    ANONYMOUS = "anonymous"
    API_KEY = "api_key"
    SERVICE_KEY = "service_key"
    """A key of an account of kind service."""
    OPERATOR = "operator"


class Policy(msgspec.Struct, frozen=True):
    """What binds a credential besides its account's balance: the limits of its account, of all accounts above that
    and of its key, outermost first; the IDs of the models it may use (None: all)."""

    limits: tuple[Limit, ...]
    models: frozenset[str] | None


class Caller(msgspec.Struct, frozen=True, gc=False):
    """An authenticated credential. The operator acts on the default account; an anonymous caller has none.

    `account_id` owns the key, `payer_id` (the account itself, or the root of the tree that it is in) pays for it.
    """

    role: Role
    account_id: str
    key_id: str | None
    payer_id: str = ""
    policy: Policy | None = None

    def __post_init__(self) -> None:
        if not self.payer_id:
            msgspec.structs.force_setattr(self, "payer_id", self.account_id)


class Call(msgspec.Struct, frozen=True, gc=False):
    """One RPC in flight. `request_id` is ours, `client_request_id` the caller's, at most 512 characters."""

    request_id: str
    client_request_id: str
    caller: Caller


current_call: ContextVar[Call] = ContextVar("current_call")
"""The call that the running handler serves."""
