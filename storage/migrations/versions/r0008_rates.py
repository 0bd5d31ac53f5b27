"""What is in use of limits per minute.

Revision ID: 0008
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "rate_windows",
        sa.Column("limit_id", sa.Text, primary_key=True),
        sa.Column("used", sa.Text, nullable=False),
        sa.Column("changed_us", _BIGINT, nullable=False),
        sqlite_strict=True,
    )
