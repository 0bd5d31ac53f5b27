"""Help, version and wrong usage."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from core.cli import cli
from core.cli.session import Session


def commands(command: click.Command, *path: str) -> Iterator[tuple[str, ...]]:
    """The words of every command below one, groups left out."""
    if not isinstance(command, click.Group):
        yield path
        return
    for name, child in command.commands.items():
        yield from commands(child, *path, name)


# `edge` hands --help on to the edge's own program.
@pytest.mark.parametrize("words", [words for words in commands(cli) if words != ("edge",)], ids=" ".join)
def test_every_command_explains_itself_with_examples(words: tuple[str, ...], session: Session) -> None:
    """--help says what a command does, shows at least one example, and describes each option."""
    result = CliRunner().invoke(cli, [*words, "--help"], obj=session, prog_name="worldrouter")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"worldrouter {' '.join(words)}" in result.stdout.partition("Example")[2]
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    assert all(option.help for option in command.params if isinstance(option, click.Option))


@pytest.mark.parametrize("words", list(commands(cli)), ids=" ".join)
def test_the_list_of_commands_says_each_in_a_whole_sentence(words: tuple[str, ...]) -> None:
    """No summary in the list of commands is cut off."""
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    assert not command.get_short_help_str(62).endswith("...")


def test_help_names_the_options_of_the_connection_and_their_variables(session: Session) -> None:
    """`worldrouter --help` shows how to reach a core, and every command."""
    result = CliRunner().invoke(cli, ["--help"], obj=session)
    for option in ("home", "grpc", "token-file", "ca", "cert", "client-key"):
        assert f"--{option}" in result.stdout
        assert f"WORLDROUTER_{option.replace('-', '_').upper()}" in result.stdout
    positions = [result.stdout.index(f"\n  {name} ") for name in cli.commands]
    assert positions == sorted(positions)
    assert ".worldrouter in the checkout" in " ".join(result.stdout.split())


def test_the_version_is_that_of_the_package(session: Session) -> None:
    """--version prints it."""
    assert CliRunner().invoke(cli, ["--version"], obj=session).stdout.startswith("cli, version 0.")


@pytest.mark.parametrize("arguments", [["nonsense"], ["keys", "create"], ["balance", "--nonsense"], ["topup"]])
def test_wrong_usage_is_exit_status_2(arguments: list[str], session: Session) -> None:
    """Unknown commands and options, and missing arguments, are wrong usage, said on standard error."""
    result = CliRunner().invoke(cli, arguments, obj=session)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: " in result.stderr
