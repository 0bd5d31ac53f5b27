"""What an upstream's refusal becomes for the caller."""

import json

import pytest

from core import errors
from core.chat.upstream_errors import MAX_ERROR_BYTES, MAX_MESSAGE_CHARS, read_refusal, refusal, reported
from core.providers.base import Head


def head(status: int, retry_after_s: float | None = None) -> Head:
    return Head(status, "application/json", retry_after_s)


def body(**error: object) -> bytes:
    return json.dumps({"error": error}).encode()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.UpstreamRejected),
        (422, errors.UpstreamRejected),
        (413, errors.RequestTooLarge),
        (401, errors.UpstreamRefused),
        (402, errors.UpstreamRefused),
        (403, errors.UpstreamRefused),
        (404, errors.UpstreamRefused),
        (408, errors.UpstreamTimeout),
        (429, errors.RateLimited),
        (500, errors.UpstreamFailed),
        (502, errors.UpstreamFailed),
        (503, errors.UpstreamFailed),
        (504, errors.UpstreamFailed),
        (529, errors.UpstreamFailed),
        (301, errors.UpstreamFailed),
        (307, errors.UpstreamFailed),
        (204, errors.UpstreamFailed),
        (418, errors.UpstreamFailed),
    ],
)
def test_each_status_has_one_meaning(status: int, kind: type[errors.WorldRouterError]) -> None:
    """The caller's mistakes stay theirs; our unpaid bill, our bad key and an upstream's trouble never do."""
    assert type(refusal(head(status), body(message="said"))) is kind


@pytest.mark.parametrize("status", [400, 422])
def test_a_rejected_request_keeps_the_upstream_s_words(status: int) -> None:
    """Message, param and code are the upstream's own."""
    error = refusal(head(status), body(message="temperature is too high", param="temperature", code="bad_value"))
    assert (error.message, error.param, error.code) == ("temperature is too high", "temperature", "bad_value")


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (body(message="m", code=400), ("m", None, "400")),
        (body(message="m", code=None, param=None), ("m", None, "invalid_value")),
        (body(message="m", param=["a", 1], code={"x": 1}), ("m", None, "invalid_value")),
        (b'{"error": "just text"}', ("just text", None, "invalid_value")),
        (b'{"object":"error","message":"vLLM","param":"n","code":40001}', ("vLLM", "n", "40001")),
        (b'{"code": "bad_argument", "error": "xAI"}', ("xAI", None, "bad_argument")),
        (b'[{"error": {"code": 400, "message": "Gemini", "status": "INVALID_ARGUMENT"}}]', ("Gemini", None, "400")),
        (b'{"detail": "FastAPI"}', ("FastAPI", None, "invalid_value")),
        (b'{"detail": [{"loc": ["body"], "msg": "x"}]}', ("x", None, "invalid_value")),
        (
            b'{"object":"error","message":{"detail":[{"loc":["body","messages",0,"name"],"msg":"No."},'
            b'{"type":"x","loc":["body","store"],"msg":"Extra","input":false}]},"param":null,"code":null}',
            ("messages.0.name: No.; store: Extra", None, "invalid_value"),
        ),
        (
            b'{"object":"Error","detail":[{"loc":["body","tools"],"msg":"m"}],'
            b'"message":[{"loc":["body","tools"],"msg":"m"}],"code":3001}',
            ("tools: m", None, "3001"),
        ),
        (b'{"error": {}, "x": [[[null]]]}', ("The upstream refused the request.", None, "invalid_value")),
        (b"[]", ("The upstream refused the request.", None, "invalid_value")),
        (b"<html>", ("The upstream refused the request.", None, "invalid_value")),
        (b"", ("The upstream refused the request.", None, "invalid_value")),
        (b"\xff\xfe", ("The upstream refused the request.", None, "invalid_value")),
        (b"[" * 10_000, ("The upstream refused the request.", None, "invalid_value")),
    ],
)
def test_a_rejection_without_openai_s_object_is_one_all_the_same(
    sent: bytes, said: tuple[str, str | None, str]
) -> None:
    """A code becomes a string; other forms give what they have; what is no JSON gives a plain sentence."""
    error = refusal(head(400), sent)
    assert (error.message, error.param, error.code) == said


def test_a_message_is_bounded() -> None:
    """An upstream cannot make our errors as long as it likes."""
    assert len(refusal(head(400), body(message="x" * 100_000)).message) == MAX_MESSAGE_CHARS


@pytest.mark.parametrize(
    ("status", "after_s", "kind", "shown_s"),
    [
        (429, 17.0, errors.RateLimited, 17.0),
        (429, None, errors.RateLimited, 1.0),
        (503, 30.0, errors.ServiceUnavailable, 30.0),
        (503, 2.0, errors.UpstreamFailed, None),
        (503, None, errors.UpstreamFailed, None),
        (500, 30.0, errors.UpstreamFailed, None),
    ],
)
def test_a_long_retry_after_goes_to_the_caller(
    status: int, after_s: float | None, kind: type[errors.WorldRouterError], shown_s: float | None
) -> None:
    """429 and a 503 that says when it ends carry the upstream's own time."""
    error = refusal(head(status, after_s), b"")
    assert type(error) is kind
    assert error.retry_after_s == shown_s


def test_a_refusal_of_our_access_tells_the_caller_nothing_of_it() -> None:
    """What the provider said about our credential or bill is not repeated."""
    error = refusal(head(401), body(message="Incorrect API key provided: sk-secret"))
    assert "sk-secret" not in error.message
    assert error.code == "upstream_error"


@pytest.mark.parametrize(
    "said",
    [
        [{"error": {"message": "API key not valid.", "details": [{"reason": "API_KEY_INVALID"}, "more"]}}],
        {"code": "Client specified an invalid argument", "error": "Incorrect API key provided: ba***na."},
        {"code": "Client specified an invalid argument", "error": "Incorrect%20API%20key%20provided:%20ba***na."},
    ],
)
def test_a_400_for_our_key_is_not_the_caller_s(said: object) -> None:
    """Gemini and xAI refuse a credential so; it is our access that is refused, whatever the status."""
    found = refusal(head(400), json.dumps(said).encode())
    assert type(found) is errors.UpstreamRefused
    assert "key" not in found.message


async def test_a_body_that_breaks_off_leaves_the_status() -> None:
    """A refusal whose body is cut is what its status says, not a failed connection."""

    async def read() -> bytes:
        raise errors.UpstreamFailed("cut")

    assert type(await read_refusal(read, head(401))) is errors.UpstreamRefused


async def test_an_end_from_outside_is_not_mistaken_for_a_cut() -> None:
    """A shutdown while the body is read goes to the caller as such."""

    async def read() -> bytes:
        raise errors.ServiceUnavailable("stopping")

    with pytest.raises(errors.ServiceUnavailable):
        await read_refusal(read, head(400))


async def test_an_endless_error_body_is_not_read_to_its_end() -> None:
    """At most 64 KiB of it are looked at."""
    given = 0

    async def read() -> bytes:
        nonlocal given
        given += 4_096
        return b"x" * 4_096

    await read_refusal(read, head(400))
    assert given <= MAX_ERROR_BYTES


@pytest.mark.parametrize("secret", ["authorization: Bearer sk-super-secret", "sk-super-secret", "AIza" + "x" * 35])
def test_a_provider_s_echo_of_our_key_is_blacked_out(secret: str) -> None:
    """Its message is the caller's to read, our credential is not."""
    body = json.dumps({"error": {"message": f"bad key {secret} given"}}).encode()
    message = refusal(Head(400, "application/json", None), body).message
    assert message.startswith("bad key")
    assert "super-secret" not in message
    assert "AIza" not in message


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        ({"type": "invalid_request_error", "code": "context_length_exceeded"}, errors.UpstreamRejected, "said"),
        ({"type": "BadRequestError", "code": 400}, errors.UpstreamRejected, "said"),
        ({"type": "invalid_request_error", "code": "invalid_api_key"}, errors.UpstreamRefused, None),
        ({"type": "insufficient_quota", "code": None}, errors.RateLimited, None),
        ({"code": "429"}, errors.RateLimited, None),
        ({"code": 402}, errors.UpstreamRefused, None),
        ({"code": 502, "type": "invalid_request_error"}, errors.UpstreamFailed, "The upstream failed: said"),
        ({"type": "server_error", "code": {"a": 1}}, errors.UpstreamFailed, "The upstream failed: said"),
        ({"message": "for sk-super-secret"}, errors.UpstreamFailed, "The upstream failed: for [secret]"),
        ({"message": 7}, errors.UpstreamFailed, "The upstream failed."),
    ],
)
def test_an_error_under_status_200_is_what_it_stands_for(
    error: dict[str, object], kind: type[errors.WorldRouterError], message: str | None
) -> None:
    """Its code or type is as good as a status; only what is said of our access is not passed on."""
    found = reported(body(**{"message": "said", **error}))
    assert type(found) is kind
    assert found.message == message if message is not None else "said" not in found.message
