"""Purses: what limits on spend and concurrency leave to their periods; leases of them beside those of accounts.

Revision ID: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_COLUMNS = "id, account_id, core_id, granted, spent, seq, state, ttl_us, expires_us"


def upgrade() -> None:
    """Make the table, and let leases be of either."""
    op.create_table(
        "purses",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("limit_id", sa.Text, nullable=False),
        sa.Column("starts_us", _BIGINT, nullable=False),
        sa.Column("ends_us", _BIGINT),
        sa.Column("amount", _BIGINT, nullable=False),
        sa.Column("available", _BIGINT, nullable=False),
        sa.Column("spent", _BIGINT, nullable=False),
        sa.CheckConstraint("amount >= 0", name="ck_purses_amount"),
        sqlite_strict=True,
    )
    op.create_index("ix_purses_limit", "purses", ["limit_id", "starts_us"])
    if op.get_bind().dialect.name == "sqlite":
        _anew()
    else:
        op.drop_constraint("leases_account_id_fkey", "leases", type_="foreignkey")


def _anew() -> None:
    """SQLite drops no constraint of a table: it is made anew."""
    op.rename_table("leases", "leases_before")
    for name in ("account", "core", "expires"):
        op.drop_index(f"ix_leases_{name}", "leases_before")
    op.create_table(
        "leases",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("account_id", sa.Text, nullable=False),
        sa.Column("core_id", sa.Text, sa.ForeignKey("cores.id"), nullable=False),
        sa.Column("granted", _BIGINT, nullable=False),
        sa.Column("spent", _BIGINT, nullable=False),
        sa.Column("seq", _BIGINT, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("ttl_us", _BIGINT, nullable=False),
        sa.Column("expires_us", _BIGINT, nullable=False),
        sa.CheckConstraint("state IN ('active', 'closed')", name="ck_leases_state"),
        sa.CheckConstraint("0 <= spent AND spent <= granted", name="ck_leases_spent"),
        sqlite_strict=True,
    )
    op.execute(f"INSERT INTO leases ({_COLUMNS}) SELECT {_COLUMNS} FROM leases_before")
    op.drop_table("leases_before")
    for name, column in (("account", "account_id"), ("core", "core_id"), ("expires", "expires_us")):
        op.create_index(f"ix_leases_{name}", "leases", [column], sqlite_where=sa.text("state = 'active'"))
