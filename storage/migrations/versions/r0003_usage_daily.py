"""Usage summed up by day, written behind the ledger by the cores.

Revision ID: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_COUNTS = (
    "requests",
    "failed_requests",
    "prompt_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "amount",
    "shortfall",
    "first_id",
    "last_id",
)


def upgrade() -> None:
    """Make the table, empty: the cores fill it from what the ledger has."""
    op.create_table(
        "usage_daily",
        sa.Column("day", _BIGINT, primary_key=True, autoincrement=False),
        sa.Column("account_id", sa.Text, primary_key=True),
        sa.Column("key_id", sa.Text, primary_key=True),
        sa.Column("model_id", sa.Text, primary_key=True),
        *(sa.Column(name, _BIGINT, nullable=False) for name in _COUNTS),
        sqlite_strict=True,
    )
    op.create_index("ix_usage_daily_account", "usage_daily", ["account_id", "day"])
    op.execute("INSERT INTO revisions (name, value) VALUES ('usage_daily', 0), ('usage_daily_epoch', 0)")
