"""Accounts in memory, as far as they bind those who call: who pays, until when, and what may be used.

An account passes on to all below it what binds it; a key comes last. Nothing here awaits, and what an account comes to
is worked out once, when it is first asked for after a change.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from core.call import Policy
from storage.limit_records import Limit
from storage.records import Account, ApiKey


class Standing(msgspec.Struct, frozen=True):
    """What an account, or a key, and all above it come to: who pays, the end (None: never), and what binds it."""

    payer_id: str
    expires_us: int | None
    policy: Policy | None


class AccountTree:
    """All customers' accounts, and the limits of accounts and keys. `model_ids` are those of the catalog."""

    def __init__(self, model_ids: Collection[str]) -> None:
        self._model_ids = model_ids
        self._accounts: dict[str, Account] = {}
        self._limits: dict[str, tuple[Limit, ...]] = {}
        self._standings: dict[str, Standing] = {}

    def put_models(self, model_ids: Collection[str]) -> None:
        """Exchange what lists of models choose from."""
        self._model_ids = model_ids
        self._standings.clear()

    def put(self, accounts: Iterable[Account]) -> None:
        """Enter accounts, or exchange them."""
        self._accounts.update((account.id, account) for account in accounts)
        self._standings.clear()

    def put_limits(self, owner_ids: Iterable[str], limits: Iterable[Limit]) -> None:
        """Exchange the limits of these owners: `limits` are all that they have."""
        for owner_id in owner_ids:
            self._limits.pop(owner_id, None)
        for limit in limits:
            self._limits[limit.owner_id] = (*self._limits.get(limit.owner_id, ()), limit)
        self._standings.clear()

    def account(self, account_id: str) -> Account | None:
        """The account; None when there is none."""
        return self._accounts.get(account_id)

    def of_account(self, account_id: str) -> Standing:
        """What an account comes to.

        One that is not known here, as a core of an older version has made it since, is a root that nothing binds.
        """
        standing = self._standings.get(account_id)
        if standing is None:
            account, standing = self._accounts.get(account_id), Standing(account_id, None, None)
            if account is not None:
                above = self.of_account(account.parent_id) if account.parent_id else standing
                standing = self._below(above, account)
            self._standings[account_id] = standing
        return standing

    def of_key(self, key: ApiKey) -> Standing:
        """What a key comes to."""
        return self._below(self.of_account(key.account_id), key)

    def is_within(self, account_id: str, tops: Collection[str]) -> bool:
        """Whether an account is one of `tops`, or below one."""
        account = self._accounts.get(account_id)
        while account is not None and account.id not in tops:
            account = self._accounts.get(account.parent_id or "")
        return account is not None

    def _below(self, above: Standing, own: Account | ApiKey) -> Standing:
        ends = [end for end in (above.expires_us, own.expires_us) if end is not None]
        limits = self._limits.get(own.id, ())
        policy = above.policy
        if limits or own.allowed_models:
            outer = policy or Policy((), None)
            policy = Policy(outer.limits + limits, self._narrowed(outer.models, own.allowed_models))
        return Standing(above.payer_id, min(ends, default=None), policy)

    def _narrowed(self, models: frozenset[str] | None, allowed: tuple[str, ...]) -> frozenset[str] | None:
        if not allowed:
            return models
        exact = frozenset(allowed)
        prefixes = tuple(each[:-1] for each in allowed if each.endswith("*"))
        of = self._model_ids if models is None else models
        return frozenset(each for each in of if each in exact or each.startswith(prefixes))
