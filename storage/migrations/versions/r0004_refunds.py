"""Refunds, each of one payment. Idempotency keys of top-ups are named like those of every other change.

Revision ID: 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table, and rename the scope."""
    op.create_table(
        "refunds",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("payment_id", sa.Text, nullable=False),
        sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("amount", _BIGINT, nullable=False),
        sa.Column("fee", _BIGINT, nullable=False),
        sa.Column("created_us", _BIGINT, nullable=False),
        sa.CheckConstraint("amount > 0 AND fee >= 0", name="ck_refunds_amount"),
        sqlite_strict=True,
    )
    op.create_index("ix_refunds_payment", "refunds", ["payment_id"])
    # Their bodies were hashed otherwise: an old payment sent again is a conflict, and not credited twice.
    op.execute("UPDATE idempotency SET scope = 'CreateTopUp of operator' WHERE scope = 'top_up'")
