"""Accounts and balances."""

from __future__ import annotations

from sqlalchemy import BigInteger, ColumnElement, case, cast, func, literal, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.database import AnySelect, OverDatabase
from storage.idempotency import claim
from storage.interfaces import Duplicate
from storage.records import Account, AccountKind, Balance, Once
from storage.tables import accounts, leases, ledger

_ACCOUNT = (
    accounts.c.id,
    accounts.c.display_name,
    accounts.c.kind,
    accounts.c.credit_limit,
    accounts.c.created_us,
)


class SqlAccounts(OverDatabase):
    """`AccountStore` over a database."""

    async def create_account(
        self, account_id: str, display_name: str, kind: AccountKind, *, once: Once | None = None
    ) -> Account:
        """Make an account with a balance of zero; Duplicate when the id is taken."""
        row = {"id": account_id, "display_name": display_name, "kind": kind, "available": 0, "credit_limit": 0}

        async def work(connection: AsyncConnection) -> Account:
            earlier = await claim(self._db, connection, once, account_id)
            if earlier is not None:
                return Account(*(await connection.execute(select(*_ACCOUNT).where(accounts.c.id == earlier))).one())
            statement = self._db.insert(accounts).values(**row, created_us=self._db.now_us())
            made = await connection.execute(statement.on_conflict_do_nothing().returning(*_ACCOUNT))
            found = made.first()
            if found is None:
                raise Duplicate(f"there is an account {account_id!r}")
            return Account(*found)

        return await self._db.write(work)

    async def account(self, account_id: str) -> Account | None:
        """The account, of any kind; None when there is none."""
        found = await self._db.rows(select(*_ACCOUNT).where(accounts.c.id == account_id))
        return Account(*found[0]) if found else None

    async def accounts(self, *, before: tuple[int, str] | None, limit: int) -> list[Account]:
        """Newest first, without house accounts; `before` is (created_us, id) of the last one seen."""
        order = (accounts.c.created_us, accounts.c.id)
        statement = select(*_ACCOUNT).where(accounts.c.kind != "house")
        if before is not None:
            statement = statement.where(tuple_(*order) < before)
        statement = statement.order_by(*(column.desc() for column in order)).limit(limit)
        return [Account(*row) for row in await self._db.listed(statement)]

    async def balance(self, account_id: str) -> Balance | None:
        """What the account has, in one snapshot; None when there is no such account.

        A house account's balance is a sum over all its entries: it takes as long as the ledger is.
        """
        found = await self._db.rows(_balance(account_id))
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


def _balance(account_id: str) -> AnySelect:
    active = (leases.c.account_id == accounts.c.id) & (leases.c.state == "active")
    held = select(_total(leases.c.granted - leases.c.spent)).where(active).scalar_subquery()
    return select(accounts.c.kind, accounts.c.available, accounts.c.credit_limit, held).where(
        accounts.c.id == account_id
    )


def _house_balance(account_id: str) -> AnySelect:
    signed = case((ledger.c.credit_account == account_id, ledger.c.amount), else_=-ledger.c.amount)
    own = or_(ledger.c.credit_account == account_id, ledger.c.debit_account == account_id)
    total = select(_total(signed)).where(own).scalar_subquery()
    return select(accounts.c.kind, total, accounts.c.credit_limit, literal(0)).where(accounts.c.id == account_id)


def _total(column: ColumnElement[int]) -> ColumnElement[int]:
    # PostgreSQL sums BIGINT into NUMERIC.
    return cast(func.coalesce(func.sum(column), 0), BigInteger)
