"""The embedded model's server, begun before the rest of `serve` is loaded: the one takes as long as the other."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from core.embedded.defaults import wants_embedded_model
from core.embedded.model_server import ModelServer, ModelServerError
from core.home import Home
from core.reload import source_of
from core.settings import BadSettings, Settings


def model_server(settings: Settings, home: Home) -> ModelServer:
    """The server that these settings ask for, not started."""
    return ModelServer(log_path=home.logs / "model.log", threads=settings.embedded.threads, progress=_say)


def model_begun(config: Path | None, home: Home) -> ModelServer | None:
    """That server on its way, if `serve` will want it.

    None also when anything is wrong, which is for `serve` to say, when another router runs, whose place `serve` will
    not take, at the first start: one that is refused leaves nothing behind; and for a pipe, to be read once.
    """
    if config is not None and not config.is_file():
        return None
    try:
        settings = source_of(config, os.environ, {}, presets=True).loaded
        if not wants_embedded_model(settings) or home.ready.exists() or not home.pepper.exists():
            return None
        model = model_server(settings, home)
        model.begin()
    except (BadSettings, ModelServerError, OSError):
        return None
    return model


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
