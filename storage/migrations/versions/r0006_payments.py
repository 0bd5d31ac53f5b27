"""Payments through providers.

Revision ID: 0006
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "payments",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("amount", _BIGINT, nullable=False),
        sa.Column("fee", _BIGINT, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("reference", sa.Text, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_us", _BIGINT, nullable=False),
        sa.Column("updated_us", _BIGINT, nullable=False),
        sa.CheckConstraint("amount > 0 AND fee >= 0", name="ck_payments_amount"),
        sa.CheckConstraint("state IN ('pending', 'paid', 'failed')", name="ck_payments_state"),
        sqlite_strict=True,
    )
    op.create_index("ix_payments_created", "payments", ["created_us", "id"])
    op.create_index("ix_payments_account", "payments", ["account_id", "created_us", "id"])
