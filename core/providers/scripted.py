"""A provider without an upstream: deterministic, programmable answers for tests, benchmarks and demos.

A request programs its answer by a top-level field `script` in its body (see `core.providers.script.Script`);
without one it gets the provider's defaults. Only an explicit configuration ever chooses this provider.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from core.errors import UpstreamFailed
from core.providers.base import ConnectFailed, Head
from core.providers.script import Fault, Script, ScriptedRequest
from core.providers.scripted_answer import Stop, compose, error_body, resized, stream_steps, unary_steps

RECORDED_COUNT = 100

_REQUEST = msgspec.json.Decoder(ScriptedRequest)
_SCRIPT = msgspec.json.Decoder(Script)


@dataclass(frozen=True, slots=True)
class Plan:
    """One answer, ready to be played: the head, then the steps of the body, each piece one read."""

    script: Script
    head: Head
    steps: Iterator[bytes | Stop]


class ScriptedReply:
    """One call to the scripted provider (a `Reply`)."""

    __slots__ = ("_begun", "_done", "_failure", "_on_done", "_plan", "_reads", "_silent", "_waiter")

    def __init__(self, plan: Plan, on_done: Callable[[bool], None]) -> None:
        """`on_done` is called once, with whether the answer was read to the end that the script gave it."""
        self._plan = plan
        self._on_done = on_done
        self._begun = False
        self._done = False
        self._reads = 0
        self._silent = False
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def sent(self) -> bool:
        """See `Reply.sent`."""
        return self._plan.script.fault is not Fault.CONNECT_FAILED

    async def head(self) -> Head:
        """See `Reply.head`."""
        script = self._plan.script
        if self._begun:
            return self._plan.head
        await self._pause(script.head_delay_ms)
        if script.fault is Fault.CONNECT_FAILED:
            self._finish(complete=True)
            raise ConnectFailed("The script refused the connection.")
        if script.fault is Fault.HEAD_CUT:
            self._finish(complete=True)
            raise UpstreamFailed("The script cut the connection before the head.")
        if script.fault is Fault.NO_HEAD:
            await self._pause(None)
        self._begun = True
        return self._plan.head

    async def read(self) -> bytes:
        """See `Reply.read`."""
        script = self._plan.script
        await self._pause(script.chunk_delay_ms if self._reads else script.first_delay_ms)
        self._reads += 1
        step = next(self._plan.steps, b"")
        if self._silent or step is Stop.SILENCE:
            self._silent = True
            await self._pause(None)
        if step is Stop.CUT:
            self._finish(complete=True)
            self._failure = UpstreamFailed("The script cut the answer.")
            raise self._failure
        if not step:
            self._finish(complete=True)
        return step if isinstance(step, bytes) else b""

    def fail(self, error: Exception) -> None:
        """See `Reply.fail`."""
        self._failure = error
        self._finish(complete=False)

    def close(self) -> None:
        """See `Reply.close`."""
        if not self._done:
            self._failure = UpstreamFailed("The call was closed before the answer was complete.")
            self._finish(complete=False)

    async def _pause(self, delay_ms: float | None) -> None:
        """Wait that long, None: for ever; 0 lets others run and takes no timer. Raises once failed or closed."""
        if self._failure is None:
            if delay_ms == 0:
                await asyncio.sleep(0)
            else:
                await self._wait(delay_ms)
        if self._failure is not None:
            raise self._failure

    async def _wait(self, delay_ms: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = None if delay_ms is None else loop.call_later(delay_ms / 1000, self._wake)
        try:
            await self._waiter
        finally:
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _finish(self, *, complete: bool) -> None:
        self._wake()
        if not self._done:
            self._done = True
            self._on_done(complete)


class ScriptedProvider:
    """Answers as it is told (a `Provider`).

    `open_calls` counts the calls neither read to their end nor closed, `cancelled_calls` those that were closed
    or failed by the caller before their end, `received` the last bodies, when `record` is set.
    """

    def __init__(self, defaults: Script | None = None, *, record: bool = False) -> None:
        self._defaults = defaults or Script()
        self._record = record
        self.received: deque[bytes] = deque(maxlen=RECORDED_COUNT)
        self.open_calls = 0
        self.cancelled_calls = 0

    def send(self, body: bytes, *, stream: bool) -> ScriptedReply:
        """See `Provider.send`."""
        if self._record:
            self.received.append(body)
        self.open_calls += 1
        return ScriptedReply(plan(body, self._defaults, stream=stream), self._closed)

    async def close(self) -> None:
        """There is nothing to close."""

    def _closed(self, complete: bool) -> None:
        self.open_calls -= 1
        self.cancelled_calls += not complete


def plan(body: bytes, defaults: Script, *, stream: bool) -> Plan:
    """Plan the answer to this request. What an upstream would refuse is planned as a 400."""
    try:
        request = _REQUEST.decode(body)
        script = defaults if request.script is None else _merged(defaults, request.script)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return _error_plan(Script(status=400), str(error), "invalid_request_error")
    verbatim = _verbatim(script)
    if script.status != 200 and verbatim is None:
        return _error_plan(script, f"scripted status {script.status}", "scripted_error")
    kind = script.content_type or ("text/event-stream; charset=utf-8" if stream else "application/json")
    head = Head(script.status, kind, script.retry_after_s)
    if verbatim is not None:
        return Plan(script, head, iter(verbatim))
    answer = compose(request, script)
    steps = stream_steps(answer, script) if stream else unary_steps(answer, script)
    return Plan(script, head, resized(steps, script))


def _merged(defaults: Script, own: dict[str, msgspec.Raw]) -> Script:
    """The request's script over the defaults, field by field; validated as a whole."""
    fields = msgspec.json.decode(msgspec.json.encode(defaults), type=dict[str, msgspec.Raw])
    return _SCRIPT.decode(msgspec.json.encode(fields | own))


def _error_plan(script: Script, message: str, kind: str) -> Plan:
    head = Head(script.status, script.content_type or "application/json", script.retry_after_s)
    return Plan(script, head, iter([error_body(script, message, kind)]))


def _verbatim(script: Script) -> list[bytes | Stop] | None:
    """The steps of a body given as it is; a cut or silence comes after all of it."""
    if script.raw_base64 is not None:
        pieces = script.raw_base64
    elif script.raw is not None:
        pieces = [piece.encode() for piece in script.raw]
    elif script.raw_body is not None:
        pieces = [script.raw_body.encode()]
    else:
        return None
    stops = [Stop(script.fault.value)] if script.fault in (Fault.CUT, Fault.SILENCE) else []
    return [piece for piece in pieces if piece] + stops  # an empty read would be the end
