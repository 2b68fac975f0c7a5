"""The program: finds the commands, runs one, and turns every error into a few lines and an exit code."""

from __future__ import annotations

import difflib
import functools
import logging
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, TypeVar

import click

import durable_flow as df
from durable_flow import cli
from durable_flow.cli import _render
from durable_flow.cli._mistake import Mistake, mistake_of

Function = TypeVar("Function", bound=Callable[..., int])

INTERRUPTED = 130
BROKEN_PIPE = 141

SECTIONS = ("Run", "Look", "Answer and repair", "Definitions", "Store")
"""How the commands are grouped in the help."""


class ReaderGone(Exception):
    """Nobody reads standard output any more."""


class OneCommand(click.Command):
    """A command that knows its section of the help."""

    section: str = SECTIONS[0]


class AllCommands(click.Group):
    """Every module of this package whose name does not begin with an underscore is a command (with hyphens for other
    underscores); it is imported when it is used."""

    def list_commands(self, context: click.Context) -> list[str]:
        names = [module.name for module in pkgutil.iter_modules(cli.__path__) if not module.name.startswith("_")]
        return sorted(name.replace("_", "-") for name in names)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(context):
            return None
        found: click.Command = import_module(f"{cli.__name__}.{name.replace('-', '_')}").command
        return found

    def resolve_command(
        self, context: click.Context, arguments: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = arguments[0]
        if not name.startswith("-") and name not in self.list_commands(context):
            near = difflib.get_close_matches(name, self.list_commands(context), n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"'{context.command_path} --help' lists them"
            raise Mistake(f"there is no command {name!r}", hint=hint)
        return super().resolve_command(context, arguments)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        commands = [(name, self.get_command(context, name)) for name in self.list_commands(context)]
        for section in SECTIONS:
            rows = [
                (name, command.get_short_help_str(limit=90))
                for name, command in commands
                if isinstance(command, OneCommand) and command.section == section
            ]
            if rows:
                with formatter.section(section):
                    formatter.write_dl(rows)


@click.group(
    cls=AllCommands,
    invoke_without_command=True,
    epilog="Exit codes: 0 completed, 1 failed or cancelled, 2 could not be done, 3 waits for an answer.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(df.__version__, message="durable-flow %(version)s")
@click.pass_context
def program(context: click.Context) -> None:
    """Durable workflows: run a YAML document, answer what it waits for, see what it did."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def command(
    section: str,
    *,
    example: str | None = None,
    json_help: str = "One JSON document on standard output, nothing else.",
) -> Callable[[Function], OneCommand]:
    """Makes a function that gives an exit code a command, named like its file. Every command takes --json and --debug.

    The function gets `as_json`; --debug is the business of `start`.
    """

    def decorate(function: Function) -> OneCommand:
        @click.option("--json", "as_json", is_flag=True, help=json_help)
        @click.option("--debug", is_flag=True, help="Log everything, and show tracebacks.")
        @functools.wraps(function)
        def run(*, debug: bool, **options: Any) -> int:
            try:
                return function(**options)
            except BrokenPipeError:
                raise ReaderGone from None  # click would make an exit code of it
            except df.DurableFlowError as error:
                raise mistake_of(error, click.get_current_context()) from error

        name = function.__module__.rpartition(".")[2].replace("_", "-")
        made: OneCommand = click.command(name, cls=OneCommand, epilog=example and f"Example: {example}")(run)
        made.section = section
        # What is special about a command comes before what all of them take.
        made.params.sort(key=lambda parameter: parameter.name in ("as_json", "debug"))
        return made

    return decorate


def start(arguments: Sequence[str]) -> int:
    """Runs the command and gives the exit code. What is wrong is told on standard error, with --json also as the
    document on standard output."""
    _render.every_stream_can_show_it()
    as_json, debug = "--json" in arguments, "--debug" in arguments
    as_module = sys.argv[0].endswith(os.path.join("durable_flow", "__main__.py"))
    name = "python -m durable_flow" if as_module else "durable-flow"
    log, logger = _render.LogLines(), logging.getLogger("durable_flow")
    level = logger.level
    logger.addHandler(log)
    if debug:
        logger.setLevel(logging.DEBUG)
    try:
        code = program.main(list(arguments), prog_name=name, standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (BrokenPipeError, ReaderGone):
        # Nobody reads any more; the interpreter must not find that out once again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (KeyboardInterrupt, click.Abort):
        _render.failure("interrupted")
        return INTERRUPTED
    except click.ClickException as error:
        mistake = error if isinstance(error, Mistake) else _usage(error, name)
    except Exception as error:
        mistake = Mistake(
            f"{type(error).__name__}: {error}",
            hint="this is a bug in durable-flow" + ("" if debug else "; --debug shows where"),
            kind="InternalError",
        )
        mistake.__cause__ = error
    finally:
        logger.removeHandler(log)
        logger.setLevel(level)
    if debug:
        sys.stderr.write("".join(traceback.format_exception(mistake)))
    _render.failure(mistake.message, details=mistake.details, hint=mistake.hint)
    if as_json:
        _render.document({"error": mistake.document()})
    return mistake.exit_code


def _usage(error: click.ClickException, program_name: str) -> Mistake:
    context = getattr(error, "ctx", None)
    path = program_name if context is None else context.command_path
    return Mistake(error.format_message().rstrip("."), hint=f"'{path} --help' explains it", kind="UsageError")
