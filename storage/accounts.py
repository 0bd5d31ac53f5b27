"""Accounts and balances."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, case, cast, func, literal, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.access import kept_models, known_models, next_seq
from storage.database import AnyRow, AnySelect, OverDatabase
from storage.entries import lineage, require_payer
from storage.errors import Duplicate, Missing, TooDeep, Unaffordable
from storage.idempotency import claim
from storage.limit_records import is_purse
from storage.records import MAX_LEVELS, Account, AccountChanges, AccountKind, Balance, Once
from storage.tables import ACCOUNT_REVISION, accounts, leases, ledger, purses


class SqlAccounts(OverDatabase):
    """`AccountStore` over a database."""

    async def create_account(
        self,
        account_id: str,
        display_name: str,
        kind: AccountKind,
        *,
        parent_id: str | None = None,
        allowed_models: tuple[str, ...] = (),
        expires_us: int | None = None,
        once: Once | None = None,
    ) -> Account:
        """Make an account with a balance of zero; Duplicate when the id is taken.

        Missing when there is no such parent of a customer's, TooDeep below `MAX_LEVELS` levels.
        """
        row = {
            "id": account_id,
            "display_name": display_name,
            "kind": kind,
            "available": 0,
            "credit_limit": 0,
            "parent_id": parent_id,
            "allowed_models": kept_models(allowed_models),
            "expires_us": expires_us,
        }

        async def work(connection: AsyncConnection) -> Account:
            earlier = await claim(self._db, connection, once, account_id)
            if earlier is not None:
                return await _present(connection, earlier)
            if parent_id is not None:
                await _refuse_parent(connection, parent_id)
            seq = await next_seq(connection, ACCOUNT_REVISION)
            statement = self._db.insert(accounts).values(**row, seq=seq, created_us=self._db.now_us())
            made = await connection.execute(statement.on_conflict_do_nothing().returning(accounts.c.id))
            if made.first() is None:
                raise Duplicate(f"there is an account {account_id!r}")
            return await _present(connection, account_id)

        return await self._db.write(work)

    async def update_account(self, account_id: str, changes: AccountChanges, *, once: Once | None = None) -> Account:
        """Change what is named, which is not nothing. Missing when there is no such account of a customer's.

        A credit limit: NotPayer for an account with a parent; Unaffordable when the account owes more than that.
        """
        values = _values(changes)

        async def work(connection: AsyncConnection) -> Account:
            if await claim(self._db, connection, once, account_id) is not None:
                return await _present(connection, account_id)
            seq = await next_seq(connection, ACCOUNT_REVISION)
            if "credit_limit" in values:
                await _refuse_credit_limit(connection, account_id, values["credit_limit"])
            own = update(accounts).where(accounts.c.id == account_id, accounts.c.kind != "house")
            changed = own.values(**values, seq=seq).returning(accounts.c.id)
            if (await connection.execute(changed)).first() is None:
                raise Missing(f"there is no account {account_id!r}")
            return await _present(connection, account_id)

        return await self._db.write(work)

    async def account(self, account_id: str) -> Account | None:
        """The account, of any kind; None when there is none."""
        found = await self._db.rows(select(accounts).where(accounts.c.id == account_id))
        return _account(found[0]) if found else None

    async def lineage(self, account_id: str) -> list[Account]:
        """The account with all above it, outermost first; empty when there is no such account."""
        return [_account(row) for row in await self._db.rows(lineage(account_id))]

    async def accounts(
        self, *, parent_id: str | None = None, before: tuple[int, str] | None, limit: int
    ) -> list[Account]:
        """Newest first, without house accounts; those right below `parent_id`, or all when it is None. `before` is
        (created_us, id) of the last one seen."""
        order = (accounts.c.created_us, accounts.c.id)
        statement = select(accounts).where(accounts.c.kind != "house")
        if parent_id is not None:
            statement = statement.where(accounts.c.parent_id == parent_id)
        if before is not None:
            statement = statement.where(tuple_(*order) < before)
        statement = statement.order_by(*(column.desc() for column in order)).limit(limit)
        return [_account(row) for row in await self._db.listed(statement)]

    async def accounts_changed_since(self, seq: int, limit: int) -> list[Account]:
        """Accounts of a greater seq, ascending by it, without house accounts."""
        own = select(accounts).where(accounts.c.seq > seq, accounts.c.kind != "house")
        return [_account(row) for row in await self._db.rows(own.order_by(accounts.c.seq).limit(limit))]

    async def balance(self, account_id: str) -> Balance | None:
        """What the account or purse has, in one snapshot; None when there is no such.

        A house account's balance is a sum over all its entries: it takes as long as the ledger is.
        """
        found = await self._db.rows(_purse_balance(account_id) if is_purse(account_id) else _balance(account_id))
        if found and found[0].kind == "house":
            found = await self._db.rows(_house_balance(account_id))
        if not found:
            return None
        _kind, available, credit_limit, held = found[0]
        return Balance(
            account_id=account_id,
            balance_nano_usd=available + held,
            held_nano_usd=held,
            available_nano_usd=available,
            credit_limit_nano_usd=credit_limit,
        )


async def _present(connection: AsyncConnection, account_id: str) -> Account:
    return _account((await connection.execute(select(accounts).where(accounts.c.id == account_id))).one())


async def _refuse_parent(connection: AsyncConnection, parent_id: str) -> None:
    """Missing unless there is such an account of a customer's, TooDeep unless there may be another level below it."""
    above = (await connection.execute(lineage(parent_id).where(accounts.c.kind != "house"))).all()
    if not above:
        raise Missing(f"there is no account {parent_id!r}")
    if len(above) >= MAX_LEVELS:
        raise TooDeep(f"the account {parent_id!r} is at level {len(above)}")


async def _refuse_credit_limit(connection: AsyncConnection, account_id: str, credit_limit: int) -> None:
    """NotPayer and Missing as `require_payer`, Unaffordable when the account owes more. Keeps its row locked."""
    await require_payer(connection, account_id)
    own = select(accounts.c.available).where(accounts.c.id == account_id)
    available = (await connection.execute(own.with_for_update())).scalar_one()
    if available + credit_limit < 0:
        raise Unaffordable(f"the account owes {-available}", missing_nano_usd=-available - credit_limit)


def _values(changes: AccountChanges) -> dict[str, Any]:
    """Changes as columns."""
    values: dict[str, Any] = dict(changes)
    if "credit_limit_nano_usd" in changes:
        values["credit_limit"] = values.pop("credit_limit_nano_usd")
    if "allowed_models" in changes:
        values["allowed_models"] = kept_models(changes["allowed_models"])
    return values


def _account(row: AnyRow) -> Account:
    return Account(
        id=row.id,
        display_name=row.display_name,
        kind=row.kind,
        credit_limit_nano_usd=row.credit_limit,
        created_us=row.created_us,
        parent_id=row.parent_id,
        allowed_models=known_models(row.allowed_models),
        expires_us=row.expires_us,
        seq=row.seq,
    )


def _balance(account_id: str) -> AnySelect:
    columns = (accounts.c.kind, accounts.c.available, accounts.c.credit_limit, _held_of(accounts.c.id))
    return select(*columns).where(accounts.c.id == account_id)


def _purse_balance(purse_id: str) -> AnySelect:
    columns = (literal("purse").label("kind"), purses.c.available, literal(0), _held_of(purses.c.id))
    return select(*columns).where(purses.c.id == purse_id)


def _held_of(owner_id: ColumnElement[str]) -> ColumnElement[int]:
    active = (leases.c.account_id == owner_id) & (leases.c.state == "active")
    return select(_total(leases.c.granted - leases.c.spent)).where(active).scalar_subquery()


def _house_balance(account_id: str) -> AnySelect:
    signed = case((ledger.c.credit_account == account_id, ledger.c.amount), else_=-ledger.c.amount)
    own = or_(ledger.c.credit_account == account_id, ledger.c.debit_account == account_id)
    total = select(_total(signed)).where(own).scalar_subquery()
    return select(accounts.c.kind, total, accounts.c.credit_limit, literal(0)).where(accounts.c.id == account_id)


def _total(column: ColumnElement[int]) -> ColumnElement[int]:
    # PostgreSQL sums BIGINT into NUMERIC.
    return cast(func.coalesce(func.sum(column), 0), BigInteger)
