"""Who calls: the credential in the `authorization` metadata, judged from memory.

All keys, accounts and limits lie in memory, loaded from the store at start and brought up to date by a poll every
second that asks for what changed since the last sequence numbers. An entry is replaced only by one of a greater
sequence and never from the request path. When polls have failed for 5 seconds the table is not trusted: then
the answer is ServiceUnavailable, never InvalidApiKey and never "allowed".
"""

from __future__ import annotations

import asyncio
import heapq
import hmac
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from core.access.apikeys import KEY_PREFIX, Peppers, UnknownPepper, claimed_key_id, key_id_of
from core.access.loads import Loads
from core.access.tree import AccountTree
from core.call import Caller, Policy, Role
from core.errors import InvalidApiKey, ServiceUnavailable
from storage.limit_records import Limit
from storage.records import Account, ApiKey

_logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 1.0
"""Between polls: a revoked key is refused everywhere within 2 seconds."""
TRUST_S = 5.0
"""Age of the last poll that worked from which on the table is not trusted."""
REFRESH_INTERVAL_S = 0.25
"""Least time between two loads on behalf of unknown keys, so that made-up ones cannot wear the store out."""
LOAD_TIMEOUT_S = 2.0
"""For one page of a load."""
_Changed = TypeVar("_Changed", Account, ApiKey)

_PAGE_SIZE = 1000
_CREDENTIAL_MAX_LENGTH = 512
TOKEN_MIN_LENGTH = 32


@dataclass(frozen=True, slots=True)
class OperatorCredential:
    """The operator's token, and the default account that it acts on."""

    token: str
    account_id: str

    def __post_init__(self) -> None:
        if len(self.token) < TOKEN_MIN_LENGTH:
            raise ValueError(f"the operator's token needs at least {TOKEN_MIN_LENGTH} characters")


class AccessStore(Protocol):
    """What an authenticator needs of the store; see `KeyStore`, `AccountStore` and `LimitStore`."""

    async def keys_changed_since(self, seq: int, limit: int) -> list[ApiKey]: ...

    async def accounts_changed_since(self, seq: int, limit: int) -> list[Account]: ...

    async def limits(self, owner_ids: Sequence[str]) -> list[Limit]: ...


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A key of the table, the caller that it makes, and its end: its own, or that of an account above it."""

    record: ApiKey
    caller: Caller
    ends_us: int | None


class Authenticator:
    """Tells callers by their credentials.

    `clock_us` is the wall clock (microseconds since the Unix epoch), for expiry; `monotonic_s` measures the age of
    the table. `on_revoked` is called with the id of each key that stopped being valid, or of which a secret did
    that running streams may have been opened with: they are to be cut. It must not block nor raise. No stream
    lives longer than `stream_total_s`. `model_ids` are those of the catalog, which lists of models choose from.

    `await refresh()` once before serving, then keep `run()` as a task.
    """

    def __init__(
        self,
        store: AccessStore,
        peppers: Peppers,
        operator: OperatorCredential,
        *,
        clock_us: Callable[[], int],
        monotonic_s: Callable[[], float],
        on_revoked: Callable[[str], None],
        model_ids: Collection[str],
        stream_total_s: float = 900.0,
    ) -> None:
        self._store = store
        self._peppers = peppers
        self._operator_token = operator.token.encode()
        self._default_account_id = operator.account_id
        self._operator: Caller | None = None
        self._clock_us = clock_us
        self._monotonic_s = monotonic_s
        self._on_revoked = on_revoked
        self._keys: dict[str, ApiKey] = {}
        self._tree = AccountTree(model_ids)
        self._admitted: dict[str, _Admitted] = {}
        self._key_seq = 0
        self._account_seq = 0
        self._trusted_until_s = float("-inf")
        self._loads = Loads(self._load, monotonic_s)
        self._ends: list[tuple[int, str, int]] = []
        self._account_ends: list[tuple[int, str]] = []
        self._old_secret_used_us: dict[str, int] = {}
        self._stream_total_us = int(stream_total_s * 1_000_000)

    async def authenticate(self, authorization: str | None) -> Caller:
        """The caller of this `authorization` metadata, "Bearer " (any case) and an API key or the operator's token.

        Raises InvalidApiKey, or ServiceUnavailable when the keys cannot be known now. Suspends only for a
        well-formed key that is not in the table.
        """
        credential = _bearer(authorization)
        known = self._known(credential)
        if known is not None:
            return known
        if not credential.startswith(KEY_PREFIX):
            if hmac.compare_digest(credential.encode("utf-8", "replace"), self._operator_token):
                return self._operator_caller()
            raise _incorrect()
        key_id = key_id_of(credential)
        if key_id is None:
            raise _incorrect()
        record = await self._record(key_id)
        if record is None or not self._holds(record, credential):
            raise _incorrect()
        self._refuse_ended(record)
        return self._admit(record).caller

    def _known(self, credential: str) -> Caller | None:
        """The caller of the current secret of a key in the table, which is most often asked for; else None.

        What matches the hash of a key is that key, so its shape and checksum need no look.
        """
        admitted = self._admitted.get(claimed_key_id(credential))
        if admitted is None or self._monotonic_s() >= self._trusted_until_s:
            return None
        if admitted.ends_us is not None and admitted.ends_us <= self._clock_us():
            return None
        try:
            return admitted.caller if self._peppers.matches(credential, admitted.record.secret) else None
        except UnknownPepper:
            return None

    def _admit(self, record: ApiKey) -> _Admitted:
        """The key as `_known` finds it from now on, until it or an account changes."""
        admitted = self._admitted.get(record.id)
        if admitted is None:
            standing = self._tree.of_key(record)
            role = Role.SERVICE_KEY if record.account_kind == "service" else Role.API_KEY
            caller = Caller(role, record.account_id, record.id, standing.payer_id, standing.policy)
            ends_us = standing.expires_us if record.revoked_us is None else 0
            admitted = self._admitted[record.id] = _Admitted(record, caller, ends_us)
        return admitted

    def _operator_caller(self) -> Caller:
        """The operator: bound by the limits of the default account, which it spends from, and by nothing else."""
        if self._operator is None:
            account_id = self._default_account_id
            standing, policy = self._tree.of_account(account_id), None
            if standing.policy is not None and standing.policy.limits:
                policy = Policy(standing.policy.limits, None)
            self._operator = Caller(Role.OPERATOR, account_id, None, standing.payer_id, policy)
        return self._operator

    def put_models(self, model_ids: Collection[str]) -> None:
        """Exchange the catalog's models: what lists of them allow is worked out anew."""
        self._tree.put_models(model_ids)
        self._admitted.clear()
        self._operator = None

    async def verify(self, key: str) -> ApiKey | None:
        """The record of this key if requests with it are admitted now. Raises ServiceUnavailable."""
        key_id = key_id_of(key)
        record = await self._record(key_id) if key_id is not None else None
        if record is None or not self._holds(record, key) or self._ended(record):
            return None
        return record

    async def refresh(self) -> None:
        """Load what changed before this call, joining a load that somebody else begins.

        Raises StoreError, TimeoutError.
        """
        await self._loads.join()

    async def refresh_soon(self) -> None:
        """Know of a change that is committed, at once if that can be, else by the next poll."""
        try:
            await self.refresh()
        except Exception as error:
            _logger.warning("this core could not load a change yet: %r", error)

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            try:
                await self._loads.join()
            except Exception as error:  # whatever it was: without polls everybody is refused for good
                _logger.warning("polling the API keys failed: %r", error)
            self._end_due()

    async def _record(self, key_id: str) -> ApiKey | None:
        """The entry of this key; loads once more when there is none: another core may just have made it."""
        if self._monotonic_s() >= self._trusted_until_s:
            raise _unavailable()
        record = self._keys.get(key_id)
        if record is None:
            try:
                await self._loads.join(least_interval_s=REFRESH_INTERVAL_S)
            except Exception as error:
                raise _unavailable() from error
            record = self._keys.get(key_id)
        return record

    def _holds(self, record: ApiKey, key: str) -> bool:
        """Whether the key is the record's secret, or its old one that has not ended."""
        try:
            if self._peppers.matches(key, record.secret):
                return True
            old = record.old_secret
            if old is None or (record.old_secret_expires_us or 0) <= self._clock_us():
                return False
            if not self._peppers.matches(key, old):
                return False
        except UnknownPepper as error:
            _logger.error("key %s cannot be checked: %s", record.id, error)
            raise _unavailable() from error
        self._old_secret_used_us[record.id] = self._clock_us()
        return True

    def _ended(self, record: ApiKey) -> bool:
        return record.revoked_us is not None or self._past(self._tree.of_key(record).expires_us)

    def _past(self, end_us: int | None) -> bool:
        return end_us is not None and end_us <= self._clock_us()

    def _refuse_ended(self, record: ApiKey) -> None:
        if record.revoked_us is not None:
            raise InvalidApiKey("This API key was revoked.")
        if self._past(record.expires_us):
            raise InvalidApiKey("This API key has expired.")
        if self._ended(record):
            raise InvalidApiKey("The account of this API key has expired.")

    async def _load(self) -> None:
        """Bring the table up to date with the store as it was when this began, or later."""
        began_s = self._monotonic_s()
        keys = await self._changed(self._store.keys_changed_since, self._key_seq)
        accounts = await self._changed(self._store.accounts_changed_since, self._account_seq)  # a key's is there by now
        owner_ids = [account.id for account in accounts] + [key.id for key in keys]
        limits: list[Limit] = []
        for start in range(0, len(owner_ids), _PAGE_SIZE):
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                limits += await self._store.limits(owner_ids[start : start + _PAGE_SIZE])
        self._replace_accounts(accounts)
        self._tree.put_limits(owner_ids, limits)
        for record in keys:
            self._replace(record)
        self._trusted_until_s = began_s + TRUST_S

    async def _changed(
        self, changed_since: Callable[[int, int], Awaitable[list[_Changed]]], seq: int
    ) -> list[_Changed]:
        """All that changed since."""
        found: list[_Changed] = []
        while True:
            async with asyncio.timeout(LOAD_TIMEOUT_S):
                page = await changed_since(found[-1].seq if found else seq, _PAGE_SIZE)
            found += page
            if len(page) < _PAGE_SIZE:
                return found

    def _replace_accounts(self, accounts: Sequence[Account]) -> None:
        """Put accounts in; what callers were before is worked out anew."""
        if not accounts:
            return
        self._account_seq = accounts[-1].seq
        self._tree.put(accounts)
        self._admitted.clear()
        self._operator = None
        for account in accounts:
            if account.expires_us is not None:
                heapq.heappush(self._account_ends, (account.expires_us, account.id))

    def _replace(self, record: ApiKey) -> None:
        """Put an entry in, unless the table has one as new; report the key if it, or a secret of it, ended."""
        self._key_seq = max(self._key_seq, record.seq)
        known = self._keys.get(record.id)
        if known is not None and known.seq >= record.seq:
            return
        self._keys[record.id] = record
        self._admitted.pop(record.id, None)
        now_us = self._clock_us()
        for end_us in (record.expires_us, record.old_secret_expires_us):
            if end_us is not None and end_us > now_us:
                heapq.heappush(self._ends, (end_us, record.id, record.seq))
        if known is None or self._ended(known):
            return
        if self._ended(record) or not self._secrets(known) <= self._secrets(record):
            self._revoked(record.id)
        elif known.secret != record.secret:
            # What is the old secret now was in use until this moment, for all we know.
            self._old_secret_used_us[record.id] = now_us

    def _secrets(self, record: ApiKey) -> set[bytes]:
        """Digests of the secrets that are valid now, the record itself aside."""
        valid = {record.secret.digest}
        if record.old_secret is not None and (record.old_secret_expires_us or 0) > self._clock_us():
            valid.add(record.old_secret.digest)
        return valid

    def _end_due(self) -> None:
        """Report keys that expired since the last time, and those whose old secret ended while it was in use here.

        "In use" spares the streams of a key whose holder changed over to the new secret in time: streams are
        cut by key, whichever secret opened them.
        """
        now_us = self._clock_us()
        while self._ends and self._ends[0][0] <= now_us:
            _, key_id, seq = heapq.heappop(self._ends)
            record = self._keys[key_id]
            if record.seq != seq or record.revoked_us is not None:
                continue
            used_us = self._old_secret_used_us.get(key_id)
            in_use = used_us is not None and now_us - used_us <= self._stream_total_us
            if self._ended(record) or in_use:
                self._revoked(key_id)
        due: set[str] = set()
        while self._account_ends and self._account_ends[0][0] <= now_us:
            _, account_id = heapq.heappop(self._account_ends)
            account = self._tree.account(account_id)
            if account is not None and self._past(account.expires_us):
                due.add(account_id)
        for record in self._keys.values() if due else ():
            if self._tree.is_within(record.account_id, due):
                self._revoked(record.id)

    def _revoked(self, key_id: str) -> None:
        self._old_secret_used_us.pop(key_id, None)
        self._on_revoked(key_id)


def _bearer(authorization: str | None) -> str:
    """The credential of a Bearer authorization, of a length fit to be looked at."""
    if authorization is None:
        raise InvalidApiKey("No API key was sent: it belongs into `Authorization: Bearer wlrouter_...`.")
    scheme, _, credential = authorization.partition(" ")
    credential = credential.strip(" ")
    if scheme.lower() != "bearer" or not credential or len(credential) > _CREDENTIAL_MAX_LENGTH:
        raise _incorrect()
    return credential


def _incorrect() -> InvalidApiKey:
    return InvalidApiKey("Incorrect API key.")


def _unavailable() -> ServiceUnavailable:
    return ServiceUnavailable("API keys cannot be checked now.", retry_after_s=1.0)
