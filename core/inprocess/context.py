"""The call as its handler sees it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NoReturn

import grpc
import grpc.aio
from worldrouter.calls.metadata import Entries, IllegalMetadata, MetadataTooLarge, admit, admit_trailing
from worldrouter.calls.wire import INVALID_METADATA, OK, Status, Wire

from core.inprocess.route import MessageTooLarge, Route

_logger = logging.getLogger(__name__)

_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_CANCELLED_HERE = Status(grpc.StatusCode.CANCELLED, "The handler was cancelled.")
_Metadata = Any
"""grpc.aio.Metadata or a sequence of pairs."""


class ClientGone(grpc.aio.InternalError):
    """A message cannot reach the client any more; over a socket, a private subclass of the same."""


class Context(Wire, grpc.aio.ServicerContext[Any, Any]):
    """What grpc.aio gives to handlers. It is the wire as well: one object per call less.

    Whoever makes it sets `route` and `invocation`, the metadata of the request.
    """

    route: Route
    invocation: Entries
    _code: Any = None
    _details = ""
    _trailing: tuple[Any, ...] = ()
    _abort: grpc.aio.AbortError | None = None
    _callbacks: list[Callable[[Any], None]] | None = None

    # What the client sent and who it is

    def invocation_metadata(self) -> Any:
        """What the client sent, as pairs."""
        return self.invocation

    def time_remaining(self) -> Any:
        """Seconds until the client's deadline, or None without one."""
        return self.time_remaining_s()

    def peer(self) -> str:
        """The same for all: this process."""
        return "inprocess:"

    def peer_identities(self) -> Iterable[bytes] | None:
        """None: nobody is identified by the transport."""
        return None

    def peer_identity_key(self) -> str | None:
        """None, likewise."""
        return None

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """The kind of transport."""
        return {"transport_security_type": [b"inprocess"]}

    async def read(self) -> Any:
        """EOF: the one request was handed to the handler."""
        return grpc.aio.EOF

    # What the handler answers

    async def send_initial_metadata(self, initial_metadata: _Metadata) -> None:
        """Send them now. Raises UsageError the second time or after a message, InternalError if they are illegal.

        Too large ones end the call as if the client had: this raises nothing, the next wait CancelledError.
        """
        self._check_running()
        if self.initial is not None:
            raise grpc.aio.UsageError("Send initial metadata failed: already sent")
        try:
            self.open(admit(initial_metadata))
        except IllegalMetadata:
            self.end(INVALID_METADATA)
            raise
        except MetadataTooLarge as error:
            self.halt(_refused(error))

    async def write(self, message: Any) -> None:
        """Send a message of a stream; waits while the window is full. Raises ClientGone, an InternalError, when nobody
        reads."""
        self._check_running()
        if self.route.method.unary is not None:
            raise TypeError("A unary handler returns its response and writes nothing.")
        try:
            full = self.send(self.passed(message))
        except MessageTooLarge as error:
            self.end(Status(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)))
            raise ClientGone(str(error)) from None
        if full:
            await self.room()

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: _Metadata = ()) -> NoReturn:
        """End the call with this status; what is left out is taken from the setters. Always raises."""
        if self._abort is not None:
            raise grpc.aio.UsageError("Abort already called!")
        if not isinstance(trailing_metadata, tuple):
            kind = type(trailing_metadata).__name__
            raise TypeError(f"Argument 'trailing_metadata' has incorrect type (expected tuple, got {kind})")
        if _status_code(code) is grpc.StatusCode.OK:
            raise AssertionError("Expecting non-ok status code.")
        if trailing_metadata:
            self.set_trailing_metadata(trailing_metadata)
        self._details = details or self._details
        self._code = code
        try:
            self.end(self._outcome())
        except IllegalMetadata:
            self.end(INVALID_METADATA)
            raise
        self._abort = grpc.aio.AbortError("Locally aborted.")
        raise self._abort

    async def abort_with_status(self, status: Any) -> NoReturn:
        """The same for a `grpc.Status`."""
        await self.abort(status.code, status.details, status.trailing_metadata)

    def set_trailing_metadata(self, trailing_metadata: _Metadata) -> None:
        """Keep them for the end. Raises TypeError for anything but tuples of a key and a value."""
        if isinstance(trailing_metadata, dict) or not all(map(_is_entry, trailing_metadata)):
            expected = "Tuple[Tuple[str, Union[str, bytes]]...]"
            raise TypeError(f"Invalid trailing metadata type, expected {expected}: {trailing_metadata}")
        self._trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> Any:
        """What was set so far."""
        return self._trailing

    def set_code(self, code: grpc.StatusCode) -> None:
        """Keep the code for the end. Anything but OK discards a unary response."""
        self._code = code

    def code(self) -> Any:
        """What was set so far, or None."""
        return self._code

    def set_details(self, details: str) -> None:
        """Keep the details for the end; they go with an error only."""
        self._details = details

    def details(self) -> str:
        """What was set so far."""
        return self._details

    def set_compression(self, compression: grpc.Compression) -> None:
        """Nothing: there are no bytes to compress."""

    def disable_next_message_compression(self) -> None:
        """Nothing, likewise."""

    # How it stands

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """Have it called with this context when the handler has ended."""
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)

    def done(self) -> bool:
        """Whether the handler has sent its status."""
        return self.final is not None

    def cancelled(self) -> bool:
        """Whether the handler ends the call with CANCELLED. As in grpc.aio, a client's cancel does not show here."""
        return _status_code(self._code) is grpc.StatusCode.CANCELLED

    # What the server runs it with

    def passed(self, response: Any) -> Any:
        """A response as the client gets it; see `Route.pass_response`."""
        if type(response) is self.route.response_type:
            return response
        return self.route.pass_response(response)

    def respond(self, response: Any) -> None:
        """End with what a unary handler returned."""
        if self.over:
            return
        outcome = OK if self._code is None and not self._trailing else self._outcome()
        if outcome.code is grpc.StatusCode.OK:
            self.response = response if type(response) is self.route.response_type else self.passed(response)
        self.end(outcome)

    def finish(self) -> None:
        """End with what was set, behind the last message."""
        if not self.over:
            self.end(self._outcome())

    def fail(self, error: BaseException) -> None:
        """End with what a handler raised; never with an error that the client need not see as one."""
        method = self.route.method.path
        if error is self._abort:
            return
        if isinstance(error, asyncio.CancelledError):
            _logger.debug("RPC cancelled for servicer method [%s]", method)
            self.end(_CANCELLED_HERE)
        elif isinstance(error, MessageTooLarge):
            self.end(Status(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)))
        elif isinstance(error, IllegalMetadata):
            _logger.error("%s, sent by servicer method [%s]", error, method, exc_info=error)
            self.end(INVALID_METADATA)
        elif isinstance(error, ClientGone):
            _logger.debug("%s for servicer method [%s]", error, method)
        else:
            kind = type(error)
            _logger.error("Unexpected [%s] raised by servicer method [%s]", kind.__name__, method, exc_info=error)
            self.end(self._failure(f"Unexpected {kind}: {error}"))
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                raise error

    def leave(self) -> None:
        """The handler has ended; last of all."""
        self._abort = None  # its traceback leads back here
        super().leave()
        if self._callbacks is not None:
            for callback in self._callbacks:
                try:
                    callback(self)
                except Exception:
                    _logger.exception("Error in callback of a servicer context")
            self._callbacks = None

    def _check_running(self) -> None:
        """Raise what stops a handler that goes on although the call is over."""
        if self._abort is not None:
            raise self._abort
        if self.final is not None:
            raise grpc.aio.UsageError("RPC already finished.")
        if self.over:
            raise ClientGone("The client is gone")

    def _outcome(self) -> Status:
        """The status as it was set. Raises IllegalMetadata or TypeError for the trailing metadata."""
        code = _status_code(self._code)
        if code is not grpc.StatusCode.OK:
            return _status(code, self._details, self._trailing)
        return _status(code, "", self._trailing) if self._trailing else OK

    def _failure(self, details: str) -> Status:
        """The status of an exception: UNKNOWN unless another was set."""
        code = _status_code(self._code)
        if code is grpc.StatusCode.OK:
            code = grpc.StatusCode.UNKNOWN
        try:
            return _status(code, details, self._trailing)
        except (IllegalMetadata, TypeError):
            return _status(code, details, ())


def _status(code: grpc.StatusCode, details: str, trailing: tuple[Any, ...]) -> Status:
    """The status as the client gets it. Raises IllegalMetadata or TypeError for the trailing metadata."""
    try:
        return Status(code, details, admit_trailing(trailing, details))
    except MetadataTooLarge as error:
        return _refused(error)


def _refused(error: MetadataTooLarge) -> Status:
    return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))


def _status_code(code: Any) -> grpc.StatusCode:
    """The code that a handler meant: OK if it set none, UNKNOWN for what is no code, as grpc.aio takes it."""
    if code is None:
        return grpc.StatusCode.OK
    if isinstance(code, grpc.StatusCode):
        return code
    return _CODES.get(code, grpc.StatusCode.UNKNOWN) if isinstance(code, int) else grpc.StatusCode.UNKNOWN


def _is_entry(entry: Any) -> bool:
    return (
        isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str) and isinstance(entry[1], str | bytes)
    )
