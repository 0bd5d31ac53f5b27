"""The upstream side of one request: attempts in order, time limits, and an end from outside at any moment."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from core.catalog import Endpoint, Model
from core.chat.upstream_errors import read_refusal
from core.errors import UpstreamFailed, UpstreamRefused, UpstreamTimeout, WorldRouterError
from core.providers.base import Provider, Reply
from core.routing import may_fail_over, plan

_log = logging.getLogger(__name__)

WHOLE_ANSWER_FACTOR = 5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """How long an upstream may take, in seconds.

    `first_token_s` counts from the call to the first piece of a streamed answer, whatever comments come before it;
    a whole answer, of which nothing is seen before its last token, may take WHOLE_ANSWER_FACTOR times as long.
    `between_chunks_s` counts between two reads of any bytes, `total_s` from the first attempt to the end.
    """

    first_token_s: float = 60.0
    between_chunks_s: float = 60.0
    total_s: float = 900.0


class Dispatch:
    """One request's calls to its model's endpoints. `fail` ends whatever runs; it and `check` never await.

    `endpoint` is the one tried last, `attempts` the calls made, `waited_s` the time spent waiting for upstreams.
    """

    __slots__ = (
        "_between_chunks_s",
        "_body_for",
        "_clock",
        "_deadline_s",
        "_error",
        "_first_deadline_s",
        "_first_token_s",
        "_model",
        "_providers",
        "_reply",
        "_stream",
        "_taken",
        "_total_deadline_s",
        "attempts",
        "endpoint",
        "waited_s",
    )

    def __init__(
        self,
        model: Model,
        providers: Mapping[str, Provider],
        limits: TimeLimits,
        clock: Callable[[], float],
        *,
        stream: bool,
        body_for: Callable[[Endpoint], bytes],
    ) -> None:
        self._model = model
        self._providers = providers
        self._between_chunks_s = limits.between_chunks_s
        self._clock = clock
        self._stream = stream
        self._body_for = body_for
        self._first_token_s = model.first_token_timeout_s or limits.first_token_s
        if not stream:
            self._first_token_s *= WHOLE_ANSWER_FACTOR
        self._total_deadline_s = clock() + limits.total_s
        self._deadline_s = self._first_deadline_s = math.inf
        self._reply: Reply | None = None
        self._error: WorldRouterError | None = None
        self.endpoint: Endpoint | None = None
        self._taken = False
        self.attempts = 0
        self.waited_s = 0.0

    async def first(self, take: Callable[[], Awaitable[T]]) -> T:
        """Call the endpoints in order until `take` succeeds on the answer of one; the last failure otherwise."""
        failure: WorldRouterError = UpstreamFailed("The model has no endpoint.")
        for endpoint in plan(self._model):
            try:
                await self._call(endpoint)
                return await take()
            except WorldRouterError as error:
                self.close()
                if isinstance(error, UpstreamRefused):
                    _log.error("Endpoint %s of model %s: %s", endpoint.name, self._model.id, error)
                if not may_fail_over(error):
                    raise
                failure = error
                self._taken = False  # what failed is free
        try:
            raise failure
        finally:
            del failure  # its traceback holds this frame, and megabytes of the answer in others: a cycle

    async def _call(self, endpoint: Endpoint) -> None:
        if self._error is not None:
            raise self._error
        self.endpoint = endpoint
        self.attempts += 1
        reply = self._reply = self._providers[endpoint.provider].send(self._body_for(endpoint), stream=self._stream)
        began_s = self._clock()
        self._deadline_s = self._first_deadline_s = began_s + self._first_token_s
        try:
            head = await reply.head()
        finally:
            self.waited_s += self._clock() - began_s
        if head.status != 200:
            raise await read_refusal(self.read, head)

    async def resume(self) -> None:
        """Wait for the answer of the call under way again, whose waiter was cancelled. UpstreamFailed for a refusal."""
        reply, began_s = self._reply, self._clock()
        assert reply is not None
        self._deadline_s = self._first_deadline_s
        try:
            head = await reply.head()
        finally:
            self.waited_s += self._clock() - began_s
        if head.status != 200:
            raise UpstreamFailed("The upstream refused the request.")

    async def read(self, *, first: bool = False) -> bytes:
        """What the upstream sends next, b"" at its end."""
        if self._error is not None:
            raise self._error
        reply, clock = self._reply, self._clock
        assert reply is not None
        began_s = clock()
        self._deadline_s = self._first_deadline_s if first else began_s + self._between_chunks_s
        try:
            return await reply.read()
        finally:
            self._deadline_s = math.inf
            self.waited_s += clock() - began_s

    def is_overdue(self, now_s: float) -> bool:
        """Whether the request has taken longer than any may take."""
        return now_s > self._total_deadline_s

    def check(self, now_s: float) -> None:
        """End the request if the upstream has taken too long; called a few times a second."""
        if now_s > self._deadline_s:
            self.fail(UpstreamTimeout("The upstream did not answer in time."), final=False)

    def fail(self, error: WorldRouterError, *, final: bool = True) -> None:
        """Make the pending or next wait raise this; a final one forbids further attempts."""
        if final:
            self._error = error
        if self._reply is not None:
            self._reply.fail(error)

    @property
    def taken(self) -> bool:
        """Whether an upstream may have taken the request."""
        return self._taken or (self._reply is not None and self._reply.sent)

    def close(self) -> None:
        """Release the upstream's connection. Idempotent."""
        if self._reply is not None:
            self._taken = self._taken or self._reply.sent
            self._reply.close()
            self._reply = None
