"""One streamed answer of a model, as the terminal wants it: text as it comes, facts at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from worldrouter.v1 import chat_pb2, types_pb2

from core.cli.client import Core
from core.cli.money import shown_usd
from core.cli.output import one_line, printable


class Completion:
    """One answer: iterate once for its text, without control characters.

    `text` is what came so far. Once the iteration ended by itself, `finished` says what the answer came to.
    """

    def __init__(self, core: Core, params: chat_pb2.ChatCompletionParams, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._began_s = monotonic_s()
        self._answer = core.stream(core.chat.StreamChatCompletion, chat_pb2.StreamChatCompletionRequest(params=params))
        self.text = ""
        self.first_text_ms: int | None = None
        self.duration_ms = 0
        self.started = types_pb2.CompletionStarted()
        self.finished = types_pb2.CompletionFinished()

    def __iter__(self) -> Iterator[str]:
        for event in self._answer:
            match event.WhichOneof("event"):
                case "started":
                    self.started = event.started
                case "deltas":
                    yield from self._texts(event.deltas)
                case "finished":
                    self.finished = event.finished
        self.duration_ms = self._elapsed_ms()

    @property
    def request_id(self) -> str:
        """The id under which `worldrouter usage` knows it; empty before the answer began."""
        return self.started.id.removeprefix("chatcmpl-")

    @property
    def lowered_max_tokens(self) -> str:
        """The output limit, where the balance could not pay more; else empty. Once the answer has ended."""
        return self._answer.header("x-worldrouter-max-tokens")

    def cancel(self) -> None:
        """Stop the answer. What was produced is charged. Safe to repeat and after the end."""
        self._answer.cancel()

    def summary(self) -> str:
        """What the whole answer came to, in one line."""
        usage = self.finished.usage
        about = "about " if usage.estimated else ""
        first = "" if self.first_text_ms is None else f" (first text after {_seconds(self.first_text_ms)})"
        facts = [
            self.started.model,
            f"{about}{usage.prompt_token_count} + {usage.completion_token_count} tokens",
            f"{shown_usd(self.finished.cost_nano_usd)} USD",
            f"{_seconds(self.duration_ms)}{first}",
            *self.finished.finish_reasons,
            f"request {self.request_id}",
        ]
        return one_line(" · ".join(facts))

    def _texts(self, deltas: chat_pb2.CompletionDeltas) -> Iterator[str]:
        for chunk in deltas.chunks:
            for choice in chunk.choices:
                text = printable(choice.delta.content + choice.delta.refusal)
                if not text:
                    continue
                if self.first_text_ms is None:
                    self.first_text_ms = self._elapsed_ms()
                self.text += text
                yield text

    def _elapsed_ms(self) -> int:
        return round((self._monotonic_s() - self._began_s) * 1000)


def _seconds(duration_ms: int) -> str:
    return f"{duration_ms / 1000:.2f} s"
