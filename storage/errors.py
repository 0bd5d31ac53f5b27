"""What goes wrong in a store. Errors of database drivers never leave it."""

from __future__ import annotations


class StoreError(Exception):
    """Base of what a store raises."""


class InvalidUrl(StoreError):
    """The database URL is malformed or of an unsupported kind; the text never repeats its password."""


class StoreUnavailable(StoreError):
    """The database cannot be reached, is locked by another process, or failed."""


class CommitUnknown(StoreUnavailable):
    """The connection was lost during COMMIT: the change may or may not be durable."""


class ConfigurationRefused(StoreError):
    """The configuration is older than one that the database has been served with, or another of the same version; or
    it has no version, and is another than what a live core serves."""


class SchemaOutdated(StoreError):
    """The database's schema is older or newer than this program; `worldrouter migrate` mends the former."""


class Duplicate(StoreError):
    """A row of this id exists."""


class IdempotencyConflict(StoreError):
    """The idempotency key was used with another body."""


class Missing(StoreError):
    """A row that the call names does not exist."""


class NotPayer(StoreError):
    """An account below another has no money of its own: `payer_id` pays for it."""

    def __init__(self, message: str, *, payer_id: str) -> None:
        super().__init__(message)
        self.payer_id = payer_id


class TooDeep(StoreError):
    """An account has as many accounts above it as may be."""


class BeyondPayment(StoreError):
    """More than is left of the payment, which is `left_nano_usd`."""

    def __init__(self, message: str, *, left_nano_usd: int) -> None:
        super().__init__(message)
        self.left_nano_usd = left_nano_usd


class Unaffordable(StoreError):
    """The account has not that much available; it lacks `missing_nano_usd`."""

    def __init__(self, message: str, *, missing_nano_usd: int) -> None:
        super().__init__(message)
        self.missing_nano_usd = missing_nano_usd


class BackupFailed(StoreError):
    """A backup could not be made or put back; the message says why, and what is missing."""


class BadBackup(StoreError):
    """A file is no backup that can be restored here; the message says why."""


class NotEmpty(StoreError):
    """A backup would take the place of a database that somebody used."""
