"""What a valid chat must have that JSON Schema cannot say. Schemathesis loads this, see `SCHEMATHESIS_HOOKS`."""

from typing import Any

import schemathesis

MODEL = "free"
LIMITS = ("max_tokens", "max_completion_tokens")


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """A model that is there, integers written as integers (to JSON Schema 1.0 is one), and only one output limit."""
    body = case.body
    if not isinstance(body, dict):
        return
    if isinstance(body.get("model"), str) and body["model"]:
        body["model"] = MODEL
    for name in ("n", *LIMITS):
        value = body.get(name)
        if isinstance(value, float) and value.is_integer():
            body[name] = int(value)
    first, second = (body.get(name) for name in LIMITS)
    if isinstance(first, int) and isinstance(second, int):
        body[LIMITS[0]] = second
