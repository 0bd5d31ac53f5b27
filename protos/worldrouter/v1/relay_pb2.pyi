import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RelayRequest(_message.Message):
    __slots__ = ("begins", "credits", "cancelled_call_ids")
    BEGINS_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_CALL_IDS_FIELD_NUMBER: _ClassVar[int]
    begins: _containers.RepeatedCompositeFieldContainer[RelayBegin]
    credits: _containers.RepeatedCompositeFieldContainer[RelayCredit]
    cancelled_call_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, begins: _Optional[_Iterable[_Union[RelayBegin, _Mapping]]] = ..., credits: _Optional[_Iterable[_Union[RelayCredit, _Mapping]]] = ..., cancelled_call_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class RelayBegin(_message.Message):
    __slots__ = ("call_id", "method", "metadata", "request", "timeout")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    method: str
    metadata: _containers.RepeatedCompositeFieldContainer[RelayMetadataEntry]
    request: bytes
    timeout: _duration_pb2.Duration
    def __init__(self, call_id: _Optional[int] = ..., method: _Optional[str] = ..., metadata: _Optional[_Iterable[_Union[RelayMetadataEntry, _Mapping]]] = ..., request: _Optional[bytes] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RelayCredit(_message.Message):
    __slots__ = ("call_id", "read_byte_count")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    READ_BYTE_COUNT_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    read_byte_count: int
    def __init__(self, call_id: _Optional[int] = ..., read_byte_count: _Optional[int] = ...) -> None: ...

class RelayResponse(_message.Message):
    __slots__ = ("hello", "initial_metadata", "messages", "ends", "draining")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    INITIAL_METADATA_FIELD_NUMBER: _ClassVar[int]
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    hello: RelayHello
    initial_metadata: _containers.RepeatedCompositeFieldContainer[RelayInitialMetadata]
    messages: _containers.RepeatedCompositeFieldContainer[RelayMessage]
    ends: _containers.RepeatedCompositeFieldContainer[RelayEnd]
    draining: bool
    def __init__(self, hello: _Optional[_Union[RelayHello, _Mapping]] = ..., initial_metadata: _Optional[_Iterable[_Union[RelayInitialMetadata, _Mapping]]] = ..., messages: _Optional[_Iterable[_Union[RelayMessage, _Mapping]]] = ..., ends: _Optional[_Iterable[_Union[RelayEnd, _Mapping]]] = ..., draining: _Optional[bool] = ...) -> None: ...

class RelayHello(_message.Message):
    __slots__ = ("core_id", "max_call_count", "max_request_byte_count")
    CORE_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_CALL_COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_BYTE_COUNT_FIELD_NUMBER: _ClassVar[int]
    core_id: str
    max_call_count: int
    max_request_byte_count: int
    def __init__(self, core_id: _Optional[str] = ..., max_call_count: _Optional[int] = ..., max_request_byte_count: _Optional[int] = ...) -> None: ...

class RelayInitialMetadata(_message.Message):
    __slots__ = ("call_id", "metadata")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    metadata: _containers.RepeatedCompositeFieldContainer[RelayMetadataEntry]
    def __init__(self, call_id: _Optional[int] = ..., metadata: _Optional[_Iterable[_Union[RelayMetadataEntry, _Mapping]]] = ...) -> None: ...

class RelayMessage(_message.Message):
    __slots__ = ("call_id", "message")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    message: bytes
    def __init__(self, call_id: _Optional[int] = ..., message: _Optional[bytes] = ...) -> None: ...

class RelayEnd(_message.Message):
    __slots__ = ("call_id", "code", "details", "trailing_metadata")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    TRAILING_METADATA_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    code: int
    details: str
    trailing_metadata: _containers.RepeatedCompositeFieldContainer[RelayMetadataEntry]
    def __init__(self, call_id: _Optional[int] = ..., code: _Optional[int] = ..., details: _Optional[str] = ..., trailing_metadata: _Optional[_Iterable[_Union[RelayMetadataEntry, _Mapping]]] = ...) -> None: ...

class RelayMetadataEntry(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
