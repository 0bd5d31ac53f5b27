"""Which versions of the configuration have served.

Revision ID: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the table, empty: the first core whose file has a version enters it."""
    op.create_table(
        "configurations",
        sa.Column("version", _BIGINT, primary_key=True, autoincrement=False),
        sa.Column("content_hash", sa.Text, nullable=False),
        sa.Column("created_us", _BIGINT, nullable=False),
        sqlite_strict=True,
    )
