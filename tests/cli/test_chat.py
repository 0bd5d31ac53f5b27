"""`worldrouter chat`, against grpcio-testing's channel; see test_terminal.py for Ctrl-C."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from google.protobuf.message import Message
from worldrouter.v1 import chat_pb2, chat_pb2_grpc, routing_pb2, types_pb2

from core.cli import cli
from core.cli.session import Session

pytestmark = pytest.mark.timeout(20)

STREAM = "ChatService.StreamChatCompletion"


def started() -> chat_pb2.StreamChatCompletionResponse:
    who = types_pb2.CompletionStarted(id="chatcmpl-req_1", model="smollm2", endpoint="embedded")
    return chat_pb2.StreamChatCompletionResponse(started=who)


def deltas(*texts: str) -> chat_pb2.StreamChatCompletionResponse:
    event = chat_pb2.StreamChatCompletionResponse()
    for text in texts:
        event.deltas.chunks.add().choices.add().delta.content = text
    return event


def finished(**changes: Any) -> chat_pb2.StreamChatCompletionResponse:
    usage = types_pb2.Usage(prompt_token_count=12, completion_token_count=34, total_token_count=46, **changes)
    came_to = types_pb2.CompletionFinished(finish_reasons=["stop"], usage=usage, cost_nano_usd=12_345)
    return chat_pb2.StreamChatCompletionResponse(finished=came_to)


def complete(run: Any, *texts: str, metadata: tuple[Any, ...] = ()) -> chat_pb2.StreamChatCompletionRequest:
    """Answer the next chat with these texts, one event each; returns its request."""
    request, call = run.stream(STREAM)
    call.send_initial_metadata(metadata)
    for event in (started(), *map(deltas, texts), finished()):
        call.send_response(event)
    call.terminate((), grpc.StatusCode.OK, "")
    return request


def test_the_answer_goes_to_stdout_and_what_it_came_to_to_stderr(invoke: Callable[..., Any]) -> None:
    """The text is all of standard output; tokens, cost, time and request id are on standard error."""
    run = invoke("chat", "--model", "smollm2", "Why", "is", "the", "sky", "blue?")
    request = complete(run, "Because", " it is.")
    (message,) = request.params.messages
    assert (message.role, message.content) == ("user", "Why is the sky blue?")
    assert request.params.model == "smollm2"
    assert not request.params.HasField("max_completion_tokens")
    result = run.result()
    assert result.exit_code == 0
    assert result.stdout == "Because it is.\n"
    assert result.stderr == (
        "smollm2 · 12 + 34 tokens · 0.000012 USD · 2.00 s (first text after 1.00 s) · stop · request req_1\n"
    )


def test_instructions_and_limit_are_sent(invoke: Callable[..., Any]) -> None:
    """--system stands ahead of the question, --max-tokens limits the output."""
    run = invoke("chat", "--model", "m", "--system", "Be brief.", "--max-tokens", "5", "Hello")
    request = complete(run, "Hi.")
    assert [(m.role, m.content) for m in request.params.messages] == [("system", "Be brief."), ("user", "Hello")]
    assert request.params.max_completion_tokens == 5
    assert run.result().exit_code == 0


def test_without_a_model_the_cheapest_that_streams_is_asked(invoke: Callable[..., Any]) -> None:
    """Nobody is surprised by the price of a model that was not named."""
    models = [
        routing_pb2.Model(id="dear", streaming=True, price=types_pb2.Price(output_pico_usd_per_token=9)),
        routing_pb2.Model(id="free", streaming=False),
        routing_pb2.Model(id="cheap", streaming=True, price=types_pb2.Price(output_pico_usd_per_token=1)),
    ]
    run = invoke("chat", "Hello")
    run.answer("RoutingService.ListModels", routing_pb2.ListModelsResponse(models=models))
    assert complete(run, "Hi.").params.model == "cheap"
    assert run.result().exit_code == 0


def test_a_catalog_without_streaming_models_is_an_error(invoke: Callable[..., Any]) -> None:
    """When there is nothing to choose from, one line says so."""
    run = invoke("chat", "Hello")
    run.answer("RoutingService.ListModels", routing_pb2.ListModelsResponse())
    result = run.result()
    assert result.exit_code == 1
    assert result.stderr == "Error: the catalog has no model that streams: set a provider's key, or configure one\n"


def test_control_characters_of_a_model_do_not_reach_the_terminal(invoke: Callable[..., Any]) -> None:
    """Escape sequences lose their escape; line ends, tabs and letters of any script stay."""
    run = invoke("chat", "--model", "m", "x")
    complete(run, "a\x1b[31mb\x07\r\n\tc\x9b2J", "é 🙂\x00")
    assert run.result().stdout == "a[31mb\n\tc2Jé 🙂\n"


def test_a_piped_prompt_is_the_question(invoke: Callable[..., Any]) -> None:
    """Without an argument all of standard input is the question."""
    run = invoke("chat", "--model", "m", input="line 1\nline 2\n")
    assert complete(run, "ok\n").params.messages[0].content == "line 1\nline 2\n"
    assert run.result().stdout == "ok\n"


def test_an_empty_pipe_is_wrong_usage(invoke: Callable[..., Any]) -> None:
    """Nothing to ask: exit status 2, and no call."""
    result = invoke("chat", "--model", "m", input=" \n").result()
    assert result.exit_code == 2
    assert "there is no prompt" in result.stderr


def test_json_is_one_object_at_the_end(invoke: Callable[..., Any]) -> None:
    """A script gets text, usage and exact cost together, and nothing on standard error."""
    run = invoke("chat", "--model", "m", "--json", "x")
    complete(run, "Hi", ".")
    result = run.result()
    found = json.loads(result.stdout)
    assert (found["text"], found["finish_reason"], found["request_id"]) == ("Hi.", "stop", "req_1")
    assert (found["cost_usd"], found["cost_nano_usd"]) == ("0.000012345", 12_345)
    assert found["usage"]["completion_token_count"] == 34
    assert (found["model"], found["endpoint"]) == ("smollm2", "embedded")
    assert (found["first_text_ms"], found["duration_ms"]) == (1000, 2000)
    assert result.stderr == ""


def test_json_on_a_terminal_needs_a_prompt(invoke: Callable[..., Any]) -> None:
    """A conversation has no one JSON object: wrong usage."""
    result = invoke("chat", "--json", stdin_is_terminal=lambda: True).result()
    assert result.exit_code == 2
    assert "--json needs a prompt" in result.stderr


def test_an_answer_cut_short_ends_in_an_error(invoke: Callable[..., Any], trailers_of: Callable[..., Any]) -> None:
    """What came is printed, then the error with its reason and request id; exit status 1."""
    run = invoke("chat", "--model", "m", "x")
    _, call = run.stream(STREAM)
    call.send_response(started())
    call.send_response(deltas("Half an"))
    trailers = trailers_of(grpc.StatusCode.UNAVAILABLE, "The upstream cut the answer.", "UPSTREAM_ERROR", "req_1")
    call.terminate(trailers, grpc.StatusCode.UNAVAILABLE, "The upstream cut the answer.")
    result = run.result()
    assert result.exit_code == 1
    assert result.stderr == "Error: The upstream cut the answer (UPSTREAM_ERROR, request req_1)\n"
    assert result.stdout in ("Half an\n", "")  # grpcio-testing may drop what an error overtakes


def test_an_error_stands_on_a_line_of_its_own(serve_grpc: Callable[..., str], session: Session) -> None:
    """Below the answer that it cut."""

    class Chat(chat_pb2_grpc.ChatServiceServicer):
        def StreamChatCompletion(self, request: Any, context: Any) -> Any:
            yield deltas("Half an")
            context.abort(grpc.StatusCode.UNAVAILABLE, "cut")

    target = serve_grpc(lambda server: chat_pb2_grpc.add_ChatServiceServicer_to_server(Chat(), server))
    result = CliRunner().invoke(cli, ["chat", "--model", "m", "x", "--grpc", target], obj=session)
    assert (result.exit_code, result.stdout) == (1, "Half an\n")


def test_a_lost_connection_still_names_the_request(invoke: Callable[..., Any]) -> None:
    """Without an ErrorInfo the request id is that of the initial metadata."""
    run = invoke("chat", "--model", "m", "x")
    _, call = run.stream(STREAM)
    call.send_initial_metadata((("x-request-id", "req_5"),))
    call.terminate((), grpc.StatusCode.UNAVAILABLE, "Socket closed")
    assert run.result().stderr == (
        "Error: cannot reach the core at 127.0.0.1:1; is the router running? Socket closed "
        "(UNAVAILABLE, request req_5)\n"
    )


def test_a_lowered_limit_is_announced(invoke: Callable[..., Any]) -> None:
    """When the balance lowered the output limit, people are told."""
    run = invoke("chat", "--model", "m", "x")
    complete(run, "Hi.", metadata=(("x-worldrouter-max-tokens", "1024"),))
    assert "The balance allows 1024 output tokens at most.\n" in run.result().stderr


def test_estimated_usage_says_so(invoke: Callable[..., Any]) -> None:
    """Counts that the upstream did not report are called about right."""
    run = invoke("chat", "--model", "m", "x")
    _, call = run.stream(STREAM)
    for event in (started(), finished(estimated=True)):
        call.send_response(event)
    call.terminate((), grpc.StatusCode.OK, "")
    assert "· about 12 + 34 tokens ·" in run.result().stderr


def test_a_conversation_keeps_its_history(invoke: Callable[..., Any], trailers_of: Callable[..., Any]) -> None:
    """Each question carries those before with their answers, but none that got no answer; Ctrl-D ends it."""
    run = invoke("chat", "--model", "m", input="One\n\nTwo\nThree\n", stdin_is_terminal=lambda: True)

    def asked(request: chat_pb2.StreamChatCompletionRequest) -> list[tuple[str, str]]:
        return [(message.role, message.content) for message in request.params.messages]

    assert asked(complete(run, "1")) == [("user", "One")]
    request, call = run.stream(STREAM)
    assert asked(request) == [("user", "One"), ("assistant", "1"), ("user", "Two")]
    trailers = trailers_of(grpc.StatusCode.UNAVAILABLE, "Down.", "UPSTREAM_ERROR", "req_2")
    call.terminate(trailers, grpc.StatusCode.UNAVAILABLE, "Down.")
    assert asked(complete(run, "3")) == [("user", "One"), ("assistant", "1"), ("user", "Three")]
    result = run.result()
    assert result.exit_code == 0
    assert "Error: Down (UPSTREAM_ERROR, request req_2)\n" in result.stderr


def test_the_messages_of_the_api_are_what_is_sent(invoke: Callable[..., Any]) -> None:
    """The call carries the credential, and the request is the typed message itself."""
    run = invoke("chat", "--model", "m", "x")
    request = complete(run, "Hi.")
    assert isinstance(request, Message)
    assert run.metadata["authorization"] == "Bearer operator-token-of-the-tests"
    assert run.result().exit_code == 0
