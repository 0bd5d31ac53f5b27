"""One connection of the load generator: sends a request, checks the whole answer, measures it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

import httptools
import msgspec

from tests.bench import answers
from tests.bench.plan import Plan, Tally

CHECK_FORM_EVERY = 64
"""Every so many-eth stream of a connection is parsed event by event, which costs too much to do always."""
_FILLER = "Summarise the report that follows for a busy reader, and keep every number in it exact. "


class Job:
    """What all connections of a run have in common: the request's bytes and the counts."""

    def __init__(self, plan: Plan, tally: Tally) -> None:
        self.plan, self.tally = plan, tally
        self.request = _request(plan)
        self.numbers = answers.expected_numbers(plan.chunks)
        self._sent = 0

    def leaves_next(self) -> bool:
        """Count a request; whether its client is to go away in the middle of it."""
        self._sent += 1
        return self.plan.leave_every > 0 and self._sent % self.plan.leave_every == 0


def _request(plan: Plan) -> bytes:
    steering = answers.steering(plan.chunks, plan.pause_ms, plan.wait_ms)
    streamed = {"stream": True, "stream_options": {"include_usage": True}} if plan.chunks else {}
    filler = (_FILLER * (plan.body_bytes // len(_FILLER) + 1))[: plan.body_bytes]
    messages = [{"role": "system", "content": steering}, {"role": "user", "content": filler}]
    content = {"model": answers.MODEL, **streamed, "temperature": 0.7, "max_tokens": 1024, "messages": messages}
    body = msgspec.json.encode(content)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{plan.port}\r\nAuthorization: Bearer {plan.key}\r\n"
        f"Content-Type: application/json\r\nAccept: */*\r\nUser-Agent: bench/1\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Client(asyncio.Protocol):
    """A kept connection. `on_free` is called when it can take the next request, or has been lost."""

    def __init__(self, job: Job, on_free: Callable[[Client], None]) -> None:
        self._job, self._tally, self._on_free = job, job.tally, on_free
        self._parser = httptools.HttpResponseParser(self)
        self._parts: list[bytes] = []
        self._due_s = self._first_s = 0.0
        self._streams = bool(job.plan.chunks)
        self._answered = 0
        self._leaves = self._due_inside = False
        self.busy = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's do not derive from asyncio's

    def begin(self, due_s: float) -> None:
        """Send the request, which was due at that time of the monotonic clock."""
        assert self.transport is not None
        tally = self._tally
        self.busy, self._due_s, self._first_s = True, due_s, 0.0
        self._due_inside = tally.counting
        tally.begun += tally.counting
        self._leaves = self._job.leaves_next()
        self.transport.write(self._job.request)
        if self._leaves and not self._streams:
            asyncio.get_running_loop().call_later(self._job.plan.wait_ms / 2000, self._leave)

    def data_received(self, data: bytes) -> None:
        now_s = time.monotonic()
        if self._streams:
            chunks = data.count(answers.DELTA_MARK)
            if chunks:
                self._first_s = self._first_s or now_s
                if self._tally.counting:
                    self._tally.chunks += chunks
                if self._leaves:
                    self._leave()
                    return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._give_up(f"not HTTP: {error}")

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        now_s = time.monotonic()
        body = b"".join(self._parts)
        self._parts.clear()
        self.busy = False
        status = self._parser.get_status_code()
        fault = self._fault(body) if status == 200 else f"status {status}: {body[:200]!r}"
        tally = self._tally
        if fault is not None:
            tally.fail(fault)
        elif self._due_inside if self._job.plan.loop == "open" else tally.counting:
            tally.requests += 1
            tally.latency_s.append(now_s - self._due_s)
            if self._streams:
                tally.first_token_s.append(self._first_s - self._due_s)
        self._answered += 1
        if not self._parser.should_keep_alive():
            self.close()
        self._on_free(self)

    def _fault(self, body: bytes) -> str | None:
        if not self._streams:
            return answers.unary_fault(body)
        fault = answers.stream_fault(body, self._job.numbers)
        if fault is None and self._answered % CHECK_FORM_EVERY == 0:
            fault = answers.stream_form_fault(body)
        return fault

    def _leave(self) -> None:
        if self.busy:
            self.busy = False
            self._tally.left += 1
            self.close()
            self._on_free(self)

    def _give_up(self, why: str) -> None:
        self.busy = False
        self._tally.fail(why)
        self.close()
        self._on_free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.busy:
            self._give_up(f"connection lost in mid-answer: {exc}")

    def close(self) -> None:
        """Close the connection at once."""
        transport, self.transport = self.transport, None
        if transport is not None:
            transport.abort()
