"""Steps that every movement of money is made of, inside a transaction of their caller's."""

from __future__ import annotations

from sqlalchemy import literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from storage.database import AnySelect, Database
from storage.errors import Missing, NotPayer
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
    """Add to what an account has; below 0 takes from it. Missing, NotPayer as `require_payer`."""
    await require_payer(connection, account_id)
    own = update(accounts).where(accounts.c.id == account_id)
    await connection.execute(own.values(available=accounts.c.available + amount))


async def require_payer(connection: AsyncConnection, account_id: str) -> None:
    """Missing when there is no such account of a customer's, NotPayer when it has a parent. Both never change."""
    found = (await connection.execute(lineage(account_id).where(accounts.c.kind != "house"))).all()
    if not found:
        raise Missing(f"there is no account {account_id!r}")
    if len(found) > 1:
        raise NotPayer(f"{found[0].id!r} pays for the account {account_id!r}", payer_id=found[0].id)


def lineage(account_id: str) -> AnySelect:
    """The accounts above one, outermost first, and itself at the end."""
    own = select(accounts.c.id, accounts.c.parent_id, literal(0).label("level")).where(accounts.c.id == account_id)
    line = own.cte("line", recursive=True)
    above = select(accounts.c.id, accounts.c.parent_id, line.c.level + 1)
    line = line.union_all(above.join(line, accounts.c.id == line.c.parent_id))
    return select(accounts).join(line, accounts.c.id == line.c.id).order_by(line.c.level.desc())
