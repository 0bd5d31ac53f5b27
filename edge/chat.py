"""`POST /v1/chat/completions`: the body goes to the core as it came, and the answer back as it came."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import grpc
import msgspec
from aiohttp import web
from worldrouter.v1 import raw_chat_pb2, raw_chat_pb2_grpc

from edge.connection import Connection, Exchange, Watch
from edge.errors import REQUEST_ID
from edge.settings import EdgeSettings
from edge.stream import EventStream, answer_headers

Answer = TypeVar("Answer")

AUTHORIZATION_LIMIT = 1024
"""Characters; what is longer is no key, and would not fit into gRPC metadata."""
REQUEST_ID_LIMIT = 128
_JSON_HEADERS: Mapping[str, str] = {"Content-Type": "application/json"}
_NOT_METADATA = re.compile(r"[^ -~]")


class _Envelope(msgspec.Struct):
    stream: Any = False


_DECODER = msgspec.json.Decoder(_Envelope)


def wants_stream(body: bytes) -> bool:
    """Whether the top level says `"stream": true`. All else, broken JSON too, is for the core to judge."""
    try:
        return _DECODER.decode(body).stream is True
    except (msgspec.MsgspecError, RecursionError):
        return False


def call_metadata(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """What the core needs of the request's headers. A missing or impossible key is for the core to judge."""
    found = []
    for key, limit in (("authorization", AUTHORIZATION_LIMIT), (REQUEST_ID, REQUEST_ID_LIMIT)):
        value = headers.get(key)
        if value:
            if not (value.isascii() and value.isprintable()):
                value = _NOT_METADATA.sub("?", value)
            found.append((key, value[:limit]))
    return tuple(found)


async def read_body(request: web.Request, settings: EdgeSettings) -> bytes:
    """The whole body. Raises the HTTPException for an encoded, too large or too slow one."""
    if "Content-Encoding" in request.headers:
        raise web.HTTPUnsupportedMediaType
    limit_bytes = settings.body_limit_bytes
    if (request.content_length or 0) > limit_bytes:
        raise web.HTTPRequestEntityTooLarge(limit_bytes)
    if request.content.is_eof():  # all here already, as nearly always: no timer
        return await request.read()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            return await request.read()
    except TimeoutError as late:
        request.content.set_exception(late)  # else aiohttp lingers for the rest before it closes
        raise web.HTTPRequestTimeout from None


async def whole_answer(connection: Connection, call: grpc.aio.UnaryUnaryCall[Any, Answer]) -> Answer:
    """The answer of a unary call, which ends with the client's connection."""
    exchange = Exchange(call)
    connection.begin(exchange)
    try:
        return await call
    except asyncio.CancelledError:
        if exchange.cut is not None:
            raise exchange.cut from None
        raise


class Chat:
    """The chat route over one channel."""

    def __init__(self, channel: grpc.aio.Channel, watch: Watch) -> None:
        stub = raw_chat_pb2_grpc.RawChatServiceStub(channel)
        self._create = stub.CreateRawCompletion
        self._stream = stub.StreamRawCompletion
        self._watch = watch

    async def complete(self, request: web.Request, connection: Connection) -> web.StreamResponse:
        """Complete a chat, whole or streamed as the body asks."""
        body = await read_body(request, self._watch.settings)
        metadata = call_metadata(request.headers)
        dialect = raw_chat_pb2.DIALECT_OPENAI_CHAT
        if wants_stream(body):
            asked = raw_chat_pb2.StreamRawCompletionRequest(dialect=dialect, body=body)
            stream = EventStream(request, connection, self._stream(asked, metadata=metadata), self._watch)
            connection.begin(stream)
            return await stream.relay()
        call = self._create(raw_chat_pb2.CreateRawCompletionRequest(dialect=dialect, body=body), metadata=metadata)
        answer = await whole_answer(connection, call)
        headers = answer_headers(_JSON_HEADERS, await call.initial_metadata(), answer.started.overhead_us)
        return web.Response(body=answer.body, headers=headers)
