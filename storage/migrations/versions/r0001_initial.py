"""The first schema: accounts, cores, leases, ledger, prices, keys, and the house accounts.

Revision ID: 0001
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_BIGINT = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_FLAG = sa.Boolean().with_variant(sa.Integer(), "sqlite")

_HOUSE_ACCOUNTS: Final = {
    "house_payments": "Payments received",
    "house_fees": "Service fees",
    "house_usage": "Usage charges",
    "house_adjustments": "Adjustments",
}

_SQLITE_TRIGGERS = (
    "CREATE TRIGGER ledger_no_update BEFORE UPDATE ON ledger "
    "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
    "CREATE TRIGGER ledger_no_delete BEFORE DELETE ON ledger "
    "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
)

_POSTGRES_TRIGGERS = (
    "CREATE FUNCTION ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$",
    "CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger "
    "FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuse()",
)


def upgrade() -> None:
    """Make everything on an empty database."""
    _accounts()
    _leases()
    _ledger()
    _append_only()
    _keys()
    _prices_and_idempotency()


def _accounts() -> None:
    accounts = op.create_table(
        "accounts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("available", _BIGINT, nullable=False),
        sa.Column("credit_limit", _BIGINT, nullable=False),
        sa.Column("created_us", _BIGINT, nullable=False),
        sa.CheckConstraint("kind IN ('user', 'service', 'house')", name="ck_accounts_kind"),
        sa.CheckConstraint("credit_limit >= 0", name="ck_accounts_credit_limit"),
        sa.CheckConstraint("kind = 'house' OR available + credit_limit >= 0", name="ck_accounts_available"),
        sqlite_strict=True,
    )
    op.create_index("ix_accounts_created", "accounts", ["created_us", "id"])
    zeros = {"kind": "house", "available": 0, "credit_limit": 0, "created_us": 0}
    rows = [{"id": id_, "display_name": name, **zeros} for id_, name in _HOUSE_ACCOUNTS.items()]
    op.bulk_insert(accounts, rows)


def _leases() -> None:
    op.create_table(
        "cores",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("started_us", _BIGINT, nullable=False),
        sa.Column("heartbeat_us", _BIGINT, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "leases",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), nullable=False),
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
    _partial_index("ix_leases_account", "leases", ["account_id"], "state = 'active'")
    _partial_index("ix_leases_core", "leases", ["core_id"], "state = 'active'")
    _partial_index("ix_leases_expires", "leases", ["expires_us"], "state = 'active'")


def _ledger() -> None:
    op.create_table(
        "ledger",
        sa.Column("id", _BIGINT, sa.Identity(), primary_key=True),
        sa.Column("ref", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("created_us", _BIGINT, nullable=False),
        sa.Column("debit_account", sa.Text, nullable=False),
        sa.Column("credit_account", sa.Text, nullable=False),
        sa.Column("amount", _BIGINT, nullable=False),
        sa.Column("shortfall", _BIGINT, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        *_request_columns(),
        sa.UniqueConstraint("ref", "kind", name="uq_ledger_ref_kind"),
        sa.CheckConstraint("kind IN ('usage', 'topup', 'fee', 'refund', 'adjust')", name="ck_ledger_kind"),
        sa.CheckConstraint("amount >= 0 AND shortfall >= 0", name="ck_ledger_amount"),
        sqlite_strict=True,
    )
    op.create_index("ix_ledger_debit", "ledger", ["debit_account", "id"])
    _partial_index("ix_ledger_credit", "ledger", ["credit_account", "id"], "kind <> 'usage'")


def _request_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("lease_id", sa.Text),
        sa.Column("key_id", sa.Text),
        sa.Column("client_request_id", sa.Text),
        sa.Column("model_id", sa.Text),
        sa.Column("endpoint", sa.Text),
        sa.Column("price_id", sa.Text),
        sa.Column("prompt_tokens", _BIGINT),
        sa.Column("cached_tokens", _BIGINT),
        sa.Column("cache_write_tokens", _BIGINT),
        sa.Column("completion_tokens", _BIGINT),
        sa.Column("reasoning_tokens", _BIGINT),
        sa.Column("estimated", _FLAG),
        sa.Column("status", sa.Text),
        sa.Column("finish_reason", sa.Text),
        sa.Column("error_reason", sa.Text),
        sa.Column("attempts", _BIGINT),
        sa.Column("streamed", _FLAG),
        sa.Column("ttft_ms", _BIGINT),
        sa.Column("duration_ms", _BIGINT),
        sa.Column("core_id", sa.Text),
    ]


def _append_only() -> None:
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in _SQLITE_TRIGGERS if on_sqlite else _POSTGRES_TRIGGERS:
        op.execute(statement)


def _keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("account_id", sa.Text, sa.ForeignKey("accounts.id"), nullable=False),
        sa.Column("display_name", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("pepper_version", _BIGINT, nullable=False),
        sa.Column("secret_prefix", sa.Text, nullable=False),
        sa.Column("secret_suffix", sa.Text, nullable=False),
        sa.Column("old_digest", sa.LargeBinary),
        sa.Column("old_pepper_version", _BIGINT),
        sa.Column("old_expires_us", _BIGINT),
        sa.Column("created_us", _BIGINT, nullable=False),
        sa.Column("expires_us", _BIGINT),
        sa.Column("revoked_us", _BIGINT),
        sa.Column("seq", _BIGINT, nullable=False),
        sa.UniqueConstraint("seq", name="uq_api_keys_seq"),
        sqlite_strict=True,
    )
    op.create_index("ix_api_keys_created", "api_keys", ["created_us", "id"])
    op.create_index("ix_api_keys_account", "api_keys", ["account_id", "created_us", "id"])
    revisions = op.create_table(
        "revisions",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", _BIGINT, nullable=False),
        sqlite_strict=True,
    )
    op.bulk_insert(revisions, [{"name": "api_keys", "value": 0}])


def _prices_and_idempotency() -> None:
    op.create_table(
        "prices",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("model_id", sa.Text, nullable=False),
        sa.Column("input_pico_usd", _BIGINT, nullable=False),
        sa.Column("output_pico_usd", _BIGINT, nullable=False),
        sa.Column("cache_read_pico_usd", _BIGINT, nullable=False),
        sa.Column("cache_write_pico_usd", _BIGINT, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "idempotency",
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("body_hash", sa.LargeBinary, nullable=False),
        sa.Column("response", sa.Text, nullable=False),
        sa.Column("created_us", _BIGINT, nullable=False),
        sqlite_strict=True,
    )


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, postgresql_where=sa.text(where), sqlite_where=sa.text(where))
