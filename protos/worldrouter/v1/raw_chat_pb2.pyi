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

class Dialect(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DIALECT_UNSPECIFIED: _ClassVar[Dialect]
    DIALECT_OPENAI_CHAT: _ClassVar[Dialect]
DIALECT_UNSPECIFIED: Dialect
DIALECT_OPENAI_CHAT: Dialect

class CreateRawCompletionRequest(_message.Message):
    __slots__ = ("dialect", "body")
    DIALECT_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    dialect: Dialect
    body: bytes
    def __init__(self, dialect: _Optional[_Union[Dialect, str]] = ..., body: _Optional[bytes] = ...) -> None: ...

class CreateRawCompletionResponse(_message.Message):
    __slots__ = ("body", "finished", "started")
    BODY_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    body: bytes
    finished: CompletionFinished
    started: CompletionStarted
    def __init__(self, body: _Optional[bytes] = ..., finished: _Optional[_Union[CompletionFinished, _Mapping]] = ..., started: _Optional[_Union[CompletionStarted, _Mapping]] = ...) -> None: ...

class StreamRawCompletionRequest(_message.Message):
    __slots__ = ("dialect", "body")
    DIALECT_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    dialect: Dialect
    body: bytes
    def __init__(self, dialect: _Optional[_Union[Dialect, str]] = ..., body: _Optional[bytes] = ...) -> None: ...

class StreamRawCompletionResponse(_message.Message):
    __slots__ = ("started", "chunks", "finished")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    started: CompletionStarted
    chunks: CompletionChunks
    finished: CompletionFinished
    def __init__(self, started: _Optional[_Union[CompletionStarted, _Mapping]] = ..., chunks: _Optional[_Union[CompletionChunks, _Mapping]] = ..., finished: _Optional[_Union[CompletionFinished, _Mapping]] = ...) -> None: ...

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

class CompletionChunks(_message.Message):
    __slots__ = ("chunk_json",)
    CHUNK_JSON_FIELD_NUMBER: _ClassVar[int]
    chunk_json: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, chunk_json: _Optional[_Iterable[bytes]] = ...) -> None: ...

class CompletionFinished(_message.Message):
    __slots__ = ("finish_reasons", "usage", "cost_nano_usd")
    FINISH_REASONS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    COST_NANO_USD_FIELD_NUMBER: _ClassVar[int]
    finish_reasons: _containers.RepeatedScalarFieldContainer[str]
    usage: _types_pb2.Usage
    cost_nano_usd: int
    def __init__(self, finish_reasons: _Optional[_Iterable[str]] = ..., usage: _Optional[_Union[_types_pb2.Usage, _Mapping]] = ..., cost_nano_usd: _Optional[int] = ...) -> None: ...
