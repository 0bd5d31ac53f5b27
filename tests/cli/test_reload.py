"""`worldrouter reload`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from worldrouter.v1 import maintenance_pb2

from core.home import Home, Ready, WorkerProcess

pytestmark = pytest.mark.timeout(20)

METHOD = "MaintenanceService.ReloadConfiguration"


@pytest.fixture
def two_workers(home: Home) -> None:
    """The router that runs has two cores."""
    workers = [WorkerProcess(pid, f"127.0.0.1:{pid}", "") for pid in (1, 2)]
    home.write_ready(Ready(http="http://127.0.0.1:1", grpc="127.0.0.1:1", pid=9, workers=workers))


@pytest.mark.usefixtures("two_workers")
def test_every_worker_is_told(invoke: Callable[..., Any]) -> None:
    """What waits for a start is a warning; one that refuses makes the status 1, and the others reload all the same."""
    run = invoke("reload", "--json")
    run.refuse(METHOD, grpc.StatusCode.INVALID_ARGUMENT, "models[0].price: wanted one")
    answer = maintenance_pb2.ReloadConfigurationResponse(version=4, model_count=2, waiting_settings=["edge.port"])
    run.answer(METHOD, answer)
    done = run.result()
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {
        "cores": [{"grpc": "127.0.0.1:2", "version": 4, "models": 2, "waiting_settings": ["edge.port"]}]
    }
    assert "Error: 127.0.0.1:1: models[0].price: wanted one" in done.stderr
    assert "Warning: 127.0.0.1:2: these wait for the next start: edge.port" in done.stderr


@pytest.mark.usefixtures("two_workers")
def test_a_core_that_is_named_is_the_only_one(invoke: Callable[..., Any]) -> None:
    """And it says what it serves now."""
    run = invoke("reload", "--grpc", "127.0.0.1:7")
    run.answer(METHOD, maintenance_pb2.ReloadConfigurationResponse(version=4, model_count=2))
    done = run.result()
    assert (done.exit_code, done.stdout) == (0, "127.0.0.1:7: version 4, 2 models\n")
