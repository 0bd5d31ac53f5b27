"""The child process: llama.cpp's own HTTP server with the embedded model, on loopback.

`core.embedded.model_server` starts it and reads one line of JSON from its standard output: `{"url": …}` once it
listens, or `{"error": …}`. All else that it prints goes to standard error. It ends when its standard input closes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xllamacpp  # type: ignore[import-untyped]

from core.embedded.model import CONTEXT_TOKENS, MAX_OUTPUT_TOKENS, MODEL_ID, ModelServerError, find_model
from core.process.lifeline import end_with_parent

HOST = "127.0.0.1"
SLOTS = 2
"""Answers at once, each with a context (190 MB) of its own: of a shared one that is full, all answers fail."""

_WARNINGS = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until standard input closes, the parent ends, or a signal comes; 1 when it could not start."""
    options = _options(argv)
    end_with_parent(options.parent)
    report = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        server = _serve(options.port, options.threads)
    except ModelServerError as error:
        print(json.dumps({"error": str(error)}), file=report, flush=True)
        return 1
    with report:
        print(json.dumps({"url": server.listening_address}), file=report)
    while True:
        signal.pause()


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m core.embedded.llama_server", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="on loopback; 0 takes a free one")
    parser.add_argument("--threads", type=int, default=1, help="threads that compute")
    parser.add_argument("--parent", type=int, help="end at once unless this process is the parent")
    return parser.parse_args(argv)


def _serve(port: int, threads: int) -> Any:
    """Load the model and listen; the server runs in threads of its own for as long as the result lives."""
    _check_free(port)
    try:
        return xllamacpp.Server(_parameters(find_model(), port, threads))
    except RuntimeError as error:
        raise ModelServerError(f"llama.cpp did not start: {error}") from error


def _check_free(port: int) -> None:
    """llama.cpp reports a taken port like any other failure: ask beforehand."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ModelServerError(f"port {port} of {HOST} for the embedded model: {error.strerror}") from error


def _parameters(model: Path, port: int, threads: int) -> Any:
    """What llama.cpp's server gets; names as in its own `common_params`."""
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {MODEL_ID}
    params.hostnames = [HOST]
    params.port = port
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.n_parallel = SLOTS
    params.n_ctx = SLOTS * CONTEXT_TOKENS
    params.kv_unified = False
    params.n_predict = MAX_OUTPUT_TOKENS
    # Of requests that say nothing: what its makers recommend (https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct).
    # At llama.cpp's own, hotter ones it is often lost in emojis until its limit.
    params.sampling.temp = 0.2
    params.sampling.top_p = 0.9
    params.cache_ram_mib = 0  # its default keeps 8 GiB of old prompts; each slot still remembers its last one
    params.chat_template = Path(__file__).with_name("smollm2.jinja").read_text(encoding="utf-8")
    params.cors_origins = ""  # no web page may talk to it
    params.ui = False
    params.endpoint_slots = False  # it shows other requests' prompts
    params.verbosity = _WARNINGS
    return params


if __name__ == "__main__":
    sys.exit(main())
