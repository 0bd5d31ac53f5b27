"""AccountService: who owns a balance."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from worldrouter.v1 import account_pb2, account_pb2_grpc

from core.access.apikeys import ID_PREFIX
from core.access.auth import Authenticator
from core.errors import AlreadyExists, Conflict, InvalidRequest
from core.ids import IdSource
from core.money.pricing import NANO_USD_PER_USD, usd_text
from core.services import Context, fields
from core.services.paging import Number, Pager, Word
from core.services.repeats import once
from storage.errors import Duplicate, Missing, TooDeep, Unaffordable
from storage.interfaces import AccountStore
from storage.limit_records import PURSE_PREFIX
from storage.records import MAX_LEVELS, Account, AccountChanges, AccountKind

_OTHERS_PREFIXES = (ID_PREFIX, PURSE_PREFIX, "house_")
_NEW_ID = re.compile(r"[a-z][a-z0-9_-]{2,62}")
_MUTABLE_FIELDS = frozenset({"display_name", "credit_limit_nano_usd", "allowed_models", "expire_time"})

MAX_CREDIT_LIMIT_NANO_USD = 1_000_000_000 * NANO_USD_PER_USD
"""1 billion USD: together with any balance it fits 64 bits."""

_KINDS: Mapping[int, AccountKind] = {
    account_pb2.ACCOUNT_KIND_UNSPECIFIED: "user",
    account_pb2.ACCOUNT_KIND_USER: "user",
    account_pb2.ACCOUNT_KIND_SERVICE: "service",
}
_KIND_VALUES: Mapping[AccountKind, account_pb2.AccountKind] = {
    "user": account_pb2.ACCOUNT_KIND_USER,
    "service": account_pb2.ACCOUNT_KIND_SERVICE,
    "house": account_pb2.ACCOUNT_KIND_HOUSE,
}


class AccountServicer(account_pb2_grpc.AccountServiceServicer):
    """Accounts, for the operator.

    After each change the authenticator of this core is brought up to date before the answer leaves; other cores
    follow by their poll.
    """

    def __init__(
        self,
        store: AccountStore,
        authenticator: Authenticator,
        ids: IdSource,
        *,
        clock_us: Callable[[], int],
        default_account_id: str,
    ) -> None:
        self._store = store
        self._authenticator = authenticator
        self._ids = ids
        self._clock_us = clock_us
        self._default_account_id = default_account_id

    async def CreateAccount(self, request: account_pb2.CreateAccountRequest, context: Context) -> account_pb2.Account:
        """Make an account of kind user or service, under another or not."""
        if request.account_id:
            _refuse_bad_id(request.account_id)
        display_name = fields.display_name(request.display_name)
        kind = _KINDS.get(request.kind)
        if kind is None:
            raise InvalidRequest("kind must be user or service.", param="kind")
        parent_id = fields.resource_id(request.parent_id, param="parent_id") if request.parent_id else None
        account_id = request.account_id or "acct_" + self._ids.new()
        try:
            account = await self._store.create_account(
                account_id,
                display_name,
                kind,
                parent_id=parent_id,
                allowed_models=fields.allowed_models(request.allowed_models),
                expires_us=self._expires_us(request, param="expire_time"),
                once=once(request, request.idempotency_key),
            )
        except Duplicate as error:
            raise AlreadyExists(f"The account {account_id!r} exists.", param="account_id") from error
        except Missing as error:
            raise fields.not_found("parent_id", request.parent_id) from error
        except TooDeep as error:
            message = f"A tree of accounts has {MAX_LEVELS} levels at most."
            raise InvalidRequest(message, param="parent_id") from error
        await self._authenticator.refresh_soon()
        return _message(account)

    async def UpdateAccount(self, request: account_pb2.UpdateAccountRequest, context: Context) -> account_pb2.Account:
        """Change what the mask names."""
        paths, wanted = fields.masked(request.update_mask, _MUTABLE_FIELDS), request.account
        account_id = fields.resource_id(wanted.id, param="account.id")
        changes = AccountChanges()
        if "display_name" in paths:
            changes["display_name"] = fields.display_name(wanted.display_name, param="account.display_name")
        if "credit_limit_nano_usd" in paths:
            if not 0 <= wanted.credit_limit_nano_usd <= MAX_CREDIT_LIMIT_NANO_USD:
                message = f"A credit limit is 0 to {MAX_CREDIT_LIMIT_NANO_USD} nanodollars."
                raise InvalidRequest(message, param="account.credit_limit_nano_usd")
            changes["credit_limit_nano_usd"] = wanted.credit_limit_nano_usd
        if "allowed_models" in paths:
            changes["allowed_models"] = fields.allowed_models(wanted.allowed_models, param="account.allowed_models")
        if "expire_time" in paths:
            changes["expires_us"] = self._expires_us(wanted, param="account.expire_time")
        try:
            account = await self._store.update_account(account_id, changes, once=once(request, request.idempotency_key))
        except Missing as error:
            raise fields.not_found("account.id", account_id) from error
        except Unaffordable as error:
            lacks = usd_text(error.missing_nano_usd)
            message = f"The account owes {lacks} USD more than this, or running requests hold it."
            raise Conflict(message, param="account.credit_limit_nano_usd") from error
        await self._authenticator.refresh_soon()
        return _message(account)

    async def GetAccount(self, request: account_pb2.GetAccountRequest, context: Context) -> account_pb2.Account:
        """Get an account; the default one without an id."""
        account_id = fields.resource_id(request.account_id or self._default_account_id, param="account_id")
        account = await self._store.account(account_id)
        return _message(fields.found(account, param="account_id", value=account_id))

    async def ListAccounts(
        self, request: account_pb2.ListAccountsRequest, context: Context
    ) -> account_pb2.ListAccountsResponse:
        """List accounts, newest first."""
        parent_id = None
        if request.parent_id:
            parent_id = fields.resource_id(request.parent_id, param="parent_id")
            fields.found(await self._store.account(parent_id), param="parent_id", value=parent_id)
        scope = ["ListAccounts", request.parent_id]
        pager = Pager(scope, tuple[Number, Word], request.page_size, request.page_token)
        fetched = await self._store.accounts(parent_id=parent_id, before=pager.after, limit=pager.limit)
        page = pager.page(fetched, lambda account: (account.created_us, account.id))
        return account_pb2.ListAccountsResponse(
            accounts=map(_message, page.items), next_page_token=page.next_page_token
        )

    def _expires_us(self, message: account_pb2.CreateAccountRequest | account_pb2.Account, *, param: str) -> int | None:
        """The `expire_time` of a message; None when it is absent."""
        if not message.HasField("expire_time"):
            return None
        return fields.future_us(message.expire_time, now_us=self._clock_us(), param=param)


def _refuse_bad_id(account_id: str) -> None:
    if not _NEW_ID.fullmatch(account_id) or account_id.startswith(_OTHERS_PREFIXES):
        taken = ", ".join(f'"{prefix}"' for prefix in _OTHERS_PREFIXES)
        message = f'account_id must be 3 to 63 of a-z, 0-9, "-" and "_", begin with a letter, and not with {taken}.'
        raise InvalidRequest(message, param="account_id")


def _message(account: Account) -> account_pb2.Account:
    return account_pb2.Account(
        id=account.id,
        display_name=account.display_name,
        kind=_KIND_VALUES[account.kind],
        credit_limit_nano_usd=account.credit_limit_nano_usd,
        create_time=fields.timestamp(account.created_us),
        parent_id=account.parent_id or "",
        allowed_models=account.allowed_models,
        expire_time=fields.timestamp(account.expires_us),
    )
