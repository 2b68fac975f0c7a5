"""Checks fixtures, in a document or given to a run: which steps they are for, and whether those can take them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from durable_flow.errors import LimitExceeded, OutputError, ValidationError
from durable_flow.limits import Limits
from durable_flow.machine import COMPENSATE, FINALLY
from durable_flow.model.fixture import fixture, malformed
from durable_flow.model.problem import suggest
from durable_flow.model.value import normalise
from durable_flow.model.workflow import Body, StepDef, WorkflowDef

NUMBER = re.compile(r"\[\d+\]")
VISIT = re.compile(r"#[1-9]\d*(?=/|\[|$)")


def checked_fixtures(workflow: WorkflowDef, given: Any, *, limits: Limits) -> dict[str, Any]:
    """Fixtures as they are kept with an execution. Raises ValidationError for all that is wrong with them."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValidationError([f"fixtures are a mapping of step ids or paths to answers, not {given!r:.100}"])
    values: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in given.items():
        if type(key) is not str:
            problems.append(f"fixtures: {key!r:.100} is not the id of a step")
            continue
        try:
            values[key] = normalise(value, limits=limits, what="fixture")
        except OutputError as error:
            problems.append(f"fixtures.{key:.100}: {error}")
        except LimitExceeded as error:
            problems.append(f"fixtures.{key:.100}: {error}")
    for key, message, hint in fixture_problems(workflow, values):
        problems.append(f"fixtures.{key:.100}: {message}{f' ({hint})' if hint else ''}")
    if problems:
        raise ValidationError(problems)
    return values


def fixture_problems(workflow: WorkflowDef, given: Mapping[str, Any]) -> Iterator[tuple[str, str, str | None]]:
    """(key, message, hint) for everything that is wrong with fixtures."""
    if not given:
        return
    ids = workflow.steps_by_id
    places = dict(_places(workflow.body, ""))
    if workflow.finally_ is not None:
        places.update(_places(workflow.finally_, f"{FINALLY}/"))
    for key, value in given.items():
        step = ids.get(key) or places.get(_shape(key))
        undoes = key.startswith(COMPENSATE) and _shape(key.removeprefix(COMPENSATE)) in places
        if step is None and not undoes:
            known = places if "/" in key else ids
            yield key, "there is no such step", suggest(_shape(key), known) or suggest(key, known)
        elif (message := malformed(value)) is not None:
            yield key, message, None
        elif step is not None:
            for message in _misfits(step, key, value):
                yield key, message, None


def _misfits(step: StepDef, key: str, value: Any) -> Iterable[str]:
    if step.config is None:  # its own keys are wrong
        return
    if not step.type.takes_fixture:
        yield f"a step of type {step.type.name!r} takes no fixture: it gets nothing from outside"
        return
    given = fixture(key, value)
    if given.error is None:
        yield from step.type.wrong_fixture(step.config, given.answer)


def _places(body: Body, base: str) -> Iterator[tuple[str, StepDef]]:
    """The steps of a body and of those below it, by their paths without numbers."""
    for step in body:
        path = f"{base}{step.id}"
        yield path, step
        if step.config is None:
            continue
        for inner in step.type.bodies(step.config):
            at = f"{path}[]/" if inner.name is None else f"{path}/" if inner.body.bare else f"{path}/{inner.name}/"
            yield from _places(inner.body, at)


def _shape(path: str) -> str:
    return NUMBER.sub("[]", VISIT.sub("", path))
