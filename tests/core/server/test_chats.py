"""Chats over real gRPC: raw and typed, whole and streamed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import msgspec
import pytest
from worldrouter.v1 import (
    auth_pb2,
    auth_pb2_grpc,
    chat_pb2,
    chat_pb2_grpc,
    metering_pb2,
    metering_pb2_grpc,
    raw_chat_pb2,
)

USD = 1_000_000_000


def body(**fields: Any) -> bytes:
    """A small request."""
    plain = {"model": "m", "messages": [{"role": "user", "content": "one two three"}], "max_tokens": 50}
    return json.dumps(plain | fields).encode()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that no event announces."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen in time")


async def test_a_raw_answer_is_given_and_settled(core: Any) -> None:
    """The body, who answered, what it cost; the same in the usage record and off the balance."""
    call = core.unary(body())
    answer = await call
    request_id = dict(await call.initial_metadata())["x-request-id"]
    found = json.loads(answer.body)
    assert found["id"] == answer.started.id == f"chatcmpl-{request_id}"
    assert found["choices"][0]["message"]["content"] == "one two three"
    assert (answer.started.model, answer.started.endpoint) == ("m", "script")
    assert list(answer.finished.finish_reasons) == ["stop"]
    assert answer.finished.usage.completion_token_count == 3
    assert answer.finished.cost_nano_usd == 3 * 1_000 + 3 * 2_000
    record = await core.usage(request_id)
    assert record.cost_nano_usd == answer.finished.cost_nano_usd
    balance = await metering_pb2_grpc.MeteringServiceStub(core.channel).GetBalance(
        metering_pb2.GetBalanceRequest(), metadata=core.metadata
    )
    assert balance.balance_nano_usd == 5 * USD - answer.finished.cost_nano_usd


async def test_a_raw_stream_begins_and_ends_as_the_contract_says(core: Any) -> None:
    """Started, chunks, finished, status OK; what one read delivered is one message."""
    call = core.stream(body(stream=True, script={"chunks_per_read": 2}))
    events = [event async for event in call]
    assert [event.WhichOneof("event") for event in events] == ["started", "chunks", "chunks", "chunks", "finished"]
    chunks = [json.loads(each) for event in events for each in event.chunks.chunk_json]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert [len(event.chunks.chunk_json) for event in events[1:-1]] == [2, 2, 1]
    assert await call.code() is grpc.StatusCode.OK
    request_id = events[0].started.id.removeprefix("chatcmpl-")
    assert (await core.usage(request_id)).cost_nano_usd == events[-1].finished.cost_nano_usd


async def test_a_body_without_stream_is_streamed_all_the_same(core: Any) -> None:
    """The RPC decides; the other way round it is a mistake."""
    assert [event async for event in core.stream(body())]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await core.unary(body(stream=True))
    found, _, _ = core.info(caught.value)
    assert (found.reason, found.metadata["param"]) == ("INVALID_REQUEST", "stream")


async def test_a_body_may_decide_whether_it_is_streamed(core: Any) -> None:
    """As it asks: with a stream, or with the whole answer, which the metadata tell before it is there."""
    events = [event async for event in core.stream(body(stream=True), as_body_asks=True)]
    assert [event.WhichOneof("event") for event in events][:2] == ["started", "chunks"]
    call, unary = core.stream(body(), as_body_asks=True), core.unary(body())
    assert dict(await call.initial_metadata())["whole-answer"] == "true"
    (event,) = [event async for event in call]
    wanted = await unary
    found, asked = json.loads(event.whole.body), json.loads(wanted.body)
    assert found | {"id": asked["id"], "created": asked["created"]} == asked
    assert event.whole.finished == wanted.finished
    record = await core.usage(event.whole.started.id.removeprefix("chatcmpl-"))
    assert (record.cost_nano_usd, record.streamed) == (wanted.finished.cost_nano_usd, False)


async def test_typed_answers_go_through_the_same_pipeline(core: Any) -> None:
    """Whole and streamed, metered alike."""
    stub = chat_pb2_grpc.ChatServiceStub(core.channel)  # type: ignore[no-untyped-call]
    messages = [chat_pb2.ChatMessage(role="user", content="one two three")]
    params = chat_pb2.ChatCompletionParams(model="m", messages=messages, max_tokens=50)
    whole = await stub.CreateChatCompletion(chat_pb2.CreateChatCompletionRequest(params=params), metadata=core.metadata)
    assert whole.choices[0].message.content == "one two three"
    assert (whole.usage.completion_token_count, whole.cost_nano_usd) == (3, 9_000)
    call = stub.StreamChatCompletion(chat_pb2.StreamChatCompletionRequest(params=params), metadata=core.metadata)
    events = [event async for event in call]
    assert [event.WhichOneof("event") for event in events][:1] == ["started"]
    text = "".join(
        choice.delta.content for event in events for chunk in event.deltas.chunks for choice in chunk.choices
    )
    assert text == "one two three"
    assert events[-1].finished.cost_nano_usd == 9_000


async def test_what_no_balance_can_hold_is_refused_as_any_other(start: Any, settings: Any) -> None:
    """More than 64 bits of nanodollars: the balance does not suffice, which is no fault of the database's; then the
    next request is served."""
    made = settings()
    price = msgspec.structs.replace(made.models[0].price, input=0, output=10**12)
    dear = msgspec.structs.replace(made.models[0], max_output_tokens=10**9, price=price)
    core = await start(msgspec.structs.replace(made, models=[dear]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await core.unary(body(max_tokens=10**9, n=128))
    found, retry, _ = core.info(caught.value)
    assert (caught.value.code(), found.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_BALANCE")
    assert found.metadata["missing_nano_usd"] == str(128 * 10**18 - 5 * USD)
    assert retry is None
    assert (await core.unary(body(max_tokens=5, messages=[{"role": "user", "content": "x"}]))).finished.cost_nano_usd


async def test_a_dialect_must_be_named(core: Any) -> None:
    """The unspecified one is nobody's."""
    whole, stream = raw_chat_pb2.CreateRawCompletionRequest, raw_chat_pb2.StreamRawCompletionRequest
    for call in (
        core.raw.CreateRawCompletion(whole(body=body()), metadata=core.metadata),
        core.raw.StreamRawCompletion(stream(body=body()), metadata=core.metadata).read(),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert core.info(caught.value)[0].metadata["param"] == "dialect"


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [
        (b"not JSON", grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
        (body(model="nobody"), grpc.StatusCode.INVALID_ARGUMENT, "MODEL_NOT_FOUND"),
        (body(script={"status": 400}), grpc.StatusCode.INVALID_ARGUMENT, "UPSTREAM_REJECTED"),
        (body(model="dear", max_tokens=4_000, n=2), grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_BALANCE"),
        (body(script={"status": 413}), grpc.StatusCode.RESOURCE_EXHAUSTED, "REQUEST_TOO_LARGE"),
        (body(script={"status": 429}), grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMIT_EXCEEDED"),
        (body(script={"status": 402}), grpc.StatusCode.UNAVAILABLE, "UPSTREAM_ERROR"),
        (body(script={"status": 408}), grpc.StatusCode.DEADLINE_EXCEEDED, "UPSTREAM_TIMEOUT"),
        (
            body(script={"status": 503, "retry_after_s": 30}),
            grpc.StatusCode.UNAVAILABLE,
            "SERVICE_UNAVAILABLE",
        ),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_errors_carry_reason_and_request_id(
    core: Any, sent: bytes, code: grpc.StatusCode, reason: str, streamed: bool
) -> None:
    """Before the first token a stream fails like a whole answer."""
    call = core.stream(sent).read() if streamed else core.unary(sent)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    found, retry, request_id = core.info(caught.value)
    assert (caught.value.code(), found.reason, found.domain) == (code, reason, "worldrouter")
    assert found.metadata["request_id"] == request_id
    if reason == "SERVICE_UNAVAILABLE":
        assert retry is not None
        assert retry.retry_delay.seconds == 30


async def test_an_error_in_mid_stream_ends_it_with_a_status(core: Any) -> None:
    """After what was delivered; never with OK."""
    events, error = await core.rest_of(core.stream(body(script={"fault": "cut", "fault_after": 3})))
    assert events
    assert not any(event.HasField("finished") for event in events)
    assert core.info(error)[0].reason == "UPSTREAM_ERROR"


async def test_a_body_over_the_limit_is_refused_by_the_transport(start: Any, settings: Any) -> None:
    """And one at the limit is not."""
    core = await start(settings(core={"max_body_bytes": 100_000}))
    fits = body(script={"text": "x"}, pad="y" * 99_000)
    assert json.loads((await core.unary(fits)).body)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await core.unary(body(pad="y" * 200_000))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_provider_takes_no_more_requests_at_once_than_it_may(start: Any, settings: Any) -> None:
    """What is above goes to the model's next endpoint, or is a 429 to be tried again soon; nobody pays for it."""
    go_on, connected = asyncio.Event(), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected
        connected += 1
        while await reader.read(100_000):
            await go_on.wait()
            answer = b'{"id":"x","choices":[{"index":0,"message":{"content":"far"},"finish_reason":"stop"}]}'
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer))
        writer.close()

    def text(answer: Any) -> str:
        return str(json.loads(answer.body)["choices"][0]["message"]["content"])

    far_end = await asyncio.start_server(serve, "127.0.0.1", 0)
    base_url = f"http://127.0.0.1:{far_end.sockets[0].getsockname()[1]}/v1"
    made = settings(providers={"far": {"kind": "openai", "base_url": base_url, "max_connections": 2}})
    far = msgspec.structs.replace(made.models[0].endpoints[0], provider="far")
    alone = msgspec.structs.replace(made.models[0], id="alone", endpoints=[far])
    backed = msgspec.structs.replace(made.models[0], id="backed", endpoints=[far, *made.models[0].endpoints])
    core = await start(msgspec.structs.replace(made, models=[alone, backed]))
    first = [asyncio.ensure_future(core.unary(body(model="alone")).wait_for_connection()) for _ in range(2)]
    await until(lambda: connected == 2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await core.unary(body(model="alone"))
    found, retry, request_id = core.info(caught.value)
    assert (found.reason, retry.retry_delay.seconds) == ("RATE_LIMIT_EXCEEDED", 1)
    assert (await core.usage_soon(request_id)).cost_nano_usd == 0
    assert text(await core.unary(body(model="backed"))) == "one two three"
    go_on.set()
    await asyncio.gather(*first)
    assert text(await core.unary(body(model="alone"))) == "far"
    assert connected == 2
    far_end.close()


async def test_a_caller_that_cancels_is_settled_at_once(core: Any) -> None:
    """So is one whose deadline passes."""
    for cancelled in (True, False):
        call = core.stream(
            body(script={"fault": "silence", "fault_after": 3}), **({} if cancelled else {"timeout": 0.3})
        )
        started = await call.read()
        request_id = started.started.id.removeprefix("chatcmpl-")
        if cancelled:
            await asyncio.sleep(0.05)
            call.cancel()
        await core.rest_of(call)
        record = await core.usage_soon(request_id)
        assert record.cost_nano_usd > 0
        assert core.server.engine.pipeline.in_flight == 0
        assert core.server.engine.escrow.held_nano_usd == 0


async def test_answers_to_callers_that_cancel_are_drained(start: Any, settings: Any, rows_of: Any) -> None:
    """Where the provider's policy says so; whole and streamed, for the exact price."""
    core = await start(settings(providers={"script": {"kind": "scripted", "disconnect_policy": "drain"}}))
    pipeline = core.server.engine.pipeline
    sent = body(script={"first_delay_ms": 400, "chunk_delay_ms": 30})
    calls = [core.stream(sent), core.unary(sent)]
    reading = [asyncio.ensure_future(calls[0].read()), asyncio.ensure_future(calls[1].wait_for_connection())]
    await until(lambda: pipeline.in_flight == 2)
    await asyncio.sleep(0.05)
    for call in calls:
        call.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    await until(lambda: pipeline.in_flight == 0)
    await core.server.engine.ledger.drained()
    found = rows_of("SELECT status, estimated, amount, streamed FROM ledger WHERE kind = 'usage' ORDER BY streamed")
    assert found == [("client_gone", 0, 9_000, 0), ("client_gone", 0, 9_000, 1)]
    assert core.server.engine.escrow.held_nano_usd == 0


async def test_a_revoked_key_ends_its_streams(core: Any) -> None:
    """Within five seconds, as what it is."""
    auth = auth_pb2_grpc.AuthServiceStub(core.channel)  # type: ignore[no-untyped-call]
    made = await auth.CreateApiKey(auth_pb2.CreateApiKeyRequest(display_name="k"), metadata=core.metadata)
    call = core.stream(
        body(script={"fault": "silence", "fault_after": 2}), metadata=(("authorization", f"Bearer {made.secret}"),)
    )
    await call.read()
    await auth.RevokeApiKey(auth_pb2.RevokeApiKeyRequest(api_key_id=made.id), metadata=core.metadata)
    async with asyncio.timeout(5):
        _, error = await core.rest_of(call)
    assert core.info(error)[0].reason == "INVALID_API_KEY"
