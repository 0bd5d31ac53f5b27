"""The ledger's hash chain: one per account, written behind the ledger, with the sums of what is chained.

Revision ID: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_SQLITE_TRIGGERS = (
    "CREATE TRIGGER ledger_chain_no_update BEFORE UPDATE ON ledger_chain "
    "BEGIN SELECT RAISE(ABORT, 'the chain is append-only'); END",
    "CREATE TRIGGER ledger_chain_no_delete BEFORE DELETE ON ledger_chain "
    "BEGIN SELECT RAISE(ABORT, 'the chain is append-only'); END",
)

_POSTGRES_TRIGGERS = (
    "CREATE TRIGGER ledger_chain_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_chain "
    "FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse()",
)


def upgrade() -> None:
    """Make the tables, empty: the cores chain what the ledger has."""
    op.create_table(
        "ledger_chain",
        sa.Column("ledger_id", _BIGINT, primary_key=True, autoincrement=False),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("position", _BIGINT, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.UniqueConstraint("account_id", "position", name="uq_ledger_chain_position"),
        sa.CheckConstraint("position >= 1", name="ck_ledger_chain_position"),
        sqlite_strict=True,
    )
    op.create_table(
        "ledger_heads",
        sa.Column("account_id", sa.Text, primary_key=True),
        sa.Column("position", _BIGINT, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.Column("debits", _BIGINT, nullable=False),
        sa.Column("credits", _BIGINT, nullable=False),
        sqlite_strict=True,
    )
    op.execute("INSERT INTO revisions (name, value) VALUES ('ledger_chain', 0)")
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in _SQLITE_TRIGGERS if on_sqlite else _POSTGRES_TRIGGERS:
        op.execute(statement)
