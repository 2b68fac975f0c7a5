"""The options that several commands share, and the kinds of values they take."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

import durable_flow as df
from durable_flow.cli._codec import NOTED

Function = TypeVar("Function", bound=Callable[..., Any])


class Kind(click.ParamType):  # type: ignore[type-arg]  # only newer releases of click have an argument here
    """A kind of value. `fail` is told what is wrong and ends the command."""


class Json(Kind):
    """JSON: as it is written, `@file`, or `-` for standard input. `lenient`: what is not JSON is text."""

    name = "json"

    def __init__(self, *, mapping: bool = False, lenient: bool = False) -> None:
        self.mapping = mapping
        self.lenient = lenient

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        text, where = self._text(value)
        try:
            found = json.loads(text, parse_constant=_no_number)
        except RecursionError:
            self.fail(f"{where} is nested too deeply")
        except ValueError as error:
            if self.lenient:
                return value
            self.fail(f"{where} is not JSON: {error}{_quoting(value)}")
        if self.mapping and not isinstance(found, dict):
            self.fail(f'{where} must be a JSON object such as {{"name": "Ada"}}, not {_kind(found)}')
        return found

    def _text(self, value: str) -> tuple[str, str]:
        where = "standard input" if value == "-" else value[1:]
        try:
            if value == "-":
                return sys.stdin.read(), where
            if not value.startswith("@"):
                return value, "the value"
            return Path(where).read_text("utf-8"), where
        except UnicodeDecodeError:
            self.fail(f"{where} is not UTF-8 text")
        except (OSError, ValueError) as error:
            self.fail(f"{where!r} cannot be read: {getattr(error, 'strerror', None) or error}")


def _quoting(value: str) -> str:
    """What to try instead, where somebody forgot that text needs quotes, or that a shell takes them away."""
    if re.fullmatch(r"[\w .,!?@-]+", value) and not value.startswith(("@", "-")):
        return f". Text needs quotes: '{json.dumps(value)}'"
    return ""


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number JSON has")


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "text"
    return "a list"


class Duration(Kind):
    """A length of time such as `90s`, `15m`, `2h`, `30d` or `1h30m`. A number alone is seconds, unless it has to be
    `with_unit`: where seconds are hardly ever meant."""

    name = "duration"

    def __init__(self, *, allow_zero: bool = False, with_unit: bool = False) -> None:
        self.allow_zero = allow_zero
        self.with_unit = with_unit

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        if self.with_unit and re.fullmatch(r"[\d.]+", str(value)):
            self.fail(f"{value!r} has no unit: write for example {value}d, or {value}s for seconds")
        found = duration(str(value), allow_zero=self.allow_zero)
        if found is None:
            self.fail(f"{value!r} is not a duration: write for example 90s, 15m, 2h, 30d or 1h30m")
        return found


def duration(text: str, *, allow_zero: bool = False) -> timedelta | None:
    """The duration that is written, or None.

    >>> duration("1h30m"), duration("soon")
    (datetime.timedelta(seconds=5400), None)
    """
    try:
        return timedelta(seconds=df.parse_duration(text, allow_zero=allow_zero))
    except ValueError:
        return None


class Moment(Kind):
    """A time: `2026-03-01`, `2026-03-01T12:00`, with or without a zone (local time), or a duration: so long ago."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> datetime:
        if isinstance(value, datetime):
            return value
        ago = duration(str(value))
        try:
            if ago is not None:
                return datetime.fromtimestamp(df.SystemClock().now(), UTC) - ago
            return datetime.fromisoformat(str(value)).astimezone()
        except (ValueError, OverflowError, OSError):
            self.fail(
                f"{value!r} is not a time: write for example 2026-03-01, 2026-03-01T12:00Z, or 2h for two hours ago"
            )


class Label(Kind):
    """`NAME=VALUE`."""

    name = "name=value"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        name, separator, text = str(value).partition("=")
        if not separator or not name:
            self.fail(f"{value!r} is not a label: write NAME=VALUE")
        return name, text


class Assignment(Kind):
    """`NAME=JSON`, with the same forms of JSON."""

    name = "name=json"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        name, separator, text = str(value).partition("=")
        if not separator or not name:
            self.fail(f"{value!r} sets nothing: write NAME=JSON")
        return name, Json().convert(text, param, context)


class Queues(Kind):
    """Names of queues with commas between them; `-` stands for executions without one."""

    name = "queues"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[str | None, ...]:
        if isinstance(value, tuple):
            return value
        names = [name.strip() for name in str(value).split(",")]
        if not all(names):
            self.fail(
                f"{value!r} are no names of queues: write for example mail,print, or - for executions without one"
            )
        return tuple(None if name == "-" else name for name in names)


class QueueNumber(Kind):
    """A queue and a number for it, as in ``mail=5``."""

    name = "queue number"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        name, _, number = str(value).rpartition("=")
        if not name or not number.isdecimal() or int(number) < 1:
            self.fail(f"{value!r} is no queue with a number from 1: write for example mail=5")
        return name, int(number)


DEFAULT_STORE = "sqlite:///durable_flow.db"


url_option = click.option(
    "--store",
    envvar="DURABLE_FLOW_STORE",
    default=DEFAULT_STORE,
    show_default=True,
    show_envvar=True,
    metavar="URL",
    help="Where executions are kept.",
)


def store_option(function: Function) -> Function:
    """--store, and --codec, which `codec_here` reads."""
    for option in (
        click.option(
            "--codec",
            envvar="DURABLE_FLOW_CODEC",
            show_envvar=True,
            metavar="MODULE[:NAME]",
            expose_value=False,
            callback=_note_codec,
            help="Where the codec of an encrypted store comes from: a module or a .py file, and a name in it.",
        ),
        url_option,
    ):
        function = option(function)
    return function


def _note_codec(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    context.meta[NOTED] = value


def places_options(*, services: str, gates: str) -> Callable[[Function], Function]:
    """--workflows, --services and --gates: where these come from. What the last two are for is said in their helps."""

    def add(function: Function) -> Function:
        for name, metavar, text in (
            ("gates", "MODULE[:NAME]", gates),
            ("services", "MODULE[:NAME]", services),
            ("workflows", "PATH", "A file or folder with workflows that `workflow` steps start. May be repeated."),
        ):
            function = click.option(
                f"--{name}",
                multiple=True,
                type=click.Path(path_type=Path) if name == "workflows" else None,
                envvar=f"DURABLE_FLOW_{name.upper()}",
                show_envvar=True,
                metavar=metavar,
                help=text,
            )(function)
        return function

    return add


execution_argument = click.argument("execution_id", metavar="ID")


leave_option = click.option(
    "--leave", is_flag=True, help="Leave it to workers to drive it on: it needs no services here."
)


def filter_options(function: Function) -> Function:
    """Which executions are meant: --workflow, --status, --label, --since and --before."""
    for option in (
        click.option("--before", type=Moment(), help="Only those created before this time, or longer ago."),
        click.option("--since", type=Moment(), help="Only those created after this time, or so long ago: 2h, 3d."),
        click.option(
            "--label", "labels", type=Label(), multiple=True, help="Only executions with this label. May be repeated."
        ),
        click.option(
            "--status",
            "statuses",
            multiple=True,
            type=click.Choice([str(status) for status in df.Status]),
            help="Only executions with this status. May be repeated.",
        ),
        click.option("--workflow", "workflow_id", metavar="ID", help="Only executions of this workflow."),
    ):
        function = option(function)
    return function


def wait_options(function: Function) -> Function:
    """--step and --wait-id: which wait is meant, where several are open."""
    for option in (
        click.option("--wait-id", metavar="ID", help="The wait to answer, by its id."),
        click.option("--step", metavar="STEP", help="The wait to answer, by its step, branch or path."),
    ):
        function = option(function)
    return function


def definition_files(paths: tuple[Path, ...]) -> list[Path]:
    """The files, and the *.yml and *.yaml of the folders. Raises click.BadParameter for what is not there."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for pattern in ("*.yml", "*.yaml") for file in path.glob(pattern))
            if not inside:
                raise click.BadParameter(f"there is no *.yml or *.yaml file in the folder {path}")
            found += inside
        else:
            found.append(definition_file(path))
    return found


def definition_file(path: Path) -> Path:
    """The path, if there is a file. Raises click.BadParameter."""
    if path.is_dir():
        raise click.BadParameter(f"{path} is a folder; name the file in it")
    if not path.exists():
        raise click.BadParameter(f"there is no file {path}")
    return path
