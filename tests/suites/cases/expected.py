"""What the upstream answers (node/upstream.mjs), and where the router is."""

import json
import os
from pathlib import Path

BASE_URL = os.environ["SUITES_BASE_URL"]
KEY = os.environ["SUITES_KEY"]
MODEL = "full"
BARE = "bare"  # the same answers with everything left out that an upstream may leave out
OPENROUTER = "openrouter"  # the same answers in OpenRouter's dialect, which details usage

_expected = json.loads((Path(__file__).parents[1] / "expected.json").read_text())
PROMPT = "Hello"
TEXT = _expected["text"]
WHO = "Who wrote the first program?"
PERSON = _expected["person"]
WEATHER = "How is the weather in both cities?"
CALLS = _expected["calls"]
PROMPT_TOKENS, COMPLETION_TOKENS = _expected["usage"]["prompt_tokens"], _expected["usage"]["completion_tokens"]
CACHED_TOKENS = _expected["usage"]["prompt_tokens_details"]["cached_tokens"]
REASONING_TOKENS = _expected["usage"]["completion_tokens_details"]["reasoning_tokens"]


def report(city: str, days: int) -> str:
    """What the tool says."""
    return f"{days} days of sun in {city}"


TOLD = f"Told: {' and '.join(report(**call) for call in CALLS)}"
