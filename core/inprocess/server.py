"""The server's side: what is registered, what runs, how it stops."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

import grpc
import grpc.aio
from worldrouter.calls.wire import Status, Wire

from core.inprocess.channel import InProcessChannel
from core.inprocess.context import Context
from core.inprocess.route import Method, find_handler

_CANCELLED_BY_STOP = Status(grpc.StatusCode.UNAVAILABLE, "Cancelling all calls")


class InProcessServer(grpc.aio.Server):
    """Serves the channels that it makes, from its construction on.

    Handlers run in copies of the context (contextvars) in which it was made.
    """

    def __init__(self) -> None:
        self.calls: set[Wire] = set()
        """The calls under way: the handler still runs, or the client has not got its status."""
        self.stopped = False
        """Whether new calls are refused."""
        self._context = contextvars.copy_context()
        self._methods: dict[str, Method] = {}
        self._generic_handlers: list[grpc.GenericRpcHandler] = []
        self._termination = asyncio.Event()

    def channel(self, *, copy_messages: bool = False, max_message_bytes: int | None = None) -> InProcessChannel:
        """A channel to this server.

        `copy_messages` serializes and parses every message, which proves that nobody changes one after handing it
        over. `max_message_bytes` limits messages in both directions, by their serialized size: RESOURCE_EXHAUSTED.
        """
        return InProcessChannel(self, copy_messages=copy_messages, max_message_bytes=max_message_bytes)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Serve what these answer for, by path alone, where no method is registered."""
        self._generic_handlers.extend(generic_rpc_handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Serve the methods of a service, named without it; none with a stream of requests."""
        for name, handler in method_handlers.items():
            if not handler.request_streaming:
                path = f"/{service_name}/{name}"
                self._methods[path] = Method(path, handler)

    def method(self, path: str) -> Method | None:
        """The method of a path, or None."""
        method = self._methods.get(path)
        if method is None:
            handler = find_handler(path, self._generic_handlers)
            if handler is not None and not handler.request_streaming:
                method = self._methods[path] = Method(path, handler)
        return method

    def run(self, context: Context, method: Method, request: Any) -> None:
        """Start the handler of a call in a task of its own."""
        work: Coroutine[Any, Any, None]
        if method.unary is not None:
            work = _serve_unary(context, method, request)
        elif method.stream is not None:
            work = _serve_stream(context, method, request)
        else:
            work = _serve_writer(context, method, request)
        # Not loop.create_task, which takes longer to name a task.
        context.begin(asyncio.Task(work, loop=context.loop, name=method.path, context=self._context.copy()))

    async def start(self) -> None:
        """Nothing: it serves already."""

    async def stop(self, grace: float | None) -> None:
        """Refuse new calls, wait up to `grace` seconds for handlers, cancel the rest and wait for their end."""
        self.stopped = True
        if grace:
            await self._wait_for_handlers(grace)
        for wire in list(self.calls):
            if wire.task is not None and not wire.halt(_CANCELLED_BY_STOP):
                wire.task.cancel()
        await self._wait_for_handlers(None)
        self._termination.set()

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Wait until it has stopped; True if that took longer than `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self._termination.wait()
        except TimeoutError:
            return True
        return False

    def add_insecure_port(self, address: str) -> int:
        """Raises NotImplementedError: it has no ports."""
        raise NotImplementedError("an in-process server has no ports")

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Raises NotImplementedError, likewise."""
        raise NotImplementedError("an in-process server has no ports")

    async def _wait_for_handlers(self, timeout_s: float | None) -> None:
        tasks = {wire.task for wire in self.calls if wire.task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)


async def _serve_unary(context: Context, method: Method, request: Any) -> None:
    context.began = True
    try:
        assert method.unary is not None
        context.respond(await method.unary(request, context))
    except BaseException as error:
        context.fail(error)
    finally:
        context.leave()


async def _serve_stream(context: Context, method: Method, request: Any) -> None:
    context.began = True
    try:
        assert method.stream is not None
        messages = method.stream(request, context)
        shared_type = context.route.response_type
        try:
            async for message in messages:
                if context.over:  # it goes on although it aborted, or was cancelled
                    break
                if type(message) is not shared_type:
                    message = context.passed(message)
                if context.send(message):
                    await context.room()
        finally:
            await messages.aclose()
        context.finish()
    except BaseException as error:
        context.fail(error)
    finally:
        context.leave()


async def _serve_writer(context: Context, method: Method, request: Any) -> None:
    context.began = True
    try:
        assert method.writer is not None
        await method.writer(request, context)
        context.finish()
    except BaseException as error:
        context.fail(error)
    finally:
        context.leave()
