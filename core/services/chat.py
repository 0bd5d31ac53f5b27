"""ChatService and RawChatService: two ways to say the same to one pipeline.

A handler drives its exchange in a `with` block, whose end never awaits, whatever happens to the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp
from worldrouter.v1 import chat_pb2, chat_pb2_grpc, raw_chat_pb2, raw_chat_pb2_grpc, types_pb2

from core.call import current_call
from core.chat import typed
from core.chat.exchange import Exchange
from core.chat.pipeline import Pipeline
from core.errors import InvalidRequest
from core.services import Context

_RawEvent = raw_chat_pb2.StreamRawCompletionResponse
_Event = chat_pb2.StreamChatCompletionResponse

CLIENT_GONE = (asyncio.CancelledError, GeneratorExit, grpc.aio.BaseError)
"""What a handler sees when its caller goes away (grpc.aio.BaseError is above its ExecuteBatchError)."""


class RawChatServicer(raw_chat_pb2_grpc.RawChatServiceServicer):
    """Chats from and to JSON bytes."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def CreateRawCompletion(
        self, request: raw_chat_pb2.CreateRawCompletionRequest, context: Context
    ) -> raw_chat_pb2.CreateRawCompletionResponse:
        """A whole answer."""
        _require_known(request.dialect)
        with self._pipeline.open(current_call.get(), request.body, stream=False) as exchange:
            await exchange.admit()
            await context.send_initial_metadata(exchange.metadata())
            body = await exchange.complete()
            return raw_chat_pb2.CreateRawCompletionResponse(
                body=body, finished=_finished(exchange), started=_started(exchange)
            )

    async def StreamRawCompletion(
        self, request: raw_chat_pb2.StreamRawCompletionRequest, context: Context
    ) -> AsyncIterator[raw_chat_pb2.StreamRawCompletionResponse]:
        """A streamed answer."""
        _require_known(request.dialect)
        with self._pipeline.open(current_call.get(), request.body, stream=True) as exchange:
            await exchange.admit()
            await context.send_initial_metadata(exchange.metadata())
            chunks = await exchange.start()
            yield _RawEvent(started=_started(exchange))
            while chunks:
                yield _RawEvent(chunks=_chunks(chunks))
                chunks = await exchange.read()
            if last := await exchange.finish():
                yield _RawEvent(chunks=_chunks(last))
            yield _RawEvent(finished=_finished(exchange))


class ChatServicer(chat_pb2_grpc.ChatServiceServicer):
    """Chats from and to typed messages."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def CreateChatCompletion(
        self, request: chat_pb2.CreateChatCompletionRequest, context: Context
    ) -> chat_pb2.ChatCompletion:
        """A whole answer."""
        body = typed.request_body(request.params, stream=False)
        with self._pipeline.open(current_call.get(), body, stream=False) as exchange:
            await exchange.admit()
            await context.send_initial_metadata(exchange.metadata())
            answer = await exchange.complete()
            return typed.completion(answer, _started(exchange), _finished(exchange))

    async def StreamChatCompletion(
        self, request: chat_pb2.StreamChatCompletionRequest, context: Context
    ) -> AsyncIterator[chat_pb2.StreamChatCompletionResponse]:
        """A streamed answer."""
        obfuscation = request.include_obfuscation if request.HasField("include_obfuscation") else None
        body = typed.request_body(request.params, stream=True, include_obfuscation=obfuscation)
        with self._pipeline.open(current_call.get(), body, stream=True) as exchange:
            await exchange.admit()
            await context.send_initial_metadata(exchange.metadata())
            chunks = await exchange.start()
            yield _Event(started=_started(exchange))
            while chunks:
                yield _Event(deltas=typed.deltas(chunks))
                chunks = await exchange.read()
            if last := await exchange.finish():
                yield _Event(deltas=typed.deltas(last))
            yield _Event(finished=_finished(exchange))


def _require_known(dialect: raw_chat_pb2.Dialect) -> None:
    if dialect != raw_chat_pb2.DIALECT_OPENAI_CHAT:
        raise InvalidRequest("dialect must be DIALECT_OPENAI_CHAT.", param="dialect")


def _chunks(chunks: list[bytes]) -> raw_chat_pb2.CompletionChunks:
    return raw_chat_pb2.CompletionChunks(chunk_json=chunks)


def _started(exchange: Exchange) -> types_pb2.CompletionStarted:
    endpoint = exchange.dispatch.endpoint if exchange.dispatch is not None else None
    return types_pb2.CompletionStarted(
        id=exchange.id,
        model=exchange.model.id if exchange.model is not None else "",
        endpoint=endpoint.name if endpoint is not None else "",
        create_time=Timestamp(seconds=exchange.created_s),
        overhead_us=exchange.overhead_us(),
    )


def _finished(exchange: Exchange) -> types_pb2.CompletionFinished:
    tokens = exchange.tokens
    return types_pb2.CompletionFinished(
        finish_reasons=exchange.finish_reasons,
        usage=types_pb2.Usage(
            prompt_token_count=tokens.prompt,
            completion_token_count=tokens.completion,
            total_token_count=tokens.total,
            cached_token_count=tokens.cached,
            reasoning_token_count=tokens.reasoning,
            cache_write_token_count=tokens.cache_write,
            estimated=tokens.estimated,
        ),
        cost_nano_usd=exchange.cost_nano_usd,
    )
