"""`worldrouter chat` on a terminal: a real process, a real core on loopback, Ctrl-C and Ctrl-D."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from worldrouter.v1 import chat_pb2, chat_pb2_grpc, types_pb2

from core.home import Home, Ready

pytestmark = pytest.mark.timeout(30)

COMMAND = [sys.executable, "-c", "from core.cli import main; main()", "chat", "--model", "m"]


class Unending(chat_pb2_grpc.ChatServiceServicer):
    """A core whose answers begin and then stay silent until the client goes away."""

    def __init__(self) -> None:
        self.asked: list[list[tuple[str, str]]] = []
        self.gone = threading.Semaphore(0)

    def StreamChatCompletion(self, request: chat_pb2.StreamChatCompletionRequest, context: Any) -> Iterator[Any]:
        self.asked.append([(message.role, message.content) for message in request.params.messages])
        context.add_callback(self.gone.release)
        who = types_pb2.CompletionStarted(id="chatcmpl-req_1", model="m")
        yield chat_pb2.StreamChatCompletionResponse(started=who)
        event = chat_pb2.StreamChatCompletionResponse()
        event.deltas.chunks.add().choices.add().delta.content = "Half an"
        yield event
        silence = threading.Event()
        context.add_callback(silence.set)
        silence.wait(20)

    def add(self, server: grpc.Server) -> None:
        chat_pb2_grpc.add_ChatServiceServicer_to_server(self, server)


@pytest.fixture
def core(serve_grpc: Callable[..., str], home: Home) -> Unending:
    """A core that `home` names."""
    core = Unending()
    home.write_ready(Ready(http="http://127.0.0.1:1", grpc=serve_grpc(core.add), pid=os.getpid()))
    return core


@contextlib.contextmanager
def chatting(home: Home, *arguments: str, **streams: Any) -> Iterator[subprocess.Popen[bytes]]:
    """The command as a process of its own, killed when it outlives its test."""
    environment = os.environ | {"WORLDROUTER_HOME": str(home.path), "TERM": "dumb"}
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, env=environment, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(descriptor: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        seen += os.read(descriptor, 1000)
    return seen


def test_ctrl_c_stops_the_answer(core: Unending, home: Home) -> None:
    """The call is cancelled, what came stays, the request is named, and the exit status is the shell's 130."""
    with chatting(home, "Hello", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = read_until(process.stdout.fileno(), b"Half an")
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=10)
    assert first + stdout == b"Half an\n"
    assert stderr == b"stopped; its cost: worldrouter usage req_1\n"
    assert process.returncode == 130
    assert core.gone.acquire(timeout=5)


def test_ctrl_c_in_a_conversation_stops_the_answer_only(core: Unending, home: Home) -> None:
    """The conversation goes on with what was said until then; Ctrl-D ends it well."""
    terminal, inside = pty.openpty()
    try:
        with chatting(home, stdin=inside, stdout=inside) as process:
            os.close(inside)
            for question in (b"Hello\n", b"Go on\n"):
                read_until(terminal, b"> ")
                os.write(terminal, question)
                read_until(terminal, b"Half an")
                process.send_signal(signal.SIGINT)
                assert core.gone.acquire(timeout=5)
            read_until(terminal, b"> ")
            os.write(terminal, b"\x04")
            _, stderr = process.communicate(timeout=10)
    finally:
        os.close(terminal)
    assert process.returncode == 0
    assert stderr.count(b"stopped; its cost: worldrouter usage req_1\n") == 2
    assert core.asked == [
        [("user", "Hello")],
        [("user", "Hello"), ("assistant", "Half an"), ("user", "Go on")],
    ]
