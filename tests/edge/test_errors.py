"""The error table, row by row, from the core's reasons to HTTP."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from worldrouter.v1 import error_reason_pb2

from edge.errors import REASONS, Problems

STATUSES = {
    "INVALID_REQUEST": grpc.StatusCode.INVALID_ARGUMENT,
    "MODEL_NOT_FOUND": grpc.StatusCode.INVALID_ARGUMENT,
    "UPSTREAM_REJECTED": grpc.StatusCode.INVALID_ARGUMENT,
    "INVALID_API_KEY": grpc.StatusCode.UNAUTHENTICATED,
    "INSUFFICIENT_BALANCE": grpc.StatusCode.FAILED_PRECONDITION,
    "FORBIDDEN": grpc.StatusCode.PERMISSION_DENIED,
    "MODEL_NOT_ALLOWED": grpc.StatusCode.PERMISSION_DENIED,
    "NOT_FOUND": grpc.StatusCode.NOT_FOUND,
    "CONFLICT": grpc.StatusCode.ABORTED,
    "ALREADY_EXISTS": grpc.StatusCode.ALREADY_EXISTS,
    "REQUEST_TOO_LARGE": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "RATE_LIMIT_EXCEEDED": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "INTERNAL_ERROR": grpc.StatusCode.INTERNAL,
    "UPSTREAM_ERROR": grpc.StatusCode.UNAVAILABLE,
    "UPSTREAM_TIMEOUT": grpc.StatusCode.DEADLINE_EXCEEDED,
    "SERVICE_UNAVAILABLE": grpc.StatusCode.UNAVAILABLE,
}
"""Reason by reason the gRPC status of `error_reason.proto`."""


def _of_a_stranger() -> bytes:
    """Details whose ErrorInfo is not WorldRouter's, as of a proxy between edge and core."""
    details = [any_pb2.Any()]
    details[0].Pack(error_details_pb2.ErrorInfo(reason="INVALID_API_KEY", domain="proxy.example"))
    return bytes(status_pb2.Status(code=13, details=details).SerializeToString())


@pytest.fixture(params=["grpc", "relay"])
def transport(request: pytest.FixtureRequest) -> str:
    """All of this holds whatever the channel is."""
    return str(request.param)


def failing(core: Any, *args: Any, admitted: bool = True, **more: Any) -> None:
    """Make both chat RPCs fail so; `admitted` sends initial metadata first, which ends the channel's retries."""

    async def create(request: Any, context: Any) -> None:
        if admitted:
            await core.admit(context)
        await core.fail(context, *args, **more)

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        await create(request, context)
        yield

    core.create, core.stream = create, stream


async def ask(http: aiohttp.ClientSession, edge: Any, body: Any = b"{}") -> tuple[int, Any, Any]:
    """Status, error object and headers of a chat request that fails."""
    async with http.post(f"{edge.url}/v1/chat/completions", data=body) as answer:
        assert answer.headers["Content-Type"] == "application/json"
        error = (await answer.json())["error"]
        assert answer.headers["x-request-id"] == error["request_id"]
        return answer.status, error, answer.headers


def test_every_reason_has_a_row() -> None:
    """The table knows every reason of the contract."""
    prefix = "ERROR_REASON_"
    reasons = {name.removeprefix(prefix) for name in error_reason_pb2.ErrorReason.keys()}  # noqa: SIM118
    assert set(REASONS) == reasons - {"UNSPECIFIED"} == set(STATUSES)


@pytest.mark.parametrize("body", [b"{}", b'{"stream":true}'], ids=["whole", "stream"])
@pytest.mark.parametrize("reason", REASONS)
async def test_a_row(core: Any, edge: Any, http: aiohttp.ClientSession, reason: str, body: bytes) -> None:
    """The reason decides status, type and code; message, param and request id are the core's."""
    failing(core, STATUSES[reason], reason, "What went wrong.", {"param": "model"})
    status, kind, code = REASONS[reason]
    answered, error, headers = await ask(http, edge, body)
    message = error.pop("message")
    assert answered == status
    assert error == {
        "type": kind,
        "param": "model",
        "code": code,
        "request_id": "01k9zz2w8x5qv3d7m4t6c1b0ra",
    }
    assert message == "What went wrong." or status == 500
    assert headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)
    assert headers.get("x-should-retry") == ("false" if status in (502, 504) else None)
    assert headers.get("Retry-After") == ("1" if status in (429, 503) else None)


async def test_the_cores_own_code_comes_first(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """A code in the ErrorInfo replaces the table's."""
    failing(core, grpc.StatusCode.INVALID_ARGUMENT, "UPSTREAM_REJECTED", "No.", {"code": "context_length"})
    status, error, _ = await ask(http, edge)
    assert (status, error["code"], error["param"]) == (400, "context_length", None)
    failing(core, grpc.StatusCode.INVALID_ARGUMENT, "UPSTREAM_REJECTED", "", {"code": "context_length"})
    _, error, _ = await ask(http, edge)
    assert error["message"] == "context_length"  # rather than nothing


@pytest.mark.parametrize(("delay_ms", "seconds"), [(0, "0"), (1, "1"), (1000, "1"), (2500, "3"), (61_001, "62")])
async def test_retry_after_is_whole_seconds(
    core: Any, edge: Any, http: aiohttp.ClientSession, delay_ms: int, seconds: str
) -> None:
    """RetryInfo becomes Retry-After, rounded up."""
    failing(core, grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMIT_EXCEEDED", "Slow down.", retry_after_ms=delay_ms)
    _, _, headers = await ask(http, edge)
    assert headers["Retry-After"] == seconds


async def test_402_says_what_is_missing(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """A 402 carries what is missing, what the balance would buy and where to top up."""
    metadata = {"missing_nano_usd": "12", "affordable_token_count": "7", "credits_url": "https://x/credits"}
    failing(core, grpc.StatusCode.FAILED_PRECONDITION, "INSUFFICIENT_BALANCE", "Too little.", metadata)
    status, error, headers = await ask(http, edge)
    assert status == 402
    assert {name: error[name] for name in metadata} == metadata
    assert "Retry-After" not in headers


async def test_an_error_before_initial_metadata_has_its_request_id(
    core: Any, edge: Any, http: aiohttp.ClientSession
) -> None:
    """The request id of an early error, which stands in trailers only, reaches the client."""
    failing(core, grpc.StatusCode.UNAUTHENTICATED, "INVALID_API_KEY", "Wrong.", admitted=False)
    _, error, _ = await ask(http, edge)
    assert error["request_id"] == "01k9zz2w8x5qv3d7m4t6c1b0ra"


async def test_a_500_is_bland_and_names_the_contact(core: Any, start_edge: Any, http: aiohttp.ClientSession) -> None:
    """A bug's own words stay inside; the user learns whom to write to and which id to name."""
    failing(core, grpc.StatusCode.INTERNAL, "INTERNAL_ERROR", "KeyError: 'secret'")
    _, error, _ = await ask(http, await start_edge(support_contact="help@example.org"))
    assert "secret" not in error["message"]
    assert "help@example.org" in error["message"]
    assert "01k9zz2w8x5qv3d7m4t6c1b0ra" in error["message"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.CANCELLED, 503),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 503),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 504),
        (grpc.StatusCode.UNAUTHENTICATED, 500),
        (grpc.StatusCode.PERMISSION_DENIED, 500),
        (grpc.StatusCode.INVALID_ARGUMENT, 500),
        (grpc.StatusCode.UNIMPLEMENTED, 500),
        (grpc.StatusCode.UNKNOWN, 500),
        (grpc.StatusCode.INTERNAL, 500),
        (grpc.StatusCode.DATA_LOSS, 500),
        (grpc.StatusCode.ABORTED, 500),
        (grpc.StatusCode.NOT_FOUND, 500),
        (grpc.StatusCode.ALREADY_EXISTS, 500),
        (grpc.StatusCode.FAILED_PRECONDITION, 500),
        (grpc.StatusCode.OUT_OF_RANGE, 500),
    ],
)
async def test_errors_that_the_library_made(
    core: Any,
    edge: Any,
    http: aiohttp.ClientSession,
    caplog: pytest.LogCaptureFixture,
    code: grpc.StatusCode,
    status: int,
) -> None:
    """Without ErrorInfo the status decides, none becomes a 401, and the text is for the log. UNAVAILABLE alone is tried
    again."""

    async def create(request: Any, context: Any) -> None:
        await context.abort(code, "ipv4:10.1.2.3:50051: internals")

    core.create = create
    answered, error, headers = await ask(http, edge)
    assert answered == status
    assert "10.1.2.3" not in error["message"]
    assert error["request_id"].startswith("edge-")
    assert ("Retry-After" in headers) == (status == 503)
    assert (len(core.calls) > 1) == (code is grpc.StatusCode.UNAVAILABLE)
    (record,) = (found for found in caplog.records if found.name == "edge.errors")
    assert record.getMessage() == f"call of request {error['request_id']} failed: ipv4:10.1.2.3:50051: internals"
    assert record.__dict__["grpc"] == code.name


async def test_a_core_that_is_lost_under_a_call_has_named_it(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """The id that came with initial metadata is the request's, whatever ended it."""

    async def create(request: Any, context: Any) -> None:
        await core.admit(context)
        await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    core.create = create
    status, error, _ = await ask(http, edge)
    assert (status, error["request_id"]) == (503, "01k9zz2w8x5qv3d7m4t6c1b0ra")


@pytest.mark.parametrize(
    ("trailer", "status"),
    [(b"\xff\xff", 500), (b"", 500), (_of_a_stranger(), 500)],
    ids=["not a Status", "empty", "of another domain"],
)
async def test_broken_details_are_no_details(
    core: Any, edge: Any, http: aiohttp.ClientSession, trailer: bytes, status: int
) -> None:
    """Details that cannot be read count as none."""

    async def create(request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.INTERNAL, "x", trailing_metadata=(("grpc-status-details-bin", trailer),))

    core.create = create
    assert (await ask(http, edge))[0] == status


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, 400),
        (grpc.StatusCode.PERMISSION_DENIED, 403),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 429),
        (grpc.StatusCode.UNAVAILABLE, 503),
        (grpc.StatusCode.OUT_OF_RANGE, 500),
    ],
)
async def test_a_reason_of_a_newer_core(
    core: Any, edge: Any, http: aiohttp.ClientSession, code: grpc.StatusCode, status: int
) -> None:
    """A reason that the edge does not know yet falls back to its gRPC status."""
    failing(core, code, "NOT_INVENTED_YET", "New.")
    assert (await ask(http, edge))[0] == status


async def test_no_core_is_503(start_edge: Any, http: aiohttp.ClientSession) -> None:
    """An edge without a core says that it cannot serve, and when to try again."""
    edge = await start_edge(core="unix:/nonexistent/core.sock")
    status, error, headers = await ask(http, edge)
    assert (status, error["code"], headers["Retry-After"]) == (503, "service_unavailable", "1")
    assert "nonexistent" not in error["message"]


async def test_a_core_that_comes_back_is_found(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """Soon after a core is there again the edge serves again, without a restart."""
    await core.server.stop(0)
    assert (await ask(http, edge))[0] == 503
    core.server = grpc.aio.server()
    core.server.add_insecure_port(core.target)
    await core.start(core.server)
    async with asyncio.timeout(3):
        while True:
            async with http.post(f"{edge.url}/v1/chat/completions", data=b"{}") as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.05)


async def test_a_body_over_the_cores_own_limit(core: Any, start_edge: Any, http: aiohttp.ClientSession) -> None:
    """What the edge lets pass and gRPC on the core's side refuses is a 413, not our fault."""
    edge = await start_edge(body_limit_bytes=16 << 20)
    status, error, _ = await ask(http, edge, io.BytesIO(b"x" * (12 << 20)))
    assert (status, error["code"]) == (413, "request_too_large")


def test_an_answer_over_the_limit_is_ours() -> None:
    """An answer too large for the edge is a 500: the client did nothing wrong."""
    text = "Stream removed (CLIENT: Received message larger than max (9 vs. 8))"
    error = grpc.aio.AioRpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, details=text)
    problems = Problems(lambda: "edge-1", None)
    assert problems.of(error).status == 500
    assert problems.own(418).status == 500  # as all that has no row


@pytest.mark.parametrize("size", [100, 900_000])
async def test_the_channel_retries_what_was_not_admitted(
    core: Any, edge: Any, http: aiohttp.ClientSession, size: int
) -> None:
    """An UNAVAILABLE before initial metadata is tried again, unseen by the client; a large body too."""

    async def refuse_once(context: Any) -> None:
        if len(core.calls) == 1:
            await core.fail(context, grpc.StatusCode.UNAVAILABLE, "SERVICE_UNAVAILABLE", "Draining.")

    async def answer(request: Any, context: Any) -> Any:
        await refuse_once(context)
        return await core.answer(request, context)

    async def answer_unasked(request: Any, context: Any) -> AsyncIterator[Any]:
        await refuse_once(context)
        async for event in core.unasked(request, context):
            yield event

    core.create, core.whole = answer, answer_unasked
    body = b'{"x":"' + b"a" * size + b'"}'
    async with http.post(f"{edge.url}/v1/chat/completions", data=body) as response:
        assert response.status == 200
    assert [len(call.request.body) for call in core.calls] == [len(body)] * 2


async def test_the_channel_does_not_retry_what_was_admitted(core: Any, edge: Any, http: aiohttp.ClientSession) -> None:
    """Once the core has called an upstream its failure is final."""
    failing(core, grpc.StatusCode.UNAVAILABLE, "UPSTREAM_ERROR", "Failed.")
    assert (await ask(http, edge))[0] == 502
    assert len(core.calls) == 1


@pytest.mark.parametrize("body", [b"{}", b'{"stream":true}'], ids=["whole", "stream"])
@pytest.mark.parametrize("admitted", [False, True], ids=["ours", "upstream"])
async def test_what_is_left_of_limits(
    core: Any, edge: Any, http: aiohttp.ClientSession, admitted: bool, body: bytes
) -> None:
    """A 429 has it from the trailers, those of an upstream's limit too, which comes after the call was admitted."""
    left = {"x_ratelimit_remaining_requests": "0", "x_ratelimit_reset_requests": "59.5s"}

    async def create(request: Any, context: Any) -> None:
        if admitted:
            await core.admit(context, x_ratelimit_remaining_requests="1")
        reason = "RATE_LIMIT_EXCEEDED"
        await core.fail(context, STATUSES[reason], reason, "Slowly.", retry_after_ms=12_001, **left)

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        await create(request, context)
        yield

    core.create, core.stream = create, stream
    status, _, headers = await ask(http, edge, body)
    assert (status, headers["Retry-After"]) == (429, "13")
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"] == "59.5s"


async def test_a_bug_behind_an_answer_sends_no_second_one(
    edge: Any, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the connection ends: another answer would be taken for that of the next request."""

    def observe(*_: object) -> None:
        raise RuntimeError("a bug of ours")

    edge.server._watch.metrics.observe = observe
    client = await connect(edge)
    await client.post(b"{}")
    await client.post(b"{}")
    status, headers = await client.head()
    assert (status, len(await client.rest())) == (200, int(headers["content-length"]))
    assert "a bug of ours" in caplog.text
