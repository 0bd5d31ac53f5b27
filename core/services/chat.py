"""ChatService and RawChatService: two ways to say the same to one pipeline.

A handler drives its exchange in a `with` block, whose end never awaits, whatever happens to the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc.aio
from worldrouter.v1 import chat_pb2, chat_pb2_grpc, raw_chat_pb2, raw_chat_pb2_grpc, types_pb2

from core.call import current_call
from core.chat import typed
from core.chat.exchange import Exchange
from core.chat.pipeline import Pipeline
from core.errors import InvalidRequest
from core.services import Context

_RawEvent = raw_chat_pb2.StreamRawCompletionResponse
_Event = chat_pb2.StreamChatCompletionResponse
_WHOLE_ANSWER = ("whole-answer", "true")

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
            response = raw_chat_pb2.CreateRawCompletionResponse()
            await _complete(response, exchange)
            return response

    async def StreamRawCompletion(
        self, request: raw_chat_pb2.StreamRawCompletionRequest, context: Context
    ) -> AsyncIterator[raw_chat_pb2.StreamRawCompletionResponse]:
        """A streamed answer, or a whole one if the body is to decide."""
        _require_known(request.dialect)
        stream = None if request.as_body_asks else True
        with self._pipeline.open(current_call.get(), request.body, stream=stream) as exchange:
            await exchange.admit()
            if not exchange.streams:
                await context.send_initial_metadata((*exchange.metadata(), _WHOLE_ANSWER))
                event = _RawEvent()
                await _complete(event.whole, exchange)
                yield event
                return
            await context.send_initial_metadata(exchange.metadata())
            chunks = await exchange.start()
            event = _RawEvent()
            _tell_started(event.started, exchange)
            yield event
            while chunks:
                event = _RawEvent()
                event.chunks.chunk_json.extend(chunks)
                yield event
                chunks = await exchange.read()
            if last := await exchange.finish():
                event = _RawEvent()
                event.chunks.chunk_json.extend(last)
                yield event
            event = _RawEvent()
            _tell_finished(event.finished, exchange)
            yield event


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
            started, finished = types_pb2.CompletionStarted(), types_pb2.CompletionFinished()
            _tell_started(started, exchange)
            _tell_finished(finished, exchange)
            return typed.completion(answer, started, finished)

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
            event = _Event()
            _tell_started(event.started, exchange)
            yield event
            while chunks:
                yield _Event(deltas=typed.deltas(chunks))
                chunks = await exchange.read()
            if last := await exchange.finish():
                yield _Event(deltas=typed.deltas(last))
            event = _Event()
            _tell_finished(event.finished, exchange)
            yield event


def _require_known(dialect: raw_chat_pb2.Dialect) -> None:
    if dialect != raw_chat_pb2.DIALECT_OPENAI_CHAT:
        raise InvalidRequest("dialect must be DIALECT_OPENAI_CHAT.", param="dialect")


async def _complete(response: raw_chat_pb2.CreateRawCompletionResponse, exchange: Exchange) -> None:
    response.body = await exchange.complete()
    _tell_finished(response.finished, exchange)
    _tell_started(response.started, exchange)


# Field by field, in place: to hand messages to a message's constructor takes several times as long.


def _tell_started(started: types_pb2.CompletionStarted, exchange: Exchange) -> None:
    endpoint = exchange.dispatch.endpoint if exchange.dispatch is not None else None
    started.id = exchange.id
    started.model = exchange.model.id if exchange.model is not None else ""
    started.endpoint = endpoint.name if endpoint is not None else ""
    started.create_time.seconds = exchange.created_s
    started.overhead_us = exchange.overhead_us()


def _tell_finished(finished: types_pb2.CompletionFinished, exchange: Exchange) -> None:
    tokens, usage = exchange.tokens, finished.usage
    finished.finish_reasons.extend(exchange.finish_reasons)
    finished.cost_nano_usd = exchange.cost_nano_usd
    usage.prompt_token_count = tokens.prompt
    usage.completion_token_count = tokens.completion
    usage.total_token_count = tokens.total
    usage.cached_token_count = tokens.cached
    usage.reasoning_token_count = tokens.reasoning
    usage.cache_write_token_count = tokens.cache_write
    usage.estimated = tokens.estimated
