"""AccountService: who owns a balance."""

from __future__ import annotations

import re
from collections.abc import Mapping

from worldrouter.v1 import account_pb2, account_pb2_grpc

from core.errors import AlreadyExists, InvalidRequest
from core.ids import IdSource
from core.services import Context, fields
from core.services.paging import Number, Pager, Word
from core.services.repeats import once
from storage.interfaces import AccountStore, Duplicate
from storage.records import Account, AccountKind

_NEW_ID = re.compile(r"[a-z][a-z0-9_-]{2,62}")

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
    """Accounts, for the operator."""

    def __init__(self, store: AccountStore, ids: IdSource, *, default_account_id: str) -> None:
        self._store = store
        self._ids = ids
        self._default_account_id = default_account_id

    async def CreateAccount(self, request: account_pb2.CreateAccountRequest, context: Context) -> account_pb2.Account:
        """Make an account of kind user or service."""
        if request.account_id and not _NEW_ID.fullmatch(request.account_id):
            raise InvalidRequest(
                'account_id must be 3 to 63 of a-z, 0-9, "-" and "_", beginning with a letter.', param="account_id"
            )
        display_name = fields.display_name(request.display_name)
        kind = _KINDS.get(request.kind)
        if kind is None:
            raise InvalidRequest("kind must be user or service.", param="kind")
        account_id = request.account_id or "acct_" + self._ids.new()
        try:
            repeatable = once(request, request.idempotency_key)
            return _message(await self._store.create_account(account_id, display_name, kind, once=repeatable))
        except Duplicate as error:
            raise AlreadyExists(f"The account {account_id!r} exists.", param="account_id") from error

    async def GetAccount(self, request: account_pb2.GetAccountRequest, context: Context) -> account_pb2.Account:
        """Get an account; the default one without an id."""
        account_id = fields.resource_id(request.account_id or self._default_account_id, param="account_id")
        account = await self._store.account(account_id)
        return _message(fields.found(account, param="account_id", value=account_id))

    async def ListAccounts(
        self, request: account_pb2.ListAccountsRequest, context: Context
    ) -> account_pb2.ListAccountsResponse:
        """List accounts, newest first."""
        pager = Pager(["ListAccounts"], tuple[Number, Word], request.page_size, request.page_token)
        fetched = await self._store.accounts(before=pager.after, limit=pager.limit)
        page = pager.page(fetched, lambda account: (account.created_us, account.id))
        return account_pb2.ListAccountsResponse(
            accounts=map(_message, page.items), next_page_token=page.next_page_token
        )


def _message(account: Account) -> account_pb2.Account:
    return account_pb2.Account(
        id=account.id,
        display_name=account.display_name,
        kind=_KIND_VALUES[account.kind],
        credit_limit_nano_usd=account.credit_limit_nano_usd,
        create_time=fields.timestamp(account.created_us),
    )
