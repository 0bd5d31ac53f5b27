"""Callers that break the rules: nothing crashes, nothing leaks, and others are not hurt."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from worldrouter.calls.frames import CROWDED_BATCHES
from worldrouter.v1 import relay_pb2

from tests.core.relay.conftest import CREATE, STREAM, Caller, begin, chunk, credit

MAX_CALLS = 4_096
MAX_UINT64 = 2**64 - 1
CANCELLED, UNKNOWN, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 1, 2, 8, 12, 13


async def well(caller: Any, call_id: int) -> None:
    """The stream still carries calls."""
    await caller.send(begin(call_id))
    assert (await caller.end_of(call_id)).end.code == 0


@pytest.mark.parametrize(
    "method", ["", "/", "nonsense", "/worldrouter.v1.RawChatService/None", "/worldrouter.v1.RelayService/Relay"]
)
async def test_methods_that_there_are_not(core: Any, method: str) -> None:
    """They are UNIMPLEMENTED, the relay itself among them."""
    caller = await core.open()
    await caller.send(begin(1, method))
    assert (await caller.end_of(1)).end.code == UNIMPLEMENTED
    await well(caller, 2)
    caller.rpc.cancel()


@pytest.mark.parametrize("second", [1, 0, 7])
async def test_a_call_id_that_is_not_new(core: Any, second: int) -> None:
    """It breaks the stream, and what runs on it; other streams go on."""

    async def create(request: Any, context: Any) -> Any:
        await asyncio.sleep(60)

    core.chats.create = create
    caller, other = await core.open(), await core.open()
    await caller.send(begin(7), begin(second))
    with pytest.raises(grpc.aio.AioRpcError):
        await caller.end_of(8)
    await core.idle()
    core.chats.create = core.chats.echo
    await well(other, 1)
    other.rpc.cancel()


async def test_frames_of_calls_that_there_are_not(core: Any) -> None:
    """Cancels and credits of unknown calls, of ended ones and repeated are ignored."""
    caller = await core.open()
    await well(caller, 1)
    numbers = (0, 1, 2, MAX_UINT64)
    for _ in range(3):
        await caller.send(credits=[credit(number, MAX_UINT64) for number in numbers], cancelled=numbers)
    await well(caller, 2)
    caller.rpc.cancel()


async def test_credit_for_what_was_never_sent(core: Any) -> None:
    """More credit than there were bytes widens no window."""
    sent = 0

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        nonlocal sent
        while True:
            yield chunk(b"x" * 1_000)
            sent += 1

    core.chats.stream = stream
    caller = await core.open()
    await caller.send(begin(1, STREAM), credits=[credit(1, MAX_UINT64)] * 100)
    await asyncio.sleep(0.05)
    assert sent < 70
    await caller.send(credits=[credit(1, 0)] * 100)
    await asyncio.sleep(0.02)
    assert sent < 70
    caller.rpc.cancel()


async def test_too_many_calls(core: Any) -> None:
    """What is over the limit ends with RESOURCE_EXHAUSTED; the rest, and what comes later, is served."""
    goes_on = asyncio.Event()

    async def create(request: Any, context: Any) -> Any:
        await goes_on.wait()
        return await core.chats.echo(request, context)

    core.chats.create = create
    caller = await core.open()
    await caller.send(*(begin(number) for number in range(1, MAX_CALLS + 11)))
    for number in range(MAX_CALLS + 1, MAX_CALLS + 11):
        assert (await caller.end_of(number)).end.code == RESOURCE_EXHAUSTED
    goes_on.set()
    assert (await caller.end_of(MAX_CALLS)).end.code == 0
    await well(caller, MAX_CALLS + 11)
    caller.rpc.cancel()


async def test_too_many_frames(core: Any) -> None:
    """A message of more frames than any caller needs breaks its stream."""
    caller = await core.open()
    await caller.send(cancelled=range(4 * MAX_CALLS + 1))
    with pytest.raises(grpc.aio.AioRpcError):
        await caller.read()
    well_behaved = await core.open()
    await well_behaved.send(cancelled=range(4 * MAX_CALLS))
    await well(well_behaved, 1)
    well_behaved.rpc.cancel()


@pytest.mark.slow
async def test_a_caller_that_reads_nothing(core: Any) -> None:
    """What it provokes waits within bounds, and comes when it reads; another stream is served meanwhile."""
    caller, sent, enough = await core.open(), 0, False

    async def send_on() -> None:
        nonlocal sent
        while not enough:
            await caller.send(*(begin(sent + number, "/no/such") for number in range(1, 1_001)))
            sent += 1_000

    sending = asyncio.create_task(send_on())
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.2)
    waiting = max(len(stream.outbox._full) for stream in core.servicer._streams)
    assert CROWDED_BATCHES <= waiting < 2 * CROWDED_BATCHES
    other = await core.open()
    await well(other, 1)
    other.rpc.cancel()
    enough = True
    while not sending.done() or len(caller.calls) < sent:
        await caller.read()
    assert {call.end.code for call in caller.calls.values()} == {UNIMPLEMENTED}
    caller.rpc.cancel()


async def test_requests_that_are_none(core: Any) -> None:
    """Garbage ends its own call, as does a request that is too large; its handler never runs."""

    async def create(request: Any, context: Any) -> Any:
        raise AssertionError("not expected")

    core.chats.create = create
    caller = await core.open()
    await caller.send(begin(1, request=b"\xff\xff\xff"), begin(2, body=b"x" * 262_145))
    assert (await caller.end_of(1)).end.code == UNKNOWN
    assert (await caller.end_of(2)).end.code == RESOURCE_EXHAUSTED
    core.chats.create = core.chats.echo
    await well(caller, 3)
    caller.rpc.cancel()


@pytest.mark.parametrize(
    ("key", "value"), [("", b"x"), ("Upper", b"x"), ("a b", b"x"), ("a", b"\n"), ("a", b"\xff"), ("\u2603", b"")]
)
async def test_illegal_metadata(core: Any, key: str, value: bytes) -> None:
    """A call with metadata that gRPC would not carry is INTERNAL, as everywhere."""
    caller = await core.open()
    await caller.send(begin(1, metadata=[relay_pb2.RelayMetadataEntry(key=key, value=value)]))
    assert (await caller.end_of(1)).end.code == INTERNAL
    caller.rpc.cancel()


@pytest.mark.parametrize("entries", [{"a": 16_400}, dict.fromkeys([f"a{number}" for number in range(500)], 1)])
async def test_too_much_metadata(core: Any, entries: dict[str, int]) -> None:
    """A call with more than gRPC carries elsewhere is RESOURCE_EXHAUSTED."""
    caller = await core.open()
    metadata = [relay_pb2.RelayMetadataEntry(key=key, value=b"x" * size) for key, size in entries.items()]
    await caller.send(begin(1, metadata=metadata))
    assert (await caller.end_of(1)).end.code == RESOURCE_EXHAUSTED
    await well(caller, 2)
    caller.rpc.cancel()


@pytest.mark.parametrize("seconds", [2**62, -(2**62), 0])
async def test_absurd_timeouts(core: Any, seconds: int) -> None:
    """A timeout beyond all measure is one that never comes, or has passed."""
    caller = await core.open()
    await caller.send(begin(1, timeout=Duration(seconds=seconds, nanos=999_999_999 if seconds else 0)))
    assert ((await caller.end_of(1)).end.code == 0) == (seconds > 0)
    caller.rpc.cancel()


async def test_begun_and_cancelled_at_once(core: Any) -> None:
    """Ten thousand calls that are cancelled in the message that begins them leave nothing behind."""
    caller = await core.open()
    for first in range(1, 10_001, 500):
        ids = range(first, first + 500)
        await caller.send(*(begin(number) for number in ids), cancelled=ids)
    await well(caller, 10_001)
    await core.idle()
    caller.rpc.cancel()


@pytest.mark.parametrize("seed", range(5))
async def test_noise(core: Any, seed: int) -> None:
    """Bytes that are no message, and frames at random, break their own stream at most."""
    random = Random(seed)
    raw = core.channel.stream_stream("/worldrouter.v1.RelayService/Relay")
    for _ in range(30):
        rpc = raw()
        try:
            for _ in range(random.randrange(1, 6)):
                await rpc.write(_noise(random))
            await rpc.done_writing()
            async with asyncio.timeout(5):
                while await rpc.read() is not grpc.aio.EOF:
                    pass
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            pass
        rpc.cancel()
    await core.idle()
    caller: Caller = await core.open()
    await well(caller, 1)
    caller.rpc.cancel()


def _noise(random: Random) -> bytes:
    if random.random() < 0.3:
        return random.randbytes(random.choice((1, 10, 1_000)))
    numbers = (0, 1, 2, 3, random.randrange(100), MAX_UINT64)
    frames = relay_pb2.RelayRequest(
        begins=[
            begin(random.choice(numbers), random.choice((CREATE, STREAM, "/x/y")), request=random.randbytes(5))
            for _ in range(random.randrange(4))
        ],
        credits=[credit(random.choice(numbers), random.choice(numbers)) for _ in range(random.randrange(4))],
        cancelled_call_ids=random.sample(numbers, 2),
    ).SerializeToString()
    return bytes(frames[: random.randrange(len(frames) + 1)] if random.random() < 0.3 else frames)
