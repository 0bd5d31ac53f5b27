"""Logs and access lines: no secret gets out, and no line is lost or broken."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import edge.log
from core.access.apikeys import make_key
from core.access_log import AccessLog, AccessRecord, rfc3339
from core.process.logs import hide, log_to

SECRETS = ["sk-provider-0123456789", 'quote"back\\slash', "schlüssel-äöü", "sk-provider-0123456789-longer"]


class Terminal(io.StringIO):
    """Text that a person reads."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield root
    root.handlers, root.level = handlers, level


@pytest.fixture(params=[io.StringIO, Terminal], ids=["json", "text"])
def lines(request: Any, root_logger: logging.Logger) -> Callable[[], str]:
    """A function that returns what was logged."""
    out = request.param()
    log_to(out, secrets=SECRETS, level=logging.DEBUG)
    return out.getvalue


def test_secrets_that_are_learned_later_are_hidden_too(lines: Callable[[], str]) -> None:
    """Those that were known stay hidden."""
    hide(["learned-later"])
    logging.getLogger("core.test").info("%s, %s", "learned-later", SECRETS[0])
    assert "[secret], [secret]" in lines()


def logged_in(place: str, secret: str) -> None:
    """Log a secret in one of the places where it can stand."""
    log = logging.getLogger("core.money.test")
    try:
        raise ValueError(f"{place} {secret} end")
    except ValueError as error:
        match place:
            case "message":
                log.info("before " + secret + " after")  # noqa: G003
            case "argument":
                log.info("before %s after", secret)
            case "mapping":
                log.info("%(a)s", {"a": {"b": [secret]}})
            case "trace":
                log.exception("it failed")
            case "cause":
                log.error("it failed", exc_info=RuntimeError("outer", error))
            case "unfit":
                record = logging.LogRecord("test", logging.INFO, "test.py", 1, "%s %s", (secret,), None)
                logging.getLogger().handlers[0].handle(record)


@pytest.mark.parametrize("place", ["message", "argument", "trace", "cause", "unfit"])
@pytest.mark.parametrize("secret", SECRETS)
def test_a_provider_s_secret_never_gets_out(lines: Callable[[], str], place: str, secret: str) -> None:
    """In whatever part of a record it stands, and whatever JSON would make of its characters."""
    logged_in(place, secret)
    text = lines()
    assert text.count("\n") >= 1
    for form in (secret, json.dumps(secret)[1:-1]):
        assert form not in text
    assert place == "unfit" or "[secret]" in text


@pytest.mark.parametrize("place", ["message", "argument", "mapping", "trace", "cause"])
def test_an_api_key_never_gets_out(lines: Callable[[], str], place: str) -> None:
    """Nor any bearer credential, of which nobody told the log."""
    key = make_key("key_" + "0" * 26)
    logged_in(place, key)
    logged_in(place, "Bearer abcdefgh12345678")
    logged_in(place, "authorization: bearer operatortoken0123456789")
    text = lines()
    for secret in (key, key[12:40], "abcdefgh12345678", "operatortoken0123456789"):
        assert secret not in text


def test_a_line_of_a_machine_is_one_json_object(root_logger: logging.Logger) -> None:
    """Whatever the message holds."""
    out = io.StringIO()
    log_to(out)
    logging.getLogger("a.b").warning('line\nbreak "quote" %s', "é")
    try:
        raise ValueError("x")
    except ValueError:
        logging.getLogger("a.b").exception("failed")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert (first["level"], first["logger"], first["message"]) == ("warning", "a.b", 'line\nbreak "quote" é')
    assert second["trace"].endswith("ValueError")


@pytest.mark.parametrize(("logger", "told"), [("core.money.ledger", True), ("core.access.guard", False), ("x", False)])
def test_a_trace_has_words_only_where_no_caller_can_have_said_them(
    lines: Callable[[], str], logger: str, told: bool
) -> None:
    """An exception may quote a prompt; where it happened, in it and in what led to it, is told always."""
    first, second = " ".join(("first", "prompt")), " ".join(("second", "prompt"))
    try:
        try:
            raise KeyError(first)
        except KeyError as error:
            raise ValueError(second) from error
    except ValueError:
        logging.getLogger(logger).exception("it failed")
    text = lines()
    assert (first in text, second in text) == (told, told)
    assert text.index("KeyError") < text.index("ValueError")
    assert text.count("test_logs.py") == 2


def test_debug_lines_are_left_out_by_default(root_logger: logging.Logger) -> None:
    """They may hold anything."""
    out = io.StringIO()
    log_to(out)
    logging.getLogger("a").debug("detail")
    assert out.getvalue() == ""


# Times


@pytest.mark.parametrize("log", [log_to, edge.log.log_to], ids=["core", "edge"])
def test_both_logs_tell_the_time_alike(log: Callable[[io.StringIO], None], root_logger: logging.Logger) -> None:
    """RFC 3339 in UTC with milliseconds, which is what access lines have too."""
    out = io.StringIO()
    log(out)
    for epoch_s in (1_700_000_000.0004, 1_700_000_000.9996, 1_700_000_001.25):
        record = logging.LogRecord("test", logging.INFO, "test.py", 1, "text", (), None)
        record.created = epoch_s
        root_logger.handle(record)
    times = [json.loads(line)["time"] for line in out.getvalue().splitlines()]
    assert times == [f"2023-11-14T22:13:2{end}+00:00" for end in ("0.000", "0.999", "1.250")]


# Access lines


RECORD = AccessRecord(
    time=rfc3339(1.5),
    request_id="req1",
    method="chat",
    status="complete",
    model="m",
    finish_reason="stop",
    prompt_tokens=3,
    completion_tokens=4,
    cost_nano_usd=11,
    ttft_ms=7,
    duration_ms=9,
    overhead_ms=0.25,
)


async def test_an_access_line_is_json_without_what_is_empty() -> None:
    """One line per request, written a moment later together with others."""
    out = io.StringIO()
    log = AccessLog(out, readable=False)
    log.write(RECORD)
    log.write(RECORD)
    assert out.getvalue() == ""
    log.flush()
    first, second = out.getvalue().splitlines()
    assert first == second
    found = json.loads(first)
    assert found["cost_nano_usd"] == 11
    assert "error_reason" not in found


async def test_a_person_reads_a_short_line() -> None:
    """On a terminal."""
    out = io.StringIO()
    log = AccessLog(out, readable=True)
    log.write(RECORD)
    log.flush()
    assert out.getvalue().startswith("req1 chat m complete stop tokens=3+4 cost_nano_usd=11 ")


async def test_lines_are_out_soon_without_anybody_asking() -> None:
    """Within a tenth of a second."""
    out = io.StringIO()
    AccessLog(out, readable=False).write(RECORD)
    for _ in range(100):
        await asyncio.sleep(0.02)
        if out.getvalue():
            break
    assert out.getvalue().count("\n") == 1


@pytest.mark.parametrize("error", [OSError("disk full"), BrokenPipeError(), ValueError("closed")])
async def test_a_log_that_cannot_be_written_fails_no_request(error: Exception) -> None:
    """A full disk, a closed pipe, a closed file."""

    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise error

    log = AccessLog(Broken(), readable=False)
    log.write(RECORD)
    log.flush()
