"""Every suite passes whole: no failure, nothing skipped."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CASES = {
    "langchain": ("suites", ["langchain-tests", "langchain-openai", "openai"]),
    "llm_comply": ("suites", ["llm-comply"]),
    "llm": ("suites", ["llm", "openai"]),
    "openai_agents": ("suites", ["openai-agents", "openai"]),
    "pydantic_ai": ("suites", ["pydantic-ai-slim", "openai"]),
    "instructor": ("suites-older", ["instructor", "openai"]),
    "llama_index": ("suites-older", ["llama-index-llms-openai-like", "llama-index-core", "openai"]),
}
TIMEOUT_S = 100.0
pytestmark = pytest.mark.slow

Run = Callable[..., str]


@pytest.fixture
def run(environment: Mapping[str, str], record_property: Callable[[str, object], None]) -> Run:
    """Runs a suite's command and returns what it printed; `name` is for the line about it."""

    def run(name: str, *command: str | Path) -> str:
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        said = done.stdout + done.stderr
        counts = re.findall(r"^(?:# (?:pass|fail|skipped) \d+|\d+ \w+.* in [\d.]+s.*)$", said, re.MULTILINE)
        record_property("suite", f"{name}: {', '.join(counts) or 'it did not run'}")
        assert done.returncode == 0, said
        return said

    return run


def versions(lock: str, packages: list[str]) -> str:
    """The packages with their versions, as they are locked."""
    locked = dict(
        re.findall(r"^([\w.-]+)(?:\[\w+\])?==(\S+)", (ROOT / "scripts" / "requirements" / lock).read_text(), re.M)
    )
    return ", ".join(f"{package} {locked[package]}" for package in packages)


@pytest.mark.parametrize("name", CASES)
def test_python(name: str, run: Run) -> None:
    """The tests of cases/case_NAME.py, in the environment that has its packages."""
    kind, packages = CASES[name]
    python = ROOT / ".suites" / kind / "bin" / "python"
    if not python.exists():
        pytest.skip("scripts/suites has not installed it")
    cases = HERE / "cases"
    said = run(
        versions(f"{kind}.lock", packages),
        *[python, "-m", "pytest", "-q", "-c", cases / "pytest.ini", cases / f"case_{name}.py"],
    )
    assert re.search(r"^\d+ passed(?:, \d+ warnings)? in", said, re.MULTILINE), said


def test_the_vercel_ai_sdk(run: Run) -> None:
    """Both of its providers."""
    wanted = json.loads((HERE / "node" / "package.json").read_text())["dependencies"]
    names = ["ai", "@ai-sdk/openai-compatible", "@ai-sdk/openai"]
    said = run(
        ", ".join(f"{name} {wanted[name]}" for name in names),
        *["node", "--test", "--test-reporter=tap", HERE / "node" / "vercel.test.mjs"],
    )
    assert re.search(r"^# pass [1-9]", said, re.MULTILINE), said
    assert re.search(r"^# skipped 0$", said, re.MULTILINE), said
