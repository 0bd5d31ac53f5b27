"""`POST /v1/chat/completions`: the body goes to the core as it came, and the answer back as it came."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import grpc
import msgspec
from aiohttp import StreamReader, web
from multidict import MultiMapping
from worldrouter.v1 import raw_chat_pb2, raw_chat_pb2_grpc

from edge.answer import Sent, answer_headers
from edge.connection import GONE, ClientGone, Connection, EndlessBody, Exchange, Watch, log_refusal
from edge.errors import REQUEST_ID
from edge.large import PIECE_BYTES, LargeBody, Room
from edge.request import CHAT_PATH, ChatRequest
from edge.settings import EdgeSettings
from edge.stream import EventStream

Answer = TypeVar("Answer")

AUTHORIZATION_LIMIT = 1024
"""Characters; what is longer is no key, and would not fit into gRPC metadata."""
CLIENT_REQUEST_ID = "x-client-request-id"
CLIENT_REQUEST_ID_LIMIT = 512
"""Characters of the caller's own id, as OpenAI takes it (https://platform.openai.com/docs/api-reference/debugging-requests)."""
_JSON_HEADERS: Mapping[str, str] = {"Content-Type": "application/json"}
LARGE_BODY_BYTES = 100_000
"""From here on the core alone looks into a body: to look twice costs more than the RPC that lets it decide."""
_NOT_METADATA = re.compile(r"[^ -~]")


class _Envelope(msgspec.Struct):
    stream: msgspec.Raw = msgspec.Raw(b"false")


_TRUE = msgspec.Raw(b"true")
_DECODER = msgspec.json.Decoder(_Envelope)


def wants_stream(body: bytes) -> bool:
    """Whether the top level says `"stream": true`. All else, broken JSON too, is for the core to judge."""
    try:
        return _DECODER.decode(body).stream == _TRUE
    except (msgspec.MsgspecError, RecursionError):
        return False


def call_metadata(headers: MultiMapping[str]) -> tuple[tuple[str, str], ...]:
    """What the core needs of the request's headers. A missing, second or impossible key is for the core to judge.

    The caller's own id is `x-client-request-id`, which nobody between it and us writes, or else `x-request-id`.
    """
    found = []
    keys, ids = headers.getall("authorization", ()), headers.getall(CLIENT_REQUEST_ID, ())
    ids = ids or headers.getall(REQUEST_ID, ())
    for key, values, limit in (
        ("authorization", keys, AUTHORIZATION_LIMIT),
        (REQUEST_ID, ids, CLIENT_REQUEST_ID_LIMIT),
    ):
        for value in values[:2]:
            if not (value.isascii() and value.isprintable()):
                value = _NOT_METADATA.sub("?", value)
            if value:
                found.append((key, value[:limit]))
    return tuple(found)


async def read_body(request: ChatRequest, settings: EdgeSettings) -> bytes:
    """The whole body. Raises the HTTPException for an encoded, malformed, too large or too slow one."""
    headers, content = request.message.headers, request.content
    if "Content-Encoding" in headers:
        raise web.HTTPUnsupportedMediaType
    limit_bytes = settings.body_limit_bytes
    if int(headers.get("Content-Length", 0)) > limit_bytes:
        raise web.HTTPRequestEntityTooLarge(limit_bytes)
    if request.is_expecting:
        await request.confirm_expectation()
    try:
        if content.is_eof():  # all here already, as nearly always: no timer
            body = content.read_nowait()
            if len(body) > limit_bytes:
                raise web.HTTPRequestEntityTooLarge(limit_bytes)
            return body
        async with asyncio.timeout(settings.body_timeout_s):
            return await _gather(content, limit_bytes)
    except EndlessBody:
        raise web.HTTPBadRequest from None
    except TimeoutError:
        await request.connection.watch.turn()
        raise web.HTTPRequestTimeout from None


async def _gather(content: StreamReader, limit_bytes: int) -> bytes:
    pieces, piece, size_bytes = [], b"", 0
    try:
        while piece := await content.readany():
            pieces.append(piece)
            size_bytes += len(piece)
            if size_bytes > limit_bytes:
                raise web.HTTPRequestEntityTooLarge(limit_bytes)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    finally:
        pieces, piece = [], b""  # aiohttp's end of a body that broke off holds this frame, in a cycle


async def whole_answer(connection: Connection, call: grpc.aio.UnaryUnaryCall[Any, Answer]) -> Answer:
    """The answer of a unary call, which ends with the client's connection."""
    exchange = Exchange(call)
    connection.begin(exchange)
    try:
        answer = await call
        connection.exchange = None  # before the client gets a byte of it
        return answer
    except asyncio.CancelledError:
        if exchange.cut is not None:
            raise exchange.cut() from None
        raise


class Chat:
    """The chat route over one channel."""

    def __init__(self, channel: grpc.aio.Channel, watch: Watch) -> None:
        stub = raw_chat_pb2_grpc.RawChatServiceStub(channel)
        self._create = stub.CreateRawCompletion
        self._stream = stub.StreamRawCompletion
        self._watch = watch
        self._room = Room()

    async def serve(self, request: ChatRequest) -> Sent:
        """Answer a request, with an error if need be, and count it."""
        watch, connection = self._watch, request.connection
        metrics = watch.metrics
        connection.sent_s = began_s = watch.clock_s()
        metrics.in_flight += 1
        status, exchange = 200, None
        try:
            if watch.draining:
                raise web.HTTPServiceUnavailable
            await self._complete(request)
        except (ClientGone, ConnectionError):
            metrics.client_disconnects += 1
            status = GONE
        except Exception as failure:
            status = await self._refuse(request, failure)
        finally:
            metrics.in_flight -= 1
            exchange, connection.exchange = connection.exchange, None
            if exchange is not None:
                exchange.call.cancel()  # of no effect on one that has ended, as all have but for a bug
        ended_s = watch.clock_s()
        first_byte_s = (exchange and exchange.first_byte_s) or ended_s
        stream = exchange is not None and exchange.stream
        metrics.observe("chat", status, stream, first_byte_s - began_s, ended_s - began_s)
        return Sent(status, keep_alive=request.keep_alive)

    async def _complete(self, request: ChatRequest) -> None:
        body = await read_body(request, self._watch.settings)
        metadata = call_metadata(request.message.headers)
        dialect = raw_chat_pb2.DIALECT_OPENAI_CHAT
        call: Any
        is_large = len(body) >= LARGE_BODY_BYTES
        if is_large or wants_stream(body):
            asked = raw_chat_pb2.StreamRawCompletionRequest(dialect=dialect, body=body, as_body_asks=is_large)
            call = self._stream(asked, metadata=metadata)
            del body, asked  # megabytes perhaps, and the stream may take long
            stream = EventStream(request, call)
            await stream.relay()
            if stream.whole is None:
                return
            answer = stream.whole
            del stream
        else:
            call = self._create(raw_chat_pb2.CreateRawCompletionRequest(dialect=dialect, body=body), metadata=metadata)
            del body
            answer = await whole_answer(request.connection, call)
        headers = answer_headers(_JSON_HEADERS, await call.initial_metadata(), answer.started.overhead_us)
        content = answer.body
        del answer, call  # else they wait for the client too
        if len(content) <= PIECE_BYTES:
            await request.answer(200, headers, content)
            return
        request.open(200, headers, length=len(content))
        large = LargeBody(content, self._room)
        del content
        await large.send(request)

    async def _refuse(self, request: ChatRequest, failure: Exception) -> int:
        """Answer with the problem; the status that the client got, if it is there to get it."""
        problem = self._watch.problems.of(failure)
        if isinstance(failure, web.HTTPException):
            log_refusal(problem, request.message.method, CHAT_PATH)
        if not request.content.is_eof():
            request.keep_alive = False
            if problem.status == 408 or request.is_expecting:
                request.content.set_exception(EndlessBody())
        try:
            await request.answer(problem.status, problem.headers(), problem.body())
        except (ClientGone, ConnectionError):
            request.keep_alive = False
            return GONE
        return problem.status
