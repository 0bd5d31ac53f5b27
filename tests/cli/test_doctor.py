"""`worldrouter doctor`: the core on grpcio-testing's channel, the edge a real HTTP server."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from worldrouter.v1 import chat_pb2, metering_pb2, routing_pb2, types_pb2

from core.home import Home, Ready

pytestmark = pytest.mark.timeout(20)

SERVING = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
BALANCE = metering_pb2.Balance(account_id="default", available_nano_usd=5_000_000_000)
MODELS = routing_pb2.ListModelsResponse(models=[routing_pb2.Model(id="smollm2", streaming=True)])
CHECKS = ["state folder", "process", "gRPC", "database", "balance", "catalog", "chat"]
EDGE_CHECKS = ["HTTP", "HTTP ready", "HTTP keys"]


@pytest.fixture
def edge() -> Iterator[tuple[str, dict[str, int]]]:
    """The address of an edge, and the statuses that it answers by path."""
    statuses = {"/healthz": 200, "/readyz": 200, "/v1/models": 401}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", statuses
        server.shutdown()
        thread.join()


@pytest.fixture
def running(home: Home, edge: tuple[str, dict[str, int]]) -> dict[str, int]:
    """A state folder of a router that runs as this very process; answers the edge's statuses."""
    home.write_ready(Ready(http=edge[0], grpc="127.0.0.1:1", pid=os.getpid()))
    return edge[1]


def answer_chat(run: Any, *, reasons: tuple[str, ...] = ("stop",)) -> chat_pb2.StreamChatCompletionRequest:
    request, call = run.stream("ChatService.StreamChatCompletion")
    who = types_pb2.CompletionStarted(id="chatcmpl-req_1", model="smollm2")
    usage = types_pb2.Usage(prompt_token_count=3, completion_token_count=2)
    end = types_pb2.CompletionFinished(finish_reasons=reasons, usage=usage, cost_nano_usd=2_000)
    for event in (
        chat_pb2.StreamChatCompletionResponse(started=who),
        chat_pb2.StreamChatCompletionResponse(finished=end),
    ):
        call.send_response(event)
    call.terminate((), grpc.StatusCode.OK, "")
    return request


def answer_all(run: Any, *, balance: metering_pb2.Balance = BALANCE) -> None:
    """A core in which everything works."""
    run.answer("Health.Check", SERVING)
    run.answer("MeteringService.GetBalance", balance)
    run.answer("MeteringService.GetBalance", balance)
    run.answer("RoutingService.ListModels", MODELS)
    run.answer("RoutingService.ListModels", MODELS)
    answer_chat(run)


def outcomes(run: Any) -> dict[str, dict[str, str]]:
    return {check["check"]: check for check in json.loads(run.result().stdout)["checks"]}


@pytest.mark.usefixtures("running")
def test_a_healthy_router_passes_every_check(invoke: Callable[..., Any]) -> None:
    """One line a check, all ok, the cost of the real request among them; exit status 0."""
    run = invoke("doctor")
    answer_all(run)
    result = run.result()
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line[9:21].strip() for line in lines] == CHECKS + EDGE_CHECKS
    assert all(line.startswith("ok ") for line in lines)
    assert "smollm2 · 3 + 2 tokens · 0.000002 USD" in lines[6]
    assert "5.000000 USD available" in lines[4]


@pytest.mark.usefixtures("running")
def test_the_edge_is_asked_without_a_proxy(invoke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says, its address is its own."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    run = invoke("doctor")
    answer_all(run)
    assert run.result().exit_code == 0


@pytest.mark.usefixtures("running")
def test_json_says_it_in_one_object(invoke: Callable[..., Any]) -> None:
    """A script gets `ok` and the checks."""
    run = invoke("doctor", "--json")
    answer_all(run)
    found = json.loads(run.result().stdout)
    assert found["ok"] is True
    assert [check["outcome"] for check in found["checks"]] == ["ok"] * 10


@pytest.mark.usefixtures("running")
def test_the_request_is_short(invoke: Callable[..., Any]) -> None:
    """The question costs next to nothing: --model or the cheapest, and a limit on its output."""
    run = invoke("doctor", "--model", "gpt-4o", "--json")
    run.answer("Health.Check", SERVING)
    for _ in range(2):
        run.answer("MeteringService.GetBalance", BALANCE)
    run.answer("RoutingService.ListModels", MODELS)
    request = answer_chat(run)
    assert (request.params.model, request.params.max_completion_tokens) == ("gpt-4o", 16)
    assert run.result().exit_code == 0


def test_nothing_is_asked_of_a_router_that_does_not_run(invoke: Callable[..., Any], home: Home) -> None:
    """Without ready.json the process check fails, says how to start it, and the rest is skipped."""
    home.remove_ready()
    run = invoke("doctor", "--json")
    found = outcomes(run)
    assert run.result().exit_code == 1
    assert found["state folder"]["outcome"] == "ok"
    assert found["process"]["outcome"] == "failed"
    assert "worldrouter serve" in found["process"]["mend"]
    assert {found[name]["outcome"] for name in CHECKS[2:] + EDGE_CHECKS} == {"skipped"}


def test_a_stale_ready_file_is_noticed(invoke: Callable[..., Any], home: Home) -> None:
    """A process id that nobody has means that the router died."""
    home.write_ready(Ready(http="http://127.0.0.1:1", grpc="127.0.0.1:1", pid=2**22 + 1))
    assert "which is gone" in outcomes(invoke("doctor", "--json"))["process"]["detail"]


def test_a_process_of_somebody_else_lives(
    invoke: Callable[..., Any], home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may not be signalled, which says that it is there."""

    def kill(pid: int, signal: int) -> None:
        raise PermissionError

    monkeypatch.setattr("core.cli.checks.os.kill", kill)
    run = invoke("doctor", "--json")
    run.refuse("Health.Check", grpc.StatusCode.UNAVAILABLE, "gone")
    assert outcomes(run)["process"]["outcome"] == "ok"


def test_a_state_folder_open_to_others_is_noticed(invoke: Callable[..., Any], home: Home) -> None:
    """A folder or a token that others may read fails, with the command that mends it."""
    home.remove_ready()
    home.operator_token.chmod(0o640)
    assert outcomes(invoke("doctor", "--json"))["state folder"]["mend"] == f"`chmod 600 {home.operator_token}`"
    home.path.chmod(0o750)
    assert outcomes(invoke("doctor", "--json"))["state folder"]["mend"] == f"`chmod 700 {home.path}`"


@pytest.mark.usefixtures("running")
def test_a_core_that_does_not_serve_skips_what_needs_it(invoke: Callable[..., Any]) -> None:
    """A core that is stopping fails one check, not five; the edge is looked at all the same."""
    run = invoke("doctor", "--json")
    run.answer("Health.Check", health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING))
    found = outcomes(run)
    assert (found["gRPC"]["outcome"], found["gRPC"]["detail"]) == ("failed", "the core answers NOT_SERVING")
    assert {found[name]["outcome"] for name in CHECKS[3:]} == {"skipped"}
    assert {found[name]["outcome"] for name in EDGE_CHECKS} == {"ok"}


@pytest.mark.usefixtures("running")
def test_every_failed_check_says_how_to_mend_it(invoke: Callable[..., Any], trailers_of: Callable[..., Any]) -> None:
    """Each check fails by itself: the database, an empty account, an empty catalog, a failing provider."""
    run = invoke("doctor", "--model", "m", "--json")
    run.answer("Health.Check", SERVING)
    trailers = trailers_of(grpc.StatusCode.UNAVAILABLE, "Down.", "SERVICE_UNAVAILABLE", "req_1")
    run.refuse("MeteringService.GetBalance", grpc.StatusCode.UNAVAILABLE, "Down.", trailers=trailers)
    run.answer("MeteringService.GetBalance", metering_pb2.Balance(account_id="default"))
    run.answer("RoutingService.ListModels", routing_pb2.ListModelsResponse())
    _, call = run.stream("ChatService.StreamChatCompletion")
    trailers = trailers_of(grpc.StatusCode.UNAVAILABLE, "No upstream.", "UPSTREAM_ERROR", "req_2")
    call.terminate(trailers, grpc.StatusCode.UNAVAILABLE, "No upstream.")
    found = outcomes(run)
    assert {name: found[name]["outcome"] for name in CHECKS[3:]} == dict.fromkeys(CHECKS[3:], "failed")
    assert found["database"]["detail"] == "Down (SERVICE_UNAVAILABLE, request req_1)"
    assert all(found[name]["mend"] for name in CHECKS[3:])
    assert found["balance"]["mend"] == "`worldrouter topup --usd 10`"
    assert "the provider fails" in found["chat"]["mend"]
    assert run.result().exit_code == 1


@pytest.mark.usefixtures("running")
def test_what_nobody_foresaw_is_in_the_log(invoke: Callable[..., Any]) -> None:
    """A failure of any other kind says where to look."""
    run = invoke("doctor", "--json")
    run.refuse("Health.Check", grpc.StatusCode.UNKNOWN, "odd")
    assert outcomes(run)["gRPC"]["mend"] == "see the router's log"


@pytest.mark.usefixtures("running")
def test_an_account_on_credit_is_not_empty(invoke: Callable[..., Any]) -> None:
    """A credit limit pays too."""
    run = invoke("doctor", "--json")
    answer_all(run, balance=metering_pb2.Balance(account_id="default", credit_limit_nano_usd=1))
    assert outcomes(run)["balance"]["outcome"] == "ok"


@pytest.mark.usefixtures("running")
def test_an_answer_without_a_finish_reason_is_no_answer(invoke: Callable[..., Any]) -> None:
    """Only a finish reason makes an answer whole."""
    run = invoke("doctor", "--model", "m", "--json")
    run.answer("Health.Check", SERVING)
    for _ in range(2):
        run.answer("MeteringService.GetBalance", BALANCE)
    run.answer("RoutingService.ListModels", MODELS)
    answer_chat(run, reasons=())
    assert outcomes(run)["chat"]["detail"] == "m gave no finish reason (request req_1)"


def test_the_edge_is_judged_by_its_statuses(invoke: Callable[..., Any], running: dict[str, int]) -> None:
    """An edge that is not ready, or that lists models without a key, fails."""
    running.update({"/readyz": 503, "/v1/models": 200})
    run = invoke("doctor", "--json")
    answer_all(run)
    found = outcomes(run)
    assert found["HTTP"]["outcome"] == "ok"
    assert found["HTTP ready"]["detail"].endswith("/readyz answers 503 rather than 200")
    assert found["HTTP keys"]["detail"].endswith("/v1/models answers 200 rather than 401")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense"])
@pytest.mark.usefixtures("running")
def test_an_edge_that_does_not_answer_fails_once(invoke: Callable[..., Any], url: str) -> None:
    """What cannot be reached at all is one failure, and two checks skipped."""
    run = invoke("doctor", "--http", url, "--json")
    answer_all(run)
    found = outcomes(run)
    assert [found[name]["outcome"] for name in EDGE_CHECKS] == ["failed", "skipped", "skipped"]


def test_a_core_elsewhere_has_no_state_folder_here(invoke: Callable[..., Any]) -> None:
    """With --grpc the local checks are left out, and the edge's without --http."""
    run = invoke("doctor", "--grpc", "localhost:50051", "--json")
    answer_all(run)
    found = outcomes(run)
    assert list(found) == CHECKS[2:] + EDGE_CHECKS
    assert {found[name]["outcome"] for name in EDGE_CHECKS} == {"skipped"}
    assert run.result().exit_code == 0  # what was skipped did not fail


@pytest.mark.usefixtures("running")
def test_a_missing_credential_is_a_failed_check(invoke: Callable[..., Any], home: Home) -> None:
    """Doctor reports what other commands die of."""
    home.operator_token.unlink()
    found = outcomes(invoke("doctor", "--json"))
    assert found["state folder"]["outcome"] == "failed"
    assert "cannot read the credential" in found["gRPC"]["detail"]
