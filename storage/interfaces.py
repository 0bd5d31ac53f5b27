"""The seams of durable state, as narrow as their users need them.

Every method is one transaction. Callers may be cancelled at any await without leaking a connection or
leaving half a change. All raise `StoreUnavailable` when the database cannot be reached and
`CommitUnknown` (a subclass) when a commit's outcome is unknown; repeating the same call is then safe for
those whose docstring says so, and for every one that takes `once`: a change of the same `Once` again changes
nothing and returns what the first made, as it is now; IdempotencyConflict for another body.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from storage.audit_records import AuditReport, ChainedEntry, Deviation, LedgerSnapshot
from storage.limit_records import RATE_SLICE_US, Limit, Purse, RateAsk, RateShare
from storage.records import (
    USUAL_TTL_S,
    Account,
    AccountChanges,
    AccountKind,
    ApiKey,
    Balance,
    Charge,
    Configuration,
    KeyChanges,
    Lease,
    LedgerEntry,
    NewApiKey,
    NewPayment,
    Once,
    Payment,
    Price,
    Refund,
    SecretHash,
    Serving,
    Settlement,
    TopUp,
)
from storage.usage_records import UsageBounds, UsageDimension, UsageQuery, UsageRecord, UsageSum, UsedBy


class AccountStore(Protocol):
    """Accounts and what they have."""

    async def create_account(
        self,
        account_id: str,
        display_name: str,
        kind: AccountKind,
        *,
        parent_id: str | None = None,
        allowed_models: tuple[str, ...] = (),
        expires_us: int | None = None,
        once: Once | None = None,
    ) -> Account:
        """Make an account with a balance of zero; Duplicate when the id is taken.

        Missing when there is no such parent of a customer's, TooDeep below `MAX_LEVELS` levels.
        """
        ...

    async def update_account(self, account_id: str, changes: AccountChanges, *, once: Once | None = None) -> Account:
        """Change what is named, which is not nothing. Missing when there is no such account of a customer's.

        A credit limit: NotPayer for an account with a parent; Unaffordable when the account owes more than that.
        """
        ...

    async def account(self, account_id: str) -> Account | None: ...

    async def lineage(self, account_id: str) -> list[Account]:
        """The account with all above it, outermost first; empty when there is no such account."""
        ...

    async def accounts(
        self, *, parent_id: str | None = None, before: tuple[int, str] | None, limit: int
    ) -> list[Account]:
        """Newest first, without house accounts; those right below `parent_id`, or all when it is None. `before` is
        (created_us, id) of the last one seen."""
        ...

    async def accounts_changed_since(self, seq: int, limit: int) -> list[Account]:
        """Accounts of a greater seq, ascending by it, without house accounts. Every change takes the next, in commit
        order."""
        ...

    async def balance(self, account_id: str) -> Balance | None:
        """What an account or a purse has; None when there is no such."""
        ...


class KeyStore(Protocol):
    """API keys. Every change takes the next `seq`, in commit order."""

    async def create_key(self, key: NewApiKey, *, once: Once | None = None) -> ApiKey:
        """Make a key; Missing when its account does not exist."""
        ...

    async def key(self, key_id: str) -> ApiKey | None: ...

    async def keys(self, *, account_id: str | None, before: tuple[int, str] | None, limit: int) -> list[ApiKey]:
        """Newest first, revoked ones among them; `before` is (created_us, id) of the last one seen."""
        ...

    async def keys_changed_since(self, seq: int, limit: int) -> list[ApiKey]:
        """Keys of a greater seq, ascending by it."""
        ...

    async def update_key(self, key_id: str, changes: KeyChanges, *, once: Once | None = None) -> ApiKey:
        """Change what is named, which is not nothing. Missing when there is no such key."""
        ...

    async def rotate_key(
        self,
        key_id: str,
        *,
        secret: SecretHash,
        prefix: str,
        suffix: str,
        grace_us: int,
        once: Once | None = None,
    ) -> ApiKey:
        """Exchange the secret; the old one ends `grace_us` from now. Missing when there is none or it is revoked."""
        ...

    async def revoke_key(self, key_id: str, *, once: Once | None = None) -> ApiKey:
        """Missing when there is none; no change when it is revoked."""
        ...


class LimitStore(Protocol):
    """What accounts and keys may use. A change of an owner's limits is one of the owner: it takes the next `seq`."""

    async def set_limit(self, limit: Limit, *, once: Once | None = None) -> Limit:
        """Make a limit, or change the amount of the one that its owner has by that measure and period, whose id stays.

        Missing when the owner is neither a customer's account nor a key.
        """
        ...

    async def delete_limit(self, limit_id: str, *, once: Once | None = None) -> None:
        """Missing when there is none."""
        ...

    async def limits(self, owner_ids: Sequence[str]) -> list[Limit]:
        """All limits of these owners, by owner, oldest first."""
        ...


class LedgerStore(Protocol):
    """The append-only ledger."""

    async def top_up(
        self,
        *,
        payment_id: str,
        account_id: str,
        amount_nano_usd: int,
        fee_nano_usd: int,
        once: Once,
    ) -> TopUp:
        """Credit a payment, two legs in one transaction.

        Missing when there is no such account, NotPayer when it has a parent; Duplicate when the payment id is taken;
        ValueError unless amount > 0 and fee >= 0.
        """
        ...

    async def refund(
        self, *, refund_id: str, payment_id: str, amount_nano_usd: int, keep_fee: bool, once: Once
    ) -> Refund:
        """Take credit of a payment back from its account, and unless `keep_fee` its share of the fee from the house;
        the shares of all parts add up to the fee.

        Missing when there is no such payment; BeyondPayment when it is more than is left of it, Unaffordable when
        more than the account has available (credit limit included); ValueError unless amount > 0.
        """
        ...

    async def adjust(
        self, *, ref: str, account_id: str, amount_nano_usd: int, note: str, purse_ids: Sequence[str] = ()
    ) -> None:
        """Credit an account by the operator's word, and budgets by their purses. Nothing when `ref` is known: safe to
        repeat.

        Missing when there is no such account, NotPayer when it has a parent; ValueError unless amount > 0.
        """
        ...

    async def settle(self, batch: Sequence[Settlement]) -> Mapping[str, Charge]:
        """Commit a batch of settlements, all or none; rows whose request id is in the ledger are skipped.

        Rows of an active lease add to its `spent`; those of a closed one take from the account what it can pay
        (available and credit limit), the rest added to the row's shortfall. Safe to repeat, also after
        CommitUnknown.

        Returns what was charged, by request id, where it is not what the settlement says: nearly always nothing.
        """
        ...

    async def ledger_entries(self, account_id: str, *, before_id: int | None, limit: int) -> list[LedgerEntry]:
        """Entries that debit or credit the account, newest first."""
        ...

    async def usage_record(self, request_id: str, whose: UsedBy | None = None) -> UsageRecord | None:
        """None when there is none, or when it is not of that account."""
        ...


class ConfigurationStore(Protocol):
    """What cores on one database serve."""

    async def put_prices(self, prices: Sequence[Price], serving: Serving | None = None) -> None:
        """Insert those whose id is new, and the configuration that they come from. Safe to repeat.

        ConfigurationRefused, and nothing is inserted, when the database knows a newer version, or this one with
        another content. Version 0 is older than any other, and refused when it has another content than what
        another live core serves.
        """
        ...

    async def newest_configuration(self) -> Configuration | None:
        """The one that cores on this database should serve, without its parts; None before the first."""
        ...


class UsageStore(Protocol):
    """Usage by time, and summed up. Answers are exact at any moment, however far the roll-ups behind them are."""

    async def roll_up_usage(self) -> int:
        """Add entries to the roll-ups that are not in them yet and that can be; how many entries were looked at.

        In small transactions: who is cancelled has lost nothing. Less when another core is at it. Safe to repeat.
        """
        ...

    async def forget_usage(self) -> None:
        """Empty the roll-ups: `roll_up_usage` makes them anew. Until then summaries take as long as the ledger is."""
        ...

    async def summarize_usage(
        self, query: UsageQuery, by: Sequence[UsageDimension], *, after: tuple[int | str, ...] | None, limit: int
    ) -> list[UsageSum]:
        """Sums by what `by` names, ascending by it in that order; `after` is the last one seen, its values of `by`."""
        ...

    async def usage_bounds(self, query: UsageQuery) -> UsageBounds | None:
        """The least and the greatest ledger id of the entries in question; None when there are none."""
        ...

    async def usage_between(self, query: UsageQuery, bounds: UsageBounds, *, limit: int) -> list[UsageRecord]:
        """Usage entries in question of ids within the bounds, newest first."""
        ...


class PaymentStore(Protocol):
    """Payments through providers."""

    async def create_payment(self, payment: NewPayment, *, once: Once | None = None) -> Payment:
        """Enter a payment that nothing was heard of; Missing when there is no such account of a customer's, NotPayer
        when it has a parent."""
        ...

    async def begin_payment(self, payment_id: str, *, reference: str, url: str) -> Payment:
        """Keep what the provider said of a payment. Missing when there is none. Safe to repeat."""
        ...

    async def end_payment(self, payment_id: str, *, paid: bool, note: str) -> Payment:
        """Credit a payment that was paid, two legs in the transaction that changes its state; or let it have failed.

        A paid one stays as it is, whatever is heard of it; a failed one may be paid yet. Missing when there is none.
        Safe to repeat.
        """
        ...

    async def payment(self, payment_id: str) -> Payment | None: ...

    async def payments(self, *, account_id: str | None, before: tuple[int, str] | None, limit: int) -> list[Payment]:
        """Newest first; `before` is (created_us, id) of the last one seen."""
        ...


class PurseStore(Protocol):
    """What limits on spend and concurrency allow, period by period. Periods go by the database's clock."""

    async def purse(self, limit_id: str) -> Purse:
        """The purse of the limit's present period, made if need be, its amount brought to the limit's.

        Missing when there is no such limit. Safe to repeat.
        """
        ...

    async def used(self, limit_ids: Sequence[str]) -> dict[str, int]:
        """By limit, what is used of the present period: nanodollars that were charged, or slots that cores have.

        Limits that nobody has used yet are left out.
        """
        ...


class LeaseStore(Protocol):
    """Money that cores may spend: of accounts, and of purses, whose ids go where an account's does. Expiry goes by the
    database's clock."""

    async def register_core(self, core_id: str, *, ttl_s: float = USUAL_TTL_S) -> None:
        """Enter a core that just started, live for `ttl_s` at first. On SQLite (one core at a time) every lease of an
        earlier core is closed and its unspent part returned in the same transaction."""
        ...

    async def retire_core(self, core_id: str) -> None:
        """A core has ended: it counts as live no more. Safe to repeat."""
        ...

    async def acquire(
        self, *, lease_id: str, account_id: str, core_id: str, want_nano_usd: int, chunk_nano_usd: int, ttl_s: float
    ) -> Lease | None:
        """Move money from the account into a new lease: exactly `want` while what the account can pay (available
        and credit limit) is below 4 x live cores x chunk, else max(want, chunk). None when it cannot pay `want`.

        Safe to repeat: an active lease of this id is returned as it is. Missing when there is no such account,
        or when the lease of this id is closed by now. ValueError for a negative amount, here and below.
        """
        ...

    async def extend(self, *, lease_id: str, seq: int, want_nano_usd: int, chunk_nano_usd: int) -> Lease | None:
        """Move more money into an active lease, by the rule of `acquire`; None when the account cannot pay.
        `seq` is the lease's present one plus 1; a lease that already has it is returned as it is: safe to repeat.
        Missing when the lease is closed, StoreError for any other seq."""
        ...

    async def give_back(self, *, lease_id: str, seq: int, amount_nano_usd: int) -> Lease:
        """Return an unspent part of an active lease to its account; `seq` as in `extend`: safe to repeat.
        Missing when the lease is closed; StoreError for any other seq, or for more than the unspent part."""
        ...

    async def close_lease(self, lease_id: str) -> None:
        """Close a lease and return its unspent part; nothing when it is closed. Safe to repeat."""
        ...

    async def renew(self, core_id: str, *, ttl_s: float) -> list[str]:
        """Heartbeat: extend the life of the core and its active leases, in one UPDATE; returns their ids."""
        ...

    async def reap(self) -> int:
        """Close expired leases of any core, returning their unspent part; how many."""
        ...


class RateStore(Protocol):
    """What is in use of limits per minute, by the database's clock."""

    async def exchange_rates(self, asks: Sequence[RateAsk], *, slice_us: int = RATE_SLICE_US) -> list[RateShare]:
        """Take units of limits, and bring others back, in one transaction; the answers in the order of the asks.

        Each limit is asked for once at most. `slice_us` is how long a slice lasts. Repeated, it takes again; what
        nobody uses or returns is free again after a minute.
        """
        ...

    async def rates_in_use(self, limit_ids: Sequence[str], *, slice_us: int = RATE_SLICE_US) -> dict[str, int]:
        """Units of limits that are in use now, or set aside by a core; limits of which nothing is are left out."""
        ...

    async def forget_rates(self) -> None:
        """Remove what is known of limits of which nothing has been in use for a while. Safe to repeat."""
        ...


class AuditStore(Protocol):
    """Proof that the ledger is whole and that the accounts are what it says. Nothing here repairs anything."""

    async def chain(self) -> int:
        """Append all entries that are in no chain yet to those of their accounts; how many.

        In small transactions: who is cancelled has lost nothing. Less when another core is at it. Safe to repeat.
        """
        ...

    async def unbalanced(self) -> list[Deviation]:
        """What does not add up now, of accounts and active leases: counted from the sums of the chained entries
        and the entries after them, so that it takes as long as there are accounts."""
        ...

    async def audit(self) -> AuditReport:
        """Everything counted anew in one snapshot, and every chain followed; takes as long as the ledger is."""
        ...

    async def ledger_snapshot(self, unchained_limit: int) -> LedgerSnapshot:
        """What an export begins with; of unchained entries the first `unchained_limit`, by id."""
        ...

    async def chained_entries(self, *, after: tuple[str, int], limit: int) -> list[ChainedEntry]:
        """Chained entries by account and position, `after` being those of the last one seen; ("", 0) at first."""
        ...


class IdempotencyStore(Protocol):
    """The keys of changes that were made `once`."""

    async def forget_keys(self, scope_prefix: str, *, older_than_s: int) -> int:
        """Free the idempotency keys of scopes that begin so and were taken longer ago; how many. Safe to repeat."""
        ...


class PurgeStore(Protocol):
    """What need not be kept."""

    async def purge(self, *, older_than_s: int) -> int:
        """Remove some rows of closed leases, of purses of past periods and of cores that have been of no use for that
        long, in one small transaction; how many, 0 when there are no more. Safe to repeat."""
        ...


class Store(
    AccountStore,
    KeyStore,
    LimitStore,
    LedgerStore,
    ConfigurationStore,
    PaymentStore,
    UsageStore,
    LeaseStore,
    RateStore,
    PurseStore,
    AuditStore,
    IdempotencyStore,
    PurgeStore,
    Protocol,
):
    """All of it, over one database."""

    def backup(self) -> AsyncIterator[bytes]:
        """The whole database as of one moment, in pieces of a file that `storage.restore` restores. Who settles does
        not wait for it. BackupFailed."""
        ...

    async def close(self) -> None:
        """Release connections and locks. Idempotent."""
        ...
