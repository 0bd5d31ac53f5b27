"""AuthService: API keys."""

from __future__ import annotations

from collections.abc import Callable

from worldrouter.v1 import auth_pb2, auth_pb2_grpc

from core.access.apikeys import ID_PREFIX, Peppers, key_id_of, make_key, shown_prefix, shown_suffix
from core.access.auth import Authenticator
from core.call import Role, current_call
from core.errors import Conflict, Forbidden, InvalidRequest
from core.ids import IdSource
from core.services import Context, fields
from core.services.paging import Number, Pager, Word
from core.services.repeats import once
from storage.errors import Missing
from storage.interfaces import AccountStore, KeyStore
from storage.records import ApiKey, KeyChanges, NewApiKey

DEFAULT_GRACE_S = 24 * 3600
"""How long a rotated key's old secret stays valid when the request does not say."""
MAX_GRACE_S = 30 * 24 * 3600

_MUTABLE_FIELDS = frozenset({"display_name", "expire_time", "allowed_models"})


class AuthServicer(auth_pb2_grpc.AuthServiceServicer):
    """API keys, for the operator; VerifyApiKey for all keys.

    After each change the authenticator of this core is brought up to date before the answer leaves; other cores
    follow by their poll.
    """

    def __init__(
        self,
        accounts: AccountStore,
        keys: KeyStore,
        authenticator: Authenticator,
        peppers: Peppers,
        ids: IdSource,
        *,
        clock_us: Callable[[], int],
        default_account_id: str,
    ) -> None:
        self._accounts = accounts
        self._keys = keys
        self._authenticator = authenticator
        self._peppers = peppers
        self._ids = ids
        self._clock_us = clock_us
        self._default_account_id = default_account_id

    async def CreateApiKey(self, request: auth_pb2.CreateApiKeyRequest, context: Context) -> auth_pb2.ApiKey:
        """Make a key for an account that is not the house's."""
        display_name = fields.display_name(request.display_name)
        expires_us = self._expires_us(request, param="expire_time")
        allowed_models = fields.allowed_models(request.allowed_models)
        account_id = fields.resource_id(request.account_id or self._default_account_id, param="account_id")
        account = fields.found(await self._accounts.account(account_id), param="account_id", value=account_id)
        if account.kind == "house":
            raise InvalidRequest("House accounts have no keys.", param="account_id")
        key_id = ID_PREFIX + self._ids.new()
        secret = make_key(key_id)
        record = await self._keys.create_key(
            NewApiKey(
                id=key_id,
                account_id=account_id,
                display_name=display_name,
                secret=self._peppers.hash(secret),
                secret_prefix=shown_prefix(secret),
                secret_suffix=shown_suffix(secret),
                expires_us=expires_us,
                allowed_models=allowed_models,
            ),
            once=once(request, request.idempotency_key, account_id=account_id),
        )
        await self._authenticator.refresh_soon()
        return self._message_with(secret, record)

    async def GetApiKey(self, request: auth_pb2.GetApiKeyRequest, context: Context) -> auth_pb2.ApiKey:
        """Get a key, without its secret."""
        return _message(await self._record(request.api_key_id))

    async def ListApiKeys(self, request: auth_pb2.ListApiKeysRequest, context: Context) -> auth_pb2.ListApiKeysResponse:
        """List keys of one account or of all, newest first."""
        account_id = None
        if request.account_id:
            account_id = fields.resource_id(request.account_id, param="account_id")
            fields.found(await self._accounts.account(account_id), param="account_id", value=account_id)
        scope = ["ListApiKeys", request.account_id]
        pager = Pager(scope, tuple[Number, Word], request.page_size, request.page_token)
        fetched = await self._keys.keys(account_id=account_id, before=pager.after, limit=pager.limit)
        page = pager.page(fetched, lambda record: (record.created_us, record.id))
        return auth_pb2.ListApiKeysResponse(api_keys=map(_message, page.items), next_page_token=page.next_page_token)

    async def UpdateApiKey(self, request: auth_pb2.UpdateApiKeyRequest, context: Context) -> auth_pb2.ApiKey:
        """Change what the mask names."""
        paths = fields.masked(request.update_mask, _MUTABLE_FIELDS)
        record = await self._record(request.api_key.id, param="api_key.id")
        changes = KeyChanges()
        if "display_name" in paths:
            changes["display_name"] = fields.display_name(request.api_key.display_name, param="api_key.display_name")
        if "expire_time" in paths:
            changes["expires_us"] = self._expires_us(request.api_key, param="api_key.expire_time")
        if "allowed_models" in paths:
            models = request.api_key.allowed_models
            changes["allowed_models"] = fields.allowed_models(models, param="api_key.allowed_models")
        changed = await self._keys.update_key(record.id, changes, once=once(request, request.idempotency_key))
        await self._authenticator.refresh_soon()
        return _message(changed)

    async def RotateApiKey(
        self, request: auth_pb2.RotateApiKeyRequest, context: Context
    ) -> auth_pb2.RotateApiKeyResponse:
        """Exchange the secret of a key that is not revoked."""
        grace_us = DEFAULT_GRACE_S * 1_000_000
        if request.HasField("grace_period"):
            grace_us = fields.duration_us(request.grace_period, max_s=MAX_GRACE_S, param="grace_period")
        record = await self._record(request.api_key_id)
        secret = make_key(record.id)
        try:
            changed = await self._keys.rotate_key(
                record.id,
                secret=self._peppers.hash(secret),
                prefix=shown_prefix(secret),
                suffix=shown_suffix(secret),
                grace_us=grace_us,
                once=once(request, request.idempotency_key),
            )
        except Missing as error:  # keys are never deleted: it is revoked
            raise Conflict("This API key is revoked.", param="api_key_id") from error
        await self._authenticator.refresh_soon()
        return auth_pb2.RotateApiKeyResponse(
            api_key=self._message_with(secret, changed),
            old_secret_expire_time=fields.timestamp(changed.old_secret_expires_us),
        )

    async def RevokeApiKey(
        self, request: auth_pb2.RevokeApiKeyRequest, context: Context
    ) -> auth_pb2.RevokeApiKeyResponse:
        """Revoke a key; the same answer again for a revoked one."""
        record = await self._record(request.api_key_id)
        changed = await self._keys.revoke_key(record.id, once=once(request, request.idempotency_key))
        await self._authenticator.refresh_soon()
        return auth_pb2.RevokeApiKeyResponse(api_key=_message(changed))

    async def VerifyApiKey(
        self, request: auth_pb2.VerifyApiKeyRequest, context: Context
    ) -> auth_pb2.VerifyApiKeyResponse:
        """Say whose a key is: one's own, or anybody's to a service and the operator."""
        caller = current_call.get().caller
        if not request.secret:
            if caller.key_id is None:
                raise InvalidRequest("secret is required: this credential is no API key.", param="secret")
            return auth_pb2.VerifyApiKeyResponse(valid=True, api_key_id=caller.key_id, account_id=caller.account_id)
        if caller.role is Role.API_KEY and key_id_of(request.secret) not in (None, caller.key_id):
            raise Forbidden("Only an account of kind service may verify the keys of others.")
        record = await self._authenticator.verify(request.secret)
        if record is None:
            return auth_pb2.VerifyApiKeyResponse(valid=False)
        return auth_pb2.VerifyApiKeyResponse(valid=True, api_key_id=record.id, account_id=record.account_id)

    async def _record(self, key_id: str, *, param: str = "api_key_id") -> ApiKey:
        """The key of this id. Raises InvalidRequest when it is empty, NotFound."""
        key_id = fields.resource_id(key_id, param=param)
        return fields.found(await self._keys.key(key_id), param=param, value=key_id)

    def _expires_us(self, message: auth_pb2.CreateApiKeyRequest | auth_pb2.ApiKey, *, param: str) -> int | None:
        """The `expire_time` of a message; None when it is absent."""
        if not message.HasField("expire_time"):
            return None
        return fields.future_us(message.expire_time, now_us=self._clock_us(), param=param)

    def _message_with(self, secret: str, record: ApiKey) -> auth_pb2.ApiKey:
        """The key with its new secret; without it when the change was an earlier one, which made another secret."""
        return _message(record, secret=secret if record.secret == self._peppers.hash(secret) else "")


def _message(record: ApiKey, *, secret: str = "") -> auth_pb2.ApiKey:
    return auth_pb2.ApiKey(
        id=record.id,
        account_id=record.account_id,
        display_name=record.display_name,
        secret=secret,
        secret_prefix=record.secret_prefix,
        secret_suffix=record.secret_suffix,
        create_time=fields.timestamp(record.created_us),
        expire_time=fields.timestamp(record.expires_us),
        revoke_time=fields.timestamp(record.revoked_us),
        allowed_models=record.allowed_models,
    )
