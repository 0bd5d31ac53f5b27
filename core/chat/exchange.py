"""One chat request from its body to its answer: admitted, held, sent on, rewritten, settled.

An exchange is driven by an RPC handler. All its waiting happens in `admit`, `complete`, `start`, `read` and
`finish`; leaving its `with` block never waits, so that it ends in good order whatever happened to the caller. Where
the upstream's policy is to drain, a caller that goes away leaves an exchange behind that the pipeline drives on.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Self

from core.call import Call, Policy
from core.catalog import Endpoint, Model
from core.chat.admission import Reserved
from core.chat.answers import Answer, read_answer
from core.chat.chunks import ChunkRewriter
from core.chat.dispatch import Dispatch
from core.chat.ending import (
    access_record,
    counting_of,
    outcome_of,
    produced_bytes,
    produced_tokens,
    reason_of,
    status_of,
)
from core.chat.envelope import Envelope, read_envelope
from core.chat.sse import SseDecoder
from core.errors import (
    InvalidRequest,
    RateLimited,
    UpstreamFailed,
    UpstreamTimeout,
    WorldRouterError,
)
from core.money.meter import Meter, Status
from core.money.usage import NO_TOKENS
from core.rates.rates import Passed

if TYPE_CHECKING:
    from core.chat.pipeline import Pipeline

_log = logging.getLogger(__name__)

LAST_WORDS_S = 2.0
"""How long the handler of a request that was cut has to say so, before its RPC is cancelled."""
MAX_ANSWER_BYTES = 59 << 20
"""Of a whole answer. With what is said of it, less than a message from a core to an edge may have: what is charged
arrives."""
LARGE_BODY_BYTES = 256 * 1024
LARGE_PIECE_BYTES = 32 * 1024
"""Work on a body of this size, on an answer or on a piece of one, waits for its turn. An upstream that is faster than
its caller is read in pieces of this size."""
UNTIDY_BYTES = 1 << 20
"""An answer that is given up when so much of it was there leaves gaps in memory."""
MAX_DRAIN_S = 30.0
"""How long an answer is read on after its caller went away."""


class Exchange:
    """One chat request. `id`, `model`, `dispatch` and `created_s` say who answers, `tokens` what it came to.

    `streams`: whether its answer is streamed. Until it is admitted that is not known of one that is given None for it.
    The rest of what is public is for `ending` to read.
    """

    def __init__(self, pipeline: Pipeline, call: Call, body: bytes, *, stream: bool | None) -> None:
        self.pipeline = pipeline
        self._offer = pipeline.offer
        self._as_body_asks = stream is None
        self.streams = bool(stream)
        self._body = body
        self.received_s = pipeline.clock()
        self._cut: tuple[Status, WorldRouterError] | None = None
        self._cut_s = 0.0
        self._task: asyncio.Task[object] | None = None
        self._drained_by_s = math.inf
        self.first_token_s: float | None = None
        self._lowered: int | None = None
        self.most_output = 0
        self._failure: UpstreamFailed | None = None
        self._passed: Passed | None = None
        self.meter: Meter | None = None
        self.answer: Answer | None = None
        self._pieces: list[bytes] = []
        self._sse = SseDecoder()
        self.rewriter: ChunkRewriter | None = None
        self.envelope: Envelope | None = None
        self.call = call
        self.id = f"chatcmpl-{call.request_id}"
        self.created_s = int(pipeline.wall_clock())
        self.model: Model | None = None
        self.dispatch: Dispatch | None = None
        self.tokens = NO_TOKENS
        self.finish_reasons: tuple[str, ...] = ()

    # Admission

    async def admit(self) -> None:
        """Validate the request and hold its money; nothing has been sent to an upstream yet."""
        pipeline = self.pipeline
        pipeline.admission.refuse_if_closed()
        pipeline.admission.refuse_too_large(self._body)
        if len(self._body) >= LARGE_BODY_BYTES:
            await pipeline.turn()
        envelope = self.envelope = read_envelope(self._body)
        self._body = b""
        if self._as_body_asks:
            self.streams = envelope.stream
        elif envelope.stream and not self.streams:
            raise InvalidRequest("stream: true needs the streaming RPC.", param="stream")
        model = self.model = self._offer.catalog.require(envelope.model, self.call.caller)
        if self.streams and not model.streaming:
            raise InvalidRequest(f"The model {model.id!r} cannot stream.", param="stream")
        caller = self.call.caller
        if caller.policy is None:
            reserved = await pipeline.admission.reserve(caller, envelope, model)
        else:
            reserved = await self._reserve_under(caller.policy, envelope, model)
        self._lowered = reserved.lowered
        self.most_output = reserved.estimate.output_tokens
        self.meter = Meter(
            call=self.call,
            model=model,
            streamed=self.streams,
            hold=reserved.hold,
            estimate=reserved.estimate,
            escrow=pipeline.escrow,
            queue=pipeline.ledger,
            core_id=pipeline.core_id,
            chain=reserved.chain,
        )
        self.dispatch = Dispatch(
            model,
            self._offer.providers,
            pipeline.limits,
            pipeline.clock,
            stream=self.streams,
            body_for=partial(_upstream_body, envelope, self.streams, reserved.lowered, self._offer.limit_fields),
        )
        if self._cut is not None:
            raise self._cut[1]

    async def _reserve_under(self, policy: Policy, envelope: Envelope, model: Model) -> Reserved:
        """Count the request in its limits per minute, then hold its money."""
        caller, admission = self.call.caller, self.pipeline.admission
        self._passed = await admission.count(policy, envelope, model)
        return await admission.reserve(caller, envelope, model)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Initial metadata of the answer, sent just before the upstream is called."""
        found = [("x-request-id", self.call.request_id)]
        if self.envelope is not None and self.envelope.ignored:
            found.append(("x-worldrouter-ignored", ",".join(self.envelope.ignored)))
        if self._lowered is not None:
            found.append(("x-worldrouter-max-tokens", str(self._lowered)))
        if self._passed is not None:
            found += self._passed.headers()
        return tuple(found)

    # A whole answer

    async def complete(self) -> bytes:
        """Call the upstream and return its whole answer, charged."""
        dispatch, model = self._admitted()
        answer = self.answer = await dispatch.first(self._read_whole)
        self.finish_reasons = answer.finish_reasons
        self.tokens = answer.usage or counting_of(self).estimated(answer.text_bytes)
        body = answer.body(completion_id=self.id, model=model.id, created_s=self.created_s, estimate=self.tokens)
        await self._settle()
        return body

    async def _read_whole(self) -> Answer:
        dispatch, _ = self._admitted()
        pieces = self._pieces
        size = sum(map(len, pieces))
        try:
            while piece := await dispatch.read():
                pieces.append(piece)
                size += len(piece)
                if size > MAX_ANSWER_BYTES:
                    raise UpstreamFailed("The upstream's answer is too large.")
                if size >= LARGE_PIECE_BYTES:
                    await self.pipeline.turn()
        except WorldRouterError:
            self._pieces = []
            self.pipeline.is_untidy = self.pipeline.is_untidy or size >= UNTIDY_BYTES
            raise
        self._pieces = []
        answer = read_answer(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        self.first_token_s = self.pipeline.clock()
        return answer

    # A streamed answer

    async def start(self) -> list[bytes]:
        """Call the upstream and return its first chunks, at least one unless the answer is complete at once."""
        dispatch, _ = self._admitted()
        chunks = await dispatch.first(self._first_chunks)
        self.first_token_s = self.pipeline.clock()
        return chunks

    async def _first_chunks(self) -> list[bytes]:
        rewriter = self._begin_stream()
        try:
            chunks = await self._read_chunks(rewriter, first=True)
            if not chunks:
                rewriter.check_complete()
        except WorldRouterError:
            self.rewriter = None
            raise
        return chunks

    def _begin_stream(self) -> ChunkRewriter:
        assert self.envelope is not None
        assert self.model is not None
        self._sse = SseDecoder()
        self.rewriter = ChunkRewriter(
            completion_id=self.id,
            model=self.model.id,
            created_s=self.created_s,
            include_usage=self.envelope.include_usage,
        )
        return self.rewriter

    def read(self) -> Coroutine[None, None, list[bytes]]:
        """The chunks of the next read that has any; none when `finish` is due."""
        assert self.rewriter is not None
        return self._read_chunks(self.rewriter, first=False)

    async def _read_chunks(self, rewriter: ChunkRewriter, *, first: bool) -> list[bytes]:
        dispatch = self.dispatch
        assert dispatch is not None
        chunks: list[bytes] = []
        while not chunks and not rewriter.done:
            if self._failure is not None:
                raise self._failure
            data = await dispatch.read(first=first)
            if len(data) >= LARGE_PIECE_BYTES:
                await self.pipeline.turn()
            try:
                rewriter.take(data, self._sse, chunks)
            except UpstreamFailed as failure:
                held_bytes = self._sse.largest_bytes + rewriter.held_bytes
                self.pipeline.is_untidy = self.pipeline.is_untidy or held_bytes >= UNTIDY_BYTES
                if first or not chunks:
                    raise
                self._failure = failure  # what came before it is passed on
            if not data:
                break
        return chunks

    async def finish(self) -> list[bytes]:
        """The last chunks of a complete stream, after its charge is committed."""
        rewriter = self.rewriter
        assert rewriter is not None
        if self._cut is not None:
            raise self._cut[1]
        self.tokens = counting_of(self).of_stream(rewriter)
        last = rewriter.finish(self.tokens)
        self.finish_reasons = rewriter.reasons()
        await self._settle()
        return last

    # The end

    def cut(self, status: Status, error: WorldRouterError) -> None:
        """End the exchange from outside: the handler's pending or next wait raises this. The first time counts."""
        if self._cut is not None:
            return
        self._cut = (status, error)
        self._cut_s = self.pipeline.clock()
        if self.dispatch is not None:
            self.dispatch.fail(error)

    def __enter__(self) -> Self:
        self._task = self.pipeline.current_task()
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """The handler is done: release the upstream, settle what was produced, write the log line."""
        self._task = None
        client_gone, reason = False, ""
        if error is not None:
            if isinstance(error, RateLimited) and self._passed is not None:
                error.left = self._passed.headers()  # for too many at once, or an upstream's limit, as well
            client_gone = isinstance(error, self.pipeline.client_gone)
            if client_gone and self._is_drainable() and self.pipeline.drain_answer(self):
                return
            reason = "" if client_gone else reason_of(error)
            self._watch_charge()
        status = self._cut[0] if self._cut is not None else status_of(error, client_gone=client_gone)
        self._end(status, reason)
        self.pipeline.closed(self, access_record(self, "client_gone" if client_gone else "refused", reason))

    def _is_drainable(self) -> bool:
        """Whether an upstream whose policy is to drain is at work on the answer."""
        dispatch = self.dispatch
        if dispatch is None or dispatch.endpoint is None or not dispatch.taken:
            return False
        if self._cut is not None or self._is_settled():
            return False
        return dispatch.endpoint.provider in self._offer.drained_providers

    async def drain(self) -> None:
        """Read the answer to its end, for nobody but the ledger, and settle what it came to.

        What does not end in time, or is ended from outside, is estimated. Raises nothing.
        """
        self._drained_by_s = self.pipeline.clock() + MAX_DRAIN_S
        status: Status = "client_gone"
        produced = status
        try:
            await self._read_on()
        except WorldRouterError:
            if self._cut is None:
                produced = "upstream_failed"
        except Exception as error:
            _log.exception("The answer to request %s could not be read on", self.call.request_id, exc_info=error)
            status = produced = "internal_error"
        finally:
            self._watch_charge()
            self._end(status, "", produced)
            self.pipeline.closed(self, access_record(self, status, ""))

    async def _read_on(self) -> None:
        dispatch, _ = self._admitted()
        await dispatch.resume()
        if not self.streams:
            self.answer = await self._read_whole()
            self.finish_reasons = self.answer.finish_reasons
            return
        rewriter = self.rewriter or self._begin_stream()
        while await self._read_chunks(rewriter, first=False):
            if self.first_token_s is None:
                self.first_token_s = self.pipeline.clock()
        rewriter.check_complete()
        self.finish_reasons = rewriter.reasons()

    def check(self, now_s: float) -> None:
        """Enforce the time limits; called a few times a second. Never waits."""
        if self.dispatch is not None and self._cut is None:
            if self.dispatch.is_overdue(now_s):
                self.cut("timeout", UpstreamTimeout("The answer took longer than a request may take."))
            elif now_s > self._drained_by_s:
                self.cut("client_gone", UpstreamTimeout("The answer took too long for a caller that is gone."))
            else:
                self.dispatch.check(now_s)
        elif self._cut is not None and now_s - self._cut_s > LAST_WORDS_S and not self._is_settling():
            self.abandon()
            if self._task is not None:
                self._task.cancel()
                self._task = None

    def _is_settled(self) -> bool:
        """Whether the end is decided, and the charge on its way."""
        return self.meter is None or self.meter.committed is not None

    def _is_settling(self) -> bool:
        """Whether a complete answer waits for its commit: it is charged, so it must reach its caller if it can."""
        committed = self.meter.committed if self.meter is not None else None
        return committed is not None and not committed.done()

    def abandon(self) -> None:
        """Settle what was produced by a `cut` exchange whose handler hangs, because its caller does not read."""
        if self._cut is not None:
            status, error = self._cut
            self._end(status, error.reason)

    def _watch_charge(self) -> None:
        """What is told of the exchange at its end is told before its commit, which may come to another charge."""
        if self.meter is not None:
            self.meter.on_changed = self.pipeline.observe_changed

    def _end(self, status: Status, reason: str, produced: Status | None = None) -> None:
        """End here, if this was not decided before; `produced` says whose rule decides what is charged, if another."""
        if self.dispatch is not None:
            self.dispatch.close()
        self._pieces = []
        if self.meter is not None and self.meter.committed is None:
            self.tokens = produced_tokens(self, produced or status)
            # Nobody waits for the commit, so the charge is not given up however long it takes.
            self.meter.finish(outcome_of(self, status, reason)).cancel()
        passed, self._passed = self._passed, None
        if passed is not None:
            passed.ended(self._counted_tokens())

    def _counted_tokens(self) -> int:
        """What tokens per minute are charged; what no upstream can have counted is not believed."""
        tokens = self.tokens
        if self.meter is None:
            return 0
        return self.meter.plausible(tokens.prompt + tokens.completion)

    async def _settle(self) -> None:
        """Charge a complete answer. The upstream may end its connection properly meanwhile, which saves a new one."""
        dispatch, model = self._admitted()
        assert self.meter is not None
        committed = self.meter.finish(outcome_of(self, "complete", ""))
        if self.meter.is_telling(self.tokens) and self.envelope is not None:
            self.pipeline.ratios.of(model.id).learn(
                text_bytes=0 if self.envelope.media else self.envelope.text_bytes,
                output_bytes=produced_bytes(self),
                tokens=self.tokens,
            )
        await committed
        dispatch.close()

    def _admitted(self) -> tuple[Dispatch, Model]:
        assert self.dispatch is not None
        assert self.model is not None
        return self.dispatch, self.model

    @property
    def cost_nano_usd(self) -> int:
        """The charge, 0 before it is known."""
        settlement = self.meter.settlement if self.meter is not None else None
        return settlement.amount_nano_usd if settlement is not None else 0

    def overhead_us(self) -> int:
        """Time spent in this core rather than in an upstream until now, in microseconds."""
        waited_s = self.dispatch.waited_s if self.dispatch is not None else 0.0
        return int((self.pipeline.clock() - self.received_s - waited_s) * 1_000_000)


def _upstream_body(
    envelope: Envelope, stream: bool, lowered: int | None, limit_fields: Mapping[str, str], endpoint: Endpoint
) -> bytes:
    """The body for an endpoint. Not a method: an exchange that its dispatch knows is garbage that takes a collector."""
    limit = None if lowered is None else (limit_fields[endpoint.provider], lowered)
    return envelope.upstream_body(model=endpoint.upstream_model, stream=stream, limit=limit)
