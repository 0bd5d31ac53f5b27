"""Indexes by key: the usage of a key, or of an account with few of them, is found among that of all.

Revision ID: 0010
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make both; the one of the ledger takes about half a minute for ten million entries."""
    op.create_index("ix_ledger_key", "ledger", ["key_id", "id"])
    op.create_index("ix_usage_daily_key", "usage_daily", ["key_id", "day"])
