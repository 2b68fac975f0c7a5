"""What a schedule of a document comes to: its ticks, what it starts executions with, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import tzinfo
from functools import lru_cache
from typing import Any

from durable_flow.clock import moment
from durable_flow.definition.document import Node, Position
from durable_flow.definition.inputs import check_input
from durable_flow.definition.reader import locate
from durable_flow.errors import DurableFlowError, InputError
from durable_flow.expr.reference import MISSING, ReferenceSyntaxError, compile_template
from durable_flow.expr.ticks import Bounded, Cron, Interval, Ticks, local_time, zone
from durable_flow.limits import Limits
from durable_flow.model.problem import Problem, suggest
from durable_flow.model.workflow import ScheduleDef, WorkflowDef

SAMPLES = 3
"""The input of so many ticks is checked when a document is loaded."""

FACTS = ("time", "previous", "date", "id")
"""What `$schedule` has."""


def ticks_of(schedule: ScheduleDef) -> Ticks:
    """The times at which it is to start something. Raises ValueError for what does not say when, or not here: another
    machine may know more time zones."""
    return _ticks(schedule.cron, schedule.every, schedule.timezone, schedule.start, schedule.end)


@lru_cache(maxsize=4_096)
def _ticks(cron: str | None, every: float | None, timezone: str, start: str | None, end: str | None) -> Ticks:
    place = zone(timezone)
    begin = None if start is None else local_time(start, place)
    if (cron is None) == (every is None):
        raise ValueError("a schedule has exactly one of 'cron' and 'every'")
    ticks: Ticks
    if cron is not None:
        ticks = Cron(cron, place)
    else:
        assert every is not None
        ticks = Interval(every, anchor=begin or 0.0)
    return Bounded(ticks, start=begin, end=None if end is None else local_time(end, place))


def previous(ticks: Ticks, time: float) -> float | None:
    """The tick before a time; None where there is none."""
    return ticks.latest(-(2.0**31), time - 0.000_5)


def given_at(schedule: ScheduleDef, time: float) -> Any:
    """What it starts an execution with at a time, before it is checked."""
    if schedule.input is None:
        return {}
    scope = _Tick(schedule, time)
    return schedule.input.resolve(scope)


class _Tick:
    """Where references in the input of a schedule find their values."""

    def __init__(self, schedule: ScheduleDef, time: float) -> None:
        self._schedule = schedule
        self._time = time
        self._place: tzinfo = zone(schedule.timezone)

    def lookup(self, root: str) -> Any:
        if root != "schedule":
            return MISSING
        before = previous(ticks_of(self._schedule), self._time)
        time = moment(self._time).astimezone(self._place)
        return {
            "id": self._schedule.id,
            "time": time.isoformat(),
            "date": time.date().isoformat(),
            "previous": None if before is None else moment(before).astimezone(self._place).isoformat(),
        }


def schedule_problems(workflow: WorkflowDef, tree: Node | None, file: str, *, limits: Limits) -> Iterator[Problem]:
    """What is wrong with the schedules of a workflow, beyond their form."""
    written = workflow.document.get("schedules")
    for index, schedule in enumerate(workflow.schedules):
        keys = written[index] if isinstance(written, Sequence) and index < len(written) else {}
        found = _problems(workflow, schedule, keys if isinstance(keys, Mapping) else {}, limits)
        for path, message, hint in found:
            at = Position(None, None) if tree is None else locate(tree, ["schedules", index, *path])
            key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in [index, *path])
            yield Problem(file=file, line=at.line, column=at.column, message=f"schedules{key}: {message}", hint=hint)


Found = tuple[list[str | int], str, str | None]
"""A path inside a schedule, what is wrong there, and a hint."""


def _problems(workflow: WorkflowDef, schedule: ScheduleDef, keys: Mapping[str, Any], limits: Limits) -> Iterator[Found]:
    sound = True
    for key, found in _times(schedule, keys):
        sound = False
        yield [key] if key else [], found, None
    for name in schedule.labels:
        if not 0 < len(name) <= 255:
            yield ["labels", name], "the name of a label has 1 to 255 characters", None
    if schedule.input is not None and not isinstance(schedule.input.source, dict):
        yield ["input"], "the input is a mapping of names to values", None
        return
    unknown = list(_unknown(schedule))
    yield from unknown
    if not sound or unknown or (schedule.cron is None) is (schedule.every is None):  # which was told already
        return
    ticks = ticks_of(schedule)
    time = ticks.after(0.0)
    if time is None:
        yield ["end"], "it never comes to a tick: it ends before there is one", None
        return
    # What is wrong with the values of one tick may be right with those of another one.
    wrong = _input_problems(workflow, schedule, time, limits)
    for _ in range(SAMPLES - 1):
        time = ticks.after(time) or time
        others = _input_problems(workflow, schedule, time, limits)
        wrong = {name: problem for name, problem in wrong.items() if name in others}
    for name, problem in wrong.items():
        yield ["input", name] if name in keys.get("input", {}) else ["input"], problem, None


def _input_problems(workflow: WorkflowDef, schedule: ScheduleDef, time: float, limits: Limits) -> dict[str, str]:
    """What is wrong with the input of a tick, by the name of the input."""
    try:
        check_input(workflow, given_at(schedule, time), limits=limits)
    except InputError as error:
        return {str(problem).removeprefix("input.").partition(":")[0]: str(problem) for problem in error.problems}
    except DurableFlowError as error:
        return {"": str(error)}
    return {}


def _times(schedule: ScheduleDef, keys: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with when, as (key, message)."""
    place = None
    try:
        place = zone(schedule.timezone)
    except ValueError as error:
        yield "timezone", str(error)
    if ("cron" in keys) is ("every" in keys):
        yield "cron" if "cron" in keys else "", "a schedule has exactly one of 'cron' and 'every'"
    if place is None:
        return
    if schedule.cron is not None:
        try:
            Cron(schedule.cron, place)
        except ValueError as error:
            yield "cron", str(error)
    for key, text in ("start", schedule.start), ("end", schedule.end):
        if text is not None:
            try:
                local_time(text, place)
            except ValueError as error:
                yield key, str(error)


def _unknown(schedule: ScheduleDef) -> Iterator[Found]:
    if schedule.input is None:
        return
    for path, text in _texts(schedule.input.source, []):
        try:
            references = compile_template(text).references
        except ReferenceSyntaxError:
            continue  # it was told when it was read
        for reference in references:
            if reference.root != "schedule":
                message = f"{reference.text} is nothing that is known before an execution starts"
                yield ["input", *path], message, "there is " + _named(FACTS)
            elif reference.path and reference.path[0] not in FACTS:
                hint = suggest(reference.path[0], FACTS) or "there is " + _named(FACTS)
                yield ["input", *path], f"a schedule has no {reference.text}", hint


def _texts(value: Any, path: list[str | int]) -> Iterator[tuple[list[str | int], str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, [*path, name])
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, [*path, index])


def _named(facts: Sequence[str]) -> str:
    return ", ".join(f"$schedule.{fact}" for fact in facts)
