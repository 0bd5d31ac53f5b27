import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from worldrouter.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class UsageDimension(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    USAGE_DIMENSION_UNSPECIFIED: _ClassVar[UsageDimension]
    USAGE_DIMENSION_DAY: _ClassVar[UsageDimension]
    USAGE_DIMENSION_ACCOUNT: _ClassVar[UsageDimension]
    USAGE_DIMENSION_API_KEY: _ClassVar[UsageDimension]
    USAGE_DIMENSION_MODEL: _ClassVar[UsageDimension]

class LedgerKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LEDGER_KIND_UNSPECIFIED: _ClassVar[LedgerKind]
    LEDGER_KIND_USAGE: _ClassVar[LedgerKind]
    LEDGER_KIND_TOPUP: _ClassVar[LedgerKind]
    LEDGER_KIND_FEE: _ClassVar[LedgerKind]
    LEDGER_KIND_REFUND: _ClassVar[LedgerKind]
    LEDGER_KIND_ADJUST: _ClassVar[LedgerKind]

class CompletionStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    COMPLETION_STATUS_UNSPECIFIED: _ClassVar[CompletionStatus]
    COMPLETION_STATUS_COMPLETE: _ClassVar[CompletionStatus]
    COMPLETION_STATUS_CLIENT_GONE: _ClassVar[CompletionStatus]
    COMPLETION_STATUS_UPSTREAM_FAILED: _ClassVar[CompletionStatus]
    COMPLETION_STATUS_TIMEOUT: _ClassVar[CompletionStatus]
    COMPLETION_STATUS_REVOKED: _ClassVar[CompletionStatus]
    COMPLETION_STATUS_SHUTDOWN: _ClassVar[CompletionStatus]
    COMPLETION_STATUS_INTERNAL_ERROR: _ClassVar[CompletionStatus]

class AuditDeviationKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AUDIT_DEVIATION_KIND_UNSPECIFIED: _ClassVar[AuditDeviationKind]
    AUDIT_DEVIATION_KIND_BALANCE: _ClassVar[AuditDeviationKind]
    AUDIT_DEVIATION_KIND_OVERDRAWN: _ClassVar[AuditDeviationKind]
    AUDIT_DEVIATION_KIND_HOUSE_BALANCE: _ClassVar[AuditDeviationKind]
    AUDIT_DEVIATION_KIND_LEASE_BOUNDS: _ClassVar[AuditDeviationKind]
    AUDIT_DEVIATION_KIND_LEASE_SPENT: _ClassVar[AuditDeviationKind]
    AUDIT_DEVIATION_KIND_UNKNOWN_ACCOUNT: _ClassVar[AuditDeviationKind]
    AUDIT_DEVIATION_KIND_UNKNOWN_PRICE: _ClassVar[AuditDeviationKind]
    AUDIT_DEVIATION_KIND_CHAIN_HASH: _ClassVar[AuditDeviationKind]
    AUDIT_DEVIATION_KIND_CHAIN_MISSING: _ClassVar[AuditDeviationKind]
    AUDIT_DEVIATION_KIND_CHAIN_UNLISTED: _ClassVar[AuditDeviationKind]
    AUDIT_DEVIATION_KIND_CHAIN_HEAD: _ClassVar[AuditDeviationKind]
    AUDIT_DEVIATION_KIND_PURSE: _ClassVar[AuditDeviationKind]
USAGE_DIMENSION_UNSPECIFIED: UsageDimension
USAGE_DIMENSION_DAY: UsageDimension
USAGE_DIMENSION_ACCOUNT: UsageDimension
USAGE_DIMENSION_API_KEY: UsageDimension
USAGE_DIMENSION_MODEL: UsageDimension
LEDGER_KIND_UNSPECIFIED: LedgerKind
LEDGER_KIND_USAGE: LedgerKind
LEDGER_KIND_TOPUP: LedgerKind
LEDGER_KIND_FEE: LedgerKind
LEDGER_KIND_REFUND: LedgerKind
LEDGER_KIND_ADJUST: LedgerKind
COMPLETION_STATUS_UNSPECIFIED: CompletionStatus
COMPLETION_STATUS_COMPLETE: CompletionStatus
COMPLETION_STATUS_CLIENT_GONE: CompletionStatus
COMPLETION_STATUS_UPSTREAM_FAILED: CompletionStatus
COMPLETION_STATUS_TIMEOUT: CompletionStatus
COMPLETION_STATUS_REVOKED: CompletionStatus
COMPLETION_STATUS_SHUTDOWN: CompletionStatus
COMPLETION_STATUS_INTERNAL_ERROR: CompletionStatus
AUDIT_DEVIATION_KIND_UNSPECIFIED: AuditDeviationKind
AUDIT_DEVIATION_KIND_BALANCE: AuditDeviationKind
AUDIT_DEVIATION_KIND_OVERDRAWN: AuditDeviationKind
AUDIT_DEVIATION_KIND_HOUSE_BALANCE: AuditDeviationKind
AUDIT_DEVIATION_KIND_LEASE_BOUNDS: AuditDeviationKind
AUDIT_DEVIATION_KIND_LEASE_SPENT: AuditDeviationKind
AUDIT_DEVIATION_KIND_UNKNOWN_ACCOUNT: AuditDeviationKind
AUDIT_DEVIATION_KIND_UNKNOWN_PRICE: AuditDeviationKind
AUDIT_DEVIATION_KIND_CHAIN_HASH: AuditDeviationKind
AUDIT_DEVIATION_KIND_CHAIN_MISSING: AuditDeviationKind
AUDIT_DEVIATION_KIND_CHAIN_UNLISTED: AuditDeviationKind
AUDIT_DEVIATION_KIND_CHAIN_HEAD: AuditDeviationKind
AUDIT_DEVIATION_KIND_PURSE: AuditDeviationKind

class GetBalanceRequest(_message.Message):
    __slots__ = ("account_id",)
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    def __init__(self, account_id: _Optional[str] = ...) -> None: ...

class Balance(_message.Message):
    __slots__ = ("account_id", "balance_nano_usd", "held_nano_usd", "available_nano_usd", "credit_limit_nano_usd")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    BALANCE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    HELD_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    CREDIT_LIMIT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    balance_nano_usd: int
    held_nano_usd: int
    available_nano_usd: int
    credit_limit_nano_usd: int
    def __init__(self, account_id: _Optional[str] = ..., balance_nano_usd: _Optional[int] = ..., held_nano_usd: _Optional[int] = ..., available_nano_usd: _Optional[int] = ..., credit_limit_nano_usd: _Optional[int] = ...) -> None: ...

class CreateTopUpRequest(_message.Message):
    __slots__ = ("account_id", "amount_nano_usd", "idempotency_key")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    amount_nano_usd: int
    idempotency_key: str
    def __init__(self, account_id: _Optional[str] = ..., amount_nano_usd: _Optional[int] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class TopUp(_message.Message):
    __slots__ = ("id", "account_id", "amount_nano_usd", "fee_nano_usd", "paid_nano_usd", "create_time")
    ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    FEE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    PAID_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    id: str
    account_id: str
    amount_nano_usd: int
    fee_nano_usd: int
    paid_nano_usd: int
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., account_id: _Optional[str] = ..., amount_nano_usd: _Optional[int] = ..., fee_nano_usd: _Optional[int] = ..., paid_nano_usd: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class CreateRefundRequest(_message.Message):
    __slots__ = ("payment_id", "amount_nano_usd", "keep_fee", "idempotency_key")
    PAYMENT_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    KEEP_FEE_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    payment_id: str
    amount_nano_usd: int
    keep_fee: bool
    idempotency_key: str
    def __init__(self, payment_id: _Optional[str] = ..., amount_nano_usd: _Optional[int] = ..., keep_fee: _Optional[bool] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class Refund(_message.Message):
    __slots__ = ("id", "payment_id", "account_id", "amount_nano_usd", "fee_nano_usd", "refunded_nano_usd", "create_time")
    ID_FIELD_NUMBER: _ClassVar[int]
    PAYMENT_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    FEE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    REFUNDED_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    id: str
    payment_id: str
    account_id: str
    amount_nano_usd: int
    fee_nano_usd: int
    refunded_nano_usd: int
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., payment_id: _Optional[str] = ..., account_id: _Optional[str] = ..., amount_nano_usd: _Optional[int] = ..., fee_nano_usd: _Optional[int] = ..., refunded_nano_usd: _Optional[int] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListLedgerEntriesRequest(_message.Message):
    __slots__ = ("account_id", "page_size", "page_token")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    page_size: int
    page_token: str
    def __init__(self, account_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListLedgerEntriesResponse(_message.Message):
    __slots__ = ("entries", "next_page_token")
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[LedgerEntry]
    next_page_token: str
    def __init__(self, entries: _Optional[_Iterable[_Union[LedgerEntry, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ListUsageRecordsRequest(_message.Message):
    __slots__ = ("account_id", "page_size", "page_token", "first_day", "last_day", "all_accounts", "api_key_id")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FIRST_DAY_FIELD_NUMBER: _ClassVar[int]
    LAST_DAY_FIELD_NUMBER: _ClassVar[int]
    ALL_ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    API_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    page_size: int
    page_token: str
    first_day: str
    last_day: str
    all_accounts: bool
    api_key_id: str
    def __init__(self, account_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., first_day: _Optional[str] = ..., last_day: _Optional[str] = ..., all_accounts: _Optional[bool] = ..., api_key_id: _Optional[str] = ...) -> None: ...

class ListUsageRecordsResponse(_message.Message):
    __slots__ = ("records", "next_page_token")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[UsageRecord]
    next_page_token: str
    def __init__(self, records: _Optional[_Iterable[_Union[UsageRecord, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetUsageRecordRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class AuditRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AuditResponse(_message.Message):
    __slots__ = ("deviations", "deviation_count", "chain_holds", "account_count", "entry_count", "chained_entry_count", "last_chained_entry_id")
    DEVIATIONS_FIELD_NUMBER: _ClassVar[int]
    DEVIATION_COUNT_FIELD_NUMBER: _ClassVar[int]
    CHAIN_HOLDS_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_COUNT_FIELD_NUMBER: _ClassVar[int]
    ENTRY_COUNT_FIELD_NUMBER: _ClassVar[int]
    CHAINED_ENTRY_COUNT_FIELD_NUMBER: _ClassVar[int]
    LAST_CHAINED_ENTRY_ID_FIELD_NUMBER: _ClassVar[int]
    deviations: _containers.RepeatedCompositeFieldContainer[AuditDeviation]
    deviation_count: int
    chain_holds: bool
    account_count: int
    entry_count: int
    chained_entry_count: int
    last_chained_entry_id: int
    def __init__(self, deviations: _Optional[_Iterable[_Union[AuditDeviation, _Mapping]]] = ..., deviation_count: _Optional[int] = ..., chain_holds: _Optional[bool] = ..., account_count: _Optional[int] = ..., entry_count: _Optional[int] = ..., chained_entry_count: _Optional[int] = ..., last_chained_entry_id: _Optional[int] = ...) -> None: ...

class AuditDeviation(_message.Message):
    __slots__ = ("kind", "account_id", "subject", "expected", "found")
    KIND_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    kind: AuditDeviationKind
    account_id: str
    subject: str
    expected: str
    found: str
    def __init__(self, kind: _Optional[_Union[AuditDeviationKind, str]] = ..., account_id: _Optional[str] = ..., subject: _Optional[str] = ..., expected: _Optional[str] = ..., found: _Optional[str] = ...) -> None: ...

class ExportLedgerRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ExportLedgerResponse(_message.Message):
    __slots__ = ("field_names", "accounts", "entries")
    FIELD_NAMES_FIELD_NUMBER: _ClassVar[int]
    ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    field_names: _containers.RepeatedScalarFieldContainer[str]
    accounts: _containers.RepeatedCompositeFieldContainer[ExportedAccount]
    entries: _containers.RepeatedCompositeFieldContainer[ExportedEntry]
    def __init__(self, field_names: _Optional[_Iterable[str]] = ..., accounts: _Optional[_Iterable[_Union[ExportedAccount, _Mapping]]] = ..., entries: _Optional[_Iterable[_Union[ExportedEntry, _Mapping]]] = ...) -> None: ...

class ExportedAccount(_message.Message):
    __slots__ = ("account_id", "kind", "available_nano_usd", "held_nano_usd", "chained_entry_count", "chain_hash")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    HELD_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    CHAINED_ENTRY_COUNT_FIELD_NUMBER: _ClassVar[int]
    CHAIN_HASH_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    kind: str
    available_nano_usd: int
    held_nano_usd: int
    chained_entry_count: int
    chain_hash: bytes
    def __init__(self, account_id: _Optional[str] = ..., kind: _Optional[str] = ..., available_nano_usd: _Optional[int] = ..., held_nano_usd: _Optional[int] = ..., chained_entry_count: _Optional[int] = ..., chain_hash: _Optional[bytes] = ...) -> None: ...

class ExportedEntry(_message.Message):
    __slots__ = ("account_id", "position", "hash", "content_json")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    CONTENT_JSON_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    position: int
    hash: bytes
    content_json: str
    def __init__(self, account_id: _Optional[str] = ..., position: _Optional[int] = ..., hash: _Optional[bytes] = ..., content_json: _Optional[str] = ...) -> None: ...

class SummarizeUsageRequest(_message.Message):
    __slots__ = ("account_id", "all_accounts", "first_day", "last_day", "group_by", "page_size", "page_token", "api_key_id")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    ALL_ACCOUNTS_FIELD_NUMBER: _ClassVar[int]
    FIRST_DAY_FIELD_NUMBER: _ClassVar[int]
    LAST_DAY_FIELD_NUMBER: _ClassVar[int]
    GROUP_BY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    API_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    all_accounts: bool
    first_day: str
    last_day: str
    group_by: _containers.RepeatedScalarFieldContainer[UsageDimension]
    page_size: int
    page_token: str
    api_key_id: str
    def __init__(self, account_id: _Optional[str] = ..., all_accounts: _Optional[bool] = ..., first_day: _Optional[str] = ..., last_day: _Optional[str] = ..., group_by: _Optional[_Iterable[_Union[UsageDimension, str]]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., api_key_id: _Optional[str] = ...) -> None: ...

class SummarizeUsageResponse(_message.Message):
    __slots__ = ("summaries", "next_page_token")
    SUMMARIES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    summaries: _containers.RepeatedCompositeFieldContainer[UsageSummary]
    next_page_token: str
    def __init__(self, summaries: _Optional[_Iterable[_Union[UsageSummary, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RebuildUsageSummariesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RebuildUsageSummariesResponse(_message.Message):
    __slots__ = ("entry_count",)
    ENTRY_COUNT_FIELD_NUMBER: _ClassVar[int]
    entry_count: int
    def __init__(self, entry_count: _Optional[int] = ...) -> None: ...

class LedgerEntry(_message.Message):
    __slots__ = ("id", "ref", "kind", "debit_account_id", "credit_account_id", "amount_nano_usd", "shortfall_nano_usd", "note", "create_time")
    ID_FIELD_NUMBER: _ClassVar[int]
    REF_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    DEBIT_ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    CREDIT_ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    SHORTFALL_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    id: int
    ref: str
    kind: LedgerKind
    debit_account_id: str
    credit_account_id: str
    amount_nano_usd: int
    shortfall_nano_usd: int
    note: str
    create_time: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[int] = ..., ref: _Optional[str] = ..., kind: _Optional[_Union[LedgerKind, str]] = ..., debit_account_id: _Optional[str] = ..., credit_account_id: _Optional[str] = ..., amount_nano_usd: _Optional[int] = ..., shortfall_nano_usd: _Optional[int] = ..., note: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class UsageRecord(_message.Message):
    __slots__ = ("request_id", "client_request_id", "account_id", "api_key_id", "model_id", "endpoint", "status", "finish_reason", "error_reason", "usage", "cost_nano_usd", "price_id", "attempt_count", "time_to_first_token_ms", "duration_ms", "streamed", "create_time", "shortfall_nano_usd")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CLIENT_REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    API_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    PRICE_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    TIME_TO_FIRST_TOKEN_MS_FIELD_NUMBER: _ClassVar[int]
    DURATION_MS_FIELD_NUMBER: _ClassVar[int]
    STREAMED_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    SHORTFALL_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    client_request_id: str
    account_id: str
    api_key_id: str
    model_id: str
    endpoint: str
    status: CompletionStatus
    finish_reason: str
    error_reason: str
    usage: _types_pb2.Usage
    cost_nano_usd: int
    price_id: str
    attempt_count: int
    time_to_first_token_ms: int
    duration_ms: int
    streamed: bool
    create_time: _timestamp_pb2.Timestamp
    shortfall_nano_usd: int
    def __init__(self, request_id: _Optional[str] = ..., client_request_id: _Optional[str] = ..., account_id: _Optional[str] = ..., api_key_id: _Optional[str] = ..., model_id: _Optional[str] = ..., endpoint: _Optional[str] = ..., status: _Optional[_Union[CompletionStatus, str]] = ..., finish_reason: _Optional[str] = ..., error_reason: _Optional[str] = ..., usage: _Optional[_Union[_types_pb2.Usage, _Mapping]] = ..., cost_nano_usd: _Optional[int] = ..., price_id: _Optional[str] = ..., attempt_count: _Optional[int] = ..., time_to_first_token_ms: _Optional[int] = ..., duration_ms: _Optional[int] = ..., streamed: _Optional[bool] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., shortfall_nano_usd: _Optional[int] = ...) -> None: ...

class UsageSummary(_message.Message):
    __slots__ = ("day", "account_id", "api_key_id", "model_id", "request_count", "failed_request_count", "prompt_token_count", "cached_token_count", "cache_write_token_count", "completion_token_count", "reasoning_token_count", "cost_nano_usd", "shortfall_nano_usd")
    DAY_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    API_KEY_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_COUNT_FIELD_NUMBER: _ClassVar[int]
    FAILED_REQUEST_COUNT_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    REASONING_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    SHORTFALL_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    day: str
    account_id: str
    api_key_id: str
    model_id: str
    request_count: int
    failed_request_count: int
    prompt_token_count: int
    cached_token_count: int
    cache_write_token_count: int
    completion_token_count: int
    reasoning_token_count: int
    cost_nano_usd: int
    shortfall_nano_usd: int
    def __init__(self, day: _Optional[str] = ..., account_id: _Optional[str] = ..., api_key_id: _Optional[str] = ..., model_id: _Optional[str] = ..., request_count: _Optional[int] = ..., failed_request_count: _Optional[int] = ..., prompt_token_count: _Optional[int] = ..., cached_token_count: _Optional[int] = ..., cache_write_token_count: _Optional[int] = ..., completion_token_count: _Optional[int] = ..., reasoning_token_count: _Optional[int] = ..., cost_nano_usd: _Optional[int] = ..., shortfall_nano_usd: _Optional[int] = ...) -> None: ...
