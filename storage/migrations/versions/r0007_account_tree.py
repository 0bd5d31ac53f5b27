"""Accounts under one another, what they and keys may use, and when accounts end.

Revision ID: 0007
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_CHILD = "parent_id IS NULL OR (available = 0 AND credit_limit = 0)"
_MEASURE = (
    "(measure = 'spend' AND period IN ('lifetime', 'month', 'day'))"
    " OR (measure IN ('requests', 'tokens') AND period = 'minute')"
    " OR (measure = 'concurrency' AND period = 'now')"
)


def upgrade() -> None:
    """Extend the tables, and number the accounts that there are, for cores to find."""
    op.add_column("accounts", sa.Column("parent_id", sa.Text, sa.CheckConstraint(_CHILD, name="ck_accounts_parent")))
    op.add_column("accounts", sa.Column("allowed_models", sa.Text))
    op.add_column("accounts", sa.Column("expires_us", _BIGINT))
    op.add_column("accounts", sa.Column("seq", _BIGINT, nullable=False, server_default=sa.text("0")))
    op.add_column("api_keys", sa.Column("allowed_models", sa.Text))
    op.execute(
        "UPDATE accounts SET seq = numbered.seq FROM (SELECT id, row_number() OVER (ORDER BY created_us, id) AS seq "
        "FROM accounts WHERE kind <> 'house') AS numbered WHERE numbered.id = accounts.id"
    )
    op.execute("INSERT INTO revisions (name, value) SELECT 'accounts', max(seq) FROM accounts")
    op.create_index("ix_accounts_parent", "accounts", ["parent_id", "created_us", "id"])
    op.create_index("ix_accounts_seq", "accounts", ["seq"])
    op.create_table(
        "limits",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column("measure", sa.Text, nullable=False),
        sa.Column("period", sa.Text, nullable=False),
        sa.Column("amount", _BIGINT, nullable=False),
        sa.Column("created_us", _BIGINT, nullable=False),
        sa.UniqueConstraint("owner_id", "measure", "period", name="uq_limits_owner"),
        sa.CheckConstraint(_MEASURE, name="ck_limits_measure"),
        sa.CheckConstraint("amount >= 0", name="ck_limits_amount"),
        sqlite_strict=True,
    )
