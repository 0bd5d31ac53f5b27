"""The tables, as SQLAlchemy Core sees them; `migrations` makes them.

Money is BIGINT nanodollars, prices BIGINT picodollars per token, times BIGINT microseconds since the Unix
epoch. On SQLite the tables are STRICT: a number that is not an integer is refused rather than kept.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

# STRICT tables of SQLite know INTEGER (64-bit there), TEXT and BLOB alone.
BIGINT = BigInteger().with_variant(Integer(), "sqlite")
FLAG = Boolean().with_variant(Integer(), "sqlite")

metadata = MetaData()

accounts = Table(
    "accounts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("display_name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    # What no lease holds. Stays 0 on house accounts, whose balance is a sum over the ledger: a row that
    # every payment changed would make them wait for one another.
    Column("available", BIGINT, nullable=False),
    Column("credit_limit", BIGINT, nullable=False),
    Column("created_us", BIGINT, nullable=False),
    # Fixed when the account is made; accounts are never deleted. Only the root of a tree has money.
    Column(
        "parent_id",
        Text,
        CheckConstraint("parent_id IS NULL OR (available = 0 AND credit_limit = 0)", name="ck_accounts_parent"),
    ),
    # IDs and prefixes of models as a JSON array; NULL: all.
    Column("allowed_models", Text),
    Column("expires_us", BIGINT),
    # Of the last change that cores poll for, the account's limits included; 0 on house accounts.
    Column("seq", BIGINT, nullable=False, server_default=text("0")),
    CheckConstraint("kind IN ('user', 'service', 'house')", name="ck_accounts_kind"),
    CheckConstraint("credit_limit >= 0", name="ck_accounts_credit_limit"),
    CheckConstraint("kind = 'house' OR available + credit_limit >= 0", name="ck_accounts_available"),
    Index("ix_accounts_created", "created_us", "id"),
    Index("ix_accounts_parent", "parent_id", "created_us", "id"),
    Index("ix_accounts_seq", "seq"),
    sqlite_strict=True,
)

cores = Table(
    "cores",
    metadata,
    Column("id", Text, primary_key=True),
    Column("started_us", BIGINT, nullable=False),
    Column("heartbeat_us", BIGINT, nullable=False),
    sqlite_strict=True,
)

_ACTIVE = text("state = 'active'")

leases = Table(
    "leases",
    metadata,
    Column("id", Text, primary_key=True),
    # Whose money it is: an account's id or a purse's, see `storage.purses`.
    Column("account_id", Text, nullable=False),
    Column("core_id", Text, ForeignKey("cores.id"), nullable=False),
    Column("granted", BIGINT, nullable=False),
    Column("spent", BIGINT, nullable=False),
    Column("seq", BIGINT, nullable=False),
    Column("state", Text, nullable=False),
    # The life that `acquire` asked for: an extension counts live cores by it.
    Column("ttl_us", BIGINT, nullable=False),
    Column("expires_us", BIGINT, nullable=False),
    CheckConstraint("state IN ('active', 'closed')", name="ck_leases_state"),
    CheckConstraint("0 <= spent AND spent <= granted", name="ck_leases_spent"),
    Index("ix_leases_account", "account_id", postgresql_where=_ACTIVE, sqlite_where=_ACTIVE),
    Index("ix_leases_core", "core_id", postgresql_where=_ACTIVE, sqlite_where=_ACTIVE),
    Index("ix_leases_expires", "expires_us", postgresql_where=_ACTIVE, sqlite_where=_ACTIVE),
    sqlite_strict=True,
)

# What a limit on spend or concurrency leaves to its period: see `storage.purses`. Without a foreign key: limits are
# deleted. `spent` is what charges took of it less what was given back, but for charges that active leases know of.
purses = Table(
    "purses",
    metadata,
    Column("id", Text, primary_key=True),
    Column("limit_id", Text, nullable=False),
    Column("starts_us", BIGINT, nullable=False),
    Column("ends_us", BIGINT),
    Column("amount", BIGINT, nullable=False),
    # Below 0 when the amount was lowered to less than is spent and leased.
    Column("available", BIGINT, nullable=False),
    Column("spent", BIGINT, nullable=False),
    CheckConstraint("amount >= 0", name="ck_purses_amount"),
    Index("ix_purses_limit", "limit_id", "starts_us"),
    sqlite_strict=True,
)

# Without foreign keys: a settlement must never fail for a row that somebody else owns, and on PostgreSQL
# the check would lock the account's row once per charge. Nothing that the ledger names is ever deleted.
ledger = Table(
    "ledger",
    metadata,
    Column("id", BIGINT, Identity(), primary_key=True),
    Column("ref", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("created_us", BIGINT, nullable=False),
    Column("debit_account", Text, nullable=False),
    Column("credit_account", Text, nullable=False),
    Column("amount", BIGINT, nullable=False),
    Column("shortfall", BIGINT, nullable=False),
    Column("note", Text, nullable=False),
    # What follows describes a request: NULL unless kind is 'usage'.
    Column("lease_id", Text),
    Column("key_id", Text),
    Column("client_request_id", Text),
    Column("model_id", Text),
    Column("endpoint", Text),
    Column("price_id", Text),
    Column("prompt_tokens", BIGINT),
    Column("cached_tokens", BIGINT),
    Column("cache_write_tokens", BIGINT),
    Column("completion_tokens", BIGINT),
    Column("reasoning_tokens", BIGINT),
    Column("estimated", FLAG),
    Column("status", Text),
    Column("finish_reason", Text),
    Column("error_reason", Text),
    Column("attempts", BIGINT),
    Column("streamed", FLAG),
    Column("ttft_ms", BIGINT),
    Column("duration_ms", BIGINT),
    Column("core_id", Text),
    UniqueConstraint("ref", "kind", name="uq_ledger_ref_kind"),
    CheckConstraint("kind IN ('usage', 'topup', 'fee', 'refund', 'adjust')", name="ck_ledger_kind"),
    CheckConstraint("amount >= 0 AND shortfall >= 0", name="ck_ledger_amount"),
    Index("ix_ledger_debit", "debit_account", "id"),
    Index("ix_ledger_key", "key_id", "id"),
    # Usage always credits the same house account: its rows would only swell this index.
    Index(
        "ix_ledger_credit",
        "credit_account",
        "id",
        postgresql_where=text("kind <> 'usage'"),
        sqlite_where=text("kind <> 'usage'"),
    ),
    sqlite_strict=True,
)

# The versions of the configuration that cores have served with; 0 is what those serve whose file has none. Behind the
# hash, after a space, may be JSON of what it is made of: see `storage.configurations`.
configurations = Table(
    "configurations",
    metadata,
    Column("version", BIGINT, primary_key=True, autoincrement=False),
    Column("content_hash", Text, nullable=False),
    Column("created_us", BIGINT, nullable=False),
    sqlite_strict=True,
)

prices = Table(
    "prices",
    metadata,
    Column("id", Text, primary_key=True),
    Column("model_id", Text, nullable=False),
    Column("input_pico_usd", BIGINT, nullable=False),
    Column("output_pico_usd", BIGINT, nullable=False),
    Column("cache_read_pico_usd", BIGINT, nullable=False),
    Column("cache_write_pico_usd", BIGINT, nullable=False),
    sqlite_strict=True,
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("display_name", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("pepper_version", BIGINT, nullable=False),
    Column("secret_prefix", Text, nullable=False),
    Column("secret_suffix", Text, nullable=False),
    Column("old_digest", LargeBinary),
    Column("old_pepper_version", BIGINT),
    Column("old_expires_us", BIGINT),
    Column("created_us", BIGINT, nullable=False),
    Column("expires_us", BIGINT),
    Column("revoked_us", BIGINT),
    # Of the last change of the key or of its limits.
    Column("seq", BIGINT, nullable=False),
    # As an account's.
    Column("allowed_models", Text),
    UniqueConstraint("seq", name="uq_api_keys_seq"),
    Index("ix_api_keys_created", "created_us", "id"),
    Index("ix_api_keys_account", "account_id", "created_us", "id"),
    sqlite_strict=True,
)

# What accounts and keys may use. The rows of an owner change with its `seq`.
limits = Table(
    "limits",
    metadata,
    Column("id", Text, primary_key=True),
    Column("owner_id", Text, nullable=False),
    Column("measure", Text, nullable=False),
    Column("period", Text, nullable=False),
    Column("amount", BIGINT, nullable=False),
    Column("created_us", BIGINT, nullable=False),
    UniqueConstraint("owner_id", "measure", "period", name="uq_limits_owner"),
    CheckConstraint(
        "(measure = 'spend' AND period IN ('lifetime', 'month', 'day'))"
        " OR (measure IN ('requests', 'tokens') AND period = 'minute')"
        " OR (measure = 'concurrency' AND period = 'now')",
        name="ck_limits_measure",
    ),
    CheckConstraint("amount >= 0", name="ck_limits_amount"),
    sqlite_strict=True,
)

# One row per counter. A change takes the next number by UPDATE … RETURNING in its own transaction: the
# row stays locked until the commit, so numbers become visible in their order.
revisions = Table(
    "revisions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", BIGINT, nullable=False),
    sqlite_strict=True,
)

API_KEY_REVISION = "api_keys"
"""Name of the counter that `api_keys.seq` comes from."""

ACCOUNT_REVISION = "accounts"
"""Name of the counter that `accounts.seq` comes from."""

CHAIN_REVISION = "ledger_chain"
"""Name of the counter below which the ledger is chained: every entry of an id up to it, and none comes later."""

# The ledger's hash chain, one per account: see `storage.chain`. Apart from the ledger, so that whoever settles
# writes nothing of it. Unique both ways: two writers that chain the same entry or position fail.
ledger_chain = Table(
    "ledger_chain",
    metadata,
    Column("ledger_id", BIGINT, primary_key=True, autoincrement=False),
    Column("account_id", Text, nullable=False),
    Column("position", BIGINT, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    UniqueConstraint("account_id", "position", name="uq_ledger_chain_position"),
    CheckConstraint("position >= 1", name="ck_ledger_chain_position"),
    sqlite_strict=True,
)

# What the chained entries come to: the end of an account's chain (position 0 where it has none of its own), and
# the sums of all chained entries that debit or credit the account, whichever chain they are in.
ledger_heads = Table(
    "ledger_heads",
    metadata,
    Column("account_id", Text, primary_key=True),
    Column("position", BIGINT, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("debits", BIGINT, nullable=False),
    Column("credits", BIGINT, nullable=False),
    sqlite_strict=True,
)

USAGE_REVISION = "usage_daily"
"""Name of the counter that says how far `usage_daily` is: an id of the ledger, everything up to it is in."""

USAGE_EPOCH = "usage_daily_epoch"
"""Name of the counter of how often `usage_daily` was emptied to be made anew."""

# Sums of usage entries by UTC day (days since the epoch), account, key ("" for the operator's) and model; see
# `storage.usage`. Everything here can be made anew from the ledger.
usage_daily = Table(
    "usage_daily",
    metadata,
    Column("day", BIGINT, primary_key=True, autoincrement=False),
    Column("account_id", Text, primary_key=True),
    Column("key_id", Text, primary_key=True),
    Column("model_id", Text, primary_key=True),
    Column("requests", BIGINT, nullable=False),
    Column("failed_requests", BIGINT, nullable=False),
    Column("prompt_tokens", BIGINT, nullable=False),
    Column("cached_tokens", BIGINT, nullable=False),
    Column("cache_write_tokens", BIGINT, nullable=False),
    Column("completion_tokens", BIGINT, nullable=False),
    Column("reasoning_tokens", BIGINT, nullable=False),
    Column("amount", BIGINT, nullable=False),
    Column("shortfall", BIGINT, nullable=False),
    # The least and the greatest id of the entries that were added up: where in the ledger to look for them.
    Column("first_id", BIGINT, nullable=False),
    Column("last_id", BIGINT, nullable=False),
    Index("ix_usage_daily_account", "account_id", "day"),
    Index("ix_usage_daily_key", "key_id", "day"),
    sqlite_strict=True,
)

refunds = Table(
    "refunds",
    metadata,
    Column("id", Text, primary_key=True),
    Column("payment_id", Text, nullable=False),
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("amount", BIGINT, nullable=False),
    Column("fee", BIGINT, nullable=False),
    Column("created_us", BIGINT, nullable=False),
    CheckConstraint("amount > 0 AND fee >= 0", name="ck_refunds_amount"),
    Index("ix_refunds_payment", "payment_id"),
    sqlite_strict=True,
)

payments = Table(
    "payments",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account_id", Text, ForeignKey("accounts.id"), nullable=False),
    Column("amount", BIGINT, nullable=False),
    Column("fee", BIGINT, nullable=False),
    Column("provider", Text, nullable=False),
    Column("reference", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_us", BIGINT, nullable=False),
    Column("updated_us", BIGINT, nullable=False),
    CheckConstraint("amount > 0 AND fee >= 0", name="ck_payments_amount"),
    CheckConstraint("state IN ('pending', 'paid', 'failed')", name="ck_payments_state"),
    Index("ix_payments_created", "created_us", "id"),
    Index("ix_payments_account", "account_id", "created_us", "id"),
    sqlite_strict=True,
)

# What is in use of limits per minute, by slices of time: see `storage.windows`. No reference to the limits: a row is
# of use for two minutes at most, and changed by requests that know nothing of a limit's end.
rate_windows = Table(
    "rate_windows",
    metadata,
    Column("limit_id", Text, primary_key=True),
    Column("used", Text, nullable=False),
    Column("changed_us", BIGINT, nullable=False),
    sqlite_strict=True,
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("body_hash", LargeBinary, nullable=False),
    # What the first call made, for example a payment's id: the answer is rebuilt from it.
    Column("response", Text, nullable=False),
    Column("created_us", BIGINT, nullable=False),
    sqlite_strict=True,
)
