"""The `llm` command line, as a person uses it."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from expected import (
    BASE_URL,
    CALLS,
    COMPLETION_TOKENS,
    KEY,
    PERSON,
    PROMPT,
    PROMPT_TOKENS,
    TEXT,
    TOLD,
    WEATHER,
    WHO,
)
from llm.cli import cli

FUNCTION = """
def get_weather(city: str, days: int) -> str:
    "The weather of a city."
    return f"{days} days of sun in {city}"
"""
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "born": {"type": "integer"}, "tags": {"type": "array"}},
    "required": ["name", "born", "tags"],
}


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, model_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings: a model of its own, on the router, and the key."""
    model = {"model_id": "routed", "model_name": model_id, "api_base": BASE_URL, "api_key_name": "router"}
    flags = {"supports_tools": True, "supports_schema": True, "can_stream": True}
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([model | flags]))  # JSON is YAML
    (tmp_path / "keys.json").write_text(json.dumps({"router": KEY}))
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))


def llm(*arguments: str) -> str:
    """What the command prints; in this process, for it takes seconds to start."""
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def logged() -> list[dict[str, Any]]:
    """What it noted of its last answers, the first one first."""
    return json.loads(llm("logs", "--json", "-n", "0"))


@pytest.mark.parametrize("how", [[], ["--no-stream"], ["--async"]], ids=["streamed", "whole", "async"])
def test_an_answer(has_usage: bool, how: list[str]) -> None:
    """The text is the upstream's, and so is the usage."""
    assert llm("-m", "routed", *how, PROMPT) == f"{TEXT}\n"
    (entry,) = logged()
    if has_usage:
        assert (entry["input_tokens"], entry["output_tokens"]) == (PROMPT_TOKENS, COMPLETION_TOKENS)


@pytest.mark.parametrize("how", [[], ["--no-stream"]], ids=["streamed", "whole"])
def test_tools(how: list[str]) -> None:
    """Two calls in one turn reach the function, and what it says reaches the upstream."""
    assert llm("-m", "routed", *how, "--functions", FUNCTION, WEATHER) == f"{TOLD}\n"
    first, _ = logged()
    assert [(call["name"], call["arguments"]) for call in first["tool_calls"]] == [
        ("get_weather", arguments) for arguments in CALLS
    ]


@pytest.mark.parametrize("how", [[], ["--no-stream"]], ids=["streamed", "whole"])
def test_structured_output(how: list[str]) -> None:
    """The object is the upstream's."""
    assert json.loads(llm("-m", "routed", *how, "--schema", json.dumps(SCHEMA), WHO)) == PERSON
