"""API keys: every change takes the next number of one counter, so that cores can poll for what is new."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, literal, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.access import kept_models, known_models, next_seq
from storage.database import AnyRow, AnySelect, OverDatabase
from storage.errors import Duplicate, Missing
from storage.idempotency import claim
from storage.records import ApiKey, KeyChanges, NewApiKey, Once, SecretHash
from storage.tables import API_KEY_REVISION, BIGINT, accounts, api_keys


class SqlKeys(OverDatabase):
    """`KeyStore` over a database."""

    async def create_key(self, key: NewApiKey, *, once: Once | None = None) -> ApiKey:
        """Make a key; Missing when its account does not exist, Duplicate when its id is taken."""
        values = {
            "id": key.id,
            "account_id": key.account_id,
            "display_name": key.display_name,
            "digest": key.secret.digest,
            "pepper_version": key.secret.pepper_version,
            "secret_prefix": key.secret_prefix,
            "secret_suffix": key.secret_suffix,
            "expires_us": key.expires_us,
            "allowed_models": kept_models(key.allowed_models),
        }

        async def work(connection: AsyncConnection) -> ApiKey:
            earlier = await claim(self._db, connection, once, key.id)
            if earlier is not None:
                return await _present(connection, earlier)
            owner = select(accounts.c.id).where(accounts.c.id == key.account_id, accounts.c.kind != "house")
            if (await connection.execute(owner)).first() is None:
                raise Missing(f"there is no account {key.account_id!r}")
            row = self._db.insert(api_keys).values(
                **values, created_us=self._db.now_us(), seq=await next_seq(connection, API_KEY_REVISION)
            )
            made = await connection.execute(row.on_conflict_do_nothing().returning(api_keys.c.id))
            if made.first() is None:
                raise Duplicate(f"there is a key {key.id!r}")
            return await _present(connection, key.id)

        return await self._db.write(work)

    async def key(self, key_id: str) -> ApiKey | None:
        """The key, revoked or not; None when there is none."""
        found = await self._db.rows(_keys().where(api_keys.c.id == key_id))
        return _api_key(found[0]) if found else None

    async def keys(self, *, account_id: str | None, before: tuple[int, str] | None, limit: int) -> list[ApiKey]:
        """Newest first, revoked ones among them; `before` is (created_us, id) of the last one seen."""
        order = (api_keys.c.created_us, api_keys.c.id)
        statement = _keys().order_by(*(column.desc() for column in order)).limit(limit)
        if account_id is not None:
            statement = statement.where(api_keys.c.account_id == account_id)
        if before is not None:
            statement = statement.where(tuple_(*order) < before)
        return [_api_key(row) for row in await self._db.listed(statement)]

    async def keys_changed_since(self, seq: int, limit: int) -> list[ApiKey]:
        """Keys of a greater seq, ascending by it."""
        statement = _keys().where(api_keys.c.seq > seq).order_by(api_keys.c.seq).limit(limit)
        return [_api_key(row) for row in await self._db.rows(statement)]

    async def update_key(self, key_id: str, changes: KeyChanges, *, once: Once | None = None) -> ApiKey:
        """Change what is named, which is not nothing; Missing when there is no such key."""
        values: dict[str, Any] = dict(changes)
        if "allowed_models" in changes:
            values["allowed_models"] = kept_models(changes["allowed_models"])
        return await self._change(key_id, values, once)

    async def rotate_key(
        self,
        key_id: str,
        *,
        secret: SecretHash,
        prefix: str,
        suffix: str,
        grace_us: int,
        once: Once | None = None,
    ) -> ApiKey:
        """Exchange the secret; the old one ends `grace_us` from now. Missing when there is none or it is revoked.

        A secret that was still in its own grace time ends at once: there is one old secret at most.
        """
        changes = {
            "old_digest": api_keys.c.digest,
            "old_pepper_version": api_keys.c.pepper_version,
            "old_expires_us": self._db.now_us() + literal(grace_us, BIGINT),
            "digest": secret.digest,
            "pepper_version": secret.pepper_version,
            "secret_prefix": prefix,
            "secret_suffix": suffix,
        }
        return await self._change(key_id, changes, once, unless_revoked=True)

    async def revoke_key(self, key_id: str, *, once: Once | None = None) -> ApiKey:
        """Refuse the key from now on; Missing when there is none, no change when it is revoked."""
        revoked = select(api_keys.c.id).where(api_keys.c.id == key_id, api_keys.c.revoked_us.is_not(None))
        # Another core may have revoked it a moment ago: its time stays.
        changes = {"revoked_us": func.coalesce(api_keys.c.revoked_us, self._db.now_us())}

        async def work(connection: AsyncConnection) -> ApiKey:
            earlier = await claim(self._db, connection, once, key_id)
            if earlier is None and (await connection.execute(revoked)).first() is None:
                await _apply(connection, key_id, changes)
            return await _present(connection, key_id)

        return await self._db.write(work)

    async def _change(
        self, key_id: str, changes: dict[str, Any], once: Once | None, *, unless_revoked: bool = False
    ) -> ApiKey:
        async def work(connection: AsyncConnection) -> ApiKey:
            if await claim(self._db, connection, once, key_id) is None:
                await _apply(connection, key_id, changes, unless_revoked=unless_revoked)
            return await _present(connection, key_id)

        return await self._db.write(work)


async def _apply(
    connection: AsyncConnection, key_id: str, changes: dict[str, Any], *, unless_revoked: bool = False
) -> None:
    # The counter first: changes queue for its row, so none can wait for another in a circle.
    seq = await next_seq(connection, API_KEY_REVISION)
    statement = update(api_keys).where(api_keys.c.id == key_id).values(**changes, seq=seq)
    if unless_revoked:
        statement = statement.where(api_keys.c.revoked_us.is_(None))
    if (await connection.execute(statement.returning(api_keys.c.id))).first() is None:
        raise Missing(f"there is no such key {key_id!r}")


async def _present(connection: AsyncConnection, key_id: str) -> ApiKey:
    return _api_key((await connection.execute(_keys().where(api_keys.c.id == key_id))).one())


def _keys() -> AnySelect:
    owned = api_keys.join(accounts, api_keys.c.account_id == accounts.c.id)
    return select(api_keys, accounts.c.kind.label("account_kind")).select_from(owned)


def _api_key(row: AnyRow) -> ApiKey:
    old = None if row.old_digest is None else SecretHash(row.old_digest, row.old_pepper_version)
    return ApiKey(
        id=row.id,
        account_id=row.account_id,
        account_kind=row.account_kind,
        display_name=row.display_name,
        secret=SecretHash(row.digest, row.pepper_version),
        secret_prefix=row.secret_prefix,
        secret_suffix=row.secret_suffix,
        old_secret=old,
        old_secret_expires_us=row.old_expires_us,
        created_us=row.created_us,
        expires_us=row.expires_us,
        revoked_us=row.revoked_us,
        seq=row.seq,
        allowed_models=known_models(row.allowed_models),
    )
