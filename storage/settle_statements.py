"""The SQL of a settle transaction, compiled once per database from the Core tables.

Both databases run it through their driver: SQLAlchemy's share of a batch would be larger than the driver's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    BindParameter,
    ClauseElement,
    ColumnElement,
    Dialect,
    Select,
    bindparam,
    insert,
    literal_column,
    select,
    update,
)

from storage.settlement import ROW_COLUMNS
from storage.tables import accounts, leases, ledger, purses

Among = Callable[[ColumnElement[Any]], ColumnElement[bool]]
"""Says "this column is among the one parameter, a list named ids", as its database can."""


class CommitFailed(Exception):
    """COMMIT itself failed: whether the batch is durable is unknown."""


class SettleStatements:
    """Texts of the statements; the comments say what their parameters and rows are."""

    def __init__(self, dialect: Dialect, among: Among) -> None:
        free = leases.c.granted - leases.c.spent
        spendable = accounts.c.available + accounts.c.credit_limit
        active = leases.c.state == literal_column("'active'")
        amount: BindParameter[int] = bindparam("amount")

        # What the ledger has of these request ids. (ids) → (request id, amount, shortfall)
        kept = known_refs(among).add_columns(ledger.c.amount, ledger.c.shortfall)
        self.kept = sql(dialect, kept, "ids")
        # Leases, locked in id order where rows can be locked. (ids) → (id, account, free, active)
        held = select(leases.c.id, leases.c.account_id, free, active).where(among(leases.c.id))
        self.leases = sql(dialect, held.order_by(leases.c.id).with_for_update(), "ids")
        # Accounts that pay late, locked likewise. (ids) → (id, spendable)
        late = select(accounts.c.id, spendable).where(among(accounts.c.id))
        self.accounts = sql(dialect, late.order_by(accounts.c.id).with_for_update(), "ids")
        # Purses that give late, locked likewise. (ids) → (id, available)
        purse = select(purses.c.id, purses.c.available).where(among(purses.c.id))
        self.purses = sql(dialect, purse.order_by(purses.c.id).with_for_update(), "ids")
        # (amount, lease id, id of its account or purse)
        spend = update(leases).values(spent=leases.c.spent + amount)
        own = (leases.c.id == bindparam("lease"), leases.c.account_id == bindparam("account"), active)
        self.spend = sql(dialect, spend.where(*own), "amount", "lease", "account")
        # (amount, account id)
        charge = update(accounts).values(available=accounts.c.available - amount)
        self.charge = sql(dialect, charge.where(accounts.c.id == bindparam("account")), "amount", "account")
        # (amount, the same amount, purse id)
        taken = {"available": purses.c.available - amount, "spent": purses.c.spent + bindparam("same")}
        purse_taken = update(purses).values(taken).where(purses.c.id == bindparam("purse"))
        self.charge_purse = sql(dialect, purse_taken, "amount", "same", "purse")
        # (a planned row)
        row: dict[str, BindParameter[Any]] = {name: bindparam(name) for name in ROW_COLUMNS}
        self.insert = sql(dialect, insert(ledger).values(row).inline(), *ROW_COLUMNS)


def known_refs(among: Among) -> Select[str]:
    """The SELECT of request ids that are in the ledger."""
    return select(ledger.c.ref).where(ledger.c.kind == literal_column("'usage'"), among(ledger.c.ref))


def sql(dialect: Dialect, statement: ClauseElement, *parameters: str) -> str:
    """The text of a statement that takes these positional parameters, in this order."""
    compiled: Any = statement.compile(dialect=dialect)
    if tuple(compiled.positiontup) != parameters:
        raise AssertionError(f"{compiled} takes {compiled.positiontup}, not {parameters}")
    return str(compiled)
