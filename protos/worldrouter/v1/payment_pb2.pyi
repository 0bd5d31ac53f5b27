import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PaymentState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PAYMENT_STATE_UNSPECIFIED: _ClassVar[PaymentState]
    PAYMENT_STATE_PENDING: _ClassVar[PaymentState]
    PAYMENT_STATE_PAID: _ClassVar[PaymentState]
    PAYMENT_STATE_FAILED: _ClassVar[PaymentState]
PAYMENT_STATE_UNSPECIFIED: PaymentState
PAYMENT_STATE_PENDING: PaymentState
PAYMENT_STATE_PAID: PaymentState
PAYMENT_STATE_FAILED: PaymentState

class CreatePaymentRequest(_message.Message):
    __slots__ = ("account_id", "amount_nano_usd", "provider", "idempotency_key")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    amount_nano_usd: int
    provider: str
    idempotency_key: str
    def __init__(self, account_id: _Optional[str] = ..., amount_nano_usd: _Optional[int] = ..., provider: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class GetPaymentRequest(_message.Message):
    __slots__ = ("payment_id",)
    PAYMENT_ID_FIELD_NUMBER: _ClassVar[int]
    payment_id: str
    def __init__(self, payment_id: _Optional[str] = ...) -> None: ...

class ListPaymentsRequest(_message.Message):
    __slots__ = ("account_id", "page_size", "page_token")
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    account_id: str
    page_size: int
    page_token: str
    def __init__(self, account_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListPaymentsResponse(_message.Message):
    __slots__ = ("payments", "next_page_token")
    PAYMENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    payments: _containers.RepeatedCompositeFieldContainer[Payment]
    next_page_token: str
    def __init__(self, payments: _Optional[_Iterable[_Union[Payment, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class HandleWebhookRequest(_message.Message):
    __slots__ = ("provider", "body", "headers")
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    provider: str
    body: bytes
    headers: _containers.RepeatedCompositeFieldContainer[WebhookHeader]
    def __init__(self, provider: _Optional[str] = ..., body: _Optional[bytes] = ..., headers: _Optional[_Iterable[_Union[WebhookHeader, _Mapping]]] = ...) -> None: ...

class WebhookHeader(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class HandleWebhookResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetTestPaymentPageRequest(_message.Message):
    __slots__ = ("payment_id",)
    PAYMENT_ID_FIELD_NUMBER: _ClassVar[int]
    payment_id: str
    def __init__(self, payment_id: _Optional[str] = ...) -> None: ...

class TestPaymentPage(_message.Message):
    __slots__ = ("payment", "pay_body", "pay_signature", "decline_body", "decline_signature")
    PAYMENT_FIELD_NUMBER: _ClassVar[int]
    PAY_BODY_FIELD_NUMBER: _ClassVar[int]
    PAY_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    DECLINE_BODY_FIELD_NUMBER: _ClassVar[int]
    DECLINE_SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    payment: Payment
    pay_body: bytes
    pay_signature: str
    decline_body: bytes
    decline_signature: str
    def __init__(self, payment: _Optional[_Union[Payment, _Mapping]] = ..., pay_body: _Optional[bytes] = ..., pay_signature: _Optional[str] = ..., decline_body: _Optional[bytes] = ..., decline_signature: _Optional[str] = ...) -> None: ...

class Payment(_message.Message):
    __slots__ = ("id", "account_id", "amount_nano_usd", "fee_nano_usd", "paid_nano_usd", "provider", "provider_reference", "url", "state", "create_time", "update_time")
    ID_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_ID_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    FEE_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    PAID_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_REFERENCE_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    id: str
    account_id: str
    amount_nano_usd: int
    fee_nano_usd: int
    paid_nano_usd: int
    provider: str
    provider_reference: str
    url: str
    state: PaymentState
    create_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., account_id: _Optional[str] = ..., amount_nano_usd: _Optional[int] = ..., fee_nano_usd: _Optional[int] = ..., paid_nano_usd: _Optional[int] = ..., provider: _Optional[str] = ..., provider_reference: _Optional[str] = ..., url: _Optional[str] = ..., state: _Optional[_Union[PaymentState, str]] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
