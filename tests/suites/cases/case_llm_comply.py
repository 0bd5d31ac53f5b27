"""llm-comply's tests of the OpenAI chat format: no failure and nothing skipped, whatever the upstream leaves out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from expected import BARE, BASE_URL, KEY, MODEL

COMMAND = Path(sys.executable).with_name("llm-comply")
TEST_COUNT = 9


@pytest.mark.parametrize("model", [MODEL, BARE])
def test_openai_chat(model: str) -> None:
    """It warns of no more than `annotations`, which answers of models that search have, and of hidden reasoning."""
    # Under a name that begins with "gpt-5" the test of reasoning is run too.
    command = [COMMAND, "--format", "openai-chat", "-u", BASE_URL, "-k", KEY, "-m", f"gpt-5-{model}", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    found = json.loads(done.stdout)
    assert {test["id"]: test.get("errors") for test in found["results"] if test["status"] != "passed"} == {}
    assert len(found["results"]) == TEST_COUNT
    warnings = {warning for test in found["results"] for warning in test.get("warnings", [])}
    assert {each for each in warnings if "annotations" not in each and "reasoning" not in each} == set()
    assert done.returncode == 0
