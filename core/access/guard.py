"""What every RPC passes through: request id, authentication, authorisation, and the way out of errors.

A `Guard` takes the place of the server in the generated `add_..._to_server(servicer, guard)` functions. It wraps
each handler once, and `install` registers the wrapped handlers on as many servers as there are: the grpc.aio
server and the in-process one serve the same.

A caller that goes away reaches a handler as CancelledError, GeneratorExit or grpc's ExecuteBatchError; all of them
pass through here untouched, and nothing is awaited on their way.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import grpc
import grpc.aio

from core.access.apikeys import KEY_PREFIX
from core.access.authorization import roles_for
from core.call import Call, Caller, Role, current_call
from core.errors import Forbidden, InvalidApiKey, InvalidRequest
from core.ids import IdSource
from core.redaction import Redaction
from core.status import REQUEST_ID_KEY, abort_details

_logger = logging.getLogger(__name__)

CLIENT_REQUEST_ID_MAX_LENGTH = 512
"""Characters kept of a caller's own request id, which comes in the metadata `x-request-id`."""

_ANONYMOUS = Caller(Role.ANONYMOUS, "", None)

# They send their own initial metadata just before the upstream is called: until then the channel may retry.
_ANNOUNCE_THEMSELVES = frozenset({"worldrouter.v1.ChatService", "worldrouter.v1.RawChatService"})

Context = Any
"""grpc.aio.ServicerContext, or the in-process one."""


class CallerSource(Protocol):
    """Tells who calls; `core.access.auth.Authenticator` does."""

    async def authenticate(self, authorization: str | None) -> Caller:
        """The caller of this `authorization` metadata. Raises InvalidApiKey or ServiceUnavailable."""
        ...


class RpcObserver(Protocol):
    """Learns how RPCs ended, for metrics and logs. Must not block nor raise."""

    def finished(self, method: str, call: Call | None, code: grpc.StatusCode, duration_s: float) -> None:
        """An RPC is over. `call` is None when the caller was refused; CANCELLED means that it went away."""
        ...


class HandlerRegistry(Protocol):
    """A server, as far as registration goes."""

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[Any]) -> None: ...

    def add_registered_method_handlers(self, service_name: str, method_handlers: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class _WellFormed:
    """A caller's stream of requests, which ends with InvalidRequest at one that is malformed."""

    rpc: _Rpc
    requests: AsyncIterator[Any]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        return _parsed(self.rpc, await anext(self.requests))


@dataclass(slots=True)
class _Passage:
    """One RPC on its way through the guard."""

    request_id: str
    began_s: float
    call: Call | None = None
    code: grpc.StatusCode = grpc.StatusCode.CANCELLED


@dataclass(frozen=True, slots=True)
class _Rpc:
    """What is fixed about an RPC."""

    method: str
    roles: frozenset[Role]
    announces_itself: bool
    streams_requests: bool
    parse: Callable[[bytes], Any]


class Guard:
    """Wraps the handlers that generated code registers.

    `monotonic_s` measures how long RPCs take; errors leave through `redact`.
    """

    def __init__(
        self,
        callers: CallerSource,
        ids: IdSource,
        *,
        monotonic_s: Callable[[], float],
        observer: RpcObserver,
        support_contact: str = "",
        redact: Callable[[str], str] | None = None,
    ) -> None:
        self._callers = callers
        self._ids = ids
        self._monotonic_s = monotonic_s
        self._observer = observer
        self._support_contact = support_contact
        self._redact = redact or Redaction()
        self._services: dict[str, dict[str, Any]] = {}

    @property
    def service_names(self) -> list[str]:
        """Full names of the services taken so far, for server reflection."""
        return sorted(self._services)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[Any]) -> None:
        """Nothing: generated code hands the same handlers to `add_registered_method_handlers` next."""

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Wrap the handlers of a service. Raises UnlistedRpc when the table has no entry for one of them.

        An RPC that the servicer does not implement is left to the server, which answers UNIMPLEMENTED.
        """
        self._services[service_name] = {
            name: self._wrap(f"/{service_name}/{name}", service_name, handler)
            for name, handler in method_handlers.items()
            if _is_implemented(_behaviour(handler))
        }

    def install(self, server: HandlerRegistry) -> None:
        """Register all wrapped handlers on a server that has not started."""
        for service_name, handlers in self._services.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service_name, handlers),))
            server.add_registered_method_handlers(service_name, handlers)

    def _wrap(self, method: str, service_name: str, handler: Any) -> Any:
        announces_itself = service_name in _ANNOUNCE_THEMSELVES
        parse = handler.request_deserializer
        rpc = _Rpc(method, roles_for(method), announces_itself, handler.request_streaming, parse)
        behaviour = _behaviour(handler)
        if inspect.isasyncgenfunction(behaviour):
            wrapped = self._stream(rpc, behaviour)
        elif inspect.iscoroutinefunction(behaviour):
            # Streams too: such a handler writes its messages by `context.write`, grpc's health Watch for one.
            wrapped = self._unary(rpc, behaviour)
        else:
            raise TypeError(f"the handler of {method} is not async")
        make = _HANDLER_MAKERS[handler.request_streaming, handler.response_streaming]
        # The library would parse what it gets before anybody knows who sent it, and refuse it without a request id.
        return make(wrapped, None, handler.response_serializer)

    def _unary(self, rpc: _Rpc, behaviour: Callable[[Any, Context], Awaitable[Any]]) -> Any:
        async def unary(request: Any, context: Context) -> Any:
            passage = _Passage(self._ids.new(), self._monotonic_s())
            try:
                response = await behaviour(await self._admit(rpc, passage, request, context), context)
                passage.code = grpc.StatusCode.OK
                return response
            except Exception as error:
                if _ends_rpc(error):
                    raise
                await self._abort(rpc, passage, context, error)
            finally:
                self._finished(rpc, passage)

        return unary

    def _stream(self, rpc: _Rpc, behaviour: Callable[[Any, Context], AsyncGenerator[Any, None]]) -> Any:
        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            passage = _Passage(self._ids.new(), self._monotonic_s())
            messages: AsyncGenerator[Any, None] | None = None
            try:
                messages = behaviour(await self._admit(rpc, passage, request, context), context)
                async for message in messages:
                    yield message
                passage.code = grpc.StatusCode.OK
            except Exception as error:
                if _ends_rpc(error):
                    raise
                await self._abort(rpc, passage, context, error)
            finally:
                self._finished(rpc, passage)
                if messages is not None:
                    _close(messages, rpc.method)

        return stream

    async def _admit(self, rpc: _Rpc, passage: _Passage, request: Any, context: Context) -> Any:
        """Let the caller in: set `current_call`, or raise. Returns what the handler is to be given."""
        authorization, client_request_id = _read_metadata(context.invocation_metadata() or ())
        caller = _ANONYMOUS
        if Role.ANONYMOUS not in rpc.roles:
            caller = await self._callers.authenticate(authorization)
            if caller.role not in rpc.roles:
                raise Forbidden("This credential may not call this.")
        request = _WellFormed(rpc, aiter(request)) if rpc.streams_requests else _parsed(rpc, request)
        passage.call = Call(passage.request_id, client_request_id, caller)
        current_call.set(passage.call)
        if not rpc.announces_itself:
            await context.send_initial_metadata(((REQUEST_ID_KEY, passage.request_id),))
        return request

    async def _abort(self, rpc: _Rpc, passage: _Passage, context: Context, error: Exception) -> None:
        """End the RPC with the status of an error; raises what `context.abort` does."""
        details = abort_details(error, passage.request_id, self._redact, support_contact=self._support_contact)
        passage.code = details.code
        if details.code is grpc.StatusCode.INTERNAL:
            context_of_log = {"request_id": passage.request_id, "rpc": rpc.method}
            _logger.error(
                "%s failed, request id %s", rpc.method, passage.request_id, exc_info=error, extra=context_of_log
            )
        elif passage.call is None:  # no handler will log it
            _logger.info("refused %s: %s, request id %s", rpc.method, details.code.name, passage.request_id)
        error.__traceback__ = None  # holds the request's frames: a cycle, with its body, if one of them holds the error
        await context.abort(*details)

    def _finished(self, rpc: _Rpc, passage: _Passage) -> None:
        duration_s = self._monotonic_s() - passage.began_s
        self._observer.finished(rpc.method, passage.call, passage.code, duration_s)


_HANDLER_MAKERS: Mapping[tuple[bool, bool], Callable[..., Any]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _behaviour(handler: Any) -> Any:
    """The one callable of an RpcMethodHandler."""
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream


def _is_implemented(behaviour: Any) -> bool:
    """False for what a servicer inherits from its generated base class."""
    return not behaviour.__module__.endswith("_pb2_grpc")


def _ends_rpc(error: Exception) -> bool:
    """Whether the library raised this to end the handler: aborted already, peer gone, server stopped.

    ExecuteBatchError and the like are private names under `grpc.aio.BaseError`; UsageError is a bug of ours.
    """
    return isinstance(error, grpc.aio.BaseError) and not isinstance(error, grpc.aio.UsageError)


def _parsed(rpc: _Rpc, request: Any) -> Any:
    """The request as a message, which it is already where it came without a socket."""
    if not isinstance(request, bytes):
        return request
    try:
        return rpc.parse(request)
    except Exception as error:
        raise InvalidRequest(f"The request is malformed: {str(error)[:200]}.") from None


def _read_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> tuple[str | None, str]:
    """The `authorization` and the caller's own request id. Raises InvalidApiKey when there are two credentials."""
    authorization: str | None = None
    client_request_id = ""
    for key, value in metadata:
        if key == "authorization":
            if authorization is not None:
                raise InvalidApiKey("More than one credential was sent.")
            authorization = str(value)
        elif key == REQUEST_ID_KEY:
            client_request_id = str(value)[:CLIENT_REQUEST_ID_MAX_LENGTH]
    if not (client_request_id.isascii() and client_request_id.isprintable()):
        client_request_id = "".join(c for c in client_request_id if c.isascii() and c.isprintable())
    if KEY_PREFIX in client_request_id:  # it is stored and logged
        client_request_id = ""
    return authorization, client_request_id


def _close(messages: AsyncGenerator[Any, None], method: str) -> None:
    """Run what is left of a handler's generator, its `finally` blocks, now.

    The library drops a generator whose caller went away, so without this the garbage collector would decide when.
    By the rule for handlers nothing there awaits; should one do so all the same, it is told by a RuntimeError.
    """
    closing = messages.aclose()
    try:
        closing.send(None)
    except StopIteration:
        return
    closing.close()
    raise RuntimeError(f"the handler of {method} awaits while it is being closed")
