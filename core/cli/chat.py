"""`worldrouter chat`: talk to a model in the terminal."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Sequence

import click
from worldrouter.v1 import chat_pb2

from core.cli.catalog import cheapest_model
from core.cli.client import CallFailed, Core
from core.cli.completion import Completion
from core.cli.money import exact_usd
from core.cli.options import WholeNumber, client_command, json_option
from core.cli.output import print_json
from core.cli.session import Session
from core.cli.usage import usage_json

INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended, by the shell's convention."""


@click.command()
@click.argument("prompt", nargs=-1)
@click.option("--model", metavar="ID", help="Model.  [default: the cheapest that streams]")
@click.option("--system", metavar="TEXT", help="Instructions for the model, ahead of the conversation.")
@click.option("--max-tokens", type=WholeNumber(min=1), metavar="N", help="Most output tokens of an answer.")
@json_option
@client_command
def chat(
    session: Session,
    prompt: Sequence[str],
    model: str | None,
    system: str | None,
    max_tokens: int | None,
    as_json: bool,
) -> None:
    """Ask a model, and see its answer as it is written.

    Without PROMPT it is read from standard input when something is piped in; on a terminal a conversation
    begins: Ctrl-C stops an answer, Ctrl-D ends the conversation. The answer goes to standard output, its
    tokens, cost and time to standard error. It is charged to the account of the credential, the operator's
    to the default account.

    \b
    Examples:
      worldrouter chat "Why is the sky blue?"
      worldrouter chat --model smollm2-135m-instruct --max-tokens 200
      git diff | worldrouter chat --system "Write a commit message for this diff." > message
    """
    question = _question(session, prompt, as_json)
    with session.connect() as core:
        params = chat_pb2.ChatCompletionParams(model=model or cheapest_model(core).id, max_completion_tokens=max_tokens)
        if system is not None:
            params.messages.add(role="system", content=system)
        if question is None:
            _converse(session, core, params)
            return
        params.messages.add(role="user", content=question)
        completion = Completion(core, params, session.monotonic_s)
        if as_json:
            _print_json(completion)
        elif not _show(completion):
            raise click.exceptions.Exit(INTERRUPTED)


def _question(session: Session, prompt: Sequence[str], as_json: bool) -> str | None:
    """The one question to ask; None for a conversation."""
    if prompt:
        return " ".join(prompt)
    if not session.stdin_is_terminal():
        question = sys.stdin.read()
        if not question.strip():
            raise click.UsageError("there is no prompt, neither as an argument nor on standard input")
        return question
    if as_json:
        raise click.UsageError("--json needs a prompt, as an argument or on standard input")
    return None


def _converse(session: Session, core: Core, params: chat_pb2.ChatCompletionParams) -> None:
    """Ask and answer until the end of input. A question that got no answer is left out of the history."""
    with contextlib.suppress(ImportError):
        # Line editing for `input`. Not imported above: loading it may write to standard output.
        importlib.import_module("readline")
    click.echo(f"{params.model}. Ctrl-C stops an answer, Ctrl-D ends the conversation.", err=True)
    while (question := _read_line()) is not None:
        if not question.strip():
            continue
        params.messages.add(role="user", content=question)
        completion = Completion(core, params, session.monotonic_s)
        try:
            _show(completion)
        except CallFailed as error:
            error.show()
        if completion.text:
            params.messages.add(role="assistant", content=completion.text)
        else:
            del params.messages[-1]


def _read_line() -> str | None:
    """A line from the terminal, empty when Ctrl-C discarded it, None at the end of input."""
    try:
        return input("> ")
    except KeyboardInterrupt:
        click.echo(err=True)
        return ""
    except EOFError:
        click.echo(err=True)
        return None


def _show(completion: Completion) -> bool:
    """Print an answer as it comes, and what it came to. False when Ctrl-C stopped it."""
    try:
        for text in completion:
            click.echo(text, nl=False)
    except KeyboardInterrupt:
        completion.cancel()
        _end_line(completion)
        where = f"; its cost: worldrouter usage {completion.request_id}" if completion.request_id else ""
        click.echo(f"stopped{where}", err=True)
        return False
    except CallFailed:
        _end_line(completion)
        raise
    _end_line(completion)
    if completion.lowered_max_tokens:
        click.echo(f"The balance allows {completion.lowered_max_tokens} output tokens at most.", err=True)
    click.echo(completion.summary(), err=True)
    return True


def _end_line(completion: Completion) -> None:
    if completion.text and not completion.text.endswith("\n"):
        click.echo()


def _print_json(completion: Completion) -> None:
    for _ in completion:
        pass
    print_json(
        {
            "request_id": completion.request_id,
            "model": completion.started.model,
            "endpoint": completion.started.endpoint,
            "text": completion.text,
            "finish_reason": next(iter(completion.finished.finish_reasons), ""),
            "usage": usage_json(completion.finished.usage),
            "cost_usd": exact_usd(completion.finished.cost_nano_usd),
            "cost_nano_usd": completion.finished.cost_nano_usd,
            "first_text_ms": completion.first_text_ms,
            "duration_ms": completion.duration_ms,
        }
    )
