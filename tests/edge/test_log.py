"""The edge's log: JSON lines or readable text, without a secret and without what an exception says."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edge.log import log_to

KEY = "wlrouter_01m80c3xwk5gc1zwqh0nes95qb0123456789abcdef"


class Terminal(io.StringIO):
    """Text that a person reads."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[io.StringIO, Terminal], ids=["json", "text"])
def lines(request: Any) -> Iterator[Callable[[], str]]:
    """A function that returns what was logged, debug lines too."""
    root, out = logging.getLogger(), request.param()
    handlers, level = root.handlers, root.level
    log_to(out, level=logging.DEBUG)
    yield out.getvalue
    root.handlers, root.level = handlers, level


@pytest.mark.parametrize("secret", [KEY, f"Bearer {KEY[9:]}", "authorization: bearer operatortoken0123456789"])
@pytest.mark.parametrize("place", ["message", "argument", "mapping", "extra", "unfit"])
def test_no_key_gets_out(lines: Callable[[], str], place: str, secret: str) -> None:
    """In whatever part of a record it stands."""
    log = logging.getLogger("edge.test")
    match place:
        case "message":
            log.debug("before " + secret + " after")  # noqa: G003
        case "argument":
            log.info("before %s after", secret)
        case "mapping":
            log.info("before %r after", {"a": [secret]})
        case "extra":
            log.info("refused", extra={"path": f"/v1/{secret}", "deep": {"a": secret}})
        case "unfit":
            record = logging.LogRecord("test", logging.INFO, "test.py", 1, "%s %s", (secret,), None)
            logging.getLogger().handlers[0].handle(record)
    text = lines()
    assert text.count("\n") == 1
    assert secret[-16:] not in text
    if place in ("message", "argument", "mapping"):
        assert "[secret]" in text


def test_a_trace_tells_where_and_what_kind_but_no_words(lines: Callable[[], str]) -> None:
    """An exception may quote a prompt."""
    prompts = [" ".join((number, "prompt")) for number in ("first", "second")]
    try:
        try:
            raise KeyError(prompts[0])
        except KeyError as error:
            raise ValueError(prompts[1]) from error
    except ValueError:
        logging.getLogger("aiohttp.server").exception("it failed")
    text = lines()
    assert not any(prompt in text for prompt in prompts)
    assert text.index("KeyError") < text.index("ValueError")
    assert text.count("test_log.py") == 2


def test_a_line_of_a_machine_is_one_json_object(lines: Callable[[], str], request: pytest.FixtureRequest) -> None:
    """With what was passed as `extra` beside the message, whatever it is."""
    if "text" in request.node.name:
        pytest.skip("for machines")
    logging.getLogger("edge").warning('a\n"b" %s', KEY, extra={"status": 404, "odd": object(), "path": f'"{KEY}"'})
    found = json.loads(lines())
    assert (found["level"], found["logger"], found["message"]) == ("warning", "edge", 'a\n"b" [secret]')
    assert (found["status"], found["path"]) == (404, '"[secret]"')


@pytest.mark.parametrize(
    "text",
    ['say "Bearer operatortoken01" now', "Bearer\toperatortoken01", "Bearer operatortoken01\\"],
    ids=["quoted", "tab", "backslash"],
)
def test_a_secret_is_blacked_out_between_the_escapes_of_json(lines: Callable[[], str], text: str) -> None:
    """The line stays what it was but for the secret."""
    logging.getLogger("edge").warning("%s", text, extra={"path": text})
    line = lines()
    assert "operatortoken" not in line
    if line.startswith("{"):
        assert json.loads(line)["path"] == json.loads(line)["message"]
