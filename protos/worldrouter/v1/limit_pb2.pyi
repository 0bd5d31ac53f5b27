from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LimitMeasure(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LIMIT_MEASURE_UNSPECIFIED: _ClassVar[LimitMeasure]
    LIMIT_MEASURE_SPEND: _ClassVar[LimitMeasure]
    LIMIT_MEASURE_REQUESTS: _ClassVar[LimitMeasure]
    LIMIT_MEASURE_TOKENS: _ClassVar[LimitMeasure]
    LIMIT_MEASURE_CONCURRENCY: _ClassVar[LimitMeasure]

class LimitPeriod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LIMIT_PERIOD_UNSPECIFIED: _ClassVar[LimitPeriod]
    LIMIT_PERIOD_LIFETIME: _ClassVar[LimitPeriod]
    LIMIT_PERIOD_MONTH: _ClassVar[LimitPeriod]
    LIMIT_PERIOD_DAY: _ClassVar[LimitPeriod]
    LIMIT_PERIOD_MINUTE: _ClassVar[LimitPeriod]
    LIMIT_PERIOD_NOW: _ClassVar[LimitPeriod]
LIMIT_MEASURE_UNSPECIFIED: LimitMeasure
LIMIT_MEASURE_SPEND: LimitMeasure
LIMIT_MEASURE_REQUESTS: LimitMeasure
LIMIT_MEASURE_TOKENS: LimitMeasure
LIMIT_MEASURE_CONCURRENCY: LimitMeasure
LIMIT_PERIOD_UNSPECIFIED: LimitPeriod
LIMIT_PERIOD_LIFETIME: LimitPeriod
LIMIT_PERIOD_MONTH: LimitPeriod
LIMIT_PERIOD_DAY: LimitPeriod
LIMIT_PERIOD_MINUTE: LimitPeriod
LIMIT_PERIOD_NOW: LimitPeriod

class SetLimitRequest(_message.Message):
    __slots__ = ("owner_id", "measure", "period", "maximum", "idempotency_key")
    OWNER_ID_FIELD_NUMBER: _ClassVar[int]
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    owner_id: str
    measure: LimitMeasure
    period: LimitPeriod
    maximum: int
    idempotency_key: str
    def __init__(self, owner_id: _Optional[str] = ..., measure: _Optional[_Union[LimitMeasure, str]] = ..., period: _Optional[_Union[LimitPeriod, str]] = ..., maximum: _Optional[int] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class DeleteLimitRequest(_message.Message):
    __slots__ = ("limit_id", "idempotency_key")
    LIMIT_ID_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    limit_id: str
    idempotency_key: str
    def __init__(self, limit_id: _Optional[str] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class DeleteLimitResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListLimitsRequest(_message.Message):
    __slots__ = ("owner_id", "inherited", "page_size", "page_token")
    OWNER_ID_FIELD_NUMBER: _ClassVar[int]
    INHERITED_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    owner_id: str
    inherited: bool
    page_size: int
    page_token: str
    def __init__(self, owner_id: _Optional[str] = ..., inherited: _Optional[bool] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListLimitsResponse(_message.Message):
    __slots__ = ("limits", "next_page_token")
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    limits: _containers.RepeatedCompositeFieldContainer[Limit]
    next_page_token: str
    def __init__(self, limits: _Optional[_Iterable[_Union[Limit, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class Limit(_message.Message):
    __slots__ = ("id", "owner_id", "measure", "period", "maximum", "used")
    ID_FIELD_NUMBER: _ClassVar[int]
    OWNER_ID_FIELD_NUMBER: _ClassVar[int]
    MEASURE_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    id: str
    owner_id: str
    measure: LimitMeasure
    period: LimitPeriod
    maximum: int
    used: int
    def __init__(self, id: _Optional[str] = ..., owner_id: _Optional[str] = ..., measure: _Optional[_Union[LimitMeasure, str]] = ..., period: _Optional[_Union[LimitPeriod, str]] = ..., maximum: _Optional[int] = ..., used: _Optional[int] = ...) -> None: ...
