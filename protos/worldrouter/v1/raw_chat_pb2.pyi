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
    finished: _types_pb2.CompletionFinished
    started: _types_pb2.CompletionStarted
    def __init__(self, body: _Optional[bytes] = ..., finished: _Optional[_Union[_types_pb2.CompletionFinished, _Mapping]] = ..., started: _Optional[_Union[_types_pb2.CompletionStarted, _Mapping]] = ...) -> None: ...

class StreamRawCompletionRequest(_message.Message):
    __slots__ = ("dialect", "body", "as_body_asks")
    DIALECT_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    AS_BODY_ASKS_FIELD_NUMBER: _ClassVar[int]
    dialect: Dialect
    body: bytes
    as_body_asks: bool
    def __init__(self, dialect: _Optional[_Union[Dialect, str]] = ..., body: _Optional[bytes] = ..., as_body_asks: _Optional[bool] = ...) -> None: ...

class StreamRawCompletionResponse(_message.Message):
    __slots__ = ("started", "chunks", "finished", "whole")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    started: _types_pb2.CompletionStarted
    chunks: CompletionChunks
    finished: _types_pb2.CompletionFinished
    whole: CreateRawCompletionResponse
    def __init__(self, started: _Optional[_Union[_types_pb2.CompletionStarted, _Mapping]] = ..., chunks: _Optional[_Union[CompletionChunks, _Mapping]] = ..., finished: _Optional[_Union[_types_pb2.CompletionFinished, _Mapping]] = ..., whole: _Optional[_Union[CreateRawCompletionResponse, _Mapping]] = ...) -> None: ...

class CompletionChunks(_message.Message):
    __slots__ = ("chunk_json",)
    CHUNK_JSON_FIELD_NUMBER: _ClassVar[int]
    chunk_json: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, chunk_json: _Optional[_Iterable[bytes]] = ...) -> None: ...
