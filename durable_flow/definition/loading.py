"""Reads and validates definitions."""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec

from durable_flow.definition.parser import Extension, draft, finished, ordered, parse
from durable_flow.definition.source import Source
from durable_flow.definition.validator import examine
from durable_flow.errors import ValidationError
from durable_flow.journal import Journal
from durable_flow.limits import Limits
from durable_flow.model.problem import Problem
from durable_flow.model.workflow import WorkflowDef

__all__ = ["Checked", "check", "load", "parse"]

logger = Journal("durable_flow")


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A definition with everything that can be said about it. `workflow` is None if there are problems."""

    workflow: WorkflowDef | None
    problems: list[Problem]
    warnings: list[Problem]


def load(
    source: Source,
    *,
    limits: Limits | None = None,
    extensions: Iterable[Extension] = (),
    base: str | os.PathLike[str] | None = None,
) -> WorkflowDef:
    r"""Reads and validates a definition: a path, YAML or JSON text, or a mapping.

    A text contains a line break or begins with `{`; any other string is a path, below `base` if that is given. Raises
    one ValidationError with everything that is wrong; warnings are logged.

    >>> from durable_flow.errors import ValidationError
    >>> try:
    ...     load("id: a\nname: A\nsteps:\n- {id: greet, type: assign, set: {text: Hi $nmae}}\ninputs: {name: string}\n")
    ... except ValidationError as error:
    ...     print(error)
    <text>:4:41: step 'greet': set.text: nothing sets $nmae (did you mean $input.name?)
    """
    checked = check(source, limits=limits, extensions=extensions, base=base)
    if checked.workflow is None:
        raise ValidationError(checked.problems)
    for warning in checked.warnings:
        logger.warning("%s", warning)
    return checked.workflow


def check(
    source: Source,
    *,
    limits: Limits | None = None,
    extensions: Iterable[Extension] = (),
    base: str | os.PathLike[str] | None = None,
) -> Checked:
    """Reads and validates a definition and tells all about it. Raises ValidationError if there is nothing to read."""
    read = draft(source, limits=limits, extensions=extensions, base=base)
    if read.workflow is None:
        return Checked(workflow=None, problems=ordered(read.problems), warnings=[])
    found = examine(read.workflow, limits=limits, draft=read)
    problems = ordered([*read.problems, *found.problems])
    return Checked(workflow=None if problems else finished(read), problems=problems, warnings=ordered(found.warnings))
