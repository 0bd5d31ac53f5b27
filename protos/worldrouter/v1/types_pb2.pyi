import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Usage(_message.Message):
    __slots__ = ("prompt_token_count", "completion_token_count", "total_token_count", "cached_token_count", "reasoning_token_count", "cache_write_token_count", "estimated")
    PROMPT_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOTAL_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    REASONING_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_TOKEN_COUNT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_FIELD_NUMBER: _ClassVar[int]
    prompt_token_count: int
    completion_token_count: int
    total_token_count: int
    cached_token_count: int
    reasoning_token_count: int
    cache_write_token_count: int
    estimated: bool
    def __init__(self, prompt_token_count: _Optional[int] = ..., completion_token_count: _Optional[int] = ..., total_token_count: _Optional[int] = ..., cached_token_count: _Optional[int] = ..., reasoning_token_count: _Optional[int] = ..., cache_write_token_count: _Optional[int] = ..., estimated: _Optional[bool] = ...) -> None: ...

class Price(_message.Message):
    __slots__ = ("id", "input_pico_usd_per_token", "output_pico_usd_per_token", "cache_read_pico_usd_per_token", "cache_write_pico_usd_per_token")
    ID_FIELD_NUMBER: _ClassVar[int]
    INPUT_PICO_USD_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_PICO_USD_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CACHE_READ_PICO_USD_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CACHE_WRITE_PICO_USD_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    id: str
    input_pico_usd_per_token: int
    output_pico_usd_per_token: int
    cache_read_pico_usd_per_token: int
    cache_write_pico_usd_per_token: int
    def __init__(self, id: _Optional[str] = ..., input_pico_usd_per_token: _Optional[int] = ..., output_pico_usd_per_token: _Optional[int] = ..., cache_read_pico_usd_per_token: _Optional[int] = ..., cache_write_pico_usd_per_token: _Optional[int] = ...) -> None: ...

class CompletionStarted(_message.Message):
    __slots__ = ("id", "model", "endpoint", "create_time", "overhead_us")
    ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    OVERHEAD_US_FIELD_NUMBER: _ClassVar[int]
    id: str
    model: str
    endpoint: str
    create_time: _timestamp_pb2.Timestamp
    overhead_us: int
    def __init__(self, id: _Optional[str] = ..., model: _Optional[str] = ..., endpoint: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., overhead_us: _Optional[int] = ...) -> None: ...

class CompletionFinished(_message.Message):
    __slots__ = ("finish_reasons", "usage", "cost_nano_usd")
    FINISH_REASONS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    finish_reasons: _containers.RepeatedScalarFieldContainer[str]
    usage: Usage
    cost_nano_usd: int
    def __init__(self, finish_reasons: _Optional[_Iterable[str]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., cost_nano_usd: _Optional[int] = ...) -> None: ...
