"""Why a dry run fails where a real one would not: nothing answered a step, and another one needs what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from durable_flow.model.workflow import StepDef, WorkflowDef
from durable_flow.steps.base import Visit, every_step

MOST = 3
"""So many steps are named."""


def unanswered(workflow: WorkflowDef, step: StepDef, visit: Visit, has_fixture: Callable[[StepDef], bool]) -> str:
    """What to add to the error of a step: which steps that have no fixture could have set what it found to be null."""
    if step.config is None:
        return ""
    names = [repr(found.id) for found in _sources(workflow, step, visit) if not has_fixture(found)]
    if not names:
        return ""
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return f" (in this dry run nothing answers {', '.join(names[:MOST])}{more}: give a fixture)"


def _sources(workflow: WorkflowDef, step: StepDef, visit: Visit) -> Iterator[StepDef]:
    """The steps that get from outside what this one reads and is null, directly or by way of others."""
    steps = list(every_step(workflow))
    left = [step]
    seen = {step.id}
    while left:
        reader = left.pop()
        roots = {found.root for found in reader.type.references(reader.config) if found.resolve(visit) is None}
        for other in steps:
            if other.id in seen or other.config is None or roots.isdisjoint(_sets(other)):
                continue
            seen.add(other.id)
            if other.type.takes_fixture:
                yield other
            else:
                left.append(other)


def _sets(step: StepDef) -> set[str]:
    """The variables that a step sets, for itself or for its bodies."""
    return {*step.type.writes(step.config), *(name for body in step.type.bodies(step.config) for name in body.locals)}
