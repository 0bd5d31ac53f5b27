"""Steps that every movement of money is made of, inside a transaction of their caller's."""

from __future__ import annotations

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.database import Database
from storage.interfaces import Missing
from storage.records import LedgerKind
from storage.tables import accounts, ledger


async def enter(
    database: Database,
    connection: AsyncConnection,
    ref: str,
    kind: LedgerKind,
    debit_account: str,
    credit_account: str,
    amount: int,
    *,
    note: str = "",
) -> bool:
    """Append an entry to the ledger; False when there is one of this ref and kind."""
    statement = database.insert(ledger).values(
        ref=ref,
        kind=kind,
        created_us=database.now_us(),
        debit_account=debit_account,
        credit_account=credit_account,
        amount=amount,
        shortfall=0,
        note=note,
    )
    entered = await connection.execute(statement.on_conflict_do_nothing().returning(ledger.c.id))
    return entered.first() is not None


async def add_available(connection: AsyncConnection, account_id: str, amount: int) -> None:
    """Add to what an account has; below 0 takes from it. Missing when there is no such account of a customer's."""
    own = update(accounts).where(accounts.c.id == account_id, accounts.c.kind != "house")
    changed = own.values(available=accounts.c.available + amount).returning(accounts.c.id)
    if (await connection.execute(changed)).first() is None:
        raise Missing(f"there is no account {account_id!r}")
