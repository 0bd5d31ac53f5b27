"""Metadata that may travel and metadata that may not, in all three directions."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from worldrouter.v1 import raw_chat_pb2

C = grpc.StatusCode
Answer = raw_chat_pb2.CreateRawCompletionResponse
AGENT = "user-agent"

# Not in the alphabet: keys that gRPC knows. They are reordered or dropped, which test_reserved_keys holds.
legal_keys = st.text("0123456789abcdef_-.", min_size=1, max_size=8)
odd_keys = st.one_of(legal_keys, legal_keys.map("grpc-{}".format), st.text("aZ !:/\u00e9\n,", max_size=4))
texts = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=30)
odd_texts = st.one_of(texts, st.text(st.characters(max_codepoint=0x100), max_size=6), texts.map(str.encode))


def entries(keys: Any, values: Any) -> Any:
    plain = st.tuples(keys.filter(lambda key: not key.endswith("-bin")), values)
    binary = st.tuples(legal_keys.map("{}-bin".format), st.binary(max_size=40))
    return st.lists(st.one_of(plain, plain, binary), max_size=5).map(tuple)


legal = entries(legal_keys, texts)
# One entry: of several, those before it arrive over a socket, behind the refusal.
too_large = st.sampled_from([(("t", "x" * 16_384),), (("t-bin", b"x" * 20_000),)])
any_metadata = st.one_of(legal, entries(odd_keys, odd_texts))
any_answered = st.one_of(any_metadata, any_metadata, too_large)
bounded = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def seen_by_key(metadata: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for key, value in metadata:
        if key != AGENT:
            found.setdefault(key, []).append(value)
    return found


async def exchange(link: Any, request: Any, initial: Any, trailing: Any, end: str) -> Any:
    """What handler and client get of these, over a unary and a streamed call."""
    seen: list[Any] = []

    async def answer(request: Any, context: Any) -> None:
        seen.append(seen_by_key(context.invocation_metadata()))
        await context.send_initial_metadata(initial)
        if end == "abort":
            await context.abort(C.NOT_FOUND, "d", trailing)
        context.set_trailing_metadata(trailing)

    async def unary(request: Any, context: Any) -> Any:
        await answer(request, context)
        return Answer(body=b"1")

    async def stream(request: Any, context: Any) -> Any:
        await answer(request, context)
        return
        yield

    link.servicer.unary, link.servicer.stream = unary, stream
    whole = await link.unary(metadata=request)
    streamed = await link.streamed(metadata=request)
    return seen, whole, streamed


@given(request=any_metadata, initial=any_answered, trailing=any_answered, end=st.sampled_from(["return", "abort"]))
@bounded
async def test_any_metadata_fare_the_same(links: Any, request: Any, initial: Any, trailing: Any, end: str) -> None:
    """Whatever is sent in any direction arrives, or is refused, as it is over a socket."""
    first, *others = [await exchange(link, request, initial, trailing, end) for link in links]
    for other in others:
        assert other == first


@given(request=legal, initial=legal, trailing=legal)
@bounded
async def test_legal_metadata_arrive(links: Any, request: Any, initial: Any, trailing: Any) -> None:
    """What is legal arrives whole, the values of one key in order."""
    for link in links:
        seen, whole, streamed = await exchange(link, request, initial, trailing, "return")
        assert seen == [seen_by_key(request)] * 2
        for outcome in (whole, streamed):
            assert outcome.code is C.OK
            assert (outcome.initial, outcome.trailing) == (seen_by_key(initial), seen_by_key(trailing))


ILLEGAL = [
    (("Upper", "v"),),
    (("a b", "v"),),
    (("", "v"),),
    ((":path", "v"),),
    (("a!", "v"),),
    (("caf\u00e9", "v"),),
    (("a", "caf\u00e9"),),
    (("a", "line\nbreak"),),
    (("a", "tab\t"),),
    (("a", "\x7f"),),
    (("a", b"\xff"),),
    (("fine", "v"), ("Not", "v")),
]


@pytest.mark.parametrize("metadata", ILLEGAL)
async def test_illegal_metadata_are_internal(link: Any, metadata: Any) -> None:
    """Illegal characters end a call with INTERNAL: before the handler, at its initial metadata, at its end."""
    illegal = ("AioRpcError", C.INTERNAL, "Invalid metadata")
    seen, whole, streamed = await exchange(link, metadata, (), (), "return")
    assert seen == []
    assert [(it.raised, it.code, it.details) for it in (whole, streamed)] == [illegal, illegal]
    for initial, trailing in ((metadata, ()), ((), metadata)):
        for end in ("return", "abort"):
            _, whole, streamed = await exchange(link, (), initial, trailing, end)
            assert [(it.raised, it.code, it.details) for it in (whole, streamed)] == [illegal, illegal]
            assert whole.initial == whole.trailing == streamed.trailing == {}


TOO_LARGE = [
    ((("a", "1"), ("b", "x" * 16_384), ("c", "x" * 20_000)), "value length 16384 vs. 16384)"),
    ((("a-bin", b"x" * 16_383),), "value length 16384 vs. 16384)"),
    ((("k" * 20_000, "1"),), "key length 20000 vs. 16384)"),
    (tuple((f"a{number}", "x" * 200) for number in range(80)), ""),  # behind the sum, which is the library's own
]


@pytest.mark.parametrize(("metadata", "size"), TOO_LARGE, ids=["value", "binary", "key", "sum"])
async def test_too_large_metadata_are_refused(link: Any, metadata: Any, size: str) -> None:
    """16 KiB of metadata, a status' details among them, end a call with RESOURCE_EXHAUSTED, whichever way they go."""

    def is_refused(outcome: Any) -> bool:
        assert outcome.details.startswith("received metadata size exceeds hard limit (" + size)
        return bool((outcome.raised, outcome.code) == ("AioRpcError", C.RESOURCE_EXHAUSTED))

    assert is_refused(await link.unary(metadata=metadata))  # a streamed one too; a socket takes 0.1 s for each
    assert link.servicer.begun == 0
    for initial, trailing in ((metadata, ()), ((), metadata)):
        for end in ("return", "abort"):
            _, whole, streamed = await exchange(link, (), initial, trailing, end)
            assert is_refused(whole)
            assert is_refused(streamed)


async def test_details_count_as_metadata(link: Any) -> None:
    """A status' details count as they are written: three characters for each byte that is not printable ASCII."""

    async def handle(request: Any, context: Any) -> Any:
        await context.abort(C.NOT_FOUND, request.body.decode())

    link.servicer.unary = handle
    assert (await link.unary("é%".encode() * 700)).code is C.NOT_FOUND
    outcome = await link.unary("é%x".encode() * 1_700)
    assert outcome.code is C.RESOURCE_EXHAUSTED
    assert outcome.details == "received metadata size exceeds hard limit (value length 17000 vs. 16384)"


async def test_too_large_initial_metadata_stop_the_handler(link: Any) -> None:
    """The client has its status at once, and the handler is cancelled where it waits next."""

    async def handle(request: Any, context: Any) -> Any:
        await context.send_initial_metadata((("a", "x" * 20_000),))
        await asyncio.sleep(60)

    link.servicer.unary = handle
    assert (await link.unary()).code is C.RESOURCE_EXHAUSTED
    assert isinstance(await link.servicer.next_end(), asyncio.CancelledError)


async def test_a_handler_may_survive_its_illegal_metadata(link: Any) -> None:
    """`send_initial_metadata` raises InternalError for illegal ones; the call is over all the same."""
    raised: list[type] = []

    async def handle(request: Any, context: Any) -> Any:
        try:
            await context.send_initial_metadata((("Upper", "v"),))
        except grpc.aio.InternalError as error:
            raised.append(type(error))
        return Answer()

    link.servicer.unary = handle
    outcome = await link.unary()
    assert (outcome.code, outcome.details) == (C.INTERNAL, "Invalid metadata")
    assert len(raised) == 1


@pytest.mark.parametrize("metadata", [(("a-bin", "text"),), (("a", 1),)])
async def test_values_of_a_wrong_type(link: Any, metadata: Any) -> None:
    """Text under a -bin key, or a number, is a TypeError: of the client's, or of the handler's."""
    with pytest.raises(TypeError):
        await link.create(metadata=metadata)
    with pytest.raises(TypeError):
        await link.open(metadata=metadata).read()

    async def initial(request: Any, context: Any) -> Any:
        await context.send_initial_metadata(metadata)
        return Answer()

    link.servicer.unary = initial
    outcome = await link.unary()
    assert outcome.code is C.UNKNOWN
    assert outcome.details.startswith("Unexpected <class 'TypeError'>: ")


async def test_trailing_metadata_must_be_pairs(link: Any) -> None:
    """`set_trailing_metadata` takes tuples of key and value, nothing else."""
    metadata: Any = ()

    async def handle(request: Any, context: Any) -> Any:
        context.set_trailing_metadata(metadata)
        return Answer()

    link.servicer.unary = handle
    for metadata in ((("a", 1),), [["a", "1"]], {"a": "1"}, (("a", "1", "2"),)):  # noqa: B007 - the handler reads it
        outcome = await link.unary()
        assert outcome.code is C.UNKNOWN
        assert outcome.details.startswith("Unexpected <class 'TypeError'>: Invalid trailing metadata type")


async def test_the_forms_metadata_come_in(link: Any) -> None:
    """Request metadata may be nothing, a list, or grpc's own class."""
    for metadata in (None, (), [], [("a", "1")], grpc.aio.Metadata(("a", "1"))):
        seen, whole, _ = await exchange(link, metadata, [("i", "1")], grpc.aio.Metadata(("t", "1")), "return")
        assert seen[0] == seen_by_key(metadata or ())
        assert (whole.initial, whole.trailing) == ({"i": ["1"]}, {"t": ["1"]})


KEPT = [
    "grpc-encoding", "grpc-accept-encoding", "grpc-internal-encoding-request", "grpc-message", "grpc-status", "te",
    "content-type", "content-length", "grpc-trace-bin", "grpc-tags-bin", "endpoint-load-metrics-bin",
    "grpc-server-stats-bin", "lb-cost-bin", "x-envoy-peer-metadata",
]  # fmt: skip
KEPT_FROM_REQUESTS = ["grpc-previous-rpc-attempts", AGENT]
PASSED = [
    "grpc-foo", "grpc-status-details-bin", "grpc-retry-pushback-ms", "host", "lb-token", "traceparent",
    "accept-encoding", "connection", "trailer", "via", "date", "server", "cookie", "authorization",
]  # fmt: skip


async def test_reserved_keys(link: Any) -> None:
    """What gRPC's core keeps to itself arrives nowhere; other keys that look reserved arrive."""
    for key in KEPT + KEPT_FROM_REQUESTS + PASSED:
        value = b"1" if key.endswith("-bin") else "1"
        metadata = (("a", "1"), (key, value), ("z", "2"))
        arrived = {"a": ["1"], **({key: [value]} if key in PASSED else {}), "z": ["2"]}
        if key != "grpc-status":  # as request metadata it breaks a socket's server
            seen, _, _ = await exchange(link, metadata, (), (), "return")
            assert seen == [arrived] * 2
        if key in KEPT_FROM_REQUESTS:
            continue
        _, whole, streamed = await exchange(link, (), metadata, metadata, "abort")
        assert whole.initial == whole.trailing == streamed.initial == streamed.trailing == arrived
