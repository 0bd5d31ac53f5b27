"""Random handlers and random clients: every channel gives the same outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worldrouter.v1 import raw_chat_pb2

pytestmark = pytest.mark.slow

C = grpc.StatusCode
ERRORS = [code for code in C if code is not C.OK]
DEADLINE_S = 0.1
AMPLE_DEADLINE_S = 3.0
"""For a machine so busy that a handler does not get as far as its plan in the other one."""

Step = tuple[Any, ...]


def chunk(text: bytes) -> Any:
    return raw_chat_pb2.StreamRawCompletionResponse(chunks=raw_chat_pb2.CompletionChunks(chunk_json=[text]))


@dataclass(frozen=True)
class Plan:
    """What a handler does step by step, how it ends, and what its client does."""

    steps: tuple[Step, ...]
    end: Step
    client: str
    """"all" reads to the end, "cancel" reads `reads` messages first, "deadline" has a timeout."""
    style: str
    reads: int

    @property
    def sends(self) -> int:
        return sum(step[0] in ("yield", "write") for step in self.steps)

    def sensible(self, *, unary: bool) -> Plan:
        """The plan with the client's part made one whose outcome no race decides."""
        if self.end[0] == "hang":
            client = "deadline" if self.client == "all" else self.client
            return replace(self, client=client, reads=0 if unary else self.sends)
        if unary or self.client != "cancel" or self.reads >= self.sends:
            return replace(self, client="all")
        return self


class Handler:
    """Follows a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.reached_end = asyncio.Event()

    async def unary(self, request: Any, context: Any) -> Any:
        async for _ in self._run(context, unary=True):
            pass
        return raw_chat_pb2.CreateRawCompletionResponse(body=b"response")

    async def stream(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for message in self._run(context, unary=False):
            yield message

    async def _run(self, context: Any, *, unary: bool) -> AsyncIterator[Any]:
        for name, *arguments in self._plan.steps:
            if name == "yield":
                yield chunk(*arguments)
            elif name == "write" and not unary:
                await context.write(chunk(*arguments))
            elif name == "pause":
                await asyncio.sleep(0)
            elif name == "initial":
                await context.send_initial_metadata(*arguments)
            elif name in ("set_trailing_metadata", "set_code", "set_details"):
                getattr(context, name)(*arguments)
        self.reached_end.set()
        name, *arguments = self._plan.end
        if name == "abort":
            await context.abort(*arguments)
        elif name == "raise":
            raise arguments[0]
        elif name == "hang":
            await asyncio.sleep(60)


def metadata(key: str) -> Any:
    pairs = st.tuples(st.sampled_from([key, f"{key}2"]), st.sampled_from(["", "v", "w x"]))
    return st.lists(pairs, max_size=2).map(tuple)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
codes = st.sampled_from(ERRORS)
bodies = st.sampled_from([b"", b"short", b"x" * 70_000])
steps = st.one_of(
    st.tuples(st.just("yield"), bodies),
    st.tuples(st.just("yield"), bodies),
    st.tuples(st.just("write"), bodies),
    st.tuples(st.just("pause")),
    st.tuples(st.just("initial"), metadata("i")),
    st.tuples(st.just("set_trailing_metadata"), metadata("t")),
    st.tuples(st.just("set_code"), st.sampled_from(list(C))),
    st.tuples(st.just("set_details"), texts),
)
ends = st.one_of(
    st.just(("return",)),
    st.tuples(st.just("abort"), codes, texts, metadata("t")),
    st.tuples(st.just("raise"), st.sampled_from([ValueError("boom"), KeyError(1), RuntimeError()])),
    st.just(("hang",)),
)
plans = st.builds(
    Plan,
    steps=st.lists(steps, max_size=8).map(tuple),
    end=ends,
    client=st.sampled_from(["all", "cancel"]),
    style=st.sampled_from(["read", "iterate"]),
    reads=st.integers(0, 3),
)
bounded = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


async def run_unary(link: Any, plan: Plan, deadline_s: float = DEADLINE_S) -> Any:
    """Outcome and the handler's end of a unary call."""
    handler = Handler(plan)
    link.servicer.ended = asyncio.Queue()  # over a relay what ends with UNAVAILABLE before it began is run twice
    link.servicer.unary = handler.unary
    options = {"timeout": deadline_s} if plan.client == "deadline" else {}
    if plan.client != "cancel":
        outcome = await link.unary(**options)
        if options and not handler.reached_end.is_set() and deadline_s < AMPLE_DEADLINE_S:
            return await run_unary(link, plan, AMPLE_DEADLINE_S)
    else:
        call = link.create()
        await handler.reached_end.wait()
        assert call.cancel()
        outcome = await link.outcome(call, (), await raised_by(call))
    if plan.client != "all":  # whether a socket shows initial metadata then is a matter of timing
        outcome = replace(outcome, initial={})
    return outcome, kind(await link.servicer.next_end())


async def run_stream(link: Any, plan: Plan, deadline_s: float = DEADLINE_S) -> Any:
    """Outcome and the handler's end of a streamed call."""
    handler = Handler(plan)
    link.servicer.ended = asyncio.Queue()
    link.servicer.stream = handler.stream
    options = {"timeout": deadline_s} if plan.client == "deadline" else {}
    call = link.open(**options)
    read = call.read if plan.style == "read" else aiter(call).__anext__
    if plan.client != "cancel":
        messages, raised = await read_all(read)
        late = not handler.reached_end.is_set() or len(messages) < plan.sends
        if options and late and deadline_s < AMPLE_DEADLINE_S:
            return await run_stream(link, plan, AMPLE_DEADLINE_S)
        outcome = await link.outcome(call, messages, raised)
        return outcome, kind(await link.servicer.next_end())
    messages = ()
    for _ in range(plan.reads):
        messages += ((await read()).chunks.chunk_json[0],)
    if plan.end[0] == "hang":
        await handler.reached_end.wait()
    if plan.sends or any(step[0] == "initial" for step in plan.steps):
        await call.initial_metadata()
    assert call.cancel()
    outcome = await link.outcome(call, messages, await raised_by(call))
    ended = kind(await link.servicer.next_end())
    return outcome, ended if plan.end[0] == "hang" else "whichever came first"


async def read_all(read: Any) -> Any:
    messages: tuple[bytes, ...] = ()
    try:
        while (message := await asyncio.wait_for(read(), 5)) is not grpc.aio.EOF:
            messages += (message.chunks.chunk_json[0],)
    except StopAsyncIteration:
        return messages, ""
    except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
        return messages, type(error).__name__
    return messages, ""


async def raised_by(call: Any) -> str:
    """What waiting for a call that is over raises."""
    try:
        await call.wait_for_connection()
    except (grpc.aio.AioRpcError, asyncio.CancelledError) as error:
        return type(error).__name__
    return ""


def kind(error: BaseException | None) -> str:
    return "" if error is None else type(error).__name__


def sane(plan: Plan) -> bool:
    """Not sending initial metadata a second time or too late: that makes a plan end there, at any `end`."""
    opened = False
    for step in plan.steps:
        if step[0] == "initial" and opened:
            return False
        opened = opened or step[0] in ("initial", "yield", "write")
    return True


@given(plan=plans)
@bounded
async def test_unary_calls_end_the_same(links: Any, plan: Plan) -> None:
    """A unary call has the same outcome on all channels, whatever handler and client do."""
    plan = plan.sensible(unary=True)
    if plan.end[0] == "hang" and not sane(replace(plan, steps=tuple(s for s in plan.steps if s[0] == "initial"))):
        return
    first, *others = await asyncio.gather(*(run_unary(link, plan) for link in links))
    for other in others:
        assert other == first


@given(plan=plans)
@bounded
async def test_streams_end_the_same(links: Any, plan: Plan) -> None:
    """A streamed call has the same messages and outcome on all channels, whatever handler and client do."""
    plan = plan.sensible(unary=False)
    if plan.client != "all" and not sane(plan):
        return
    first, *others = await asyncio.gather(*(run_stream(link, plan) for link in links))
    for other in others:
        assert other == first
