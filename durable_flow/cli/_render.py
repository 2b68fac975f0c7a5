"""What people see: the only place with tables and colours.

Results go to standard output; progress, warnings and what went wrong to standard error. Colours and the redrawn part of
the screen are for terminals (`NO_COLOR` is heeded); a pipe gets plain lines that are never cut.
"""

from __future__ import annotations

import codecs
import io
import json
import logging
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

import durable_flow as df
from durable_flow.cli._hints import BY_TIME
from durable_flow.cli._steps import Node

if TYPE_CHECKING:  # nobody else needs it
    from durable_flow.cli._rehearsal import Rehearsed
    from durable_flow.testing import SimulationReport

UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""What data must not do to a terminal: move the cursor, ring, change the direction of text."""

MARKS = {
    "completed": ("✔", "green"),
    "compensated": ("↶", "yellow"),
    "failed": ("✖", "red"),
    "cancelled": ("■", "yellow"),
    "skipped": ("↷", "yellow"),
    "retried": ("↻", "yellow"),
    "waiting": ("⏸", "magenta"),
    "halted": ("⏸", "magenta"),
    "running": ("▶", "cyan"),
    "pending": ("·", "cyan"),
    "stopped": ("▷", "yellow"),
}
"""The sign and the colour of a state."""

SIMPLER = str.maketrans("✔✖■↶↷↻⏸▶·▷•→…├└│─", "vx#<>~=>.->>.|`|-")
"""What stands for these where the encoding of a stream has no such characters."""

TOLD = {
    "timer": set(),
    "signal": {"name"},
    "gate": {"resolver"},
    "retry": {"attempt", "error"},
    "error": {"error"},
    "uncertain": {"attempt"},
}
"""Types of waits that are no questions, and the data that `asked_for` makes a line of."""

DEADLINES = {"retry": "tried again", "gate": "asked again"}
"""What happens at the deadline of a wait, where it is not its end."""

WIDE = 10_000_000
"""Columns of what is not a terminal: nothing is ever folded or cut."""

SHOWN_TEXT = 1_000
"""Characters of a value that a terminal shows."""

SHOWN_RUNNING = 8
"""Running steps that are listed one by one while a workflow runs."""


def _console(*, stderr: bool = False) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDE
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False, stderr=False)


def is_live() -> bool:
    """Whether progress may be redrawn: standard error is a terminal that can move its cursor."""
    return sys.stderr.isatty() and not _console(stderr=True).is_dumb_terminal


def _show(console: Console, shown: RenderableType) -> None:
    """Something that fills lines. What is not a terminal gets no blanks at their ends."""
    if console.is_terminal:
        console.print(shown)
        return
    with console.capture() as captured:
        console.print(shown)
    console.file.write("".join(f"{text.rstrip()}\n" for text in captured.get().splitlines()))


def plain(value: object) -> str:
    r"""Text that is safe to show: what could steer the terminal is written as its escape.

    >>> plain("\x1b[2Jgone")
    '\\x1b[2Jgone'
    """
    return UNSAFE.sub(lambda found: ascii(found[0])[1:-1], str(value))


def simpler(error: UnicodeError) -> tuple[str, int]:
    """An error handler of codecs: our own signs become ASCII, any other character its escape."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(SIMPLER)
    return text.encode("ascii", "backslashreplace").decode(), error.end


def every_stream_can_show_it() -> None:
    """No text whatever makes standard output or standard error raise: not for its encoding, either."""
    codecs.register_error("durable_flow.simpler", simpler)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="durable_flow.simpler")


def _colour(state: str) -> str:
    return MARKS.get(state, ("", ""))[1]


def _mark(state: str) -> Text:
    return Text(MARKS.get(state, ("•", ""))[0], style=_colour(state))


def _state(state: str) -> Text:
    return Text(state, style=_colour(state))


# -- documents and errors ----------------------------------------------------------------------------------------------


def document(value: object) -> None:
    """A JSON document on standard output."""
    sys.stdout.write(pretty(value) + "\n")


def pretty(value: object) -> str:
    """Indented JSON."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _compact(value: object) -> str:
    """JSON on one line."""
    return json.dumps(value, ensure_ascii=False)


def line(text: str, *, indent: int = 0) -> None:
    """A line on standard output."""
    _console().print(Text(" " * indent + plain(text)), soft_wrap=True)


def failure(message: str, *, details: Sequence[str] = (), hint: str | None = None, command: str | None = None) -> None:
    """What went wrong, and what to do, on standard error."""
    console = _console(stderr=True)
    _show(console, Text.assemble(("error: ", "bold red"), plain(message)))
    for detail in details:
        _show(console, Padding(plain(detail), (0, 0, 0, 2), expand=False))
    if hint:
        _show(console, Padding(Text(plain(hint), style="dim"), (0, 0, 0, 2), expand=False))
    if command:
        _command(console, command)


def note(text: str) -> None:
    """Something to know, on standard error."""
    _console(stderr=True).print(Text(plain(text), style="dim"), soft_wrap=True)


class LogLines(logging.Handler):
    """The library's log on standard error: one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        colour = "yellow" if record.levelno >= logging.WARNING else "dim"
        text = Text.assemble((f"{record.levelname.lower()}: ", colour), plain(record.getMessage()))
        try:
            _console(stderr=True).print(text, soft_wrap=True)
        except Exception:
            self.handleError(record)


# -- times -------------------------------------------------------------------------------------------------------------


def span(seconds: float) -> str:
    """A length of time for people.

    >>> [span(seconds) for seconds in (0.0042, 1.25, 75, 7_300, 200_000)]
    ['4 ms', '1.2 s', '1 min 15 s', '2 h 1 min', '2 d 7 h']
    """
    if seconds < 0.9995:
        return f"{max(0, round(seconds * 1000))} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    whole = round(seconds)
    for unit, size, lower, factor in (("min", 60, "s", 1), ("h", 3_600, "min", 60)):
        if whole < size * (60 if unit == "min" else 24):
            rest = whole % size // factor
            return f"{whole // size} {unit}" + (f" {rest} {lower}" if rest else "")
    days, rest = divmod(whole // 3_600, 24)
    return f"{days} d" + (f" {rest} h" if rest and days < 10 else "")


def _local(time: datetime) -> str:
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def _now() -> float:
    return df.SystemClock().now()


def _ago(time: datetime) -> str:
    seconds = _now() - time.timestamp()
    if abs(seconds) < 1:
        return "now"
    return f"{span(int(seconds))} ago" if seconds > 0 else f"in {span(int(-seconds))}"


# -- what became of an execution ---------------------------------------------------------------------------------------


def rehearsal(
    steps: Sequence[Rehearsed], *, workflow_id: str, result: df.ExecutionResult, next_commands: Sequence[str]
) -> None:
    """A dry run: each step with what it would have done, and where it ended."""
    console = _console()
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold", max_width=console.width // 3 if console.is_terminal else None)
    grid.add_column(overflow="fold")
    for step in steps:
        path = step.path if step.execution_id == result.execution_id else f"{step.workflow_id} ▸ {step.path}"
        grid.add_row(
            _mark(step.state), Text(plain(path)), _rehearsed(step, told=result.error, short=console.is_terminal)
        )
    _show(console, grid)
    state = str(result.status)
    head = Text.assemble(_mark(state), " ", _state(state), f"  {plain(workflow_id)}  ", ("dry run", "magenta"))
    console.print(head, soft_wrap=True)
    if result.completed and result.output is not None:
        value(result.output)
    if result.error_info is not None:
        _error(console, result.error_info)
    for command in next_commands:
        _command(console, command)


def _rehearsed(step: Rehearsed, *, told: str | None, short: bool) -> Text:
    """What a step did not do, and what it got. An error that is `told` already is left out."""

    def cut(found: Any) -> str:
        text = plain(_compact(found))
        return f"{text[:SHOWN_TEXT]}…" if short and len(text) > SHOWN_TEXT else text

    shown = Text(plain(step.would), style="bold") if step.would else Text(step.step_type, style="dim")
    if step.input is not None:
        shown.append(f" {cut(step.input)}", "not bold")
    if step.route is not None:
        shown.append(" takes the default" if step.route == "default" else f" takes routes[{step.route}]", "not dim")
    if step.error is not None and step.error == told:
        pass  # it is told below
    elif step.error is not None:
        shown.append(f"\n{plain(step.error)}", "not bold red")
    elif step.fixture is not None or step.made_up:
        shown.append(f"\n= {cut(step.output)}", "not bold yellow" if step.made_up else "not bold")
        shown.append(f"  fixture {plain(step.fixture)}" if step.fixture is not None else "  no fixture", "not bold dim")
    return shown


class Asked(msgspec.Struct, frozen=True):
    """A wait, and the commands that answer it."""

    halt: df.Halt
    commands: Sequence[str]


def outcome(
    result: df.ExecutionResult,
    *,
    workflow_id: str,
    seconds: float,
    asked: Sequence[Asked],
    next_commands: Sequence[str],
) -> None:
    """How a run, an answer, a retry left the execution."""
    console = _console()
    state = str(result.status)
    head = Text.assemble(
        _mark(state),
        " ",
        _state("waiting" if result.halted else state),
        f"  {plain(workflow_id)}  ",
        plain(result.execution_id),
        (f"  {span(seconds)}", "dim"),
        ("  dry run" if result.dry_run else "", "magenta"),
    )
    console.print(head, soft_wrap=True)
    if result.completed and result.output is not None:
        value(result.output)
    for one in asked:
        wait(one)
    if result.error_info is not None:
        _error(console, result.error_info)
    for command in next_commands:
        _command(console, command)


def value(found: Any) -> None:
    """A value by itself: text as it is, all else as JSON."""
    _console().print(Text(plain(found if isinstance(found, str) else pretty(found))), soft_wrap=True)


def wait(asked: Asked) -> None:
    """What is waited for, and how it is answered."""
    console, halt = _console(), asked.halt
    data = halt.data if isinstance(halt.data, Mapping) else {"data": halt.data}
    told = {"type", "prompt", "reason", "timeout", "requested_at"}
    prompt = halt.prompt or ""
    if halt.prompt is None and halt.type in TOLD:
        prompt = asked_for(data)
        told |= TOLD[halt.type]
    console.print(Text.assemble((plain(halt.type), "bold"), f"  {plain(prompt)}" if prompt else ""))
    facts: list[tuple[str, Any]] = [("step", halt.path)] if halt.path else []
    if halt.deadline is not None:
        facts.append((DEADLINES.get(halt.type, "until"), f"{_local(halt.deadline)} ({_ago(halt.deadline)})"))
    facts += [(str(name), item) for name, item in data.items() if name not in told and item is not None]
    _facts(console, [(name, item) for name, item in facts if (name, item) != ("required", 1)])
    for command in asked.commands:
        _command(console, command)


def asked_for(data: Mapping[str, Any]) -> str:
    """What a wait that is no question waits for, from its data.

    >>> asked_for({"type": "retry", "attempt": 3, "error": "OSError: no line"})
    'attempt 3, after OSError: no line'
    """
    match data:
        case {"type": "signal", "name": name}:
            return str(name)
        case {"type": "gate", "resolver": resolver}:
            return str(resolver)
        case {"type": "retry", "attempt": attempt, "error": error}:
            return f"attempt {attempt}, after {error}"
        case {"type": "error", "error": {"type": kind, "message": message}}:
            return f"{kind}: {message}" if message else str(kind)
        case {"type": "uncertain"}:
            return "a process died in this step: find out whether it happened"
    return ""


def _error(console: Console, error: df.ErrorInfo) -> None:
    _show(console, Padding(Text(plain(error.text), style="red"), (0, 0, 0, 2), expand=False))
    tries = f", after {error.attempts} attempts" if error.attempts > 1 else ""
    console.print(Text(f"  at {plain(error.path) or 'the workflow itself'}{tries}"), soft_wrap=True)


def _command(console: Console, command: str) -> None:
    console.print(Text.assemble("  → ", (plain(command), "bold")), soft_wrap=True)


def _facts(console: Console, facts: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one below the other; what is not text is compact JSON, folded at the edge of a terminal."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, found in facts:
        if isinstance(found, Text):
            shown = found
        elif isinstance(found, list) and found and all(isinstance(item, str) for item in found):
            shown = Text(plain(", ".join(found)))
        else:
            text = plain(found if isinstance(found, str) else _compact(found))
            if console.is_terminal and len(text) > SHOWN_TEXT:
                text = f"{text[:SHOWN_TEXT]}… ({len(text):,} characters; --json shows them)"
            shown = Text(text)
        grid.add_row("  " + plain(name), shown)
    _show(console, grid)


def reasons(
    whys: Sequence[df.Why],
    answers: Mapping[str, Sequence[str]],
    *,
    types: Mapping[str, str],
    otherwise: Sequence[str],
) -> None:
    """What an execution waits for. `types` are those of its waits, by wait id."""
    console = _console()
    for why in whys:
        console.print(Text.assemble(_mark(str(why.status)), " ", plain(why.reason)))
        facts: list[tuple[str, Any]] = []
        if why.path:
            facts.append(("step", why.path))
        if why.since is not None:
            facts.append(("since", f"{_local(why.since)} ({_ago(why.since)})"))
        if why.deadline is not None:
            name = DEADLINES.get(types.get(why.wait_id or "", ""), "until")
            facts.append((name, f"{_local(why.deadline)} ({_ago(why.deadline)})"))
        commands = answers.get(why.wait_id or "", otherwise)
        if not commands or types.get(why.wait_id or "") in BY_TIME:
            facts.append(("to go on", why.unblock))
        _facts(console, facts)
        for command in commands:
            _command(console, command)


# -- places and comparisons -------------------------------------------------------------------------------------------


def places(found: Sequence[df.Where], *, status: str) -> None:
    """Where an execution stands, and what became of the items of the loops around it."""
    console = _console()
    if not found:
        note(f"it is {status} and stands nowhere")
    loops: dict[tuple[str, str], Sequence[df.Iteration]] = {}
    for place in found:
        head = Text.assemble(_mark(place.state), " ", plain(place.path), f"  {plain(place.step_type)}  ")
        head.append(place.state, _colour(place.state))
        if place.attempt > 1:
            head.append(f", attempt {place.attempt}")
        console.print(head, soft_wrap=True)
        if len(place.chain) > 1:
            steps = [f"{link.execution_id}: {link.path}" if link.path else link.execution_id for link in place.chain]
            _facts(console, [("in", " → ".join(steps))])
        if place.loop is not None:
            loops[place.execution_id, place.loop] = place.items
    for (_, loop), items in loops.items():
        counts: dict[str, int] = {}
        for item in items:
            counts[item.state] = counts.get(item.state, 0) + 1
        told = ", ".join(f"{count:,} {state}" for state, count in counts.items())
        console.print(Text.assemble((plain(loop), "bold"), f"  {told}"), soft_wrap=True)
        _facts(console, [(f"[{item.index}]", f"{item.state}: {item.error}") for item in items if item.error])


DIFFERENCES = {"same": ("=", "dim"), "changed": ("~", "yellow"), "only_a": ("-", "red"), "only_b": ("+", "green")}
"""The sign and the colour of what became of a step in one of two executions, beside the other."""


def differences(found: Sequence[df.Difference], *, a: str, b: str) -> None:
    """Two executions step by step."""
    console = _console()
    counts = {state: sum(one.state == state for one in found) for state in DIFFERENCES}
    names = {"only_a": f"only in {a}", "only_b": f"only in {b}"}
    told = ", ".join(f"{count:,} {plain(names.get(state, state))}" for state, count in counts.items() if count)
    console.print(Text(told or "neither did anything"), soft_wrap=True)
    for one in found:
        sign, colour = DIFFERENCES[one.state]
        what = ", ".join(one.changed)
        if one.state == "changed" and one.a is not None and one.b is not None and not what:
            what = f"{one.a.state} and {one.b.state}"
        text = Text.assemble("  ", (sign, colour), f" {plain(one.path)}  ", (plain(one.step_type), "dim"), f"  {what}")
        text.rstrip()
        console.print(text, soft_wrap=True)
        if one.a is None or one.b is None:
            continue
        _facts(
            console,
            [
                (f"  {sign} {name}", value)
                for name in ("input", "output", "error", "attempts")
                if name in one.changed
                for sign, value in (("-", getattr(one.a, name)), ("+", getattr(one.b, name)))
            ],
        )


VERDICTS = {"safe": "completed", "current": "completed", "needs_mapping": "waiting", "must_finish": "failed"}
"""The state whose sign and colour a verdict has."""


def migrations(found: Sequence[tuple[df.Migration, str]], *, others: int) -> None:
    """What becomes of executions when their workflow has another definition: verdicts, each with what was done."""
    console = _console()
    for verdict, done in found:
        mark = _mark(VERDICTS.get(verdict.verdict, ""))
        console.print(Text.assemble(mark, f" {plain(verdict.execution_id)}  ", plain(done)), soft_wrap=True)
        facts: list[tuple[str, Any]] = [("why", reason) for reason in verdict.reasons]
        facts += [("try", f"--map {old}={new}") for old, new in verdict.mapping.items()]
        _facts(console, facts)
    if not found:
        note("no execution has the old definition")
    if others:
        note(f"{others:,} live execution{'s have' if others > 1 else ' has'} neither of the two definitions")


# -- listings ----------------------------------------------------------------------------------------------------------


def executions(found: Sequence[df.Execution], *, more: str | None) -> None:
    """A table of executions."""
    console = _console()
    if not found:
        note("no executions")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column("ID", overflow="fold", min_width=min(36, max(len(one.id) for one in found)))
    table.add_column("STATUS", no_wrap=True)
    table.add_column("STARTED", no_wrap=True)
    table.add_column("WORKFLOW", overflow="ellipsis", no_wrap=True, max_width=30 if console.is_terminal else None)
    table.add_column("AT", overflow="ellipsis", no_wrap=True)
    for one in found:
        at = one.current_step or ""
        if one.blocked_on:
            at = ", ".join(_awaited(wait) for wait in one.blocked_on)
        elif one.error_info is not None:
            at = f"{one.error_info.path}: {one.error_info.text}" if one.error_info.path else one.error_info.text
        elif one.error is not None:
            at = one.error
        elif one.status is df.Status.COMPLETED:
            at = ""
        table.add_row(
            Text(plain(one.id)),
            Text.assemble(_state(str(one.status)), (" (dry)" if one.dry_run else "", "dim")),
            "" if one.created_at is None else _ago(one.created_at),
            Text(plain(one.workflow_id)),
            Text(plain(at.replace("\n", " "))),
        )
    _show(console, table)
    if more is not None:
        note(f"there are more: {more}")


def _awaited(wait: Any) -> str:
    """The place of a wait, with its type where that is not what people answer."""
    kind = wait.__struct_config__.tag
    if kind == "pause":
        return "paused"
    return f"{wait.path} ({kind})" if kind in TOLD else str(wait.path)


def execution(
    one: df.Execution,
    *,
    name: str,
    nodes: Sequence[Node],
    children: Sequence[df.Execution],
    waits_for: str | None,
    variables: bool,
    all_steps: bool,
) -> None:
    """One execution: its facts, and its steps as a tree."""
    console = _console()
    state = Text.assemble(_mark(str(one.status)), " ", _state(str(one.status)))
    begun, ended = one.started_at or one.created_at, one.finished_at
    facts: list[tuple[str, Any]] = [
        ("status", state),
        ("workflow", f"{name} ({one.workflow_id} {one.workflow_version})"),
    ]
    if one.closing is not None:
        facts.append(("ends", Text.assemble(_state(str(one.closing)), ", when what comes after that is done")))
    if one.compensated and one.closing is None:
        facts.append(("undone", "what its steps did was undone"))
    if begun is not None:
        took = f", took {span((ended - begun).total_seconds())}" if ended is not None else ""
        facts.append(("started", f"{_local(begun)} ({_ago(begun)}){took}"))
    if one.dry_run:
        facts.append(("dry run", "nothing of it was done outside"))
    if waits_for is not None:
        facts.append(("waits for", plain(waits_for)))
    if one.wake_at is not None and one.status is df.Status.PENDING:
        facts.append(("begins", _local(one.wake_at)))
    if one.concurrency_key is not None:
        facts.append(("key", plain(one.concurrency_key)))
    if one.labels:
        facts.append(("labels", " ".join(f"{name}={text}" for name, text in one.labels.items())))
    if one.parent_id is not None:
        facts.append(("parent", one.parent_id))
    if one.forked_from is not None:
        facts.append(("forked from", one.forked_from))
    if one.traceparent is not None:
        facts.append(("trace", one.traceparent))
    if one.recoveries:
        facts.append(("recoveries", str(one.recoveries)))
    if one.owner is not None and not one.status.over and one.lease_until is not None:
        left = one.lease_until.timestamp() - _now()
        facts.append(("driven by", f"{one.owner} (lease {'runs out in ' + span(left) if left > 0 else 'has run out'})"))
    elif one.status is df.Status.RUNNING:
        facts.append(("driven by", "nobody: 'recover' goes on with it"))
    for wait in one.blocked_on:
        if wait.__struct_config__.tag == "pause":
            told: Mapping[str, Any] = getattr(wait, "data", {})
            who = f"by {told['by']}, " if told.get("by") else ""
            why = f": {told['reason']}" if told.get("reason") else ""
            facts.append(("paused", f"{who}{_local(wait.since)} ({_ago(wait.since)}){why}"))
    facts.append(("input", one.input))
    if one.result is not None:
        facts.append(("result", one.result))
    if one.error is not None:
        facts.append(("error", Text(plain(one.error), style="red")))
    console.print(Text(plain(one.id), style="bold"), soft_wrap=True)
    _facts(console, facts)
    if nodes:
        console.print()
        _tree(console, nodes, all_steps=all_steps)
    if children:
        console.print()
        console.print(Text("child executions", style="dim"))
        for child in children:
            row = Text.assemble("  ", _mark(str(child.status)), " ", plain(child.id), "  ", _state(str(child.status)))
            console.print(row, soft_wrap=True)
    if variables:
        console.print()
        console.print(Text("variables", style="dim"))
        _facts(console, one.ctx.items())


class _Row(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the tree: what is drawn before it and before the line below, and the columns."""

    lead: str
    below: str
    state: str = ""
    name: str
    type: str = ""
    time: str = ""
    said: str = ""
    error: str = ""


def _tree(console: Console, nodes: Sequence[Node], *, all_steps: bool) -> None:
    rows = list(_rows(nodes, "  ", all_steps))
    width = max(cell_len(row.lead) + cell_len(row.name) for row in rows if row.state) + 2
    if console.is_terminal:
        width = min(width, max(26, console.width - 44))
    type_width = max(len(row.type) for row in rows)
    time_width = max(len(row.time) for row in rows)
    for row in rows:
        name = Text(row.lead, style="dim")
        if row.state:
            name.append_text(_mark(row.state)).append(" ")
        name.append(row.name)
        if row.state:
            name.truncate(width, overflow="ellipsis", pad=True)
        rest = Text(f"  {row.type:<{type_width}}  {row.time:>{time_width}}  ").append(row.said, _colour(row.state))
        whole = name + rest
        whole.rstrip()
        console.print(whole, soft_wrap=True)
        if row.error:
            grid = Table.grid()
            grid.add_column(no_wrap=True, style="dim")
            grid.add_column(overflow="fold", style="red")
            grid.add_row(row.below, Text(plain(row.error)))
            _show(console, grid)


def _rows(nodes: Sequence[Node], lead: str, all_steps: bool, *, top: bool = True) -> Iterator[_Row]:
    shown, hidden = (list(nodes), 0) if all_steps else _worth_showing(nodes)
    for index, node in enumerate(shown):
        last = index == len(shown) - 1
        here = lead if top else lead + ("└─ " if last else "├─ ")
        below = lead if top else lead + ("   " if last else "│  ")
        if node is None:
            yield _Row(lead=here, below=below, name=f"… {hidden:,} more that completed (--all shows them)")
            continue
        told = any(child.error == node.error for child in node.children)
        yield _Row(
            lead=here,
            below=below + "  ",
            state=node.state,
            name=plain(node.name),
            type=plain(node.type),
            time=_took(node),
            said=_said(node),
            error="" if told else node.error or "",
        )
        yield from _rows(node.children, below, all_steps, top=False)


def _worth_showing(nodes: Sequence[Node]) -> tuple[list[Node | None], int]:
    """Of many nodes the first and last ones, and those that did not simply complete; None stands for the rest."""
    if len(nodes) <= 12:
        return list(nodes), 0
    keep = [index < 5 or index >= len(nodes) - 3 or node.state != "completed" for index, node in enumerate(nodes)]
    shown: list[Node | None] = []
    hidden = 0
    for node, kept in zip(nodes, keep, strict=True):
        if kept:
            shown.append(node)
        else:
            if not hidden:
                shown.append(None)
            hidden += 1
    return shown, hidden


def _took(node: Node) -> str:
    """How long it took, or takes so far."""
    if node.begun is None:
        return ""
    if node.ended is None:
        seconds = int(_now() - node.begun.timestamp())
        return span(seconds) if seconds > 0 else "0 s"
    if node.begun == node.ended and not node.children:
        return ""
    return span((node.ended - node.begun).total_seconds())


def _said(node: Node) -> str:
    words = [] if node.state in ("completed", "") else [node.state]
    if node.wait is not None and node.state == "waiting":
        words = [_waiting(node.wait)]
    if node.attempts > 1:
        words.append(f"{node.attempts} attempts")
    if node.actor:
        words.append(f"by {plain(node.actor)}")
    return ", ".join(words)


def _waiting(wait: Any) -> str:
    """For what a step waits, in a few words."""
    kind = wait.__struct_config__.tag
    until = "" if wait.deadline is None else f"{_local(wait.deadline)}"
    match kind:
        case "timer":
            return f"waiting until {until}"
        case "retry":
            return f"tried again {until}"
        case "gate":
            return f"waiting for the gate {plain(wait.resolver)}, asked again {until}"
        case "signal":
            said = f"waiting for the signal {plain(wait.name)}"
        case "error" | "uncertain":
            said = "waiting for a decision"
        case _:
            said = "waiting"
    return f"{said} until {until}" if until else said


def entries(found: Sequence[df.Entry]) -> None:
    """The audit trail as a table."""
    console = _console()
    rows = [
        (str(entry.seq), f"{entry.timestamp.astimezone():%H:%M:%S}", str(entry.action), plain(entry.path), _what(entry))
        for entry in found
    ]
    heads = ("SEQ", "TIME", "ACTION", "STEP", "WHAT")
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(4)]
    if console.is_terminal:
        widths[3] = min(widths[3], max(16, console.width // 3))
    for index, row in enumerate((heads, *rows)):
        text = Text(style="" if index else "dim")
        for column, (cell, width) in enumerate(zip(row, widths, strict=False)):
            part = Text(f"{cell:>{width}}" if column == 0 else cell)
            part.truncate(width, overflow="ellipsis", pad=True)
            text.append_text(part).append("  ")
        text.append(row[4])
        if console.is_terminal:
            text.truncate(console.width, overflow="ellipsis")
        text.rstrip()
        console.print(text, soft_wrap=True)


def _what(entry: df.Entry) -> str:
    if entry.error is not None:
        what = entry.error
    elif entry.changes:
        what = ", ".join(f"{name}={_compact(item)}" for name, item in entry.changes.items())
    elif entry.output is not None:
        what = _compact(entry.output)
    else:
        told = [(name, item) for name, item in entry.metadata.items() if name not in ("memo", "frame")]
        what = " ".join(f"{name}={item if isinstance(item, str) else _compact(item)}" for name, item in told)
    by = f"by {entry.actor}" if entry.actor else ""
    return plain(f"{by} {what}".strip().replace("\n", " "))


def definitions(found: Sequence[tuple[str, str | None, Sequence[str]]]) -> None:
    """What validation found: (file, what is good about it, problems)."""
    console = _console()
    for file, good, problems in found:
        if good is not None:
            console.print(
                Text.assemble(_mark("completed"), f" {plain(file)}", (f"  {plain(good)}", "dim")), soft_wrap=True
            )
        for problem in problems:
            console.print(Text.assemble(_mark("failed"), f" {plain(problem)}"), soft_wrap=True)


def schema(text: str, *, good: bool, commands: Sequence[str] = ()) -> None:
    """How the schema of a store stands."""
    console = _console()
    mark = _mark("completed" if good else "failed")
    console.print(Text.assemble(mark, f" {plain(text)}"), soft_wrap=True)
    for command in commands:
        _command(console, command)


def queues(found: Sequence[df.QueueState]) -> None:
    """Queues: what waits and what is under way in them, what limits them, and who paused them."""
    console = _console()
    if not found:
        console.print(Text("no queue is paused or limited, and nothing waits in one", style="dim"))
    for one in found:
        name = "executions without a queue" if one.queue is None else plain(one.queue)
        most = "" if one.limits.concurrency is None else f" of {one.limits.concurrency:,}"
        rate = "" if one.limits.rate is None else f"  at most {one.limits.rate:,} in {span(float(one.limits.per or 0))}"
        decided = "" if one.decided is None else "  decided, not as declared" if one.declared else "  decided"
        facts = f"  {one.pending:,} pending  {one.under_way:,}{most} under way{rate}{decided}"
        mark = _mark("running" if one.paused is None else "halted")
        console.print(Text.assemble(mark, " ", (name, "bold"), facts), soft_wrap=True)
        if one.paused is not None:
            by = f" by {plain(one.paused.by)}" if one.paused.by else ""
            since = f" since {_local(one.paused.since)} ({_ago(one.paused.since)})" if one.paused.since else ""
            why = f"  {plain(one.paused.reason)}" if one.paused.reason else ""
            console.print(Text(f"  paused{by}{since}{why}"), soft_wrap=True)


def schedules(found: Sequence[df.Schedule]) -> None:
    """The schedules, and when each ticks next."""
    console = _console()
    if not found:
        console.print(Text("no schedule is known: a worker makes those of its workflows known", style="dim"))
    for one in found:
        console.print(
            Text.assemble(_schedule_mark(one), " ", (plain(one.id), "bold"), f"  {_timing(one)}"), soft_wrap=True
        )


def schedule(one: df.Schedule) -> None:
    """One schedule, and what happened last."""
    console = _console()
    console.print(Text.assemble(_schedule_mark(one), " ", (plain(one.id), "bold")), soft_wrap=True)
    facts: list[tuple[str, Any]] = [
        ("about", one.description),
        ("ticks", _timing(one)),
        ("paused", " ".join(filter(None, (one.paused_by and f"by {one.paused_by}", one.paused_reason)))),
        ("next", ", ".join(_local(time) for time in one.next)),
        ("overlap", one.overlap),
        ("catch up", str(one.catch_up)),
        ("going on", ", ".join(one.active)),
        ("waiting", "" if one.waiting is None else _local(one.waiting)),
        ("requests", str(one.requests or "")),
        ("error", one.error),
    ]
    _facts(console, [(name, plain(fact)) for name, fact in facts if fact])
    for tick in one.recent:
        until = "" if tick.last is None else f" to {_local(tick.last)}"
        told = tick.error or tick.execution_id or ""
        mark = _mark("completed" if tick.outcome == "started" else "failed" if tick.error else "pending")
        console.print(
            Text.assemble(mark, f" {_local(tick.time)}{until}  {tick.outcome}  {plain(told)}"), soft_wrap=True
        )


def _schedule_mark(one: df.Schedule) -> Text:
    return _mark("failed" if one.error else "halted" if one.paused else "running")


def _timing(one: df.Schedule) -> str:
    if one.error:
        return plain(one.error)
    when = f"every {span(one.every)}" if one.every is not None else f"{plain(one.cron)} {plain(one.timezone)}"
    if one.paused:
        return f"{when}  paused{f' by {plain(one.paused_by)}' if one.paused_by else ''}"
    return f"{when}  next {_local(one.next[0])}" if one.next else f"{when}  is over"


# -- a simulation ------------------------------------------------------------------------------------------------------


class Tally:
    """How far a simulation is. This one shows nothing."""

    def count(self, played: int, total: int, differing: int) -> None: ...

    def close(self) -> None: ...


class LiveTally(Tally):
    """A line that is redrawn, at most ten times a second."""

    def __init__(self) -> None:
        self._live = Live(console=_console(stderr=True), auto_refresh=False, transient=True)
        self._clock = df.SystemClock()
        self._drawn = float("-inf")
        self._live.start()

    def count(self, played: int, total: int, differing: int) -> None:
        now = self._clock.monotonic()
        if now - self._drawn < 0.1:
            return
        self._drawn = now
        text = Text.assemble(_mark("running"), f" {played:,} of {total:,} cases")
        if differing:
            text.append(f", {differing:,} differ", _colour("failed"))
        self._live.update(text, refresh=True)

    def close(self) -> None:
        self._live.stop()


def tally(*, quiet: bool) -> Tally:
    """How the cases of a simulation are counted while they are played."""
    return LiveTally() if is_live() and not quiet else Tally()


SHOWN_DIFFERENCES = 5
"""Differences that are shown; --json has all of them."""


def simulation(report: SimulationReport) -> None:
    """What a simulation found."""
    console = _console()
    bad = len(report.divergences)
    state = "completed" if report.proven else "failed"
    verdict = "proven" if report.proven else f"{bad:,} of {report.cases:,} cases differ"
    if report.crash == "none":
        verdict = "played" if report.proven else verdict
    head = Text.assemble(
        _mark(state), " ", (verdict, _colour(state)), f"  {plain(report.workflow_id)}", (f"  {report.store}", "dim")
    )
    console.print(head, soft_wrap=True)
    ended = report.status if report.error is None else f"{report.status}: {report.error}"
    facts: list[tuple[str, Any]] = [("cases", f"{report.cases:,}")]
    if report.sites:
        facts.append(("faults", f"met at {report.covered:,} of {report.sites:,} places × kinds"))
    facts += [("without a fault", ended), ("input", report.input)]
    if report.output is not None:
        facts.append(("output", report.output))
    if report.invented:
        facts.append(("stood in for", ", ".join(report.invented)))
    if report.answered:
        facts.append(("answers", ", ".join(f"{step}: {said}" for step, said in report.answered.items())))
    facts += [("not compared", path) for path in report.ignored]
    _facts(console, facts)
    for divergence in report.divergences[:SHOWN_DIFFERENCES]:
        console.print()
        console.print(Text.assemble(_mark("failed"), f" {plain(divergence.fault)}"), soft_wrap=True)
        for problem in divergence.problems:
            _show(console, Padding(Text(plain(problem), style="red"), (0, 0, 0, 2), expand=False))
    if bad > SHOWN_DIFFERENCES:
        note(f"and {bad - SHOWN_DIFFERENCES:,} more: --json shows them")
    _heading(console, "called more than once with one key, so the service must make one of it", report.repeats)
    _facts(console, [(one.step, f"{one.service}, {one.times} times, when {one.fault}") for one in report.repeats])
    _heading(console, "not retried: one failed call changes how the workflow ends", report.unretried)
    _facts(console, report.unretried.items())
    missed = [one for one in report.coverage if one.never]
    _heading(console, "steps that no case entered", missed)
    _facts(console, [(one.workflow_id, one.never) for one in missed])


def _heading(console: Console, text: str, about: Collection[object]) -> None:
    if about:
        console.print()
        console.print(Text(text, style="dim"), soft_wrap=True)


# -- a worker ----------------------------------------------------------------------------------------------------------


class Journal:
    """What a worker tells while it works: a line for each execution that ended on what is standard output now, and
    about itself on standard error; with `as_json` each is a JSON object on a line of standard output.

    Raises BrokenPipeError where nobody reads it any more.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._stream = sys.stdout
        self._console = _console()
        self._as_json = as_json

    def about(self, event: str, text: str, **facts: object) -> None:
        """Something about the worker itself."""
        if self._as_json:
            self._object({"event": event, "time": datetime.fromtimestamp(_now()).astimezone(), **facts})
        else:
            note(text)

    def ended(self, event: df.Event) -> None:
        """An execution ended."""
        data = event.data
        state = event.type.rpartition(".")[2]
        if self._as_json:
            told = {name: data.get(name) for name in ("execution_id", "workflow_id", "error")}
            self._object({"event": event.type, "time": event.timestamp, **told})
            return
        line = Text.assemble(
            (f"{event.timestamp.astimezone():%H:%M:%S}  ", "dim"),
            _mark(state),
            " ",
            _state(f"{state:<9}"),
            f"  {plain(data['workflow_id'])}  {plain(data['execution_id'])}",
        )
        if "error" in data:
            line.append(f"  {plain(data['error']).splitlines()[0]}", _colour(state))
        self._console.print(line, soft_wrap=True)
        self._stream.flush()

    def _object(self, value: object) -> None:
        self._stream.write(msgspec.json.encode(value).decode() + "\n")
        self._stream.flush()


class EventLines:
    """A line of standard output for each event of an execution, at once; with `as_json` it is the event as JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self._stream = sys.stdout
        self._console = _console()
        self._as_json = as_json

    def tell(self, event: df.Event) -> None:
        if self._as_json:
            self._stream.write(event.to_json() + "\n")
        else:
            what, _, state = event.type.partition(".")
            number = str(event.id).rpartition(":")[2]
            place = event.data["path"] if what == "step" else event.data["workflow_id"]
            if what == "workflow" and event.data.get("dry_run"):
                place += " (dry run)"
            line = Text.assemble(
                (f"{number:>4}  {event.timestamp.astimezone():%H:%M:%S}  ", "dim"),
                (f"{event.type:<18}", _colour("waiting" if state == "halted" else state)),
                f"  {plain(place)}",
            )
            if said := _said_by(event):
                line.append(f"  {said}", "dim")
            self._console.print(line, soft_wrap=True)
        self._stream.flush()


def _said_by(event: df.Event) -> str:
    data = event.data
    for name in ("error", "halt", "output", "input"):
        found = data.get(name)
        if found is not None and found != {}:
            return plain((found if isinstance(found, str) else _compact(found)).replace("\n", " "))
    return ""


# -- progress ----------------------------------------------------------------------------------------------------------


class Progress:
    """Steps as they start and end. This one shows nothing."""

    def started(self, path: str, step_type: str, *, attempt: int, at: float) -> None: ...

    def ended(
        self, path: str, state: str, step_type: str, *, seconds: float | None, said: str, at: datetime
    ) -> None: ...

    def asked(self, commands: Sequence[str]) -> None:
        """The commands that answer what is waited for."""

    def close(self) -> None: ...


class PlainProgress(Progress):
    """A line for each start and each end."""

    def started(self, path: str, step_type: str, *, attempt: int, at: float) -> None:
        again = f"attempt {attempt}" if attempt > 1 else ""
        self._line(datetime.fromtimestamp(at), "started", path, again)

    def ended(self, path: str, state: str, step_type: str, *, seconds: float | None, said: str, at: datetime) -> None:
        took = "" if seconds is None else span(seconds)
        self._line(at.astimezone(), state, path, "  ".join(word for word in (took, said) if word))

    def asked(self, commands: Sequence[str]) -> None:
        for command in commands:
            sys.stderr.write(plain(f"  → {command}") + "\n")

    def _line(self, time: datetime, what: str, path: str, said: str) -> None:
        text = f"{time:%H:%M:%S}  {what:<9}  {path}" + (f"  {said}" if said else "")
        sys.stderr.write(plain(text.replace("\n", " ")) + "\n")


class LiveProgress(Progress):
    """Ended steps scroll by; running ones stand below them, with the time they have taken so far.

    It draws at most ten times a second, in the event loop, however many steps there are.
    """

    def __init__(self) -> None:
        self._console = _console(stderr=True)
        self._running: dict[str, tuple[str, int, float]] = {}
        self._ended: list[RenderableType] = []
        self._spinner = Spinner("dots" if self._console.encoding.startswith("utf") else "line", style="cyan")
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._clock = df.SystemClock()
        self._live.start()
        self._timer = self._clock.call_later(0.1, self._tick)

    def started(self, path: str, step_type: str, *, attempt: int, at: float) -> None:
        self._running[path] = (step_type, attempt, at)

    def ended(self, path: str, state: str, step_type: str, *, seconds: float | None, said: str, at: datetime) -> None:
        self._running.pop(path, None)
        took = "" if seconds is None else span(seconds)
        self._ended.append(self._row(_mark(state), path, step_type, took))
        if said:
            self._ended.append(Padding(Text(plain(said), style=_colour(state)), (0, 0, 0, 4), expand=False))

    def asked(self, commands: Sequence[str]) -> None:
        self._draw()
        for command in commands:
            _command(self._live.console, command)

    def close(self) -> None:
        self._timer.cancel()
        self._running.clear()
        self._draw()
        self._live.stop()
        self._console.print()

    def _tick(self) -> None:
        self._draw()
        self._timer = self._clock.call_later(0.1, self._tick)

    def _draw(self) -> None:
        if self._ended:
            self._live.console.print(Group(*self._ended))
            self._ended = []
        now = _now()
        rows: list[RenderableType] = []
        for path, (step_type, attempt, since) in list(self._running.items())[-SHOWN_RUNNING:]:
            again = f" (attempt {attempt})" if attempt > 1 else ""
            frame = self._spinner.render(self._console.get_time())
            rows.append(self._row(frame, path + again, step_type, span(max(0.0, now - since))))
        if len(self._running) > SHOWN_RUNNING:
            rows.append(Text(f"  … and {len(self._running) - SHOWN_RUNNING} more", style="dim"))
        self._live.update(Group(*rows), refresh=True)

    def _row(self, sign: RenderableType, path: str, step_type: str, time: str) -> Text:
        # Not the whole width: a terminal echoes ^C behind the last line, which must not wrap.
        width = min(self._console.width - 3, 100)
        name = Text(plain(path))
        room = max(10, width - 2 - 2 - 10 - 2 - 11)
        if name.cell_len > room:
            name = Text("…") + name[-(room - 1) :]
        name.truncate(room, pad=True)
        mark = sign if isinstance(sign, Text) else Text(str(sign))
        return Text.assemble(mark, " ", name, "  ", (f"{plain(step_type):<10.10}", "dim"), f"  {time:>11}")


def progress(*, quiet: bool) -> Progress:
    """How steps are shown while they run."""
    if quiet:
        return Progress()
    return LiveProgress() if is_live() else PlainProgress()
