from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

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
