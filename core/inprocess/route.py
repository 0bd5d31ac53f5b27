"""A registered method, and how messages pass between one stub's method and it."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import descriptor_pool, message_factory

Serializer = Callable[[Any], bytes] | None
Deserializer = Callable[[bytes], Any] | None


class MessageTooLarge(Exception):
    """A message exceeds the channel's limit; the text is the status' details."""


class MalformedRequest(Exception):
    """The handler's deserializer refused a request; the text is the status' details."""


class Method:
    """A handler as it was registered, with the message classes that the contract gives it.

    `unary` is set for a unary response; else `stream` for a handler that yields, or `writer` for one that calls
    `context.write`.
    """

    def __init__(self, path: str, handler: Any) -> None:
        self.path = path
        self.request_type, self.response_type = _message_types(path)
        self.request_deserializer: Deserializer = handler.request_deserializer
        self.response_serializer: Serializer = handler.response_serializer
        self.unary: Callable[[Any, Any], Awaitable[Any]] | None = None
        self.stream: Callable[[Any, Any], AsyncGenerator[Any, None]] | None = None
        self.writer: Callable[[Any, Any], Awaitable[None]] | None = None
        if handler.unary_unary is not None:
            self.unary = _awaitable(handler.unary_unary)
        elif inspect.iscoroutinefunction(handler.unary_stream):
            self.writer = handler.unary_stream
        elif handler.unary_stream is not None:
            self.stream = _asynchronous(handler.unary_stream)


def _message_types(path: str) -> tuple[Any, Any]:
    """The request and response classes of a method; None for one that no generated code describes."""
    try:
        method = descriptor_pool.Default().FindMethodByName(path.lstrip("/").replace("/", "."))
    except KeyError:
        return None, None
    of = message_factory.GetMessageClass
    return of(method.input_type), of(method.output_type)


def _awaitable(behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Awaitable[Any]]:
    """The behaviour itself, or a coroutine function around a plain one: generated servicers have such defaults."""
    if inspect.iscoroutinefunction(behaviour):
        return behaviour

    async def call(request: Any, context: Any) -> Any:
        return behaviour(request, context)

    return call


def _asynchronous(behaviour: Callable[[Any, Any], Any]) -> Callable[[Any, Any], AsyncGenerator[Any, None]]:
    """The behaviour itself, or an asynchronous generator around a plain one."""
    if inspect.isasyncgenfunction(behaviour):
        return behaviour

    async def generate(request: Any, context: Any) -> AsyncGenerator[Any, None]:
        for message in behaviour(request, context):
            yield message

    return generate


class Route:
    """How messages pass between a stub's method and a registered one.

    A message of exactly `request_type` or `response_type` passes as it is; any other goes through `pass_request` or
    `pass_response`. The types are None where every message must: with copying, with a limit, with foreign codecs.
    """

    def __init__(
        self,
        method: Method,
        serializer: Serializer,
        deserializer: Deserializer,
        *,
        copy_messages: bool,
        max_message_bytes: int | None,
    ) -> None:
        self.method = method
        self._serializer = serializer
        self._deserializer = deserializer
        self._max_message_bytes = max_message_bytes
        same_class = getattr(deserializer, "__self__", None) is method.response_type
        self._shared_request = None if copy_messages else method.request_type
        self._shared_response = method.response_type if same_class and not copy_messages else None
        limited = max_message_bytes is not None
        self.request_type = None if limited else self._shared_request
        self.response_type = None if limited else self._shared_response

    def pass_request(self, request: Any) -> Any:
        """The request as the handler gets it.

        Raises MessageTooLarge, MalformedRequest, or what the stub's serializer raises.
        """
        if self._shared_request is not None and type(request) is self._shared_request:
            self._limit(request.ByteSize(), "SERVER")
            return request
        data = self._serializer(request) if self._serializer else request
        self._limit(len(data), "SERVER")
        deserializer = self.method.request_deserializer
        try:
            return deserializer(data) if deserializer else data
        except Exception as error:
            raise MalformedRequest(f"Unexpected {type(error)}: {error}") from error

    def pass_response(self, response: Any) -> Any:
        """A response as the client gets it. Raises MessageTooLarge, or what the handler's serializer raises."""
        if self._shared_response is not None and type(response) is self._shared_response:
            self._limit(response.ByteSize(), "CLIENT")
            return response
        serializer = self.method.response_serializer
        data = serializer(response) if serializer else response
        self._limit(len(data), "CLIENT")
        return self._deserializer(data) if self._deserializer else data

    def _limit(self, size_bytes: int, receiver: str) -> None:
        limit_bytes = self._max_message_bytes
        if limit_bytes is not None and size_bytes > limit_bytes:
            raise MessageTooLarge(f"{receiver}: Received message larger than max ({size_bytes} vs. {limit_bytes})")


def find_handler(path: str, generic_handlers: list[grpc.GenericRpcHandler]) -> Any:
    """The RpcMethodHandler for a path among generic handlers, or None."""
    details = _CallDetails(path)
    for generic_handler in generic_handlers:
        handler = generic_handler.service(details)
        if handler is not None:
            return handler
    return None


class _CallDetails(grpc.HandlerCallDetails):
    """What a generic handler may ask; handlers that choose by metadata are not known."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()
