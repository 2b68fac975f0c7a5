"""Two executions beside each other, step by step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from durable_flow.model.execution import Action, Entry

OVER: Mapping[Action, str] = {
    Action.COMPLETED: "completed",
    Action.ANSWERED: "completed",
    Action.FAILED: "failed",
    Action.CANCELLED: "cancelled",
}
ATTEMPTS = frozenset({Action.COMPLETED, Action.FAILED, Action.RETRIED})

SLOWER = 2.0
"""How many times as long one must have taken for durations to count as different."""

NOTICEABLE = 100.0
"""Milliseconds: shorter differences are noise."""


class StepRun(msgspec.Struct, frozen=True, kw_only=True):
    """One visit of a step in one execution: `state` is running, waiting, completed, failed or cancelled."""

    path: str
    step_id: str
    step_type: str
    state: str
    input: Any = None
    output: Any = None
    error: str | None = None
    attempts: int = 0
    duration_ms: float | None = None


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One visit of a step in two executions. `state` is same, changed, only_a or only_b; `changed` says which of input,
    output, error, attempts and duration differ. Durations differ where one is twice as long as the other, and at
    least 100 ms longer."""

    path: str
    step_id: str
    step_type: str
    state: str
    changed: tuple[str, ...] = ()
    a: StepRun | None = None
    b: StepRun | None = None


def steps_of(entries: Iterable[Entry]) -> dict[str, StepRun]:
    """What the entries of an execution tell of its steps, by path, in the order in which they were come to."""
    found: dict[str, StepRun] = {}
    for entry in entries:
        if not entry.step_id or entry.path.rpartition("/")[2].partition("#")[0] != entry.step_id:
            continue  # of the workflow itself, or of the end of a body
        before = found.get(entry.path)
        state = OVER.get(entry.action) or ("waiting" if entry.action is Action.HALTED else "running")
        if entry.action is Action.ANSWERED and entry.metadata.get("waiting"):
            state = "waiting"
        took = [ms for ms in (before.duration_ms if before else None, entry.duration_ms) if ms is not None]
        given = entry.input if entry.input is not None else before.input if before else None
        found[entry.path] = StepRun(
            path=entry.path,
            step_id=entry.step_id,
            step_type=entry.step_type,
            state=state,
            input=given,
            output=entry.output if state in ("completed", "failed", "cancelled") else None,
            error=entry.error,
            attempts=(before.attempts if before else 0) + (entry.action in ATTEMPTS),
            duration_ms=sum(took) if took else None,
        )
    return found


def compared(a: Mapping[str, StepRun], b: Mapping[str, StepRun]) -> list[Difference]:
    """The steps of two executions by path and visit: in the order of the first, and those that only the second has
    where they come there."""
    behind: dict[str | None, list[str]] = {}
    last: str | None = None
    for path in b:
        if path in a:
            last = path
        else:
            behind.setdefault(last, []).append(path)
    order = list(behind.get(None, ()))
    for path in a:
        order += [path, *behind.get(path, ())]
    return [_difference(path, a.get(path), b.get(path)) for path in order]


def _difference(path: str, a: StepRun | None, b: StepRun | None) -> Difference:
    one = a or b
    assert one is not None
    changed: Sequence[str] = ()
    state = "only_a" if b is None else "only_b"
    if a is not None and b is not None:
        changed = [name for name in ("input", "output", "error", "attempts") if getattr(a, name) != getattr(b, name)]
        if _takes_another_time(a.duration_ms, b.duration_ms):
            changed.append("duration")
        state = "changed" if changed or a.state != b.state else "same"
    return Difference(
        path=path, step_id=one.step_id, step_type=one.step_type, state=state, changed=tuple(changed), a=a, b=b
    )


def _takes_another_time(a: float | None, b: float | None) -> bool:
    short, long = sorted((a or 0.0, b or 0.0))
    return long >= short * SLOWER and long - short >= NOTICEABLE
