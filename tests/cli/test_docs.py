"""The page about the command line leaves nothing out."""

import re
from pathlib import Path

import click
import pytest

from durable_flow.cli._program import OneCommand, program

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
COMMANDS = program.list_commands(click.Context(program))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_table(name: str) -> None:
    assert re.search(rf"^\|.*`{name}( [^`]*)?`.*\|", PAGE, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_does_and_how_it_is_used(name: str) -> None:
    command = program.get_command(click.Context(program), name)
    assert isinstance(command, OneCommand)
    assert command.help
    assert command.epilog is not None
    assert command.epilog.startswith(f"Example: durable-flow {name}")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts}"


def test_one_file_is_one_command() -> None:
    folder = Path(program.get_command.__globals__["cli"].__path__[0])
    files = {file.stem.replace("_", "-") for file in folder.glob("*.py") if not file.stem.startswith("_")}
    assert files == set(COMMANDS)
