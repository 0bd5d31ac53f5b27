"""Tool-call deltas, mended so that OpenAI's clients can put them together."""

import json
from typing import Any

import msgspec
import pytest

from core.chat.tool_calls import ToolCallNumbering


def mended(*deltas: Any, choice: int = 0, numbering: ToolCallNumbering | None = None) -> list[Any]:
    """The tool calls of each delta, as clients get them."""
    numbering = numbering or ToolCallNumbering()
    return [json.loads(bytes(numbering.number(choice, msgspec.Raw(json.dumps(each).encode())))) for each in deltas]


def put_together(deltas: list[Any]) -> list[tuple[int, str | None, str, str]]:
    """What a client makes of it: (index, id, name, arguments), as the SDKs accumulate."""
    calls: dict[int, list[Any]] = {}
    for fragment in (fragment for delta in deltas for fragment in delta):
        call = calls.setdefault(fragment["index"], [None, "", ""])
        call[0] = (call[0] or "") + fragment["id"] if fragment.get("id") else call[0]
        call[1] += fragment.get("function", {}).get("name") or ""
        call[2] += fragment.get("function", {}).get("arguments") or ""
    return [(index, *call) for index, call in sorted(calls.items())]


def part(arguments: str = "", name: str | None = None, **fields: Any) -> dict[str, Any]:
    function = {"arguments": arguments} | ({"name": name} if name is not None else {})
    return {"function": function} | fields


TWO_CALLS = [(0, "a", "f", '{"x":1}'), (1, "b", "g", "{}")]


@pytest.mark.parametrize(
    "deltas",
    [
        pytest.param(
            [
                [part("", "f", index=0, id="a", type="function")],
                [part('{"x"', index=0)],
                [part("", "g", index=1, id="b", type="function")],
                [part(":1}", index=0), part("{}", index=1)],
            ],
            id="as OpenAI sends them",
        ),
        pytest.param(
            [
                [part('{"x"', "f", index=0, id="a", type="function")],
                [part(":1}", "f", index=0, id="a", type="function")],
                [part("{}", "g", index=1, id="b", type="function")],
            ],
            id="id and name on every fragment",
        ),
        pytest.param(
            [
                [part('{"x":1}', "f", index=0, id="a", type="function")],
                [part("{}", "g", index=0, id="b", type="function")],
            ],
            id="whole calls, all with index 0",
        ),
        pytest.param(
            [
                [part("", "f", index=0, id="a"), part("", "g", index=0, id="b")],
                [part("{}", index=0)],
                [part('{"x":1}', "f", index=0, id="a")],
            ],
            id="one index, told apart by id",
        ),
        pytest.param(
            [
                [part('{"x"', "f", id="a")],
                [part(":1}", id="a")],
                [part("{", "g", id="b"), part("}", id="b")],
            ],
            id="no index, ids",
        ),
        pytest.param(
            [
                [part('{"x"', "f", id="a")],
                [part(":1}", id=None)],
                [part("", "g", id="b")],
                [part("{}", id="")],
            ],
            id="no index, id on the first fragment",
        ),
        pytest.param(
            [
                [part('{"x"', "f", index=0, id="a")],
                [part(":1}", index=0, id="other", name=None)],
                [part("{}", "g", index=1, id="b")],
            ],
            id="a new id on every fragment",
        ),
        pytest.param(
            [
                [part('{"x"', "f", index=1, id="a")],
                [part(":1}", index=1)],
                [part("{}", "g", index=3, id="b", type=None)],
            ],
            id="numbers that begin with 1 and leave some out",
        ),
    ],
)
def test_every_form_comes_out_as_openai_s(deltas: list[Any]) -> None:
    """Two calls are two calls, each with its id and name once and its arguments in order."""
    out = mended(*deltas)
    assert put_together(out) == TWO_CALLS
    first_seen = set()
    for fragment in (fragment for delta in out for fragment in delta):
        later = fragment["index"] in first_seen
        first_seen.add(fragment["index"])
        assert later or fragment["type"] == "function"
        assert later is not ("name" in fragment["function"])
        assert not (later and {"id", "type"} & fragment.keys())


def test_calls_without_any_name_for_them_are_counted() -> None:
    """Whole calls without index or id: each that has a name is one."""
    out = mended([part("{}", "f", type="function"), part("{}", "g", type="function")], [part("{}", "h")])
    assert [(index, name) for index, _, name, _ in put_together(out)] == [(0, "f"), (1, "g"), (2, "h")]


def repeated(name: str, *arguments: str) -> list[Any]:
    """Deltas of one index without an id, each with the name."""
    return [[part(each, name, index=0)] for each in arguments]


@pytest.mark.parametrize(
    ("deltas", "calls"),
    [
        pytest.param(
            [*repeated("f", '{"x":1}'), *repeated("f", '{"x":2}', "{}"), *repeated("g", "{}")],
            [("f", '{"x":1}'), ("f", '{"x":2}'), ("f", "{}"), ("g", "{}")],
            id="whole calls",
        ),
        pytest.param(
            [
                *repeated("f", ""),
                *[[part(each, index=0, id="")] for each in ('{"x":"\\', '"}{', '"', "}")],
                *repeated("g", ""),
                [part("{}", index=0)],
            ],
            [("f", '{"x":"\\"}{"}'), ("g", "{}")],
            id="calls in fragments",
        ),
        pytest.param(
            repeated("f", "", '{"x":', "{}", ',"y":"}', '{"', "}", "", " "),
            [("f", '{"x":{},"y":"}{"} ')],
            id="one call, its name on every fragment",
        ),
        pytest.param(repeated("get_", "") + repeated("weather", "{}"), [("get_", "{}")], id="a name in pieces"),
        pytest.param(
            [[{"index": 0, "function": {"name": name, "arguments": {"x": 1}}}] for name in "fg"],
            [("f", {"x": 1}), ("g", {"x": 1})],
            id="arguments that are objects",
        ),
    ],
)
def test_calls_of_one_index_are_told_apart_without_ids(deltas: list[Any], calls: list[Any]) -> None:
    """A name behind whole arguments begins another call; a name that is only repeated does not."""
    out = [fragment for delta in mended(*deltas) for fragment in delta]
    found: dict[int, list[Any]] = {}
    for fragment in out:
        function = fragment["function"]
        if (call := found.get(fragment["index"])) is None:
            found[fragment["index"]] = [function["name"], function["arguments"]]
        else:
            assert "name" not in function
            call[1] += function["arguments"]
    assert [tuple(call) for call in found.values()] == calls


def test_choices_count_for_themselves() -> None:
    """The calls of one choice do not number those of another."""
    numbering = ToolCallNumbering()
    assert mended([part("", "f", id="a")], choice=0, numbering=numbering)[0][0]["index"] == 0
    assert mended([part("", "f", id="a")], choice=1, numbering=numbering)[0][0]["index"] == 0
    assert mended([part("{}")], choice=0, numbering=numbering)[0][0] == {"index": 0, "function": {"arguments": "{}"}}


def test_custom_tools_are_mended_alike() -> None:
    """Their name, too, stands on the first fragment only."""
    out = mended(
        [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "c", "input": "x"}}],
        [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "c", "input": "y"}}],
    )
    assert out[1] == [{"index": 0, "custom": {"input": "y"}}]


def test_other_fields_stay() -> None:
    """Fields unknown to us, and numbers, are passed on as they were."""
    raw = b'[{"index":0,"id":"a","type":"x","function":{"name":"f","arguments":"","x":1.0},"y":[1e2]}]'
    assert bytes(ToolCallNumbering().number(0, msgspec.Raw(raw))) == raw


@pytest.mark.parametrize("raw", [b"7", b"{}", b'"x"', b"[1]", b"[[]]"])
def test_what_is_no_list_of_calls_is_left_alone(raw: bytes) -> None:
    """The client sees what the upstream sent."""
    assert bytes(ToolCallNumbering().number(0, msgspec.Raw(raw))) == raw


@pytest.mark.parametrize("index", ["0", None, 1.5, [], 10**30, -1])
def test_an_index_that_is_none_does_no_harm(index: Any) -> None:
    """Every call comes out with an integer."""
    found = mended([part("{}", "f", index=index, id="a", type="function")])[0][0]
    assert isinstance(found["index"], int)
    assert found["id"] == "a"


@pytest.mark.parametrize("function", [None, 7, [], "f", {}, {"name": None}])
def test_a_function_that_is_none_does_no_harm(function: Any) -> None:
    """What the upstream sends in its place is passed on."""
    out = mended([{"index": 0, "function": function}], [{"index": 0, "function": function}])
    assert out[0] == [{"index": 0, "function": function}]
